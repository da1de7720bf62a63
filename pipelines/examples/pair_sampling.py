"""Choice of frame pairs: candidates of one person, measured, gated, and sampled for an even spread.

Path: the light columns of OUT/faces, input by input -> `candidates` -> `Chooser` -> the plan of `pair`.

Pairs are of one person in one input: the background stays the same there, and the target can be laid over the source
pixel by pixel. Most frames of a clip hardly differ, so candidates are sorted into cells (by turn, expression, light):
rare cells are taken whole, common ones share the rest equally. Within a cell people take turns, so that one long clip
does not dominate the dataset.

A pair's place in its cell is its turn (how many pairs of the same person and cell have a lower draw), then its draw, a
random number that depends on the seed, the person and the input alone. More pairs only move a pair back. So what is
too far back to be chosen now need not be kept: `Chooser` holds about as many pairs as are wanted, and the choice is the
same in whatever order the inputs come.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rigface.dataset.identities import uri_key
from rigface.face.identity.dlib_embedding import same_person_distance

EDGES: dict[str, tuple[float, ...]] = {
    "pose": (4.0, 10.0, 20.0, 35.0),  # degrees between the heads
    "expression": (0.15, 0.3, 0.5),  # root mean square of the codes' difference
    "light": (0.08, 0.18, 0.35),  # as a share of the light's size
}
CELLS = math.prod(len(edges) + 1 for edges in EDGES.values())
ZOOM = 1.5  # largest ratio between the zooms of target and source
SLACK = 1 << 19  # pairs that a `Chooser` holds beyond those that may be chosen: 35 MB


@dataclass(frozen=True, eq=False)
class Frames:
    """The light columns of N rows of faces/."""

    identity: np.ndarray  # (N,) str
    uri: np.ndarray  # (N,) str
    track: np.ndarray  # (N,) int
    index: np.ndarray  # (N,) int, of the frame
    rotation: np.ndarray  # (N, 3, 3)
    expression: np.ndarray  # (N, E)
    light: np.ndarray  # (N, 9, 3)
    zoom: np.ndarray  # (N,) crop px per frame px
    good: np.ndarray  # (N,) bool, passes the gates on single rows
    vectors: np.ndarray  # (N, D) identity vector of the row's track, NaN where there is none

    def __len__(self) -> int:
        return len(self.identity)


@dataclass(frozen=True, eq=False)
class Candidates:
    """P possible pairs."""

    source: np.ndarray  # (P, ...) the row: its number, or its place
    target: np.ndarray  # (P, ...) as `source`
    person: np.ndarray  # (P,) number of the person
    draw: np.ndarray  # (P,) random, in [0, 1)
    deltas: dict[str, np.ndarray]  # trait -> (P,) distance of the two; without any, all pairs are in one cell

    def __len__(self) -> int:
        return len(self.source)

    @property
    def cell(self) -> np.ndarray:
        """(P,) number of each pair's cell, below `CELLS`."""
        cell = np.zeros(len(self), np.int64)
        for name, values in self.deltas.items():
            cell = cell * (len(EDGES[name]) + 1) + np.digitize(values, EDGES[name])
        return cell

    def take(self, rows: np.ndarray) -> Candidates:
        deltas = {name: values[rows] for name, values in self.deltas.items()}
        return Candidates(self.source[rows], self.target[rows], self.person[rows], self.draw[rows], deltas)

    @staticmethod
    def joined(several: Sequence[Candidates]) -> Candidates:
        """All of them, in order; at least one."""
        return Candidates(
            source=np.concatenate([c.source for c in several]),
            target=np.concatenate([c.target for c in several]),
            person=np.concatenate([c.person for c in several]),
            draw=np.concatenate([c.draw for c in several]),
            deltas={name: np.concatenate([c.deltas[name] for c in several]) for name in several[0].deltas},
        )


class Chooser:
    """Chooses from a stream of pairs, evenly over cells, then over people."""

    def __init__(self, wanted: int) -> None:
        self._wanted, self._held, self._limit = wanted, list[Candidates](), SLACK
        self._sizes = np.zeros(CELLS, np.int64)  # of the cells, all pairs counted

    def add(self, pairs: Candidates) -> None:
        self._sizes += np.bincount(pairs.cell, minlength=CELLS)
        self._held.append(pairs)
        if sum(map(len, self._held)) > self._limit:
            pairs, place = self._placed()
            self._held = [pairs.take(np.flatnonzero(place <= self._level))]
            self._limit = len(self._held[0]) + SLACK

    def chosen(self) -> Candidates | None:
        """At most as many as are wanted, by cell and place; None if there were no pairs."""
        if not self._held:
            return None
        pairs, place = self._placed()
        rows, spare = np.flatnonzero(place < self._level), np.flatnonzero(place == self._level)
        return pairs.take(np.sort(np.concatenate([rows, spare[: self._wanted - len(rows)]])))

    @property
    def _level(self) -> int:
        """The largest number of pairs of a cell with which all cells together are not more than wanted."""
        levels = range(int(self._sizes.max()) + 1)
        return bisect.bisect(levels, self._wanted, key=lambda level: np.minimum(self._sizes, level).sum()) - 1

    def _placed(self) -> tuple[Candidates, np.ndarray]:
        """All pairs in order of cell and place, and the place of each in its cell."""
        pairs = Candidates.joined(self._held)
        pairs = pairs.take(np.lexsort((pairs.draw, pairs.person, pairs.cell)))
        turn = _numbered(pairs.cell, pairs.person)
        pairs = pairs.take(np.lexsort((pairs.draw, turn, pairs.cell)))
        return pairs, _numbered(pairs.cell)


