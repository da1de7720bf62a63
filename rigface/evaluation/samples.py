"""Evaluated edits: with their pictures, and with the faces estimated in them.

Path: models, controls and test sets make `Edited` -> `measure_edits` -> `Case` -> columns of `measurements.py`.
"""

from dataclasses import dataclass

import numpy as np

from rigface.edits import EditSpec
from rigface.evaluation.estimator import Estimate
from rigface.types import FaceParams


@dataclass(frozen=True, eq=False)
class Edited:
    """One edit to be evaluated."""

    model: str  # name of the editor: the row of the card
    name: str  # the edit's name in the card: `pose`, `light`, `yaw sweep`
    key: str  # name of the pair; models are compared on tasks of the same key and name
    person: str  # of the source; intervals are drawn over these
    source: np.ndarray  # (H, W, 3) uint8
    output: np.ndarray | None  # the same framing, any size; None if the model failed
    edit: EditSpec  # the edit asked for
    target: np.ndarray | None = None  # the picture traits were copied from
    truth: np.ndarray | None = None  # true picture of the wanted face in the source's framing, if there is one
    truth_shown: np.ndarray | None = None  # (H, W) bool, where the true picture is known; None: everywhere
    target_person: str | None = None  # of the target; None: the source's person
    sweep: tuple[str, str] | None = None  # its name, and the number swept as in `estimator.achieved`: `yaw_deg`
    clip: tuple[str, float] | None = None  # name of the clip, and time of the frame in seconds
    seed: int = 0  # of the sampler
    latency_s: float | None = None  # duration of the edit


@dataclass(frozen=True, eq=False)
class Case:
    """An edit with its faces, at one size."""

    edited: Edited  # the edit, its pictures resized
    source: Estimate
    output: Estimate | None  # None without a picture or a face, as those below
    target: Estimate | None
    goal: Estimate | None  # the face of the true picture, or else of the target
    wanted: FaceParams  # the source's coefficients with the edit mixed in
    is_floor: bool  # the source itself, moved: errors are then against the source


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


def is_copy(edit: EditSpec, trait: str) -> bool:
    """True if a trait is the target's in full, so that the target's own picture shows the wanted one."""
    if trait not in edit.take or edit.strength != 1:
        return False
    if trait == "pose":
        return all(n is None for n in (edit.yaw_deg, edit.pitch_deg, edit.roll_deg))
    return not edit.expression and edit.region == "face"
