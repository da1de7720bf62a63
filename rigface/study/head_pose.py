"""Pose of the head as it is, from the pose that the fit found.

Path: column `head_rotation` -> `head_turns` -> the angles and velocities of `rigface study`.

Landmarks of a turned head lie nearer to those of a frontal one than they should, so the fit finds too small a yaw.
`YAW` undoes it. It is the ratio of known to fitted yaw on 250 renders of the open head within 30 degrees, of people
whom `benchmarks/study.py` does not measure with; it is the same at 5 as at 28 degrees. On photographs another network's
yaw grows 1.10 times as fast as the fit's (`rigface/judges/panel.py`). Beyond 30 degrees, where nothing was measured,
the difference stays what it is there.
"""

import numpy as np

from rigface.face.geometry.rotation import from_degrees, to_degrees, to_matrix

YAW = 1.146
MEASURED_DEG = 30.0


def head_turns(head_rotation: np.ndarray) -> np.ndarray:
    """(N, 3, 3) float64 rotations, head to camera, of axis-angles (N, 3) as the fit has them; NaN where one is."""
    degrees = np.array(to_degrees(to_matrix(np.asarray(head_rotation, np.float64))))
    degrees[:, 0] += (YAW - 1) * degrees[:, 0].clip(-MEASURED_DEG, MEASURED_DEG)
    return np.asarray(from_degrees(degrees))
