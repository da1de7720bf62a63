"""Conditions of the model: reference, background, render and expression code of one edit.

Path: source Face, wanted coefficients -> compose -> Conditions -> training (`pipelines/examples/pair.py`) and sampling
(`editor.py`). There is no second preprocessing.

Render styles, recorded in a checkpoint's config:

* `texture`: the preview of `face/preview/warp.py`: the source's own photograph, moved and lit. What is left to learn
  is the rim, the inside of the mouth, and what the source did not show. For the small model.
* `albedo`: the head model's albedo under the wanted light on black, as the released RigFace weights expect it.
* `shape`: a grey head under the wanted light on black: no photograph is read, so no colour of it can leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch

from rigface.face.head.open_head import OpenHead
from rigface.face.preview.warp import Preview, Previewer
from rigface.face.rendering.renderer import render
from rigface.image import linear_to_srgb, resized
from rigface.types import Conditions, Face, FaceParams

RenderStyle = Literal["texture", "albedo", "shape"]
ExpressionField = Literal["expression", "bfm_expression"]
HOLE_GREY = 127  # grey where the person was removed from the background
GREY_ALBEDO = 0.5  # reflectance of the grey head
MASK_MARGIN = 0.03  # of the crop's side, by which the hole extends beyond the person


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
    """Composes conditions of one style and size. Stateless between calls.

    Args:
        style: of the render condition; a checkpoint's `render_style`.
        size: of the pictures, px.
        model: the head.
        expression_field: which coefficients are the expression code; a checkpoint's `expression_field`.
        detail: the model changes the render and leaves its detail alone; a checkpoint's `detail`. Nothing here
            depends on it; pasting the result does.
    """

    def __init__(
        self,
        style: RenderStyle = "texture",
        size: int = 256,
        model: OpenHead | None = None,
        expression_field: ExpressionField = "expression",
        detail: bool = False,
    ) -> None:
        if style not in get_args(RenderStyle):
            raise ValueError(f"render style: want one of {', '.join(get_args(RenderStyle))}, got {style!r}")
        if expression_field not in get_args(ExpressionField):
            raise ValueError(
                f"expression field: want one of {', '.join(get_args(ExpressionField))}, got {expression_field!r}"
            )
        self.style, self.size, self.expression_field, self.detail = style, size, expression_field, detail
        model = model or OpenHead.load()
        self.preview = Previewer(model)
        self._head = None if style == "texture" else model.head()

    def __call__(self, source: Face, wanted: FaceParams) -> Composed:
        """Conditions for one edit.

        Args:
            source: the face before the edit.
            wanted: the coefficients after the edit, as `transfer` makes them.

        Raises:
            ValueError: the face lacks the expression code that is wanted.
        """
        code = getattr(wanted, self.expression_field)
        if code is None:
            raise ValueError(
                f"expression code: these weights want `{self.expression_field}`, and the face has been fitted without "
                "it. Use a reconstructor that gives it, or weights trained on this head's own expressions"
            )
        crop, mask = (resized(a, self.size) for a in (source.crop, source.mask))
        preview = self.preview(crop, source.params, wanted, mask)
        assert preview.mask is not None  # a mask was given
        rendered = preview.image if self._head is None else self._rendered(wanted)
        conditions = Conditions(
            reference=crop,
            background=cut_out_person(crop, mask, preview.mask),
            render=rendered,
            expression_code=np.asarray(code, np.float32),
        )
        return Composed(conditions, preview)

    def _rendered(self, wanted: FaceParams) -> np.ndarray:
        assert self._head is not None
        batch = wanted.map(lambda a: torch.from_numpy(np.ascontiguousarray(a))[None])
        rendered = render(self._head, batch, size=self.size)
        colours = rendered.image if self.style == "albedo" else rendered.alpha * rendered.shading * GREY_ALBEDO
        return (linear_to_srgb(colours[0].permute(1, 2, 0).clamp(0, 1).numpy()) * 255 + 0.5).astype(np.uint8)


def cut_out_person(crop: np.ndarray, *masks: np.ndarray) -> np.ndarray:
    """The crop (S, S, 3) uint8 with the person, 255 in the masks (S, S) before and after the edit, replaced by grey,
    with a margin.
    """
    size = len(crop)
    width = 2 * max(1, round(MASK_MARGIN * size)) + 1
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    person = cv2.dilate(np.maximum.reduce(list(masks)), brush) >= 128
    return np.where(person[..., None], np.uint8(HOLE_GREY), crop)
