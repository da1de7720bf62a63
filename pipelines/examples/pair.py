"""Faces in, training examples out: pairs of one person with a wanted spread, composed once and for all.

    OUT/rigface.json           settings, head, spec, versions, commit
    OUT/pairs.parquet          the plan: every example and the two rows it is made of
    OUT/examples/<2 hex>/<unit>.parquet   one object per unit of examples; see rigface/examples.py
    OUT/report.json            what the pairs cover, what was refused and why

The plan is made once and kept, so a run that is stopped goes on with the same pairs; a unit is done when its object is
there. Which two rows make an example is decided in pairs.py, what an example holds in make_example.py.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cluster.actor_pool import Unit, over
from pipelines.examples import pair_sampling as pairs
from pipelines.examples.captions import Captions
from pipelines.examples.config import PairConfig, PairSettings
from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.layout import head_of
from pipelines.examples.split import split_of
from pipelines.run_info import git_commit, versions
from rigface.errors import PlanError
from rigface.examples import ExampleSpec
from rigface.storage import lock
from rigface.storage.store import Store

PLAN = "pairs.parquet"
ABOUT = "rigface.json"
REPORT = "report.json"
BANKS = ("lights", "expressions")  # of other photographs; kept with the plan, not shown in the report
OTHERS = 512  # photographs whose lights and expressions serve for inventing


def pair(config: PairConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the job; returns the report.

    Raises:
        PlanError: there are no faces or no pairs, or the output was made with other settings.
        OutputBusy: another run writes to this output.
    """
    source, store = Store(config.faces), Store(config.out)
    with lock.hold(store) as check:
        if config.overwrite:
            for path in (ABOUT, PLAN, REPORT):
                store.delete(path)
            store.delete_folder("examples")
        about = _about(config, source)
        plan, report = _plan(config, source, store, say)
        units = units_of(plan, about["config"], config.settings.unit_size)
        done = store.ids("examples", ".parquet")
        todo = [(name, what) for name, what in units if name not in done]
        say(f"{len(plan):,} examples in {len(units):,} units, {len(todo):,} to do")
        counts: Counter[str] = Counter()
        arguments = {"faces": config.faces, "out": config.out, "settings": config.settings, "spec": about["spec"]}
        for k, record in enumerate(
            over(todo, _worker, {**arguments, **{name: report[name] for name in BANKS}}, config.run), 1
        ):
            counts.update(record)
            check()
            if k % 20 == 0 or k == len(todo):
                say(f"{k:,}/{len(todo):,} units, {counts['examples']:,} examples, {counts['refused']:,} refused")
        made = _made(store)
        report = {**report, "made": made}
        store.publish(REPORT, json.dumps({k: v for k, v in report.items() if k not in BANKS}, indent=1).encode())
    return report


def _worker(**arguments: Any) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    from pipelines.examples.compose_worker import ComposeUnit

    return ComposeUnit(**arguments)


def _about(config: PairConfig, source: Store) -> dict[str, Any]:
    """rigface.json of the output, made or checked."""
    store = Store(config.out)
    head = head_of(source)
    spec = ExampleSpec(config.settings.style, config.settings.size, head, "expression", head.expression)
    settings = asdict(config.settings)
    name = hashlib.sha256(json.dumps([settings, json.loads(spec.to_json())], sort_keys=True).encode()).hexdigest()[:16]
    try:
        about = json.loads(store.read(ABOUT))
    except FileNotFoundError:
        about = {"config": name, "settings": settings, "spec": spec.to_json(), "faces": source.uri}
        store.publish(ABOUT, json.dumps({**about, "commit": git_commit(), "packages": versions()}, indent=1).encode())
        return about
    if about.get("config") != name:
        changed = [k for k, v in settings.items() if about.get("settings", {}).get(k) != v] or ["head model"]
        raise PlanError(
            f"{store.uri} was made with other settings ({', '.join(changed)}); choose another OUT or --overwrite"
        )
    return about


