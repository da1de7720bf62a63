"""Turn two faces and a wish into everything the model sees: the one place where seeing and imagining meet.

Path: source Face, wanted coefficients -> compose -> Conditions -> training (`pipelines/pair.py`) and sampling
(`editor.py`). There is no second preprocessing.

Render styles, recorded in a checkpoint's config:

* `texture`: the preview of `face/warp.py`: the source's own photograph, moved and lit. What is left to learn is the
  rim, the inside of the mouth, and what the source did not show. For the small model.
* `albedo`: the head model's albedo under the wanted light on black, as the released RigFace weights expect it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch

from rigface.face.open_head import OpenHead
from rigface.face.render import render
from rigface.face.warp import Preview, Previewer
from rigface.image import linear_to_srgb
from rigface.types import Conditions, Face, FaceParams

RenderStyle = Literal["texture", "albedo"]
HOLE = 127  # grey where the person was cut out of the background
MARGIN = 0.03  # of the crop's side, by which the hole is wider than the person


@dataclass(frozen=True, eq=False)
class Composed:
    """Conditions, and the preview they were made from.

    Args:
        conditions: what the model sees; pictures (S, S, 3) uint8.
        preview: the edit without a model, at the same size.
    """

    conditions: Conditions
    preview: Preview


class Composer:
    """Makes conditions of one style and size. Stateless between calls."""

    def __init__(self, style: RenderStyle = "texture", size: int = 256, model: OpenHead | None = None) -> None:
        if style not in get_args(RenderStyle):
            raise ValueError(f"render style: want one of {', '.join(get_args(RenderStyle))}, got {style!r}")
        self.style, self.size = style, size
        model = model or OpenHead.load()
        self.preview = Previewer(model)
        self._head = model.head() if style == "albedo" else None

    def __call__(self, source: Face, wanted: FaceParams) -> Composed:
        """Conditions for one edit.

        Args:
            source: who the person is.
            wanted: the coefficients after the edit, as `mix` makes them.
        """
        crop, mask = (_resized(a, self.size) for a in (source.crop, source.mask))
        preview = self.preview(crop, source.params, wanted, mask)
        picture = preview.image if self._head is None else self._albedo(wanted)
        conditions = Conditions(
            reference=crop,
            background=cut_out(crop, mask, preview.mask),
            render=picture,
            expression_code=np.asarray(wanted.expression, np.float32),
        )
        return Composed(conditions, preview)

    def _albedo(self, wanted: FaceParams) -> np.ndarray:
        one = wanted.map(lambda a: torch.from_numpy(np.ascontiguousarray(a))[None])
        drawn = render(self._head, one, size=self.size).image[0].permute(1, 2, 0).clamp(0, 1).numpy()
        return (linear_to_srgb(drawn) * 255 + 0.5).astype(np.uint8)


def cut_out(crop: np.ndarray, *masks: np.ndarray) -> np.ndarray:
    """The crop with a grey hole where the person was or will be, a little wider than either.

    Args:
        crop: (S, S, 3) uint8. masks: (S, S) uint8, 255 person.
    """
    size = len(crop)
    width = 2 * max(1, round(MARGIN * size)) + 1
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    person = cv2.dilate(np.maximum.reduce(list(masks)), brush) >= 128
    return np.where(person[..., None], np.uint8(HOLE), crop)


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    return picture if len(picture) == size else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
