"""Plan of `pair`: the two rows of faces/ behind each example, and how its source is staged.

Path: OUT/faces, input by input -> `plan_pairs` -> `PairPlan` -> OUT/pairs.parquet and units of work.

In memory are the frames of a few inputs, about as many pairs as are wanted, and 12 bytes per person, however many faces
there are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.cluster.unit_job import Unit, unit_name
from pipelines.examples import pair_sampling
from pipelines.examples.captions import Captions
from pipelines.examples.config import PairSettings
from pipelines.examples.coverage_report import PairReport
from pipelines.examples.frame_index import COLUMNS, GATES, frames_of, unnamed
from pipelines.examples.split import Split, split_of
from pipelines.inputs.compact_set import CompactSet
from rigface.dataset.faces import PART, READERS, ROW, Faces
from rigface.dataset.identities import uri_key
from rigface.errors import PlanError

MAX_BANK = 512  # photographs whose lights and expressions serve for staging
MAX_STAGED = 8  # examples made of one frame alone
MIXED_PARTS = 16  # objects of faces/ whose examples are mixed: a unit of work reads all of them
PROGRESS_S = 10.0  # at least so long between two lines of progress

Place = tuple[int, int]  # number of the object in `Faces.parts`, row in it


@dataclass(frozen=True)
class PlannedExample:
    """One example to be made."""

    example: str  # its name, a hash of all that decides its content
    identity: str
    split: Split
    relit: bool  # the source gets an invented light
    posed: bool  # the source gets an invented pose
    mirrored: bool
    caption: str | None
    source_part: str  # object of faces/
    source_row: int
    target_part: str
    target_row: int

    @property
    def source(self) -> tuple[str, int]:
        return self.source_part, self.source_row

    @property
    def target(self) -> tuple[str, int]:
        return self.target_part, self.target_row


def parts_behind(examples: Iterable[PlannedExample]) -> set[str]:
    """The objects of faces/ that these examples are made of."""
    return {part for planned in examples for part in (planned.source_part, planned.target_part)}


@dataclass(frozen=True, eq=False)
class StagingBank:
    """Lights (N, 9, 3) and expressions (N, E) of other photographs, float32: what invented sources borrow."""

    lights: np.ndarray
    expressions: np.ndarray

    @staticmethod
    def of(frames: pair_sampling.Frames) -> StagingBank:
        """Up to `MAX_BANK` good rows, evenly chosen and rounded for JSON."""
        good = np.flatnonzero(frames.good)
        rows = good[np.linspace(0, len(good) - 1, min(MAX_BANK, len(good))).astype(int)]
        return StagingBank(np.round(frames.light[rows], 4), np.round(frames.expression[rows], 3))


@dataclass(frozen=True, eq=False)
class PairPlan:
    """All examples of an output, the bank for staging, and the report of what they cover."""

    examples: list[PlannedExample]
    bank: StagingBank
    report: PairReport

    def to_arrow(self) -> pa.Table:
        """A row per example; bank and report as metadata."""
        bank = {"lights": self.bank.lights.tolist(), "expressions": self.bank.expressions.tolist()}
        metadata = {"rigface.report": json.dumps(asdict(self.report)), "rigface.bank": json.dumps(bank)}
        rows = [vars(example) for example in self.examples]
        return pa.Table.from_pylist(rows).replace_schema_metadata(metadata)

    @staticmethod
    def from_arrow(table: pa.Table) -> PairPlan:
        """The inverse of `to_arrow`."""
        bank = json.loads(table.schema.metadata[b"rigface.bank"])
        arrays = (np.array(bank[field.name], np.float32) for field in fields(StagingBank))
        report = PairReport(**json.loads(table.schema.metadata[b"rigface.report"]))
        return PairPlan([PlannedExample(**row) for row in table.to_pylist()], StagingBank(*arrays), report)

    def units(self, settings_hash: str, size: int) -> list[Unit[list[PlannedExample]]]:
        """The examples in units of `size`."""
        groups = [self.examples[start : start + size] for start in range(0, len(self.examples), size)]
        return [Unit(unit_name(settings_hash, *(p.example for p in group)), group) for group in groups]


def plan_pairs(faces: Faces, settings: PairSettings, say: Callable[[str], None]) -> PairPlan:
    """Plan every example of a dataset; PlanError if it has no faces."""
    minima = dict(zip(GATES, (settings.min_confidence, settings.min_sharpness, settings.min_face_px)))
    chooser, loners = pair_sampling.Chooser(settings.pairs), pair_sampling.Chooser(settings.relit)
    available = {name: np.zeros(len(edges) + 1, np.int64) for name, edges in pair_sampling.EDGES.items()}
    refused, bank, people, counts = Counter[str](), _BankSampler(), CompactSet(), Counter[str]()
    spoke = time.monotonic()
    for uri, table in faces.by_input(COLUMNS):
        frames, places = frames_of(table, minima), np.stack([table[PART].to_numpy(), table[ROW].to_numpy()], 1)
        found, why = pair_sampling.candidates(
            frames, settings.max_candidates, settings.max_identity_distance, settings.seed
        )
        good = np.flatnonzero(frames.good)
        names, number = np.unique(frames.identity, return_inverse=True)
        person = np.array([uri_key(name) for name in names.tolist()], np.uint64)[number]
        draw = np.random.default_rng([settings.seed, uri_key(uri)]).random(len(good))
        placed = replace(found, source=places[found.source], target=places[found.target], person=person[found.source])
        chooser.add(placed)
        loners.add(pair_sampling.Candidates(places[good], places[good], person[good], draw, {}))
        bank.add(frames.light[good], frames.expression[good], draw)
        refused.update(why)
        for name, bins in pair_sampling.coverage(found).items():
            available[name] += bins
        for name in names.tolist():
            people.add(name)
        counts.update(faces=len(frames), good=len(good), pairs=len(found))
        if time.monotonic() - spoke > PROGRESS_S:
            spoke = time.monotonic()
            say(f"{counts['faces']:,} faces read")
    say(f"{counts['faces']:,} faces of {len(people):,} people, {counts['good']:,} pass the gates")
    if not counts["faces"]:
        raise PlanError(f"{faces.store.uri}: no faces in this dataset")
    chosen, alone = chooser.chosen(), loners.chosen()
    pairs = [] if chosen is None else [*zip(map(tuple, chosen.source.tolist()), map(tuple, chosen.target.tolist()))]
    singles = [] if alone is None else [tuple(place) for place in alone.source.tolist()]
    in_turns = list(itertools.islice(itertools.cycle(singles), min(settings.relit, MAX_STAGED * len(singles))))
    examples = _examples(faces, pairs, in_turns, settings)
    splits: tuple[Split, ...] = ("train", "test")
    report = PairReport(
        candidates=counts["pairs"],
        available={name: bins.tolist() for name, bins in available.items()},
        chosen={n: [0] * len(b) for n, b in available.items()} if chosen is None else pair_sampling.coverage(chosen),
        bins={name: pair_sampling.bin_names(name) for name in pair_sampling.EDGES},
        pairs=len(pairs),
        relit_alone=len(in_turns),
        relit=sum(p.relit for p in examples),
        posed=sum(p.posed for p in examples),
        mirrored=sum(p.mirrored for p in examples),
        captions=sum(settings.describe or p.caption is not None for p in examples),
        people={split: len({p.identity for p in examples if p.split == split}) for split in splits},
        examples={split: sum(p.split == split for p in examples) for split in splits},
        refused=dict(refused),
    )
    return PairPlan(examples, bank.bank(), report)


def _examples(
    faces: Faces, pairs: list[tuple[Place, Place]], alone: list[Place], settings: PairSettings
) -> list[PlannedExample]:
    """The examples of these pairs and single rows, mixed."""
    random = np.random.default_rng([settings.seed, 2])
    both = [*pairs, *((place, place) for place in alone)]
    relit = random.random(len(both)) < settings.relit_pair_fraction
    relit[len(pairs) :] = True
    posed = np.zeros(len(both), bool)
    posed[len(pairs) :] = random.random(len(alone)) < settings.posed_fraction
    mirrored = random.random(len(both)) < settings.mirrored_fraction
    captions, keys = Captions.load(settings.captions), _keys(faces, {place for pair in both for place in pair})
    examples = []
    for i in sorted(range(len(both)), key=lambda i: (keys[both[i][0]].uri, *both[i])):
        (source_part, source_row), (target_part, target_row) = both[i]
        source, target = (keys[place] for place in both[i])
        key = f"{source.uri}\0{source.frame_index}\0{source.track}\0{target.frame_index}\0{target.track}"
        # A frame used alone comes several times, each time staged in its own way: `i` tells the times apart.
        staging = f"{relit[i]}\0{posed[i]}\0{mirrored[i]}\0{i if i >= len(pairs) else 0}\0{settings.seed}"
        examples.append(
            PlannedExample(
                example=hashlib.sha256(f"{key}\0{staging}".encode()).hexdigest()[:24],
                identity=source.identity,
                split=split_of(source.identity, settings.held_out_fraction),
                relit=bool(relit[i]),
                posed=bool(posed[i]),
                mirrored=bool(mirrored[i]),
                caption=captions.of(target.uri, target.frame_index),
                source_part=faces.parts[source_part],
                source_row=source_row,
                target_part=faces.parts[target_part],
                target_row=target_row,
            )
        )
    return mixed(examples, settings.seed)


def mixed(examples: Sequence[PlannedExample], seed: int) -> list[PlannedExample]:
    """The examples in an order in which neighbours, and so the rows of a unit, are of many people.

    Objects of faces/ come in random groups, and the examples of a group in random order. A group is made of as many
    objects as a unit may read, `MIXED_PARTS`, or of all behind the sources of one object, if those are more.
    """
    by_part: dict[str, list[PlannedExample]] = {}
    for planned in examples:
        by_part.setdefault(planned.source_part, []).append(planned)
    random = np.random.default_rng([seed, 3])
    order: list[PlannedExample] = []
    group: list[PlannedExample] = []
    read: set[str] = set()
    parts = sorted(by_part)
    for number in random.permutation(len(parts)).tolist():
        here = by_part[parts[number]]
        behind = parts_behind(here)
        if len(read | behind) > MIXED_PARTS:
            order += [group[k] for k in random.permutation(len(group))]
            group, read = [], set()
        group, read = group + here, read | behind
    return order + [group[k] for k in random.permutation(len(group))]


class _Key(NamedTuple):
    """Columns of a row that name it."""

    uri: str
    frame_index: int
    track: int
    identity: str


def _keys(faces: Faces, places: set[Place]) -> dict[Place, _Key]:
    """The keys of some rows, read again: of the rest of the dataset nothing is kept."""
    by_part = [(part, [row for _, row in of]) for part, of in itertools.groupby(sorted(places), key=lambda p: p[0])]

    def read(job: tuple[int, list[int]]) -> list[tuple[Place, _Key]]:
        part, rows = job
        cells = faces.table(faces.parts[part], _Key._fields).take(pa.array(rows)).to_pylist()
        keys = (_Key(**cell | {"identity": cell["identity"] or unnamed(cell["uri"], cell["track"])}) for cell in cells)
        return list(zip(((part, row) for row in rows), keys))

    with ThreadPoolExecutor(READERS) as pool:
        return {place: key for some in pool.map(read, by_part) for place, key in some}


class _BankSampler:
    """Keeps the lights and expressions of the `MAX_BANK` rows with the lowest draws."""

    def __init__(self) -> None:
        self._held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(self, lights: np.ndarray, expressions: np.ndarray, draws: np.ndarray) -> None:
        self._held.append((lights, expressions, draws))
        self._count += len(draws)
        if self._count > 16 * MAX_BANK:
            self._held, self._count = [self._lowest()], MAX_BANK

    def bank(self) -> StagingBank:
        lights, expressions, _ = self._lowest()
        return StagingBank(np.round(lights, 4), np.round(expressions, 3))

    def _lowest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        whole = [np.concatenate(part) for part in zip(*self._held)]
        rows = np.argsort(whole[2], kind="stable")[:MAX_BANK]
        lights, expressions, draws = (part[rows] for part in whole)
        return lights, expressions, draws