def _plan(
    config: PairConfig, source: Store, store: Store, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The kept plan and its report, or new ones."""
    try:
        table = store.table(PLAN)
        return table.to_pylist(), json.loads(table.schema.metadata[b"rigface.report"])
    except FileNotFoundError:
        pass
    wanted = config.settings
    gates = (wanted.min_confidence, wanted.min_sharpness, wanted.min_face_px)
    rows, parts = read_frames(source, dict(zip(GATES, gates)))
    say(f"{len(rows):,} faces of {len(set(rows.identity)):,} people, {int(rows.good.sum()):,} pass the gates")
    plan, report = plan_pairs(rows, parts, config.settings)
    if not plan:
        raise PlanError(f"{source.uri}: nothing to make examples of; {report['refused']}")
    good = np.flatnonzero(rows.good)
    some = good[np.linspace(0, len(good) - 1, min(OTHERS, len(good))).astype(int)]
    report["lights"] = np.round(rows.light[some], 4).tolist()
    report["expressions"] = np.round(rows.expression[some], 3).tolist()
    table = pa.Table.from_pylist(plan).replace_schema_metadata({"rigface.report": json.dumps(report)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    store.publish(PLAN, sink.getvalue())
    return plan, report


def plan_pairs(
    rows: pairs.Frames, places: np.ndarray, settings: PairSettings
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every example to be made, and a report of what they cover."""
    found, refused = pairs.candidates(rows, settings.max_candidates, settings.max_identity_distance, settings.seed)
    chosen = found.take(pairs.choose(found, settings.pairs, settings.seed))
    random = np.random.default_rng([settings.seed, 2])
    alone = _alone(rows, settings.relit, random)
    sources, targets = np.concatenate([chosen.source, alone]), np.concatenate([chosen.target, alone])
    invented = random.random(len(sources)) < settings.relit_pair_fraction
    invented[len(chosen) :] = True
    posed = np.zeros(len(sources), bool)
    posed[len(chosen) :] = random.random(len(alone)) < settings.posed_fraction
    mirrored = random.random(len(sources)) < settings.mirrored_fraction
    captions = Captions.load(settings.captions)
    plan = []
    for i in np.lexsort((targets, sources, rows.uri[sources])):
        s, t = int(sources[i]), int(targets[i])
        key = f"{rows.uri[s]}\0{rows.index[s]}\0{rows.track[s]}\0{rows.index[t]}\0{rows.track[t]}"
        # One frame comes several times, each time staged in its own way: `i` tells the times apart.
        how = f"{invented[i]}\0{posed[i]}\0{mirrored[i]}\0{i if i >= len(chosen) else 0}\0{settings.seed}"
        name = hashlib.sha256(f"{key}\0{how}".encode()).hexdigest()[:24]
        plan.append(
            {
                "example": name,
                "identity": str(rows.identity[s]),
                "split": split_of(str(rows.identity[s]), settings.held_out_fraction),
                "relit": bool(invented[i]),
                "posed": bool(posed[i]),
                "mirrored": bool(mirrored[i]),
                "caption": captions.of(str(rows.uri[t]), int(rows.index[t])),
                "source_part": places[s, 0],
                "source_row": places[s, 1],
                "target_part": places[t, 0],
                "target_row": places[t, 1],
            }
        )
    people = {split: len({p["identity"] for p in plan if p["split"] == split}) for split in ("train", "test")}
    report = {
        "candidates": len(found),
        "available": pairs.coverage(found),
        "chosen": pairs.coverage(chosen),
        "bins": {name: pairs.bin_names(name) for name in pairs.EDGES},
        "pairs": len(chosen),
        "relit_alone": len(alone),
        "relit": int(invented.sum()),
        "posed": int(posed.sum()),
        "mirrored": int(mirrored.sum()),
        "captions": sum(p["caption"] is not None for p in plan),
        "people": people,
        "examples": {split: sum(p["split"] == split for p in plan) for split in ("train", "test")},
        "refused": refused,
    }
    return plan, report


def _alone(rows: pairs.Frames, wanted: int, random: np.random.Generator) -> np.ndarray:
    """Rows to be re-lit, people in turns."""
    good = random.permutation(np.flatnonzero(rows.good))
    if not len(good):
        return good
    _, person = np.unique(rows.identity[good], return_inverse=True)
    turns = good[np.argsort(pairs._turns(person), kind="stable")]
    return np.resize(turns, min(wanted, 8 * len(turns)))


def units_of(plan: list[dict[str, Any]], config: str, size: int) -> list[Unit]:
    """The plan in units with deterministic names."""
    units = []
    for start in range(0, len(plan), size):
        some = plan[start : start + size]
        text = "\0".join([config, *(p["example"] for p in some)])
        units.append((hashlib.sha256(text.encode()).hexdigest()[:24], {"examples": some}))
    return units


def _made(store: Store) -> dict[str, Any]:
    """What is there in the end: counts by split and kind."""
    counts: Counter[str] = Counter()
    for path in sorted(store.paths("examples", ".parquet")):
        table = store.table(path, ["split", "kind"])
        counts.update(f"{s} {k}" for s, k in zip(table["split"].to_pylist(), table["kind"].to_pylist()))
    return {"rows": sum(counts.values()), **dict(sorted(counts.items()))}
