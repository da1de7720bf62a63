"""Load of a large extraction: core seconds, bytes and objects by input.

The figures are those of benchmarks/results, repeated here as an installation has no benchmarks; a test compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Working time per frame by step, milliseconds of the clock, every frame sampled (extract.json, `x16`).
STEP_MS = {
    "decode": 2.441, "detect": 16.049, "track": 0.976, "align": 4.518, "identity": 0.362,
    "reconstruct": 3.88, "parse": 3.457, "quality": 1.698, "write": 0.449,
}  # fmt: skip
# Throughput and cores of the same job. Its three processes shared two cores, so a step's clock counts waiting, too.
FPS, CORES = 77.109, 2
# Decoding every frame, relative to decoding what so many samples a second need, a key frame every 250 frames
# (keyframes.json); with key frames every two seconds it is more.
SPARSE_RATIO = {0.5: 1.92, 1.0: 1.62, 5.0: 1.45}
DRIVER_S = 0.016  # of the driver, per shard of 21 clips: plan, hand out, count, finalize (driver.json)
FACE_BYTES = 43_166.0  # of faces/, per face: four fifths of it the crop (capacity.json)
DETECT_STEPS = ("decode", "detect", "track", "align", "identity")  # of the first pool
PREFIXES = 256
LIST_PAGE = 1000  # keys of a LIST call


def core_seconds() -> dict[str, float]:
    """Seconds of one whole core per frame, by step."""
    clock = sum(STEP_MS.values()) / 1e3
    return {name: ms / 1e3 * (CORES / FPS) / clock for name, ms in STEP_MS.items()}


def sparse_ratio(rate: float, clip_fps: float) -> float:
    """How much less time decoding takes, because only a part of the frames is sampled."""
    if 2 * rate > clip_fps:
        return 1.0
    return float(np.interp(rate, list(SPARSE_RATIO), list(SPARSE_RATIO.values())))


@dataclass(frozen=True)
class Load:
    """An extraction in numbers: sampled frames, written faces and bytes, in all."""

    clips: float
    shards: int  # objects of faces/, and what the driver hands out
    frames: float
    faces: float
    bytes: float
    seconds: Mapping[str, float]  # of a core, per sampled frame, by step; decoding of skipped frames included

    @property
    def core_hours(self) -> float:
        """Work in all, without the driver's."""
        return self.frames * sum(self.seconds.values()) / 3600

    @property
    def stages(self) -> dict[str, float]:
        """Core seconds per frame of the two pools of `--preset laptop`, which suit large clusters, too."""
        detect = sum(self.seconds.get(name, 0.0) for name in DETECT_STEPS)
        return {"detect_faces": detect, "reconstruct_to_write": sum(self.seconds.values()) - detect}
