"""Conditions of the model: reference, background, render and expression code of one edit.

Path: source Face, wanted coefficients -> compose -> Conditions -> training (`pipelines/examples/pair.py`) and sampling
(`editor.py`). There is no second preprocessing.

Render styles, recorded in a checkpoint's config:

* `texture`: the preview of `face/preview/warp.py`: the source's own photograph, moved and lit. What is left to learn
  is the rim, the inside of the mouth, and what the source did not show. For the small model.
* `albedo`: the head model's albedo under the wanted light on black. The released RigFace weights want it of FLAME.
* `shape`: a grey head under the wanted light on black: no photograph is read, so no colour of it can leak.
* `points`: eyes, nose and corners of the mouth of the wanted head, drawn as InstantID draws them. Open head only.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.landmarks import five_points
from rigface.face.head.head_model import align_centre
from rigface.face.head.heads import profile_head
from rigface.face.preview.relight import one_row, relit
from rigface.face.preview.warp import Previewer
from rigface.face.rendering.renderer import Render, render
from rigface.image import linear_to_srgb, resized
from rigface.profile import ConditionSpec
from rigface.types import Conditions, Detection, Face, FaceParams

HOLE_GREY = 127  # grey where the person was removed from the background
GREY_ALBEDO = 0.5  # reflectance of the grey head
POINT_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # eyes, nose, mouth: InstantID's
NOSE = 2  # of the five points


@dataclass(frozen=True, eq=False)
class Composed:
    """Conditions, and what is known of their result."""

    conditions: Conditions  # what the model sees; pictures (S, S, 3) uint8
    image: np.ndarray  # (S, S, 3) uint8, the edit without a model: the preview, or the crop on heads that have none
    mask: np.ndarray  # (S, S) uint8, 255: the person after the edit


class Composer:
    """Composes the conditions of a model. Stateless between calls.

    The open head has a face only, so the preview moves the photograph's hair and neck with it. Heads with a scalp and a
    neck (FLAME) are rendered whole, and the person after the edit is the rendered head; ValueError for the style
    `texture` on one. MissingAsset if the profile's head, or the network of identity vectors, is not on this machine.
    """

    def __init__(self, spec: ConditionSpec) -> None:
        self.spec, self._has_preview = spec, spec.profile.head == "open"
        if spec.render_style in ("texture", "points") and not self._has_preview:
            raise ValueError(
                f"render style: the head {spec.profile.head!r} has no preview, so no style {spec.render_style!r}"
            )
        self._head = None if spec.render_style == "texture" else profile_head(spec.profile)

    @cached_property
    def preview(self) -> Previewer:
        """The preview of coefficients of the open head."""
        return Previewer()

    def __call__(
        self, source: Face, wanted: FaceParams, moved: np.ndarray | None = None, donor: Face | None = None
    ) -> Composed:
        """Conditions for one edit, from the coefficients before it to those after it, as `transfer` makes them.

        Of a swap the `source` is the swapped face, and the `donor` the reference.

        `moved` (512, 512) uint8 is 255 on the person after the edit, if a photograph shows it; on heads without a
        preview. ValueError if the face lacks the expression code that is wanted.
        """
        code = getattr(wanted, self.spec.expression_field)
        if code is None:
            raise ValueError(
                f"expression code: these weights want `{self.spec.expression_field}`, and the face has been fitted "
                "without it. Use a reconstructor that gives it, or weights trained on this head's own expressions"
            )
        crop, mask = (resized(a, self.spec.size) for a in (source.crop, source.mask))
        image, after = crop, mask
        is_points = self.spec.render_style == "points"
        rendered = None if self._head is None or is_points else self._render(source.params, wanted)
        if self._has_preview:
            preview = self.preview(crop, source.params, wanted, mask)
            assert preview.mask is not None  # a mask was given
            image, after = preview.image, preview.mask
        elif moved is not None:
            after = resized(moved, self.spec.size)
        elif rendered is not None and _is_moved(source.params, wanted):
            after = (rendered.alpha[0, 0].numpy() * 255).astype(np.uint8)
        conditions = Conditions(
            reference=crop if donor is None else resized(donor.crop, self.spec.size),
            background=cut_out_person(crop, mask, after, margin=self.spec.profile.margin),
            render=self._points(wanted) if is_points else image if rendered is None else self._picture(rendered),
            expression_code=np.asarray(code, np.float32),
            identity=self._vector(source if donor is None else donor) if self.spec.identity else None,
        )
        return Composed(conditions, image, after)

    def staged(self, face: Face, params: FaceParams) -> tuple[np.ndarray, np.ndarray]:
        """The crop (512, 512, 3) and mask (512, 512) of a face as if photographed with other coefficients; on heads
        without a preview only the light may differ.
        """
        if not self._has_preview:
            assert self._head is not None
            return relit(self._head, face.crop, face.params, params.light), face.mask
        preview = self.preview(face.crop, face.params, params, face.mask)
        assert preview.mask is not None  # a mask was given
        return preview.image, preview.mask

    def _vector(self, source: Face) -> np.ndarray:
        """(V,) float32 identity vector of a face; zeros, as where it was dropped in training, if it cannot be read."""
        detection = Detection(source.box, source.landmarks, 1.0)
        vector = self._identify(source.crop, detection)
        return np.zeros(self._identify.width, np.float32) if vector is None else vector

    @cached_property
    def _identify(self) -> Any:
        """The network of identity vectors."""
        if self.spec.identity == "arcface":
            from rigface.face.identity.arcface import ArcFace

            return ArcFace()
        from rigface.face.identity.dlib_embedding import DlibIdentity  # dlib is slow to import

        return DlibIdentity()

    def _render(self, source: FaceParams, wanted: FaceParams) -> Render:
        assert self._head is not None
        before, after = (params.map(one_row) for params in (source, wanted))
        shift = align_centre(self._head, before, after) if self.spec.profile.align_centre else None
        return render(self._head, after, size=self.spec.size, shift=shift)

    def _points(self, wanted: FaceParams) -> np.ndarray:
        """(S, S, 3) uint8: five points of the head, and lines from the nose to the others, on black."""
        assert self._head is not None
        one = wanted.map(one_row)
        unit = project(self._head.landmarks.points(self._head.of(one)), one.camera)
        points = five_points(to_crop_px(unit, self.spec.size)[0].numpy())
        picture = np.zeros((self.spec.size, self.spec.size, 3), np.uint8)
        thick = max(1, round(self.spec.size / 64))
        places = [(int(x), int(y)) for x, y in np.rint(points * 16)]  # sixteenths of a pixel
        for place, colour in zip(places, POINT_COLOURS):
            dim = tuple(int(0.6 * c) for c in colour)
            cv2.line(picture, place, places[NOSE], dim, thick, cv2.LINE_AA, 4)
        for place, colour in zip(places, POINT_COLOURS):
            cv2.circle(picture, place, 16 * thick, colour, -1, cv2.LINE_AA, 4)
        return picture

    def _picture(self, rendered: Render) -> np.ndarray:
        """(S, S, 3) uint8 in the style and the encoding of the spec."""
        is_grey = self.spec.render_style == "shape"
        colours = rendered.alpha * rendered.shading * GREY_ALBEDO if is_grey else rendered.image
        values = colours[0].permute(1, 2, 0).clamp(0, 1).numpy()
        encoded = linear_to_srgb(values) if self.spec.profile.colours == "srgb" else values
        return np.asarray((encoded * 255 + 0.5).astype(np.uint8))


def _is_moved(source: FaceParams, wanted: FaceParams) -> bool:
    return any(not np.array_equal(getattr(source, n), getattr(wanted, n)) for n in ("head_rotation", "camera"))


def cut_out_person(crop: np.ndarray, *masks: np.ndarray, margin: float) -> np.ndarray:
    """The crop (S, S, 3) uint8 with the person, 255 in the masks (S, S) before and after the edit, replaced by grey;
    the hole exceeds the masks by `margin`, a share of the side.
    """
    person = np.maximum.reduce(list(masks))
    if margin:
        width = 2 * max(1, round(margin * len(crop))) + 1
        person = cv2.dilate(person, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    return np.where((person >= 128)[..., None], np.uint8(HOLE_GREY), crop)
