"""Facial action units from the landmarker's 52 expression scores.

Path: columns `blendshapes` and `landmarks` of faces/ -> `action_units`, `asymmetries` -> the columns of `study`.
Source: the units are those of Ekman, Friesen and Hager, *Facial Action Coding System*, 2002 (FACS). The scores are
named after ARKit's blend shapes, and MediaPipe's network was trained on them (Grishchenko et al., "Blendshapes GHUM",
arXiv:2309.05782). Which blend shape is which unit follows Apple's descriptions of the shapes, read with the manual, and
agrees with M. Ozel's *ARKit to FACS* translation. Lips apart (25) is measured on the landmarks: no shape says it.

Intensities are in [0, 1] and not FACS's A to E: nobody has coded these faces. A face at rest is not at 0 in every unit
(7 has a median of 0.4), so compare a person with themselves.

Left out, because the network does not see them (its scores for cheekSquint, noseSneer, cheekPuff and jawForward never
leave 0.01 on 5,838 faces): 6, 9, 29, 30, 34; and those without a blend shape of their own: 11, 13, 23, 27.

How far a score can be trusted says its correlation with that of the mirrored picture, other side
(`benchmarks/study.py`, docs/study.md). An asymmetry is given for units whose difference of sides is itself found again
in the mirror (r of 0.45 to 0.67 over 420 people), and corrected for the network's own preference for a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UPPER_LIP, LOWER_LIP = 13, 14  # inner lips, in the middle
MOUTH_CORNERS = (61, 291)
WIDE_OPEN = 0.35  # gap of the lips over the width of the mouth that counts as 1 of unit 25


@dataclass(frozen=True)
class ActionUnit:
    """One unit of FACS and the scores it is read from."""

    number: int
    name: str  # as the manual has it
    shapes: tuple[str, ...]  # scores whose mean is its intensity; `Left` stands for both sides
    asymmetry: float | None = None  # the network's own difference, left minus right, where a difference can be trusted

    @property
    def column(self) -> str:
        """`au01`, `au12`."""
        return f"au{self.number:02}"

    @property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Its scores of the left and of the right side of the person; scores without a side are in both."""
        return self.shapes, tuple(shape.replace("Left", "Right") for shape in self.shapes)


ACTION_UNITS = (
    ActionUnit(1, "inner brow raiser", ("browInnerUp",)),
    ActionUnit(2, "outer brow raiser", ("browOuterUpLeft",)),
    ActionUnit(4, "brow lowerer", ("browDownLeft",), 0.0),
    ActionUnit(5, "upper lid raiser", ("eyeWideLeft",)),
    ActionUnit(7, "lid tightener", ("eyeSquintLeft",), 0.075),
    ActionUnit(10, "upper lip raiser", ("mouthUpperUpLeft",), -0.010),
    ActionUnit(12, "lip corner puller", ("mouthSmileLeft",), 0.005),
    ActionUnit(14, "dimpler", ("mouthDimpleLeft",), -0.003),
    ActionUnit(15, "lip corner depressor", ("mouthFrownLeft",)),
    ActionUnit(16, "lower lip depressor", ("mouthLowerDownLeft",)),
    ActionUnit(17, "chin raiser", ("mouthShrugLower",)),
    ActionUnit(18, "lip pucker", ("mouthPucker",)),
    ActionUnit(20, "lip stretcher", ("mouthStretchLeft",), -0.009),
    ActionUnit(22, "lip funneler", ("mouthFunnel",)),
    ActionUnit(24, "lip pressor", ("mouthPressLeft",), -0.018),
    ActionUnit(25, "lips part", ()),
    ActionUnit(26, "jaw drop", ("jawOpen",)),
    ActionUnit(28, "lip suck", ("mouthRollLower", "mouthRollUpper")),
    ActionUnit(45, "blink", ("eyeBlinkLeft",), 0.022),
)
TWO_SIDED = tuple(unit for unit in ACTION_UNITS if unit.asymmetry is not None)


def action_units(scores: np.ndarray, names: Sequence[str], landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """Intensities in [0, 1] by column name, each (N,) float32.

    Args:
        scores: (N, 52) the landmarker's, in [0, 1]; `names` are theirs.
        landmarks: (N, 478, 3) in px of any scale.

    Raises:
        ValueError: a score is missing.
    """
    left, right = _sides(scores, names, ACTION_UNITS)
    found = {unit.column: (left[unit.column] + right[unit.column]) / 2 for unit in ACTION_UNITS if unit.shapes}
    found["au25"] = np.clip(mouth_opening(landmarks) / WIDE_OPEN, 0, 1)
    return {unit.column: found[unit.column].astype(np.float32) for unit in ACTION_UNITS}


def asymmetries(scores: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Left minus right of each unit of `TWO_SIDED`, each (N,) float32 in [-1.1, 1.1]; positive: the person's left.

    Arguments and errors as of `action_units`.
    """
    left, right = _sides(scores, names, TWO_SIDED)
    return {u.column: (left[u.column] - right[u.column] - (u.asymmetry or 0.0)).astype(np.float32) for u in TWO_SIDED}


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """(N,) gap of the inner lips over the distance of the corners of the mouth, of landmarks (N, 478, 3)."""
    gap = np.linalg.norm(landmarks[:, UPPER_LIP] - landmarks[:, LOWER_LIP], axis=-1)
    return _ratio(gap, np.linalg.norm(landmarks[:, MOUTH_CORNERS[0]] - landmarks[:, MOUTH_CORNERS[1]], axis=-1))


def eye_openings(landmarks: np.ndarray) -> np.ndarray:
    """(N, 2) openings of the left and the right eye over their width, of landmarks (N, 478, 3).

    The eye aspect ratio of Soukupova and Cech (CVWW 2016), on points in space: it does not change with the pose.
    """
    return np.stack([_eye_opening(landmarks, eye) for eye in (_LEFT_LIDS, _RIGHT_LIDS)], axis=1)


_LEFT_LIDS = (263, 387, 385, 362, 380, 373)  # outer corner, upper lid, inner corner, lower lid, as in the paper
_RIGHT_LIDS = (33, 160, 158, 133, 153, 144)


def _eye_opening(landmarks: np.ndarray, lids: tuple[int, ...]) -> np.ndarray:
    outer, upper_1, upper_2, inner, lower_2, lower_1 = (landmarks[:, i] for i in lids)
    height = np.linalg.norm(upper_1 - lower_1, axis=-1) + np.linalg.norm(upper_2 - lower_2, axis=-1)
    return _ratio(height / 2, np.linalg.norm(outer - inner, axis=-1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(part / np.maximum(whole, 1e-6), np.float32)


def _sides(
    scores: np.ndarray, names: Sequence[str], units: Sequence[ActionUnit]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean scores of each side by column."""
    at = {name: i for i, name in enumerate(names)}
    wanted = {shape for unit in units for side in unit.sides for shape in side}
    if missing := sorted(wanted - at.keys()):
        raise ValueError(f"action units need the score {missing[0]}, which this detector does not give")
    return tuple(  # type: ignore[return-value]
        {u.column: scores[:, [at[s] for s in u.sides[side]]].mean(1) for u in units if u.shapes} for side in (0, 1)
    )
