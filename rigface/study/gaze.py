"""Direction of the gaze, from the irises and the fitted head.

Path: columns `landmarks`, `head_rotation`, `camera` -> `gaze_directions` -> the columns of `rigface study`.
Source: the model-based gaze estimation that Hansen and Ji, "In the Eye of the Beholder", PAMI 2010, section 4, review:
the centre of an eyeball from the corners of the eye and the head's pose, the direction from there through the iris.

The crop is a parallel projection, so an iris at distance r from the eyeball's centre, seen at (dx, dy) from it, looks
along (dx, dy, sqrt(r^2 - dx^2 - dy^2)) / r. The centre lies `BEHIND_CORNERS` of the middle of the eye's corners, in the
head's own frame: a sphere of 12 mm laid behind the lids of the open head. r is that of the iris in such an eye
(an iris of 5.9 mm radius: sqrt(12^2 - 5.9^2)).

The landmarker moves irises up and down by less than they move, and sees them too high: `UP_DOWN` undoes it, with a zero
between what renders (7 degrees) and portraits of people who look into the camera (4.5 degrees) say.

Errors on renders of the open head with eyes of known direction, within 30 degrees of head yaw and 20 of the eyes
(`benchmarks/study.py`): median 2.3 degrees sideways, 2.9 up and down. On 1,809 portraits, most of which look into the
camera, half are within 1.7 degrees of it sideways, and 3.1 up and down: the fitted pitch of a head depends on the
forehead and nose that a person has, so take a person's gaze up and down relative to its median.

Tried and left: a regression on iris and pose, fitted to renders (there 2.3 and 2.6; its pitch is spread more over
portraits, 3.3 degrees about the median instead of 2.9); with the lids' heights as well (2.2 and 1.8 on renders, whose
lids go with the eyes by rule; 3.8 on portraits, where they go with the person).
"""

import numpy as np

from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.types import CROP_PX

EYES = (((263, 362), (473, 474, 475, 476, 477)), ((33, 133), (468, 469, 470, 471, 472)))  # corners, iris; left, right
BEHIND_CORNERS = (0.0008, 0.0008, -0.0058)  # m, from the middle of the corners: outwards, up, to the viewer
IRIS_RADIUS = 0.01045  # m, of the iris's centre about that of the eyeball
UP_DOWN = (1.2, 5.8)  # factor and degrees
MAX_SINE = 0.94  # 70 degrees; an iris further off is a wrong one


def gaze_directions(landmarks: np.ndarray, head_rotation: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """(N, 3) unit vectors float64 of the gaze in the camera frame: x to the picture's right, y up, z to the viewer.

    The mean of both eyes. NaN where an input is not finite.

    Args:
        landmarks: (N, 478, 3) crop px.
        head_rotation: (N, 3) axis-angle, rad, head to camera.
        camera: (N, 3) weak perspective, as `FaceParams.camera`.
    """
    rotation = np.asarray(to_matrix(np.asarray(head_rotation, np.float64)))
    unit_per_m = np.asarray(camera, np.float64)[:, :1]
    points = np.asarray(landmarks, np.float64)[..., :2] * (2 / CROP_PX, -2 / CROP_PX)
    total = np.zeros((len(points), 3))
    for side, (corners, iris) in zip((1, -1), EYES):
        outwards, up, forward = BEHIND_CORNERS
        behind = (rotation @ np.array([side * outwards, up, forward]))[:, :2]
        seen = (points[:, iris].mean(1) - points[:, corners].mean(1)) / unit_per_m - behind
        sine = seen / IRIS_RADIUS
        sine *= np.minimum(1, MAX_SINE / np.maximum(np.linalg.norm(sine, axis=1, keepdims=True), 1e-9))
        total += np.concatenate([sine, np.sqrt(1 - np.square(sine).sum(1, keepdims=True))], axis=1)
    return _corrected(total, rotation)


def _corrected(directions: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The directions with `UP_DOWN` undone along the face's own vertical, as unit vectors."""
    roll = np.radians(to_degrees(rotation)[:, 2])
    cosine, sine = np.cos(roll), np.sin(roll)
    x, y, z = directions.T
    across, along = cosine * x - sine * y, sine * x + cosine * y
    yaw = np.arctan2(across, z)
    factor, offset = UP_DOWN
    down = factor * -np.arctan2(along, np.hypot(across, z)) + np.radians(offset)
    down = np.clip(down, -np.pi / 2, np.pi / 2)
    across, along = np.sin(yaw) * np.cos(down), -np.sin(down)
    return np.stack([cosine * across + sine * along, cosine * along - sine * across, np.cos(yaw) * np.cos(down)], 1)


def angles_deg(directions: np.ndarray) -> np.ndarray:
    """(N, 2) yaw and pitch in degrees of directions (N, 3), with the signs of the head's: positive to the person's own
    left, and down; (0, 0) is towards the camera, or straight ahead in the head's frame.
    """
    x, y, z = directions.T
    return np.asarray(np.degrees(np.stack([np.arctan2(x, z), -np.arctan2(y, np.hypot(x, z))], axis=1)))


def in_head(directions: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """(N, 3) the directions in the head's own frame: straight ahead is (0, 0, 1). Turns are (N, 3, 3) head to camera,
    see `head_pose.head_turns`.
    """
    return np.asarray(np.einsum("nji,nj->ni", turns, directions))
