"""The whole project in one object: a picture and a wish in, a picture out, with the numbers it reached.

Path: picture -> See -> mix -> compose -> model (or the preview, where there is none) -> pasted back -> seen again.

    editor = Editor.load()
    result = editor.edit(picture, EditSpec(yaw_deg=15, expression={"smile": 0.6}))
    result.image, result.asked, result.achieved
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from rigface.conditions import Composed, Composer
from rigface.edits import EditSpec
from rigface.face import align
from rigface.face.lighting import direction
from rigface.face.mix import axes_of, exposure, mix
from rigface.face.rotation import to_degrees, to_matrix
from rigface.face.see import See, choose
from rigface.types import Conditions, Face, FaceParams, HeadSpec

FEATHER = 0.08  # of the crop's side, over which an edit fades into the frame around it
PREVIEW_PX = 1024  # a preview is made at the photograph's own resolution up to this crop

Paint = Callable[[Conditions, int], np.ndarray]
"""Conditions and a seed to an (S, S, 3) uint8 picture: what a model is to the editor."""


@dataclass(frozen=True, eq=False)
class Edited:
    """The result of one edit.

    Args:
        image: (H, W, 3) uint8, the whole picture.
        crops: the edited crops, one per face edited, (S, S, 3) uint8.
        asked: one row of numbers per face: what the edit asked for, by name.
        achieved: the same numbers measured on the result; None where no face was found in it.
    """

    image: np.ndarray
    crops: list[np.ndarray]
    asked: list[dict[str, float]]
    achieved: list[dict[str, float] | None]


class Editor:
    """Edits faces. Without a model it shows the preview, which is an edit too."""

    def __init__(self, see: See, paint: Paint | None = None, composer: Composer | None = None) -> None:
        self.see = see
        self._paint = paint
        self._composer = composer or Composer("texture", 512)

    @classmethod
    def load(cls, device: str = "cpu") -> Editor:
        """The default eyes, and the preview in place of a model."""
        return cls(See.load(device))

    def edit(
        self,
        image: np.ndarray,
        edit: EditSpec,
        target: np.ndarray | Face | None = None,
        *,
        face: str | int = "largest",
        seed: int = 0,
        measure: bool = True,
    ) -> Edited:
        """Edit the faces of a picture.

        Args:
            image: (H, W, 3) uint8.
            edit: what to change.
            target: whom to copy, where the edit takes a trait: a picture (its largest face) or a face seen before.
            face: which face or faces; see `face.see.choose`.
            seed: of the model's noise.
            measure: look at the result again for the achieved numbers.

        Raises:
            NoFace: the picture, or the target's, shows no such face.
            ValueError: the edit asks for what it cannot have; the message names the field.
        """
        whom = choose(self.see(target), "largest")[0] if isinstance(target, np.ndarray) else target
        out, crops, asked, achieved = image.copy(), [], [], []
        for source in choose(self.see(image), face):
            wanted = mix(source.params, edit, self.see.head, None if whom is None else whom.params)
            crop = self.paint(out, source, wanted, seed)
            out = paste(out, crop, source.frame_to_crop)
            crops.append(crop)
            asked.append(numbers(wanted, edit, self.see.head))
            achieved.append(self._achieved(out, source, edit) if measure else None)
        return Edited(out, crops, asked, achieved)

    def compose(self, source: Face, wanted: FaceParams) -> Composed:
        """What the model is given."""
        return self._composer(source, wanted)

    def paint(self, image: np.ndarray, source: Face, wanted: FaceParams, seed: int) -> np.ndarray:
        """(S, S, 3) uint8, the edited crop: the model's, or the preview at the photograph's own resolution."""
        if self._paint is not None:
            return self._paint(self._composer(source, wanted).conditions, seed)
        side = 512 / float(source.frame_to_crop[0, 0])
        size = int(np.clip(round(side), 64, PREVIEW_PX))
        crop = align.crop(image, source.frame_to_crop * (size / len(source.crop)), size)
        mask = cv2.resize(source.mask, (size, size), interpolation=cv2.INTER_LINEAR)
        return self._composer.preview(crop, source.params, wanted, mask).image

    def _achieved(self, image: np.ndarray, source: Face, edit: EditSpec) -> dict[str, float] | None:
        """The asked numbers measured on the face that is now where the source was."""
        middle = (source.box[:2] + source.box[2:]) / 2
        near = [f for f in self.see(image) if (f.box[:2] < middle).all() and (middle < f.box[2:]).all()]
        if not near:
            return None
        return numbers(min(near, key=lambda f: float(np.abs(f.box - source.box).sum())).params, edit, self.see.head)


def numbers(params: FaceParams, edit: EditSpec, head: HeadSpec) -> dict[str, float]:
    """The numbers of a face that an edit is about: pose where it asks for a pose, and so on; all, where it takes.

    Args:
        params: one face, numpy.
    """
    out: dict[str, float] = {}
    if "pose" in edit.take or any(v is not None for v in (edit.yaw_deg, edit.pitch_deg, edit.roll_deg)):
        degrees = to_degrees(to_matrix(np.asarray(params.head_rotation)[None]))[0]
        out |= {f"{name}_deg": float(value) for name, value in zip(("yaw", "pitch", "roll"), degrees)}
    for name in edit.expression:
        axes = axes_of(name, head)
        values = [float(params.expression[head.expression_names.index(axis)]) / share for axis, share in axes.items()]
        out[name] = float(np.mean(values))
    if "light" in edit.take or edit.light is not None:
        x, y, z = direction(torch.from_numpy(np.asarray(params.light, np.float32))).tolist()
        out["light_azimuth_deg"] = float(np.degrees(np.arctan2(x, z)))
        out["light_elevation_deg"] = float(np.degrees(np.arcsin(np.clip(y, -1, 1))))
        out["exposure"] = exposure(np.asarray(params.light))
    return out


def paste(image: np.ndarray, crop: np.ndarray, frame_to_crop: np.ndarray) -> np.ndarray:
    """The picture with an edited crop back in its place, fading out towards the crop's border.

    Args:
        image: (H, W, 3) uint8. crop: (S, S, 3) uint8, any S. frame_to_crop: (2, 3), for a crop of 512 px.
    """
    to_frame = align.invert(frame_to_crop).astype(np.float64)
    x0, y0 = to_frame[:, 2]
    side = 512 * to_frame[0, 0]
    left, top, size = round(x0), round(y0), round(side)
    if size < 2:
        return image
    shrink = size < len(crop)
    patch = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    edge = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (FEATHER * size)
    ramp = np.clip(edge, 0, 1)
    alpha = (ramp[:, None] * ramp[None])[..., None]
    rows = slice(max(top, 0), min(top + size, len(image)))
    columns = slice(max(left, 0), min(left + size, image.shape[1]))
    inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    out = image.copy()
    old = out[rows, columns].astype(np.float32)
    new = patch[inside].astype(np.float32)
    # Where the edit changed nothing, not even rounding may: the old pixel stays.
    mixed = old + alpha[inside] * (new - old)
    out[rows, columns] = np.where(np.abs(new - old).max(-1, keepdims=True) < 1.5, old, mixed + 0.5).astype(np.uint8)
    return out
