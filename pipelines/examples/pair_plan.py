"""Plan of `pair`: the two rows of faces/ behind each example, and how its source is staged.

Path: `Frames` of OUT/faces -> `plan_pairs` -> `PairPlan` -> OUT/pairs.parquet and units of work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa

from pipelines.cluster.unit_job import Unit, unit_name
from pipelines.examples import pair_sampling
from pipelines.examples.captions import Captions
from pipelines.examples.config import PairSettings
from pipelines.examples.coverage_report import PairReport
from pipelines.examples.split import Split, split_of

MAX_BANK = 512  # photographs whose lights and expressions serve for staging
MAX_STAGED = 8  # examples made of one frame alone


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


def plan_pairs(frames: pair_sampling.Frames, places: np.ndarray, settings: PairSettings) -> PairPlan:
    """Plan every example; `places` (N, 2) are part and row of each of the frames."""
    pairs, refused = pair_sampling.candidates(
        frames, settings.max_candidates, settings.max_identity_distance, settings.seed
    )
    chosen = pairs.take(pair_sampling.choose(pairs, settings.pairs, settings.seed))
    random = np.random.default_rng([settings.seed, 2])
    alone = _alone(frames, settings.relit, random)
    sources, targets = np.concatenate([chosen.source, alone]), np.concatenate([chosen.target, alone])
    relit = random.random(len(sources)) < settings.relit_pair_fraction
    relit[len(chosen) :] = True
    posed = np.zeros(len(sources), bool)
    posed[len(chosen) :] = random.random(len(alone)) < settings.posed_fraction
    mirrored = random.random(len(sources)) < settings.mirrored_fraction
    captions = Captions.load(settings.captions)
    examples = []
    for i in np.lexsort((targets, sources, frames.uri[sources])):
        s, t = int(sources[i]), int(targets[i])
        key = f"{frames.uri[s]}\0{frames.index[s]}\0{frames.track[s]}\0{frames.index[t]}\0{frames.track[t]}"
        # A frame used alone comes several times, each time staged in its own way: `i` tells the times apart.
        staging = f"{relit[i]}\0{posed[i]}\0{mirrored[i]}\0{i if i >= len(chosen) else 0}\0{settings.seed}"
        examples.append(
            PlannedExample(
                example=hashlib.sha256(f"{key}\0{staging}".encode()).hexdigest()[:24],
                identity=str(frames.identity[s]),
                split=split_of(str(frames.identity[s]), settings.held_out_fraction),
                relit=bool(relit[i]),
                posed=bool(posed[i]),
                mirrored=bool(mirrored[i]),
                caption=captions.of(str(frames.uri[t]), int(frames.index[t])),
                source_part=places[s, 0],
                source_row=places[s, 1],
                target_part=places[t, 0],
                target_row=places[t, 1],
            )
        )
    splits: tuple[Split, ...] = ("train", "test")
    report = PairReport(
        candidates=len(pairs),
        available=pair_sampling.coverage(pairs),
        chosen=pair_sampling.coverage(chosen),
        bins={name: pair_sampling.bin_names(name) for name in pair_sampling.EDGES},
        pairs=len(chosen),
        relit_alone=len(alone),
        relit=int(relit.sum()),
        posed=int(posed.sum()),
        mirrored=int(mirrored.sum()),
        captions=sum(p.caption is not None for p in examples),
        people={split: len({p.identity for p in examples if p.split == split}) for split in splits},
        examples={split: sum(p.split == split for p in examples) for split in splits},
        refused=refused,
    )
    return PairPlan(examples, StagingBank.of(frames), report)


def _alone(frames: pair_sampling.Frames, count: int, random: np.random.Generator) -> np.ndarray:
    """Rows for examples of one frame, people in turns."""
    good = random.permutation(np.flatnonzero(frames.good))
    if not len(good):
        return good
    _, person = np.unique(frames.identity[good], return_inverse=True)
    in_turns = good[np.argsort(pair_sampling.turns(person), kind="stable")]
    return np.resize(in_turns, min(count, MAX_STAGED * len(in_turns)))
