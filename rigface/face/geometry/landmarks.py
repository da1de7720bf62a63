"""Named landmarks in each layout that a detector reports.

Path: identity, segmentation and quality read it; they need a few named points and not a face model. A layout is known
by its number of points: 478 is MediaPipe's Face Mesh V2, 106 InsightFace's 2d106det markup (written down from its
picture; not tried on its real weights, which may not ship).

Right and left are the person's: the right eye is on the picture's left.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """Indices of named points."""

    eyes: tuple[int, int, int, int]  # outer and inner corner of the left eye, then of the right eye
    nose_base: int  # the point at which the septum meets the upper lip's skin
    nose_tip: int  # the point nearest to a camera in front
    mouth: tuple[int, int]  # right and left corner of the mouth
    sides: tuple[int, int]  # the outline of the face at the height of the ears, right and left
    sixty_eight: tuple[int, ...]  # iBUG's 68: outline from right to left, brows, nose, eyes, lips
    skin: tuple[tuple[int, ...], ...] = ()  # polygons on cheeks and forehead, mostly free of beards, brows, glasses

    @property
    def five(self) -> tuple[int, ...]:
        """dlib's five points."""
        return (*self.eyes, self.nose_base)


# The iBUG 300-W markup of 68 points in MediaPipe's mesh: jaw line, brows, nose, eyes, lips. A published correspondence.
IBUG_68 = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87),
)

LAYOUTS = {
    478: Layout(
        eyes=(263, 362, 33, 133),
        nose_base=2,
        nose_tip=1,
        mouth=(61, 291),
        sides=(234, 454),
        sixty_eight=IBUG_68,
        skin=(
            (117, 118, 101, 36, 205, 187, 123),  # right cheek
            (346, 347, 330, 266, 425, 411, 352),  # left cheek
            (107, 69, 109, 10, 338, 299, 336, 9),  # forehead
        ),
    ),
    106: Layout(
        eyes=(93, 89, 35, 39),
        nose_base=80,
        nose_tip=86,
        mouth=(52, 61),
        sides=(1, 17),
        sixty_eight=(
            *(1, 10, 12, 14, 16, 3, 5, 7, 0, 23, 21, 19, 32, 30, 28, 26, 17),
            *(43, 48, 49, 51, 50, 102, 103, 104, 105, 101, 72, 73, 74, 86, 78, 79, 80, 85, 84),
            *(35, 41, 42, 39, 37, 36, 89, 95, 96, 93, 91, 90),
            *(52, 64, 63, 71, 67, 68, 61, 58, 59, 53, 56, 55, 65, 66, 62, 70, 69, 57, 60, 54),
        ),
    ),
}

LAYOUTS[468] = LAYOUTS[478]  # the same mesh without the irises, as the open head has it


def layout_of(landmarks: np.ndarray) -> Layout:
    """The layout of landmarks (..., L, 2+); ValueError if none has this many points."""
    count = landmarks.shape[-2]
    if count not in LAYOUTS:
        raise ValueError(f"landmarks: no layout has {count} points; there are {sorted(LAYOUTS)}")
    return LAYOUTS[count]


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """ArcFace's five points (5, 2) float32 px of landmarks (L, 2+): right and left eye, nose's tip, mouth corners."""
    flat, layout = np.asarray(landmarks, np.float32)[:, :2], layout_of(landmarks)
    left, right = flat[list(layout.eyes[:2])].mean(0), flat[list(layout.eyes[2:])].mean(0)
    return np.stack([right, left, flat[layout.nose_tip], *flat[list(layout.mouth)]])


def sixty_eight(landmarks: np.ndarray) -> np.ndarray:
    """iBUG's 68 points (..., 68, C) of landmarks (..., L, C); ValueError if no layout has L points."""
    return np.asarray(landmarks[..., list(layout_of(landmarks).sixty_eight), :])


# Loops of MediaPipe's canonical mesh: the upper rim from one corner to the other, and back along the lower.
RIGHT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
