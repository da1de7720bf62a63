"""What would be done, and what has been done, in words: `rigface extract --dry-run` and `rigface status`.

Nothing is written and no cluster is started.
"""

from __future__ import annotations

from collections import Counter

from pipelines import lock, parts, plan, reading, sources
from pipelines.config import Extract, config_hash
from pipelines.extract import check_stages
from pipelines.marks import Marks
from pipelines.output import Output
from rigface.errors import PlanError
from rigface.storage import Store

LOOKED_INTO = 50  # new inputs; the rest is taken to be like them


def preview(config: Extract) -> str:
    """What `extract` would do with this configuration.

    Raises:
        PlanError, MissingAsset: what would stop it at once.
    """
    head, detector = parts.specs(config.settings)
    check_stages(config, head, detector)
    output = Output(Store(config.out))
    output.check(config.settings, head, detector, config.overwrite)
    uris = list(sources.find_all(config.videos))
    about, fresh = output.about(), config.overwrite
    known = {} if fresh else output.plans()
    done = Marks() if fresh else output.done()
    new = reading.changed(uris, {uri: known[uri]["stamp"] for uri in uris if uri in known})
    looked = plan.survey(new[:: max(len(new) // LOOKED_INTO, 1)], config.settings, config.silence_s)
    old = [known[uri] for uri in uris if uri in known and uri not in set(new)]
    name = config_hash(config.settings, head, detector)
    left = [what for one in old for unit, what in plan.units_of(one, name) if unit not in done]
    scale = len(new) / max(len(looked), 1)
    units = len(left) + scale * sum(len(p["chunks"]) for p in looked)
    frames = sum(what["expected"] for what in left) + scale * sum(sum(p["expected"]) for p in looked)
    sure = "" if scale == 1 or not new else "about "
    lines = [
        f"{len(uris):,} inputs -> {output.store.uri} ({'overwritten' if fresh and about else 'goes on' if about else 'new'})",
        f"{len(new):,} of them new or changed, {sum(p['status'] == 'error' for p in looked):,} of {len(looked):,} looked into cannot be read",
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
    output = Output(Store(out))
    about = output.about()
    if about is None:
        raise PlanError(f"{output.store.uri} is no dataset of ours: it has no rigface.json")
    rows = output.inputs()
    with_faces, without = (sum(1 for _ in names) for names in output.parts())
    plans = output.plans()
    units = sum(len(p["chunks"]) for p in plans.values())
    counts = Counter(rows["status"].to_pylist())
    writer = lock.held(output.store)
    return "\n".join(
        [
            f"{output.store.uri}: made {about['created']}, last run {about['runs'][-1]['started']}",
            f"{'being written by ' + writer if writer else 'nobody is writing'}",
            f"{len(rows):,} of {len(plans):,} known inputs finished: "
            + (", ".join(f"{n:,} {s}" for s, n in counts.most_common()) or "none"),
            f"{with_faces + without:,} of {units:,} units done, {with_faces:,} of them with faces",
            f"{sum(rows['faces'].to_pylist()):,} faces in finished inputs",
        ]
    )
