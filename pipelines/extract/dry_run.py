"""What would be done, and what has been done, in words: `rigface extract --dry-run` and `rigface status`.

Nothing is written and no cluster is started. However many inputs there are, in memory are the plans of a window of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from pipelines.extract import components, plan
from pipelines.extract.config import Extract, config_hash
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import WINDOW, check_stages
from pipelines.inputs import open_input, sources
from pipelines.inputs.compact_set import CompactSet
from rigface.errors import PlanError
from rigface.storage import lock
from rigface.storage.store import Store

LOOKED_INTO = 50  # new inputs; the rest is taken to be like them


def preview(config: Extract) -> str:
    """What `extract` would do with this configuration.

    Raises:
        PlanError, MissingAsset: what would stop it at once.
    """
    head, detector = components.specs(config.settings)
    check_stages(config, head, detector)
    output = FaceDataset(Store(config.out))
    output.check(config.settings, head, detector, config.overwrite)
    uris = sources.find_all(config.videos)
    about, fresh = output.about(), config.overwrite
    done = CompactSet() if fresh else output.done()
    name = config_hash(config.settings, head, detector)
    left: Counter[str] = Counter()

    def new() -> Iterator[str]:
        """Inputs that are new or changed; what the others have still to do is counted in passing, a window at a time."""
        while window := list(islice(uris, WINDOW)):
            known = {} if fresh else output.plans(window)
            changed = open_input.changed(window, {uri: one["stamp"] for uri, one in known.items()})
            yield from changed
            left["inputs"] += len(window)
            for uri in known.keys() - set(changed):
                missing = [what for unit, what in plan.units_of(known[uri], name) if unit not in done]
                left.update(units=len(missing), frames=sum(what["expected"] for what in missing))

    some, count = sources.sample(new(), LOOKED_INTO)
    looked = plan.survey(some, config.settings, config.silence_s)
    scale = count / max(len(looked), 1)
    units = left["units"] + scale * sum(len(p["chunks"]) for p in looked)
    frames = left["frames"] + scale * sum(sum(p["expected"]) for p in looked)
    sure = "" if scale == 1 or not count else "about "
    lines = [
        f"{left['inputs']:,} inputs -> {output.store.uri} ({'overwritten' if fresh and about else 'goes on' if about else 'new'})",
        f"{count:,} of them new or changed, {sum(p['status'] == 'error' for p in looked):,} of {len(looked):,} looked into cannot be read",
        f"{sure}{units:,.0f} units of work with {sure}{frames:,.0f} frames to look at",
        f"head {head.name} {head.version}, detector {detector.name} {detector.version}, configuration {name}",
    ]
    for names, pool in config.pools:
        size = f"{pool.actors} to {pool.most}" if pool.most else f"{pool.actors}"
        gpus = f", {pool.gpus:g} GPUs" if pool.gpus else ""
        lines.append(f"pool of {size} actors with {pool.cpus:g} CPUs{gpus} each: {', '.join(names)}")
    return "\n".join([*lines, "nothing was written"])


def status(out: str) -> str:
    """How far a dataset is.

    Raises:
        PlanError: there is none.
    """
    output = FaceDataset(Store(out))
    about = output.about()
    if about is None:
        raise PlanError(f"{output.store.uri} is no dataset of ours: it has no rigface.json")
    counts: Counter[str] = Counter()
    faces = 0
    for rows in output.inputs_by_part(["status", "faces"]):
        counts.update(rows["status"].to_pylist())
        faces += sum(rows["faces"].to_pylist())
    with_faces, without = (sum(1 for _ in names) for names in output.parts())
    inputs, units = output.planned()
    writer = lock.held(output.store)
    return "\n".join(
        [
            f"{output.store.uri}: made {about['created']}, last run {about['runs'][-1]['started']}",
            f"{'being written by ' + writer if writer else 'nobody is writing'}",
            f"{counts.total():,} of {inputs:,} known inputs finished: "
            + (", ".join(f"{n:,} {s}" for s, n in counts.most_common()) or "none"),
            f"{with_faces + without:,} of {units:,} units done, {with_faces:,} of them with faces",
            f"{faces:,} faces in finished inputs",
        ]
    )
