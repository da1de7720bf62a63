"""Head pose of five points, by a scaled orthographic projection of a generic face.

Source: the first step of DeMenthon & Davis, "Model-Based Object Pose in 25 Lines of Code", IJCV 1995, in closed form: a
least-squares affine camera of the centred points, and the scaled rotation nearest to it (Frobenius norm, by SVD).

The generic face is set by hand from common adult proportions; nothing is fitted to people measured here. A person
whose nose or mouth differs from it is read with an offset, mostly in pitch, so readings are compared within a person.
"""

import numpy as np

from rigface.face.geometry.rotation import to_degrees

GENERIC_MM = np.array(  # right and left pupil, nose tip, right and left corner of the mouth; x to the person's left
    [[-31.5, 0, 0], [31.5, 0, 0], [0, -38, 30], [-25, -68, 0], [25, -68, 0]], np.float64
)
_CENTRED = GENERIC_MM - GENERIC_MM.mean(0)
_INVERSE = np.linalg.pinv(_CENTRED)  # (3, 5)


def five_point_pose(points: np.ndarray) -> np.ndarray:
    """(3,) yaw, pitch, roll in degrees, signs of `rotation.py`, of (5, 2) px: eyes, nose tip, mouth, right before left.

    NaN if the points are all one.
    """
    flat = np.asarray(points, np.float64) * (1, -1)
    camera = (_INVERSE @ (flat - flat.mean(0))).T  # (2, 3), px per mm
    if not np.abs(camera).max() > 0:
        return np.full(3, np.nan)
    left, _, right = np.linalg.svd(camera, full_matrices=False)
    rows = left @ right
    return np.asarray(to_degrees(np.stack([*rows, np.cross(*rows)])[None])[0])
