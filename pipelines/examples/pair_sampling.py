"""Choice of frame pairs: candidates of one person, measured, gated, and sampled for an even spread.

Path: the light columns of OUT/faces -> `candidates` -> `choose` -> the plan of `pair`.

Pairs are of one person in one input: the background stays the same there, and the target can be laid over the source
pixel by pixel. Most frames of a clip hardly differ, so candidates are sorted into cells (by turn, expression, light):
rare cells are taken whole, common ones share the rest equally. Within a cell people take turns, so that one long clip
does not dominate the dataset.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

import numpy as np

from rigface.face.identity.dlib_embedding import same_person_distance

EDGES: dict[str, tuple[float, ...]] = {
    "pose": (4.0, 10.0, 20.0, 35.0),  # degrees between the heads
    "expression": (0.15, 0.3, 0.5),  # root mean square of the codes' difference
    "light": (0.08, 0.18, 0.35),  # as a share of the light's size
}
ZOOM = 1.5  # largest ratio between the zooms of target and source


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

    source: np.ndarray  # (P,) row numbers
    target: np.ndarray  # (P,) row numbers
    person: np.ndarray  # (P,) number of the person
    deltas: dict[str, np.ndarray]  # trait -> (P,) distance of the two

    def __len__(self) -> int:
        return len(self.source)

    @property
    def cell(self) -> np.ndarray:
        """(P,) number of each pair's cell."""
        cell = np.zeros(len(self), np.int64)
        for name, edges in EDGES.items():
            cell = cell * (len(edges) + 1) + np.digitize(self.deltas[name], edges)
        return cell

    def take(self, rows: np.ndarray) -> Candidates:
        deltas = {name: values[rows] for name, values in self.deltas.items()}
        return Candidates(self.source[rows], self.target[rows], self.person[rows], deltas)


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
    for row in np.flatnonzero(frames.good):
        groups.setdefault((frames.identity[row], frames.uri[row]), []).append(int(row))
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for number, (_, rows) in enumerate(sorted(groups.items())):
        count = len(rows)
        if count < 2:
            continue
        random = np.random.default_rng([seed, number])
        picked = random.choice(count * (count - 1), size=min(max_candidates, count * (count - 1)), replace=False)
        first, second = np.divmod(picked, count - 1)
        members = np.array(rows)
        sources.append(members[first])
        targets.append(members[second + (second >= first)])
    empty = np.zeros(0, np.int64)
    source, target = (np.concatenate(parts) if parts else empty for parts in (sources, targets))
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
    return Candidates(source, target, person[source], deltas(frames, source, target)), refused


def choose(pairs: Candidates, wanted: int, seed: int) -> np.ndarray:
    """(K,) numbers of the chosen pairs, K <= wanted, evenly over cells, then over people."""
    if wanted >= len(pairs):
        return np.arange(len(pairs))
    random = np.random.default_rng([seed, 1])
    cells: dict[int, np.ndarray] = {}
    cell = pairs.cell
    for number in np.unique(cell):
        rows = random.permutation(np.flatnonzero(cell == number))
        cells[int(number)] = rows[np.argsort(turns(pairs.person[rows]), kind="stable")]
    sizes = np.array([len(rows) for rows in cells.values()])
    # The largest level at which min(size, level) summed over the cells is at most `wanted`.
    level = bisect.bisect(range(max(sizes)), wanted, key=lambda level: np.minimum(sizes, level).sum()) - 1
    chosen = np.concatenate([rows[:level] for rows in cells.values()])
    spare = np.concatenate([rows[level : level + 1] for rows in cells.values()])
    return np.concatenate([chosen, spare[: wanted - len(chosen)]])


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
