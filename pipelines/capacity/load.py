"""The load a job puts on a cluster: core seconds, bytes and requests by input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STEP_MS = {
    "decode": 2.335, "detect": 16.046, "track": 0.988, "align": 2.185, "identity": 1.257, "reconstruct": 3.405,
    "parse": 3.321, "quality": 1.6, "write": 0.463,
}  # fmt: skip


FPS, CORES = 79.978, 2


DRIVER_S = 0.02


FACE_BYTES = 43_166.0


LOOK = ("decode", "detect", "track", "align", "identity")


PREFIXES = 256


LIST_PAGE = 1000


def core_seconds() -> dict[str, float]:
    """Seconds of one whole core per frame, by step."""
    clock = sum(STEP_MS.values()) / 1e3
    return {name: ms / 1e3 * (CORES / FPS) / clock for name, ms in STEP_MS.items()}


@dataclass(frozen=True)
class Load:
    """A job as numbers.

    Args:
        units: of work. frames: looked at, in all. faces, bytes: written, in all.
        seconds: of a core, per looked-at frame, by step; decoding of frames that are only passed over included.
    """

    clips: float
    units: int
    frames: float
    faces: float
    bytes: float
    seconds: Mapping[str, float]

    @property
    def core_hours(self) -> float:
        """Work in all, the driver's left out."""
        return self.frames * sum(self.seconds.values()) / 3600

    @property
    def stages(self) -> dict[str, float]:
        """Seconds per frame of the two pools that `--preset laptop` and large clusters run best with."""
        look = sum(self.seconds.get(name, 0.0) for name in LOOK)
        return {"look": look, "finish": sum(self.seconds.values()) - look}
