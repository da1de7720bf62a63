"""Choice of evaluation tasks among rows of faces/, people in turns.

Path: `Frames` of OUT/faces -> `TaskSampler` -> `PlannedTask`s.
"""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipelines.evaluate.config import EvaluateConfig, TaskKind
from pipelines.evaluate.planned_task import RELIT, SELF_EDIT, PlannedTask
from pipelines.examples import pair_sampling
from pipelines.examples.compose_example import TAKE
from pipelines.examples.config import PairSettings
from rigface.edits import EditSpec, Trait

SWEEPS: dict[str, tuple[float, ...]] = {
    "yaw_deg": (-30, -20, -10, 0, 10, 20, 30),
    "pitch_deg": (-21, -14, -7, 0, 7, 14, 21),
    "expression.smile": (0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
    "expression.jaw_open": (0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9),
    "light.azimuth_deg": (-75, -50, -25, 0, 25, 50, 75),
}
CROSS_TRAITS: dict[Trait, str] = {
    "pose": "pose of another", "expression": "expression of another", "light": "light of another",
    "identity": "face swap",
}  # fmt: skip
MIN_CLIP_FRAMES = 5  # frames in a row; jitter of shorter clips is not measured


class TaskSampler:
    """Chooses rows of faces for tasks; `places` (N, 2) are part and row of each of the frames."""

    def __init__(self, frames: pair_sampling.Frames, places: np.ndarray, config: EvaluateConfig) -> None:
        self.frames, self._places, self._config = frames, places, config
        self._random = np.random.default_rng(config.seed)
        good = np.flatnonzero(frames.good)
        people = self._random.permutation(np.unique(frames.identity[good]))
        self._people = {str(person): good[frames.identity[good] == person] for person in people}

    def tasks(self, kind: TaskKind) -> Iterator[PlannedTask]:
        if kind == "self":
            return self._self_edits()
        if kind == "cross":
            return self._cross_edits()
        return self._sweeps() if kind == "sweep" else self._clips()

    def _self_edits(self) -> Iterator[PlannedTask]:
        """Three quarters pairs, people in turns; one quarter frames under an invented light."""
        settings, limit, seed = PairSettings(), self._config.limit, self._config.seed
        pairs, _ = pair_sampling.candidates(self.frames, settings.max_candidates, settings.max_identity_distance, seed)
        differs = np.any([pairs.deltas[name] >= edges[0] for name, edges in pair_sampling.EDGES.items()], axis=0)
        pairs = pairs.take(np.flatnonzero(differs))
        chosen = pairs.take(in_turns(pairs.person, pairs.cell, limit - limit // 4, seed))
        for k in range(len(chosen)):
            take = [name for name, edges in pair_sampling.EDGES.items() if chosen.deltas[name][k] >= edges[0]]
            edit = EditSpec.from_dict({"take": take})
            yield self._task("self", SELF_EDIT, int(chosen.source[k]), edit, int(chosen.target[k]), truth=True)
        relight = EditSpec(frozenset({"light"}))
        for row in self._in_turns(limit // 4):
            yield self._task("self", RELIT, row, relight, row, truth=True, relit=True)

    def _cross_edits(self) -> Iterator[PlannedTask]:
        """One trait of another person at a time, as many of each; none if there is only one person."""
        names = list(self._people)
        if len(names) < 2:
            return
        for k, source in enumerate(self._in_turns(self._config.limit)):
            own = str(self.frames.identity[source])
            other = self._random.choice([name for name in names if name != own])
            trait, name = list(CROSS_TRAITS.items())[k % len(CROSS_TRAITS)]
            target = int(self._random.choice(self._people[other]))
            yield self._task("cross", name, source, EditSpec(frozenset({trait})), target)

    def _sweeps(self) -> Iterator[PlannedTask]:
        """Every number of `SWEEPS` on the most frontal frame of each person."""
        ahead = self.frames.rotation[:, 2, 2]
        for rows in list(self._people.values())[: self._config.sweeps]:
            source = int(rows[np.argmax(ahead[rows])])
            for number, values in SWEEPS.items():
                label = number.removeprefix("expression.").removesuffix("_deg").replace("light.", "light ")
                group, _, key = number.rpartition(".")  # the names of `estimator.achieved`
                sweep = (f"{self.frames.uri[source]} {self.frames.index[source]} {number}", number)
                for value in values:
                    name = f"{label.replace('_', ' ')} sweep"
                    edit = EditSpec.from_dict({group: {key: value}} if group else {key: value})
                    yield self._task("sweep", name, source, edit, sweep=sweep)

    def _clips(self) -> Iterator[PlannedTask]:
        """Runs of evenly spaced frames, the longest of each person."""
        runs = (self._longest_run(rows) for rows in self._people.values())
        long_runs = (run for run in runs if len(run) >= MIN_CLIP_FRAMES)
        for run in itertools.islice(long_runs, self._config.clips):
            clip = f"{self.frames.uri[run[0]]} {self.frames.index[run[0]]}"
            for target in run[1 : self._config.clip_frames + 1]:
                yield self._task("clip", "clip", run[0], EditSpec(TAKE), target, truth=True, clip=clip)

    def _longest_run(self, rows: np.ndarray) -> list[int]:
        best: list[int] = []
        keys = sorted({(str(self.frames.uri[r]), int(self.frames.track[r])) for r in rows})
        for uri, track in keys:
            own = rows[(self.frames.uri[rows] == uri) & (self.frames.track[rows] == track)]
            own = own[np.argsort(self.frames.index[own])]
            gaps = np.diff(self.frames.index[own])
            if not len(gaps):
                continue
            usual, run = np.bincount(gaps).argmax(), [int(own[0])]
            for row, gap in zip(own[1:], gaps):
                run = [*run, int(row)] if gap == usual else [int(row)]
                best = run if len(run) > len(best) else best
        return best

    def _in_turns(self, count: int) -> list[int]:
        """Rows drawn at random, one of each person, and again."""
        shuffled = [self._random.permutation(rows) for rows in self._people.values()]
        deepest = max(map(len, shuffled), default=0)
        in_turns = [int(rows[turn]) for turn in range(deepest) for rows in shuffled if turn < len(rows)]
        return in_turns[:count]

    def _task(
        self, kind: TaskKind, name: str, source: int, edit: EditSpec, target: int | None = None, **more: Any
    ) -> PlannedTask:
        frames = self.frames
        rows = [source] if target is None else [source, target]
        row_names = "\0".join(f"{frames.uri[r]}\0{frames.index[r]}\0{frames.track[r]}" for r in rows)
        key = hashlib.sha256(f"{name}\0{row_names}\0{edit.to_json()}".encode()).hexdigest()[:16]
        places = [(str(self._places[r, 0]), int(self._places[r, 1])) for r in rows]
        return PlannedTask(
            kind=kind,
            name=name,
            key=key,
            person=str(frames.identity[source]),
            edit=edit,
            source=places[0],
            target=None if target is None else places[1],
            target_person=None if target is None else str(frames.identity[target]),
            **more,
        )


def in_turns(person: np.ndarray, cell: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """(K,) numbers of pairs (P,), K <= wanted: one of each person, and again; those of a person from cell to cell."""
    order = np.random.default_rng([seed, 1]).permutation(len(person))
    both = person[order].astype(np.int64) * (int(cell.max(initial=0)) + 1) + cell[order]
    order = order[np.argsort(pair_sampling.turns(both), kind="stable")]
    return order[np.argsort(pair_sampling.turns(person[order]), kind="stable")][:wanted]
