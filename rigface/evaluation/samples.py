"""What is judged: an edit that somebody did, and the same with the faces the judge saw in it.

Path: models, controls and test sets make `Edited` -> `measure` -> `Case` -> `columns`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rigface.edits import EditSpec
from rigface.evaluation.estimator import Estimate
from rigface.types import FaceParams


@dataclass(frozen=True, eq=False)
class Edited:
    """One edit that somebody did, to be judged.

    Args:
        model: who did it: the row of the card.
        name: the edit's name in the card: `pose`, `light`, `yaw sweep` ...
        key: which pair this is; the same key and name under two models is the same task, and they are compared on it.
        person: whose picture the source is; intervals are drawn over these.
        source: (H, W, 3) uint8.
        output: the same framing, any size; None where the model gave nothing.
        edit: what was asked.
        target: the picture traits were copied from.
        truth: the true picture of the wanted face in the source's framing, if there is one (two frames of one clip).
        target_person: whose picture the target is; None: the source's person.
        sweep: which sweep this is one value of (T3), and the number swept, as `judge.achieved` names it: `yaw_deg`.
        clip: which clip this is a frame of (T4), and when it is shown, in seconds.
        seed: of the sampler.
        latency_s: how long it took.
    """

    model: str
    name: str
    key: str
    person: str
    source: np.ndarray
    output: np.ndarray | None
    edit: EditSpec
    target: np.ndarray | None = None
    truth: np.ndarray | None = None
    target_person: str | None = None
    sweep: tuple[str, str] | None = None
    clip: tuple[str, float] | None = None
    seed: int = 0
    latency_s: float | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """An edit with its faces, at one size.

    Args:
        edited: the edit, its pictures resized.
        source, output, target: their faces; None where there is no picture or no face.
        goal: the face of the true picture, or else of the target.
        wanted: the source's coefficients with the edit mixed in.
        is_floor: the source itself, moved: errors are then against the source, as nothing was done.
    """

    edited: Edited
    source: Estimate
    output: Estimate | None
    target: Estimate | None
    goal: Estimate | None
    wanted: FaceParams
    is_floor: bool


def traits_of(edit: EditSpec) -> list[str]:
    """The traits an edit changes, sorted; `identity` stands for shape and skin together."""
    out = set(edit.take)
    if any(n is not None for n in (edit.yaw_deg, edit.pitch_deg, edit.roll_deg)):
        out.add("pose")
    if edit.expression:
        out.add("expression")
    if edit.light is not None:
        out.add("light")
    return [] if edit.strength == 0 else sorted(out)
