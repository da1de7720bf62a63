"""Painted pictures whose values an estimator reads back, for exact errors.

The person is a square in the middle, its upper half painted (person, yaw, smile), its lower half (light's azimuth, 0,
0); a white dot in the middle moves with the picture, and the stand-in estimator trembles by how far it moved. Around it
is grey. Black is a picture without a face.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest

from rigface.edits import LightEdit
from rigface.evaluation.estimator import Estimate
from rigface.face.controls.transfer import light_coefficients
from rigface.face.geometry.rotation import from_degrees, to_axis_angle
from rigface.types import FaceParams, HeadSpec

HEAD = HeadSpec("toy", "1", shape=2, expression=2, albedo=1, expression_names=("jawOpen", "mouthSmileLeft"))
SIZE = 64


def paint(person: int = 10, yaw: float = 0.0, smile: float = 0.0, azimuth: float = 0.0, size: int = SIZE) -> np.ndarray:
    """A picture; yaw and azimuth in degrees, in [-60, 60]."""
    picture = np.full((size, size, 3), 77, np.uint8)
    start, middle, stop = size // 4, size // 2, 3 * size // 4
    picture[start:middle, start:stop] = person, 128 + round(2 * yaw), round(200 * smile)
    picture[middle:stop, start:stop] = 128 + round(2 * azimuth), 0, 0
    dot = slice(size // 2 - 2, size // 2 + 2)
    picture[dot, dot] = 255
    return picture


def read(picture: np.ndarray) -> Estimate | None:
    """Values of a picture; the inverse of `paint`, with noise if the dot is off the middle."""
    if not picture.any():
        return None
    size = len(picture)
    upper, lower = size // 4 + size // 16, 3 * size // 4 - size // 16
    person, turned, smiled = (float(v) for v in picture[upper, upper])
    azimuth = (float(picture[lower, upper, 0]) - 128) / 2
    dot = np.argwhere((picture > 250).all(-1)).mean(0) - (size - 1) / 2
    tremor = float(dot.sum())
    yaw, smile = (turned - 128) / 2 + 0.1 * tremor, smiled / 200 + 0.001 * tremor
    own = np.random.default_rng(int(person)).normal(size=128)
    light = light_coefficients(LightEdit(azimuth_deg=azimuth + 0.2 * tremor, relative=False), 1.0)
    turn = from_degrees(np.array([[yaw, 0.0, 0.0]]))
    params = FaceParams(
        shape=np.float32([person / 100, 1 + 0.001 * tremor]),
        expression=np.float32([0, smile]),
        head_rotation=to_axis_angle(turn)[0].astype(np.float32),
        jaw_rotation=np.zeros(3, np.float32),
        camera=np.float32([5, 0, 0]),
        albedo=np.float32([person / 50 + 0.001 * tremor]),
        light=light,
    )
    jiggle = np.random.default_rng(int(abs(tremor) * 100)).normal(size=128) * (0.02 if tremor else 0)
    middle, half = np.full(2, size / 2), size / 8
    return Estimate(
        params=params,
        box=np.concatenate([middle - half, middle + half]),
        landmarks=np.float32([[1, 1, 0], [3, 1, 0], [3, 3, 0], [1, 3, 0], [2, 2, 0]]) * size / 4,
        frame_to_crop=np.eye(2, 3, dtype=np.float32),
        skin=np.float32([0.5, 0.35, 0.28]) * (1 - person / 300),
        residual=0.01,
        blendshapes=np.float32([0, smile]),
        turn=turn[0],
        identity=(own + jiggle).astype(np.float32),
    )


@dataclass
class Painted:
    """An estimator of painted pictures; counts its calls."""

    head = HEAD
    score_names = HEAD.expression_names
    extractors: dict[str, str] = field(
        default_factory=lambda: {"in loop": "painted 1", "detector": "painted 2", "identity": "painted 3"}
    )
    looked: int = 0

    def __call__(self, pictures, near=None):
        self.looked += len(pictures)
        return [None if p is None else read(p) for p in pictures]

    def person(self, picture, seen):
        mask = np.zeros(picture.shape[:2], bool)
        if seen is not None:
            size = len(picture)
            mask[size // 4 : -size // 4, size // 4 : -size // 4] = True
        return mask


@pytest.fixture
def estimator() -> Painted:
    return Painted()