def _numbered(*keys: np.ndarray) -> np.ndarray:
    """(P,) the number of each within its run of equal keys, from 0."""
    count = np.arange(len(keys[0]))
    starts = np.any([np.diff(key, prepend=key[:1]) != 0 for key in keys], axis=0)
    return count - np.maximum.accumulate(np.where(starts, count, 0))


def deltas(frames: Frames, source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Distances of rows by trait: degrees, root mean square, share."""
    cosine = (np.einsum("pij,pij->p", frames.rotation[source], frames.rotation[target]) - 1) / 2
    # At one exposure: brightness depends on the camera.
    lights = (frames.light / np.maximum(frames.light[:, :1].mean(-1, keepdims=True), 1e-4)).reshape(len(frames), -1)
    size = np.linalg.norm(lights[target], axis=1)
    return {
        "pose": np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        "expression": np.sqrt(np.square(frames.expression[source] - frames.expression[target]).mean(1)),
        "light": np.linalg.norm(lights[source] - lights[target], axis=1) / np.maximum(size, 1e-6),
    }


def candidates(
    frames: Frames, max_candidates: int, max_identity_distance: float, seed: int
) -> tuple[Candidates, dict[str, int]]:
    """Possible pairs, up to `max_candidates` of each person in each input, and refused rows and pairs by reason.

    The limit of distance is between the identity vectors of two tracks; 0: the rule of their network.
    """
    _people, person = np.unique(frames.identity, return_inverse=True)
    groups: dict[tuple[str, str], list[int]] = {}
    for row in np.flatnonzero(frames.good).tolist():
        groups.setdefault((str(frames.identity[row]), str(frames.uri[row])), []).append(row)
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    draws: list[np.ndarray] = []
    for (name, uri), rows in sorted(groups.items()):
        count = len(rows)
        if count < 2:
            continue
        random = np.random.default_rng([seed, uri_key(f"{name}\0{uri}")])
        picked = random.choice(count * (count - 1), size=min(max_candidates, count * (count - 1)), replace=False)
        first, second = np.divmod(picked, count - 1)
        members = np.array(rows)
        sources.append(members[first])
        targets.append(members[second + (second >= first)])
        draws.append(random.random(len(picked)))
    empty = np.zeros(0, np.int64)
    source, target, draw = (np.concatenate(parts) if parts else empty for parts in (sources, targets, draws))
    apart = np.linalg.norm(frames.vectors[source] - frames.vectors[target], axis=1)
    limit = max_identity_distance or same_person_distance(frames.vectors.shape[1])
    stranger = apart > limit  # False where a vector is NaN: the tracks were clustered as one
    ratio = frames.zoom[source] / frames.zoom[target]
    zoomed = (ratio > ZOOM) | (ratio < 1 / ZOOM)
    kept = ~stranger & ~zoomed
    refused = {
        "row below the gates": int((~frames.good).sum()),
        "pair of two people by their vectors": int(stranger.sum()),
        "pair with too much zoom between": int((zoomed & ~stranger).sum()),
    }
    source, target = source[kept], target[kept]
    return Candidates(source, target, person[source], draw[kept], deltas(frames, source, target)), refused


def turns(person: np.ndarray) -> np.ndarray:
    """(P,) for each pair, the number of pairs of the same person before it."""
    last: dict[int, int] = {}
    turn = np.empty(len(person), np.int64)
    for i, number in enumerate(person.tolist()):
        turn[i] = last[number] = last.get(number, -1) + 1
    return turn


def coverage(pairs: Candidates) -> dict[str, list[int]]:
    """Number of pairs in each bin of each trait."""
    return {
        name: np.bincount(np.digitize(pairs.deltas[name], edges), minlength=len(edges) + 1).tolist()
        for name, edges in EDGES.items()
    }


def bin_names(trait: str) -> list[str]:
    """`< 4`, `4-10`, ..., `> 35` of a trait."""
    edges = [f"{e:g}" for e in EDGES[trait]]
    return [f"< {edges[0]}", *(f"{a}-{b}" for a, b in itertools.pairwise(edges)), f"> {edges[-1]}"]
