"""Faces in, training examples out: pairs of one person, evenly spread over the traits, composed once.

    OUT/rigface.json           settings, head, spec, versions, commit
    OUT/pairs.parquet          the plan: every example and the two rows it is made of
    OUT/examples/<2 hex>/<unit>.parquet   one object per unit of examples; see rigface/examples.py
    OUT/index.parquet          the small columns of all examples, for the start of a training
    OUT/report.json            coverage of the pairs, refused pairs by reason

The plan is made once and kept, so a stopped run goes on with the same pairs; a unit is done when its object exists.
`--overwrite` deletes an earlier output of `pair` alone, once the new plan is made.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import cast

import pyarrow as pa

from pipelines import run_info
from pipelines.cluster.unit_job import run_units
from pipelines.examples.compose_worker import ComposeUnit
from pipelines.examples.config import PairConfig, PairSettings
from pipelines.examples.coverage_report import PairReport
from pipelines.examples.example_index import INDEX, publish_index
from pipelines.examples.layout import EXAMPLES, PLAN, parquet_bytes
from pipelines.examples.pair_plan import PairPlan, parts_behind, plan_pairs
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.examples import ExampleSpec
from rigface.profile import PROFILES, RenderStyle
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import BFM_EXPRESSION, HeadSpec

REPORT = "report.json"


def pair(config: PairConfig, say: Callable[[str], None] = print) -> PairReport:
    """Run the job.

    Raises:
        PlanError: there are no faces or no pairs, or the output was made with other settings, from
            other faces, or by another command.
        OutputBusy: another run writes to this output.
    """
    settings, source, store = config.settings.resolved(), Store(config.faces), Store(config.out)
    with lock.hold(store) as check:
        info = run_info.load_own(store, "pair", (EXAMPLES,))
        spec = _spec(settings, Faces(source).head)
        values = asdict(settings)
        if settings.profile == "own":
            del values["profile"]  # as in outputs from before there were profiles
        text = json.dumps([values, json.loads(spec.to_json())], sort_keys=True)
        settings_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
        if info and not config.overwrite and info["config"] != settings_hash:
            changed = [k for k, v in values.items() if info["settings"].get(k) != v] or ["head model"]
            raise PlanError(
                f"{store.uri} was made with other settings ({', '.join(changed)}); choose another OUT or --overwrite"
            )
        if info and not config.overwrite and store.exists(PLAN):
            plan = PairPlan.from_arrow(store.table(PLAN))
        else:
            plan = _new_plan(settings, source, say)
            # Only now is the earlier output deleted. The plan comes last: a run killed before it plans again.
            for path in (PLAN, REPORT, INDEX):
                store.delete(path)
            store.delete_folder(EXAMPLES)
            info = {"config": settings_hash, "settings": values, "spec": spec.to_json(), "faces": source.uri}
            run_info.write(store, info | run_info.software())
            store.publish(PLAN, parquet_bytes(plan.to_arrow()))
        units = plan.units(settings_hash, settings.unit_size)
        done = store.ids(EXAMPLES, ".parquet") if info["faces"] == source.uri else ()
        parts = {part for unit in units if unit.name not in done for part in parts_behind(unit.plan)}
        if not parts.issubset(source.paths("faces", ".parquet")):
            raise PlanError(
                f"{store.uri} was planned from faces of {info['faces']} that {source.uri} does not have; "
                "choose another OUT or --overwrite"
            )
        worker = partial(ComposeUnit, config.faces, config.out, settings, spec, plan.bank)
        if any(unit.name not in done for unit in units):
            store.delete(INDEX)
        run_units(units, worker, config.pool, store, EXAMPLES, check, say)
        report = replace(plan.report, made=_counted(publish_index(store)))
        store.publish(REPORT, json.dumps(asdict(report), indent=1).encode())
    return report


def _spec(settings: PairSettings, head: HeadSpec) -> ExampleSpec:
    """What the examples of faces with a head model have in common; PlanError if the profile wants another."""
    profile, style = PROFILES[settings.profile], cast(RenderStyle, settings.style)
    if head.name not in (profile.head, "fake"):
        raise PlanError(
            f"--profile {settings.profile} makes examples of the head {profile.head!r}, and these faces have the head "
            f"{head.name!r}; extract them with --profile {settings.profile}"
        )
    if profile.expression_codes == "none":
        return ExampleSpec(style, settings.size, head, "expression", head.expression, profile, settings.identity)
    return ExampleSpec(style, settings.size, head, "bfm_expression", BFM_EXPRESSION, profile, settings.identity)


def _new_plan(settings: PairSettings, source: Store, say: Callable[[str], None]) -> PairPlan:
    faces = Faces(source)
    if faces.head.name not in ("open", "fake"):
        settings = replace(settings, posed_fraction=0.0)  # the preview, which turns a photograph, is of the open head
    plan = plan_pairs(faces, settings, say)
    if not plan.examples:
        raise PlanError(f"{source.uri}: no examples can be made of these faces; {plan.report.refused}")
    say(f"{len(plan.examples):,} examples planned")
    return plan


def _counted(rows: pa.Table) -> dict[str, int]:
    """Rows of the output, in all and by split and kind."""
    counts = Counter(f"{s} {k}" for s, k in zip(rows["split"].to_pylist(), rows["kind"].to_pylist()))
    return {"rows": len(rows), **dict(sorted(counts.items()))}
