"""Faces in, training examples out: pairs of one person, evenly spread over the traits, composed once.

    OUT/rigface.json           settings, head, spec, versions, commit
    OUT/pairs.parquet          the plan: every example and the two rows it is made of
    OUT/examples/<2 hex>/<unit>.parquet   one object per unit of examples; see rigface/examples.py
    OUT/report.json            coverage of the pairs, refused pairs by reason

The plan is made once and kept, so a stopped run goes on with the same pairs; a unit is done when its object exists.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import pyarrow.parquet as pq

from pipelines import run_info
from pipelines.cluster.unit_job import run_units
from pipelines.examples.compose_worker import ComposeUnit
from pipelines.examples.config import PairConfig, PairSettings
from pipelines.examples.coverage_report import PairReport
from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.layout import EXAMPLES, head_of
from pipelines.examples.pair_plan import PairPlan, plan_pairs
from rigface.errors import PlanError
from rigface.examples import ExampleSpec
from rigface.storage import lock
from rigface.storage.store import Store

PLAN = "pairs.parquet"
REPORT = "report.json"


def pair(config: PairConfig, say: Callable[[str], None] = print) -> PairReport:
    """Run the job.

    Raises:
        PlanError: there are no faces or no pairs, or the output was made with other settings.
        OutputBusy: another run writes to this output.
    """
    source, store = Store(config.faces), Store(config.out)
    with lock.hold(store) as check:
        if config.overwrite:
            for path in (run_info.RUN_INFO, PLAN, REPORT):
                store.delete(path)
            store.delete_folder(EXAMPLES)
        head = head_of(source)
        spec = ExampleSpec(config.settings.style, config.settings.size, head, "expression", head.expression)
        settings_hash = _claim(config, store, source, spec)
        plan = _plan(config.settings, source, store, say)
        worker = partial(ComposeUnit, config.faces, config.out, config.settings, spec, plan.bank)
        units = plan.units(settings_hash, config.settings.unit_size)
        run_units(units, worker, config.run, store, EXAMPLES, check, say)
        report = replace(plan.report, made=_count_rows(store))
        store.publish(REPORT, json.dumps(asdict(report), indent=1).encode())
    return report


def _claim(config: PairConfig, store: Store, source: Store, spec: ExampleSpec) -> str:
    """Write the run information of a new output, or check that of an old one; returns the hash of the settings."""
    settings = asdict(config.settings)
    text = json.dumps([settings, json.loads(spec.to_json())], sort_keys=True)
    settings_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
    info = run_info.load(store)
    if info is None:
        info = {"config": settings_hash, "settings": settings, "spec": spec.to_json(), "faces": source.uri}
        run_info.write(store, info | run_info.software())
    elif info.get("config") != settings_hash:
        changed = [k for k, v in settings.items() if info.get("settings", {}).get(k) != v] or ["head model"]
        raise PlanError(
            f"{store.uri} was made with other settings ({', '.join(changed)}); choose another OUT or --overwrite"
        )
    return settings_hash


def _plan(settings: PairSettings, source: Store, store: Store, say: Callable[[str], None]) -> PairPlan:
    """The kept plan, or a new one."""
    try:
        return PairPlan.from_arrow(store.table(PLAN))
    except FileNotFoundError:
        pass
    gates = (settings.min_confidence, settings.min_sharpness, settings.min_face_px)
    frames, places = read_frames(source, dict(zip(GATES, gates)))
    say(f"{len(frames):,} faces of {len(set(frames.identity)):,} people, {int(frames.good.sum()):,} pass the gates")
    plan = plan_pairs(frames, places, settings)
    if not plan.examples:
        raise PlanError(f"{source.uri}: no examples can be made of these faces; {plan.report.refused}")
    say(f"{len(plan.examples):,} examples planned")
    sink = io.BytesIO()
    pq.write_table(plan.to_arrow(), sink, compression="zstd")
    store.publish(PLAN, sink.getvalue())
    return plan


def _count_rows(store: Store) -> dict[str, int]:
    """Rows of the output, in all and by split and kind."""
    counts: Counter[str] = Counter()
    for path in sorted(store.paths(EXAMPLES, ".parquet")):
        table = store.table(path, ["split", "kind"])
        counts.update(f"{s} {k}" for s, k in zip(table["split"].to_pylist(), table["kind"].to_pylist()))
    return {"rows": sum(counts.values()), **dict(sorted(counts.items()))}
