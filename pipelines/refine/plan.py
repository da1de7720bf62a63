"""Plan of a refiner's examples: which rows of a dataset make them, and of whom.

Path: `Frames` of OUT/faces, optionally the names of people -> `plan_examples` -> units of `ComposeExamples`.

Pairs are chosen by the change of mouth, lids and gaze: those are what a refiner is for, and heads that only turn are
many anyway.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.cluster.unit_job import Unit, unit_name
from pipelines.examples.pair_sampling import Frames
from pipelines.refine.config import ExampleSettings
from rigface.errors import PlanError

Kind = Literal["restored", "turned", "lids", "pair", "photographs"]
STAGED: dict[Kind, float] = {"restored": 0.5, "turned": 0.3, "lids": 0.2}  # shares of what is made of one photograph
DRAWN = 4  # partners drawn for a pair; the one that differs most is taken
EXTREME = 1 / 3  # share of a track's frames that are those farthest from its middle expression
WEIGHTS = {"mouth": 1.0, "jaw": 1.0, "eyeBlink": 2.0, "eyeLook": 1.0}  # of expression axes, by how their names begin
OTHER_WEIGHT = 0.3


@dataclass(frozen=True)
class PlannedExample:
    """One example to be made."""

    kind: Kind
    person: str
    source_part: str  # object of faces/
    source_row: int
    target_part: str
    target_row: int
    seed: int


def named(frames: Frames, files: Sequence[str]) -> Frames:
    """The frames with the people that tables name, instead of those found by clustering.

    Args:
        files: CSV files with the columns `file` and `person`; a file is relative to its table's folder. Inputs that no
            table names, and those that show several faces, keep their identities.

    Raises:
        PlanError: a table is not there, lacks a column, or names no input.
    """
    people: dict[str, str] = {}
    for table in map(Path, files):
        try:
            with table.open(newline="") as lines:
                people |= {str((table.parent / row["file"]).resolve()): row["person"] for row in csv.DictReader(lines)}
        except (OSError, KeyError) as error:
            raise PlanError(f"--people {table}: want a CSV file with the columns file and person ({error})") from error
    names = [people.get(str(uri)) for uri in frames.uri]
    if files and not any(names):
        raise PlanError(f"--people {' '.join(files)}: names no input of this dataset")
    tracks = {(uri, track) for uri, track in zip(frames.uri, frames.track)}
    alone = Counter(uri for uri, _ in tracks)
    told = [n if n and alone[u] == 1 else own for n, u, own in zip(names, frames.uri, frames.identity)]
    return replace(frames, identity=np.array(told))


def feature_weights(axes: Sequence[str]) -> np.ndarray:
    """(E,) weights of expression axes by what they move."""
    return np.array([next((w for name, w in WEIGHTS.items() if axis.startswith(name)), OTHER_WEIGHT) for axis in axes])


def plan_examples(
    frames: Frames, places: np.ndarray, axes: Sequence[str], settings: ExampleSettings
) -> list[PlannedExample]:
    """Every example of a dataset.

    Args:
        places: (N, 2) part and row of each of the frames.
        axes: names of the expression's axes.
    """
    random = np.random.default_rng([settings.seed, 3])
    codes = frames.expression * feature_weights(axes)
    tracks: dict[tuple[str, int], list[int]] = {}
    for number in np.flatnonzero(frames.good).tolist():
        tracks.setdefault((str(frames.uri[number]), int(frames.track[number])), []).append(number)
    tracks = {track: _used(rows, codes, settings.max_frames) for track, rows in tracks.items()}
    of_person: dict[str, list[int]] = {}
    for rows in tracks.values():
        of_person.setdefault(str(frames.identity[rows[0]]), []).extend(rows)
    planned = []

    def differing(row: int, partners: list[int], count: int) -> list[int]:
        drawn = [random.choice(partners, min(DRAWN, len(partners)), replace=False) for _ in range(count)]
        return [int(d[int(np.abs(codes[d] - codes[row]).sum(1).argmax())]) for d in drawn]

    def add(kind: Kind, source: int, target: int) -> None:
        place = (*places[source], *places[target])
        parts = (str(place[0]), int(place[1]), str(place[2]), int(place[3]))
        planned.append(PlannedExample(kind, str(frames.identity[target]), *parts, int(random.integers(2**32))))

    for rows in tracks.values():
        for row in rows:
            alone = settings.restored if len(rows) < DRAWN else min(settings.restored, 1)
            for k in random.choice(len(STAGED), alone, p=list(STAGED.values())):
                add(list(STAGED)[k], row, row)
            if beside := [r for r in rows if r != row]:
                for partner in differing(row, beside, settings.pairs):
                    add("pair", partner, row)
            others = [r for r in of_person[str(frames.identity[row])] if frames.uri[r] != frames.uri[row]]
            for partner in dict.fromkeys(differing(row, others, min(settings.photographs, len(others)))):
                add("photographs", partner, row)
    return planned


def _used(rows: list[int], codes: np.ndarray, count: int) -> list[int]:
    """Up to `count` frames of a track, in order: some with the rarest expressions, the others evenly chosen."""
    if len(rows) <= count:
        return rows
    apart = np.abs(codes[rows] - np.median(codes[rows], axis=0)).sum(1)
    extreme = np.argsort(-apart, kind="stable")[: int(EXTREME * count)]
    rest = np.setdiff1d(np.arange(len(rows)), extreme)
    evenly = rest[np.linspace(0, len(rest) - 1, count - len(extreme)).astype(int)]
    return [rows[k] for k in sorted({*extreme.tolist(), *evenly.tolist()})]


def units_of(planned: list[PlannedExample], settings_hash: str, size: int) -> list[Unit[list[PlannedExample]]]:
    """The examples in units of `size`."""
    groups = [planned[start : start + size] for start in range(0, len(planned), size)]
    return [Unit(unit_name(settings_hash, *(str(asdict(p)) for p in group)), group) for group in groups]
