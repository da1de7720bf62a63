"""Statistics of a dataset of faces in one pass: histograms, counts and a pool of rows for the gallery.

Path: OUT/faces/**/*.parquet -> FaceStatistics -> `rigface inspect`. Number columns are read once, in batches;
pictures are never read here. Memory: the histograms, a bounded pool of candidate rows, and 24 bytes per person (per
track if identities are not computed).

Every number is counted over rows whose status is `ok`; null and NaN are skipped.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import pi, sqrt
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.inspect.people import People, RowPosition
from rigface.colour import LUMINANCE
from rigface.types import DetectorSpec, HeadSpec

BATCH_ROWS = 8192
YAW_EDGES = np.arange(-90, 91, 5.0)
PITCH_EDGES = np.arange(-60, 61, 5.0)
LIGHT_RINGS_DEG = np.arange(0, 91, 15.0)  # from the camera axis; lights behind the head count in the last
LIGHT_SECTORS = 24
EXPRESSION_EDGES = np.linspace(-5, 5, 1001)
# Individual typology angle, dark to light: the classes of Chardon et al. 1991 with Del Bino's cut of brown and dark.
ITA_EDGES = np.array([-180.0, -30, 10, 28, 41, 55, 180])
NUMBER_EDGES = {
    "confidence": np.linspace(0, 1, 26),
    "landmark_residual": 0.001 * 10 ** np.linspace(0, 2, 25),
    "face_size_px": 2.0 ** np.arange(3, 11.26, 0.25),
    "sharpness": np.linspace(0, 1, 26),
    "exposure": np.linspace(0, 1, 26),
}
FLAGS = ("is_profile", "is_tiny", "is_blurred", "is_grey", "is_suspect")
FLAT_CONTRAST = 0.1  # directed over even light; below this the light has no direction

# Gains of the harmonics 1, x, xz, 3z2-1 in `rigface.face.rendering.lighting`, which needs torch.
_EVEN, _FIRST = sqrt(1 / (4 * pi)), sqrt(pi / 3)
_MIXED, _ZONAL = pi / 4 * sqrt(15 / (4 * pi)), pi / 4 * sqrt(5 / (16 * pi))
_CELLS = (7, 6, 3)  # yaw, light, confidence: strata of the candidate pool
_MAX_LOWEST = 256


class Candidate(NamedTuple):
    """A row for the gallery, with its features: yaw, pitch, light direction, confidence."""

    priority: int
    position: RowPosition
    features: tuple[float, ...]
    person: str


@dataclass
class Histogram:
    """Counts between edges; values beyond the ends count in the end bins."""

    edges: np.ndarray
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.edges) - 1, np.int64)

    def add(self, values: np.ndarray) -> None:
        self.counts += np.histogram(_clipped(values[np.isfinite(values)], self.edges), self.edges)[0]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def quantile(self, q: float) -> float:
        """The value below which a share `q` lies, straight within a bin; NaN of nothing."""
        if not self.total:
            return float("nan")
        below = np.concatenate([[0], np.cumsum(self.counts)]) / self.total
        return float(np.interp(q, below, self.edges))


@dataclass
class FaceStatistics:
    """Counts over `faces/`."""

    head: HeadSpec
    detector: DetectorSpec
    keep: int = 24  # candidate rows per stratum
    seed: int = 0  # of the choice of candidates
    rows: int = 0
    ok: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, Histogram] = field(default_factory=lambda: {n: Histogram(e) for n, e in NUMBER_EDGES.items()})
    yaw: Histogram = field(default_factory=lambda: Histogram(YAW_EDGES))
    pose: np.ndarray = field(default_factory=lambda: np.zeros((len(PITCH_EDGES) - 1, len(YAW_EDGES) - 1), np.int64))
    light: np.ndarray = field(default_factory=lambda: np.zeros((len(LIGHT_RINGS_DEG) - 1, LIGHT_SECTORS), np.int64))
    light_flat: int = 0
    light_behind: int = 0
    tone: Histogram = field(default_factory=lambda: Histogram(ITA_EDGES))
    people: People = field(default_factory=People)
    with_identity: int = 0
    expression: np.ndarray = field(init=False)
    _pool: dict[int, list[Candidate]] = field(default_factory=dict)
    _limits: np.ndarray = field(init=False)
    _lowest: dict[str, tuple[float, RowPosition]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.expression = np.zeros((self.head.expression, len(EXPRESSION_EDGES) - 1), np.int64)
        self._limits = np.full(int(np.prod(_CELLS)), np.iinfo(np.uint64).max, np.uint64)

    @staticmethod
    def columns() -> list[str]:
        """Columns that `add` reads; a file may lack any but the first four."""
        key = ["uri", "frame_index", "track", "status", "identity", "reason", "expression", "light"]
        return [*key, "yaw_deg", "pitch_deg", "skin_tone_ita_deg", *NUMBER_EDGES, *FLAGS]

    def add(self, batch: pa.RecordBatch, file: int, first_row: int) -> None:
        """Count a batch of rows of one file: its number in the listing, and the batch's first row in it."""
        good = pc.fill_null(pc.equal(batch["status"], "ok"), False).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(good)
        self.rows += len(good)
        self.ok += len(rows)
        if len(rows) < len(good):
            failed = _texts(batch.filter(pa.array(~good)), "reason")
            self.reasons.update(text or "no reason was recorded" for text in failed)
            batch = batch.filter(pa.array(good))
        if not len(rows):
            return
        for name, histogram in self.numbers.items():
            histogram.add(_floats(batch, name))
        for name in FLAGS:
            self.flags[name] += int(_bools(batch, name).sum())
        self.tone.add(_floats(batch, "skin_tone_ita_deg")[~_bools(batch, "is_grey")])
        yaw, pitch = _floats(batch, "yaw_deg"), _floats(batch, "pitch_deg")
        self._add_pose(yaw, pitch)
        self._add_expression(_vectors(batch, "expression", self.head.expression))
        toward = self._add_light(_vectors(batch, "light", 27))
        confidence = np.nan_to_num(_floats(batch, "confidence"))
        persons = self._add_people(batch, confidence, file, first_row + rows)
        features = np.column_stack([np.nan_to_num(yaw), np.nan_to_num(pitch), toward, confidence])
        self._add_candidates(batch, features, persons, file, first_row + rows)

    def candidates(self) -> list[Candidate]:
        """Candidates of the gallery: some rows of every stratum, independent of the order of the files."""
        return sorted(candidate for cell in self._pool.values() for candidate in sorted(cell)[: self.keep])

    def least_trusted(self, count: int) -> list[RowPosition]:
        """The rows with the lowest confidence, one per person, lowest first."""
        return [position for _, (_, position) in sorted(self._lowest.items(), key=lambda item: item[1])[:count]]

    def _add_pose(self, yaw: np.ndarray, pitch: np.ndarray) -> None:
        known = np.isfinite(yaw) & np.isfinite(pitch)
        yaw, pitch = yaw[known], pitch[known]
        self.yaw.add(yaw)
        grid = np.histogram2d(_clipped(pitch, PITCH_EDGES), _clipped(yaw, YAW_EDGES), (PITCH_EDGES, YAW_EDGES))[0]
        self.pose += grid.astype(np.int64)

    def _add_expression(self, values: np.ndarray) -> None:
        values = values[np.isfinite(values).all(axis=1)]
        bins = len(EXPRESSION_EDGES) - 1
        step = EXPRESSION_EDGES[1] - EXPRESSION_EDGES[0]
        cell = np.clip(((values - EXPRESSION_EDGES[0]) / step).astype(np.int64), 0, bins - 1)
        flat = (cell + bins * np.arange(values.shape[1])).ravel()
        self.expression += np.bincount(flat, minlength=self.expression.size).reshape(self.expression.shape)

    def _add_light(self, light: np.ndarray) -> np.ndarray:
        """Count light directions; returns them, (N, 3) towards the light, zero where the light is flat or unknown."""
        slope, mean = light_slope(light.reshape(-1, 9, 3))
        strength = np.linalg.norm(slope, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            contrast = strength / np.abs(mean)
            directed = contrast >= FLAT_CONTRAST
        toward = np.zeros((len(light), 3))
        toward[directed] = slope[directed] / strength[directed, None]
        x, y, z = toward[directed].T
        angle = np.degrees(np.arccos(np.clip(z, -1, 1)))
        turn = np.degrees(np.arctan2(y, x)) % 360
        sectors = np.linspace(0, 360, LIGHT_SECTORS + 1)
        self.light += np.histogram2d(np.minimum(angle, 90), turn, (LIGHT_RINGS_DEG, sectors))[0].astype(np.int64)
        self.light_behind += int((angle > 90).sum())
        self.light_flat += int((contrast < FLAT_CONTRAST).sum())
        return toward

    def _add_people(self, batch: pa.RecordBatch, confidence: np.ndarray, file: int, rows: np.ndarray) -> list[str]:
        identities = _texts(batch, "identity")
        keys = zip(identities, batch["uri"].to_pylist(), batch["track"].to_pylist())
        persons = [person_name(*key) for key in keys]
        self.people.add(persons, confidence, file, rows)
        for name, trust, row in zip(persons, confidence.tolist(), rows.tolist()):
            if name not in self._lowest or trust < self._lowest[name][0]:
                self._lowest[name] = (trust, RowPosition(file, row))
        self.with_identity += sum(identity is not None for identity in identities)
        if len(self._lowest) > _MAX_LOWEST:
            self._lowest = dict(sorted(self._lowest.items(), key=lambda item: item[1])[: _MAX_LOWEST // 2])
        return persons

    def _add_candidates(
        self, batch: pa.RecordBatch, features: np.ndarray, persons: Sequence[str], file: int, rows: np.ndarray
    ) -> None:
        """Keep the rows with the lowest hash in each stratum: a random choice that does not depend on the
        file order."""
        cells = _cells(features)
        priority = _hashes(batch, self.seed)
        for i in np.flatnonzero(priority < self._limits[cells]).tolist():
            cell = int(cells[i])
            pool = self._pool.setdefault(cell, [])
            position = RowPosition(file, int(rows[i]))
            pool.append(Candidate(int(priority[i]), position, tuple(features[i].tolist()), persons[i]))
            if len(pool) >= 2 * self.keep:
                pool.sort()
                del pool[self.keep :]
                self._limits[cell] = pool[-1].priority


def person_name(identity: str | None, uri: str, track: int) -> str:
    """The identity; without one, the track stands for a person."""
    return identity or f"{uri} · track {track}"


def light_slope(light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope b (N, 3), towards the light, and mean (N,) luminance of a ball's shading by `light` (N, 9, 3).

    The first-order coefficients alone do not give the direction of the light: the far side of a face is not visible, so
    a fit may trade them against the second order. This is the plane a + b.n that fits the shading best over the disc
    the ball shows to the camera (moments of the unit disc: E[x2 z] / E[x2] = 8/15, cov(z2, z) / var(z) = 6/5, E[z] =
    2/3, E[z2] = 1/2).
    """
    even, x, y, z, _, xz, yz, _, zonal = np.moveaxis(light @ LUMINANCE, -1, 0)
    slope = np.stack(
        [_FIRST * x + 8 / 15 * _MIXED * xz, _FIRST * y + 8 / 15 * _MIXED * yz, _FIRST * z + 18 / 5 * _ZONAL * zonal], -1
    )
    return slope, _EVEN * even + 2 / 3 * _FIRST * z + 1 / 2 * _ZONAL * zonal


def _clipped(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.clip(values, edges[0], edges[-1])


def _floats(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A number column as (N,) float64; null or absent is NaN."""
    if name not in batch.schema.names:
        return np.full(len(batch), np.nan)
    return batch[name].cast(pa.float64()).to_numpy(zero_copy_only=False)


def _bools(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A flag column as (N,) bool; null or absent is False."""
    if name not in batch.schema.names:
        return np.zeros(len(batch), bool)
    return pc.fill_null(batch[name], False).to_numpy(zero_copy_only=False).astype(bool)


def _texts(batch: pa.RecordBatch, name: str) -> list[str | None]:
    """A text column; absent is None."""
    return batch[name].to_pylist() if name in batch.schema.names else [None] * len(batch)


def _vectors(batch: pa.RecordBatch, name: str, width: int) -> np.ndarray:
    """A fixed-size-list column as (N, width) float64; null or absent rows are NaN."""
    out = np.full((len(batch), width), np.nan)
    if name in batch.schema.names:
        values: Any = batch[name]
        known = values.is_valid().to_numpy(zero_copy_only=False)
        out[known] = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return out


def _cells(features: np.ndarray) -> np.ndarray:
    """The stratum of each row, from yaw, the main axis of its light and its confidence."""
    yaw = np.clip((features[:, 0] + 87.5) // 25, 0, _CELLS[0] - 1).astype(int)
    toward = features[:, 2:5]
    axis = np.abs(toward).argmax(axis=1)
    side = 2 * axis + (np.take_along_axis(toward, axis[:, None], axis=1)[:, 0] < 0)
    trust = np.clip(features[:, 5] * 3, 0, 2).astype(int)
    return np.ravel_multi_index((yaw, side, trust), _CELLS)


def _hashes(batch: pa.RecordBatch, seed: int) -> np.ndarray:
    """A 64-bit number per row, from its key and the seed alone."""
    keys = zip(*(batch[name].to_pylist() for name in ("uri", "frame_index", "track")))
    texts = (f"{seed} {key}".encode("utf-8", "replace") for key in keys)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts), np.uint64)
