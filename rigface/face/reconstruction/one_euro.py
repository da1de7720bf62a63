"""One-Euro filter for coefficients and rotations over time.

Path: coefficients of each frame of a track -> Smoother -> `transfer.py`, for videos.
Source: Casiez, Roussel and Vogel, "1 Euro Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive
Systems", CHI 2012, algorithm 1: an exponential filter whose cutoff rises with the speed, so that a still face does not
tremble and a fast one does not lag.

Rotations are filtered as rotations: the speed is an angular velocity, and a step goes along the arc. Axis-angle vectors
averaged as vectors would fly around at half turns.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, fields, replace

import numpy as np

from rigface.face.geometry.rotation import to_axis_angle, to_matrix
from rigface.types import FaceParams


@dataclass(frozen=True)
class OneEuroSettings:
    """Settings of the filter for one kind of number."""

    cutoff_hz: float = 1.0  # of a value at rest; lower trembles less
    beta: float = 0.0  # by how many Hz the cutoff rises per unit of speed; higher lags less
    speed_cutoff_hz: float = 1.0  # of the filter of the speed itself

    def __post_init__(self) -> None:
        if not (self.cutoff_hz > 0 and self.beta >= 0 and self.speed_cutoff_hz > 0):
            raise ValueError(f"Euro: want cutoffs above 0 and beta at least 0, got {self}")


def smoothing_factor(cutoff_hz: np.ndarray | float, step_s: float) -> np.ndarray | float:
    """Share of the new value in an exponential filter of this cutoff (paper, equation 5)."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff_hz * step_s))


class OneEuro:
    """The filter for an array; each of its numbers has a speed and a cutoff of its own."""

    def __init__(self, settings: OneEuroSettings) -> None:
        self._s = settings
        self._time_s = 0.0
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | float = 0.0

    def __call__(self, value: np.ndarray, time_s: float) -> np.ndarray:
        """The filtered value, of any shape, at a time later than that of the call before; the first is itself."""
        value = np.asarray(value, np.float64)
        if self._value is None:
            self._value, self._time_s = value, time_s
            return value
        step = time_s - self._time_s
        if not step > 0:
            raise ValueError(f"time_s: want a time after {self._time_s:.6f}, got {time_s:.6f}")
        change = self._change(self._value, value)
        self._speed = self._speed + smoothing_factor(self._s.speed_cutoff_hz, step) * (change / step - self._speed)
        share = smoothing_factor(self._s.cutoff_hz + self._s.beta * self._pace(self._speed), step)
        self._value, self._time_s = self._moved(self._value, share * change), time_s
        return self._value

    def _change(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.asarray(after - before)

    def _moved(self, value: np.ndarray, change: np.ndarray) -> np.ndarray:
        return np.asarray(value + change)

    def _pace(self, speed: np.ndarray | float) -> np.ndarray | float:
        return np.abs(speed)


class OneEuroRotation(OneEuro):
    """The filter for rotations, as axis-angle (3,) in radians; speeds are in radians per second."""

    def _change(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.asarray(to_axis_angle(to_matrix(after[None]) @ to_matrix(before[None]).swapaxes(1, 2))[0])

    def _moved(self, value: np.ndarray, change: np.ndarray) -> np.ndarray:
        return np.asarray(to_axis_angle(to_matrix(change[None]) @ to_matrix(value[None]))[0])

    def _pace(self, speed: np.ndarray | float) -> np.ndarray | float:
        return float(np.linalg.norm(speed))


# By kind of number: what trembles in the coefficients of real clips, and how fast faces move.
FIELD_SETTINGS = {
    "head_rotation": OneEuroSettings(1.5, 2.0),  # rad/s: a nod reaches 3
    "jaw_rotation": OneEuroSettings(1.5, 2.0),
    "neck_rotation": OneEuroSettings(1.5, 2.0),
    "eye_rotations": OneEuroSettings(2.5, 1.5),
    "eyelids": OneEuroSettings(2.5, 1.5),
    "camera": OneEuroSettings(1.5, 4.0),
    "expression": OneEuroSettings(2.5, 1.5),  # 1/s: a blink reaches 8
    "bfm_expression": OneEuroSettings(2.5, 1.0),
    "light": OneEuroSettings(0.3, 0.05),  # lamps hardly move, and a flicker is what people see first
    "shape": OneEuroSettings(0.05, 0.0),  # a skull does not change
    "albedo": OneEuroSettings(0.05, 0.0),
}
_ROTATIONS = ("head_rotation", "jaw_rotation", "neck_rotation")


class Smoother:
    """One track's coefficients over time, those in `names` filtered. A new track or a cut needs a new Smoother."""

    def __init__(self, names: Collection[str] = tuple(FIELD_SETTINGS)) -> None:
        if unknown := sorted(set(names) - set(FIELD_SETTINGS)):
            raise ValueError(f"Smoother: want some of {', '.join(FIELD_SETTINGS)}, got {unknown}")
        self._filters = {
            name: (OneEuroRotation if name in _ROTATIONS else OneEuro)(FIELD_SETTINGS[name])
            for name in (f.name for f in fields(FaceParams))
            if name in names
        }

    def __call__(self, params: FaceParams, time_s: float) -> FaceParams:
        """The filtered coefficients of the next frame; one face, numpy, float32."""
        present = {n: f for n, f in self._filters.items() if getattr(params, n) is not None}
        return replace(params, **{n: f(getattr(params, n), time_s).astype(np.float32) for n, f in present.items()})
