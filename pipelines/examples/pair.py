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
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tyro.conf import Suppress, arg

from pipelines.cluster.actor_pool import Unit, Workers, over
from pipelines.examples import pair_sampling as pairs
from pipelines.examples.captions import Captions
from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.split import HELD_OUT, split_of
from pipelines.extract.dataset import git_commit, versions
from rigface import schema
from rigface.errors import PlanError
from rigface.examples import ExampleSpec
from rigface.storage import lock
from rigface.storage.store import Store, sharded
from rigface.types import HeadSpec

PLAN = "pairs.parquet"
ABOUT = "rigface.json"
REPORT = "report.json"
BANKS = ("lights", "expressions")  # of other photographs; kept with the plan, not shown in the report
OTHERS = 512  # photographs whose lights and expressions serve for inventing


@dataclass(frozen=True)
class PairSettings:
    """What examples to make. An output has one of these."""

    style: str = "texture"
    """What the render shows: `texture` (the preview) or `albedo`."""
    size: int = 256
    """Side of the pictures in pixels."""
    pairs: int = 20_000
    """Pairs of two frames, at most."""
    relit: int = 5_000
    """Examples made of one frame and itself under an invented light, people in turns."""
    posed: float = 0.6
    """Share of those whose source is turned, too, and has another's expression: for people of whom there is one picture."""
    relit_pairs: float = 0.25
    """Share of the pairs whose source gets an invented light too."""
    mirrored: float = 0.5
    """Share of examples seen in a mirror."""
    least_confidence: float = 0.5
    least_sharpness: float = 0.1
    least_face_px: float = 80.0
    """Smaller faces teach blur."""
    largest_identity_distance: float = 0.0
    """Between the identity vectors of two tracks of one person; 0: the network's own rule (dlib 0.6, ArcFace 1.1)."""
    least_covered: float = 0.7
    """Share of the source's crop that the target's must show."""
    largest_background_change: float = 0.12
    """Mean difference of the two backgrounds; beyond, the camera moved or the scene changed."""
    per_group: int = 2_000
    """Candidates drawn per person and input."""
    held_out: float = HELD_OUT
    """Share of people who are never trained on."""
    captions: str = ""
    """What is said of the pictures: a .csv or .parquet with the columns uri, caption and, for words of one frame, frame_index. A
    model with a text encoder learns to listen to them. Words of left and right are wrong in a mirror: then --mirrored 0."""
    quality: int = 0
    """Of the stored JPEGs; 0: PNG."""
    part: int = 64
    """Examples per unit of work."""
    seed: int = 0


@dataclass(frozen=True)
class PairConfig:
    """One run of the job."""

    faces: Suppress[str]
    out: Suppress[str]
    settings: Annotated[PairSettings, arg(name="")] = field(default_factory=PairSettings)
    run: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
    overwrite: bool = False
    """Throw away what is in OUT and begin again."""


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
        units = units_of(plan, about["config"], config.settings.part)
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


def head_of(faces: Store) -> HeadSpec:
    """The head model of a dataset of faces.

    Raises:
        PlanError: there is no dataset.
    """
    part = next(iter(sorted(faces.paths("faces", ".parquet"))), None)
    if part is None:
        raise PlanError(f"{faces.uri}: no faces/ here; make some with `rigface extract`")
    with faces.open(part) as f:
        return schema.head_of(pq.read_schema(f))


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
    gates = (wanted.least_confidence, wanted.least_sharpness, wanted.least_face_px)
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
    found, refused = pairs.candidates(rows, settings.per_group, settings.largest_identity_distance, settings.seed)
    chosen = found.take(pairs.choose(found, settings.pairs, settings.seed))
    random = np.random.default_rng([settings.seed, 2])
    alone = _alone(rows, settings.relit, random)
    sources, targets = np.concatenate([chosen.source, alone]), np.concatenate([chosen.target, alone])
    invented = random.random(len(sources)) < settings.relit_pairs
    invented[len(chosen) :] = True
    posed = np.zeros(len(sources), bool)
    posed[len(chosen) :] = random.random(len(alone)) < settings.posed
    mirrored = random.random(len(sources)) < settings.mirrored
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
                "split": split_of(str(rows.identity[s]), settings.held_out),
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


def part_path(unit: str) -> str:
    """Where a unit's examples are."""
    return sharded("examples", unit, ".parquet")
