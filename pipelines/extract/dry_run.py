"""`rigface extract --dry-run` and `rigface status`: the work to do and the work done, in words.

Nothing is written and no cluster is started. In memory are the plans of one window of inputs.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from pipelines.extract import components
from pipelines.extract.config import ExtractConfig
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import check_stages
from pipelines.extract.plan import units_of
from pipelines.extract.planning import WINDOW, check_reachable
from pipelines.extract.survey import survey
from pipelines.inputs import open_input, sources
from pipelines.inputs.compact_set import CompactSet
from pipelines.run_info import RUN_INFO
from rigface.errors import PlanError
from rigface.storage import lock
from rigface.storage.store import Store

MAX_SURVEYED = 50  # new inputs; the estimate scales them up


def preview(config: ExtractConfig) -> str:
    """The work that `extract` would do with this configuration, or the error that would stop it at once."""
    head, detector = components.specs(config.settings)
    check_stages(config, head, detector)
    dataset = FaceDataset(Store(config.out))
    name = dataset.check(config.settings, head, detector, config.overwrite)
    uris = filter(config.is_mine, sources.find_all(config.videos, config.settings.root))
    info, fresh = dataset.info(), config.overwrite
    done = CompactSet() if fresh else dataset.done()
    left: Counter[str] = Counter()

    def new_inputs() -> Iterator[str]:
        """Inputs that are new or changed, a window at a time; the open work of the others is counted on the way."""
        while window := list(islice(uris, WINDOW)):
            stamps = {} if fresh else dataset.stamps(window)
            changed, unreachable = open_input.changed(window, stamps, config.settings.root)
            check_reachable(unreachable, stamps)
            yield from changed
            left.update(inputs=len(window), unreachable=len(unreachable))
            for plans in dataset.plans.by_part(stamps.keys() - unreachable - set(changed)):
                missing = [u for plan in plans.values() for u in units_of(plan, name) if u.shard not in done]
                left.update(units=len(missing), frames=sum(unit.expected for unit in missing))

    sample, count = sources.sample(new_inputs(), MAX_SURVEYED)
    plans = survey(sample, config.settings, config.silence_s)
    scale = count / max(len(plans), 1)
    units = left["units"] + scale * sum(len(p.chunks) for p in plans)
    frames = left["frames"] + scale * sum(sum(p.expected) for p in plans)
    about = "" if scale == 1 or not count else "about "
    refused = sum(p.status == "error" for p in plans)
    state = "will be overwritten" if fresh and info else "continues" if info else "new"
    lines = [
        f"{left['inputs']:,} inputs -> {dataset.store.uri} ({state})",
        f"{count:,} of them new or changed; of {len(plans):,} surveyed, {refused:,} cannot be read",
        f"{left['unreachable']:,} known inputs cannot be read now and keep their rows",
        f"{about}{units:,.0f} units of work with {about}{frames:,.0f} sampled frames",
        f"head {head.name} {head.version}, detector {detector.name} {detector.version}, configuration {name}",
        *([f"licence of the head: {head.licence}"] if head.licence else []),
    ]
    for names, pool in config.pools:
        size = f"{pool.actors} to {pool.max_actors}" if pool.max_actors else f"{pool.actors}"
        gpus = f", {pool.gpus:g} GPUs" if pool.gpus else ""
        lines.append(f"pool of {size} actors with {pool.cpus:g} CPUs{gpus} each: {', '.join(names)}")
    return "\n".join([*lines, "nothing was written"])


def status(out: str) -> str:
    """The progress of a dataset; PlanError if there is none."""
    dataset = FaceDataset(Store(out))
    info = dataset.info()
    if info is None:
        raise PlanError(f"{dataset.store.uri} is not a RigFace dataset: it has no {RUN_INFO}")
    counts: Counter[str] = Counter()
    faces = 0
    for rows in dataset.inputs_by_part(["status", "faces"]):
        counts.update(rows["status"].to_pylist())
        faces += sum(rows["faces"].to_pylist())
    with_faces, without = (sum(1 for _ in names) for names in dataset.parts())
    inputs, shards = dataset.plans.count()
    writer = lock.held(dataset.store)
    return "\n".join(
        [
            f"{dataset.store.uri}: made {info['created']}, last run {info['runs'][-1]['started']}",
            f"{'being written by ' + writer if writer else 'no run is writing to it'}",
            f"{counts.total():,} of {inputs:,} known inputs finished: "
            + (", ".join(f"{n:,} {s}" for s, n in counts.most_common()) or "none"),
            f"{with_faces + without:,} of {shards:,} shards done, {with_faces:,} of them with faces",
            f"{faces:,} faces in finished inputs",
        ]
    )
