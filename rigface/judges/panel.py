"""Judges: everything that networks by others read of a picture's largest face.

Path: picture -> CenterFace -> box, five points -> head pose, smile, age, identity -> `Reading`.

No network of the editing loop takes part: CenterFace finds the faces, so an editor that was tuned against the loop's
own measurements is judged by others.

Measured on 365 faces of 255 people, against the open head's fit or MediaPipe's scores: yaw r = 0.99 (slope 1.10), roll
r = 0.95 (0.92), pitch r = 0.51 (0.25); a clear smile (score above 0.5) reads higher than none (below 0.1) in 99 % of
pairs. Between a photograph and itself shifted, 7 % smaller and as JPEG the median difference is 0.6, 0.5 and 0.5
degrees (yaw, pitch, roll), 0.004 of smile and 0.6 years. Age has outliers (root mean square 4 years) and a broad
smile alone makes the same man 4 years older to it: compare medians over many edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rigface.errors import MissingAsset
from rigface.judges.age import DlibAge
from rigface.judges.centerface import CenterFace
from rigface.judges.five_point_pose import five_point_pose
from rigface.judges.identity import OnnxIdentity
from rigface.judges.smile import FerSmile


@dataclass(eq=False)
class Reading:
    """Numbers read of one face; NaN where the judge is not installed or could not read it.

    A `rigface.evaluation.strangers.Reading`.
    """

    yaw_deg: float  # signs as in `face/geometry/rotation.py`
    pitch_deg: float  # hardly read: a quarter of the head's, see docs/evaluation.md
    roll_deg: float
    smile: float  # probability in [0, 1] that the face is happy
    age_years: float  # apparent, in [0.25, 80]
    identity: np.ndarray | None = None  # (D,) float32 of length 1


class Judges:
    """The judges that are installed. A missing one leaves its numbers NaN, and a sentence in `missing`.

    Args:
        finder: finds the faces, and its points give the pose; None: nothing is read.
        smile, age, identity: None leaves the trait out.
    """

    def __init__(
        self,
        finder: CenterFace | None,
        smile: FerSmile | None = None,
        age: DlibAge | None = None,
        identity: OnnxIdentity | None = None,
        missing: tuple[str, ...] = (),
    ) -> None:
        self._finder, self._smile, self._age, self._identity = finder, smile, age, identity
        self.missing = missing  # one sentence each, with what to install
        own = {"pose": finder, "smile": smile, "age": age, "identity": identity} if finder is not None else {}
        here = {trait: judge for trait, judge in own.items() if judge is not None}
        self.networks: Mapping[str, str] = {trait: judge.name for trait, judge in here.items()}  # as in columns
        self.versions: Mapping[str, str] = {trait: judge.version for trait, judge in here.items()}  # name, file's hash

    @classmethod
    def load(cls, identity: str | Path | None = None, folder: str | Path | None = None) -> Judges:
        """All that is installed, and an identity network by its ONNX file.

        Args:
            identity: file of an ArcFace or MobileFaceNet. MissingAsset if it is none.
            folder: assets folder to search first.
        """
        own = None if identity is None else OnnxIdentity(identity)
        judges, missing = dict[str, Any](), []
        for name, judge in (("finder", CenterFace), ("smile", FerSmile), ("age", DlibAge)):
            try:
                judges[name] = judge(folder)
            except MissingAsset as error:
                missing.append(f"{judge.__name__} reads nothing: {error}")
        return cls(judges.get("finder"), judges.get("smile"), judges.get("age"), own, tuple(missing))

    def __call__(self, picture: np.ndarray) -> Reading | None:
        """Read the largest face of an (H, W, 3) uint8 RGB picture of any size; None if there is none, or no judge."""
        face = None if self._finder is None else self._finder(picture)
        if face is None:
            return None
        yaw, pitch, roll = five_point_pose(face.points)
        nan = float("nan")
        return Reading(
            float(yaw),
            float(pitch),
            float(roll),
            smile=nan if self._smile is None else self._smile(picture, face.box),
            age_years=nan if self._age is None else self._age(picture, face.box),
            identity=None if self._identity is None else self._identity(picture, face.points),
        )
