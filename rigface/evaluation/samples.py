"""Evaluated edits: with their pictures, and with the faces estimated in them.

Path: models, controls and test sets make `Edited` -> `measure_edits` -> `Case` -> columns of `measurements.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rigface.edits import EditSpec
from rigface.evaluation.estimator import Estimate
from rigface.types import FaceParams


@dataclass(frozen=True, eq=False)
class Edited:
    """One edit to be evaluated.

    Args:
        model: name of the editor: the row of the card.
        name: the edit's name in the card: `pose`, `light`, `yaw sweep` ...
        key: name of the pair; models are compared on tasks of the same key and name.
        person: of the source; intervals are drawn over these.
        source: (H, W, 3) uint8.
        output: the same framing, any size; None if the model failed.
        edit: the edit asked for.
        target: the picture traits were copied from.
        truth: the true picture of the wanted face in the source's framing, if there is one (two frames of one clip).
        target_person: of the target; None: the source's person.
        sweep: name of the sweep, and the number swept, as named by `estimator.achieved`: `yaw_deg`.
        clip: name of the clip, and time of the frame in seconds.
        seed: of the sampler.
        latency_s: duration of the edit.
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
        source, output, target: None without a picture or a face.
        goal: the face of the true picture, or else of the target.
        wanted: the source's coefficients with the edit mixed in.
        is_floor: the source itself, moved: errors are then against the source.
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
