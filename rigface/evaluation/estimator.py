"""Estimate the face of a picture for evaluation: coefficients, scores, pose matrix, identity.

Path: pictures (outputs, sources, targets) -> FaceEstimator -> [Estimate | None] -> `measure_edits`, or `achieved`.

One crop rule for every picture and every model: landmarks are detected in each picture, and the square around them is
cut by `face/geometry/alignment.py`. Each picture is a track of its own, so that an output is not fitted with its
source's shape.

*In loop* is the reconstructor. *Detector* are MediaPipe's blendshapes and matrix, to which the open head is fitted, so
they are no second opinion; nor are its landmarks. Only the identity network is independent of the fit. Networks that
are no part of this project's loop at all are in `strangers.py`. Every card names its extractors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from rigface.edits import EditSpec
from rigface.face.controls.named_curves import wanted_azimuth
from rigface.face.controls.transfer import asked_amount, expression_amount
from rigface.face.detection.boxes import iou
from rigface.face.detection.detector import Detector
from rigface.face.geometry import alignment
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.reconstruction.protocol import Reconstructor
from rigface.face.steps import align, reconstruct
from rigface.image import srgb8_to_linear
from rigface.metrics.geometry import turn_of
from rigface.metrics.light import describe_light
from rigface.profile import OWN, FaceProfile
from rigface.types import CROP_PX, Detection, FaceParams, HeadSpec

CROP_RULE = (
    f"{CROP_PX} px square, {alignment.SIDE} x the landmark box, raised {alignment.RAISE}, found anew in each picture"
)
MIN_SHOWN = 0.1  # of an expression axis, asked or achieved, to be listed


class IdentityNetwork(Protocol):
    """Turns a face into a vector; `DlibIdentity` is one."""

    version: str

    def chip(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        """The network's input, cut from (H, W, 3) uint8 by landmarks (L, 2+); None if the face cannot be aligned."""

    def embed(self, chips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, D) float32 vectors of N chips."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """One estimated face."""

    params: FaceParams  # coefficients, one face
    box: np.ndarray  # (4,) of the landmarks, picture px
    landmarks: np.ndarray  # (L, 3) picture px
    frame_to_crop: np.ndarray  # (2, 3) affine to the 512 px crop that was reconstructed
    skin: np.ndarray  # (3,) median linear RGB within the landmarks' outline
    residual: float  # the reconstructor's landmark residual, in outer-eye distances
    blendshapes: np.ndarray | None = None  # (B,) the detector's scores, or None
    turn: np.ndarray | None = None  # (3, 3) rotation in the detector's own matrix, or None
    identity: np.ndarray | None = None  # (D,) as the network gives it, or None without a network or a vector


class FaceEstimator:
    """A detector, a reconstructor and an identity network, applied alike to every picture.

    Args:
        detector: its scores and matrix are numbers of their own. reconstructor: the in-loop estimator.
        identity: None leaves identity out.
        mask: person mask of a 512 px crop, such as `segmentation.person_mask`; None: the outline of the landmarks,
            widened.
    """

    def __init__(
        self,
        detector: Detector,
        reconstructor: Reconstructor,
        identity: IdentityNetwork | None = None,
        mask: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._detector, self._reconstructor, self._identity = detector, reconstructor, identity
        self._mask = mask
        self._people: WeakKeyDictionary[Estimate, np.ndarray] = WeakKeyDictionary()  # masks, eight pixels a byte

    @classmethod
    def load(cls, profile: FaceProfile = OWN, identity: str = "dlib") -> FaceEstimator:
        """The estimator of a profile with an identity network, `dlib` or `arcface`; or MissingAsset. By default
        MediaPipe, the closed-form fit of the open head, the mask by colours.
        """
        from rigface.face.identity.arcface import ArcFace
        from rigface.face.identity.dlib_embedding import DlibIdentity
        from rigface.face.profile_networks import (
            load_profile_detector,
            load_profile_parser,
            load_profile_reconstructor,
        )

        return cls(
            load_profile_detector(profile),
            load_profile_reconstructor(profile, with_codes=False),
            ArcFace() if identity == "arcface" else DlibIdentity(),
            load_profile_parser(profile),
        )

    @property
    def head(self) -> HeadSpec:
        return self._reconstructor.head_spec

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of the detector's blendshape scores."""
        return self._detector.spec.blendshape_names

    @property
    def extractors(self) -> dict[str, str]:
        """Source of each kind of number: name, version and crop rule, as the card prints them."""
        detector = f"{self._detector.spec.name} {self._detector.spec.version}"
        head = f"head {self.head.name} {self.head.version}"
        method = " ".join(filter(None, (type(self._reconstructor).__name__, self._reconstructor.version)))
        fit = f"{method} of {head} on {detector}; {CROP_RULE}"
        return {
            "in loop": fit,
            "detector": f"{detector}, whole picture",
            "identity": "none" if self._identity is None else f"{self._identity.version}, aligned by {detector}",
            "mask": _name_of(self._mask),
        }

    def __call__(
        self, pictures: Sequence[np.ndarray | None], near: Sequence[np.ndarray | None] | None = None
    ) -> list[Estimate | None]:
        """Estimate the faces of N pictures (H, W, 3) uint8 of any size, in one batch; None without a picture or a face.

        `near` has the box (4,) at which each face is expected, picture px; None: the largest face.
        """
        places = [None] * len(pictures) if near is None else list(near)
        found = [None if p is None else self._face(p, box) for p, box in zip(pictures, places)]
        good = [i for i, face in enumerate(found) if face is not None]
        seen: list[Estimate | None] = [None] * len(found)
        if not good:
            return seen
        faces: list[tuple[np.ndarray, Detection]] = [(pictures[i], found[i]) for i in good]  # type: ignore[misc]
        aligned = align([picture for picture, _ in faces], [face for _, face in faces])
        fit, vectors = reconstruct(self._reconstructor, aligned), self._vectors(faces)
        for k, i in enumerate(good):
            picture, face = faces[k]
            seen[i] = Estimate(
                params=fit.params.map(itemgetter(k)),
                box=np.asarray(face.box),
                landmarks=face.landmarks,
                frame_to_crop=aligned.frame_to_crop[k],
                skin=skin_colour(picture, face.landmarks),
                residual=float(fit.landmark_residual[k]),
                blendshapes=face.blendshapes,
                turn=None if face.matrix is None else turn_of(face.matrix),
                identity=vectors[k],
            )
        return seen

    def _vectors(self, faces: Sequence[tuple[np.ndarray, Detection]]) -> Sequence[np.ndarray | None]:
        """The identity vectors of faces, in one batch; None without a network or for a face that cannot be aligned."""
        if self._identity is None:
            return [None] * len(faces)
        chips = [self._identity.chip(picture, face.landmarks) for picture, face in faces]
        embedded = iter(self._identity.embed([chip for chip in chips if chip is not None]))
        return [None if chip is None else next(embedded) for chip in chips]

    def _face(self, picture: np.ndarray, near: np.ndarray | None) -> Detection | None:
        # No second look for small faces: slow without a face, and an edit's face is not small.
        found = self._detector(picture, second_look=False)
        found = [face for face in found if np.isfinite(face.box).all() and (face.box[2:] > face.box[:2]).all()]
        if not found:
            return None
        if near is None:
            return max(found, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
        shared = iou(np.asarray(near, np.float64), np.stack([face.box for face in found]))
        return found[int(shared.argmax())] if shared.max() > 0 else None

    def person(self, picture: np.ndarray, seen: Estimate | None) -> np.ndarray:
        """Mask of the person: (H, W) bool, picture px; all False without a face. It is kept with the estimate, which
        is that of this picture.
        """
        height, width = picture.shape[:2]
        if seen is None:
            return np.zeros((height, width), bool)
        if (kept := self._people.get(seen)) is None:
            kept = self._people[seen] = np.packbits(self._person(picture, seen))
        return np.unpackbits(kept, count=height * width).reshape(height, width).astype(bool)

    def _person(self, picture: np.ndarray, seen: Estimate) -> np.ndarray:
        height, width = picture.shape[:2]
        if self._mask is None:
            middle = seen.landmarks[:, :2].mean(0)
            wide = middle + (seen.landmarks[:, :2] - middle) * 1.3
            return _outline(wide, height, width)
        crop = alignment.crop(picture, seen.frame_to_crop)
        mask = self._mask(crop, alignment.apply(seen.frame_to_crop, seen.landmarks))
        back = alignment.invert(seen.frame_to_crop).astype(np.float64)
        back[:, 2] += back[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV's pixel centres are whole numbers
        return np.asarray(cv2.warpAffine(mask, back, (width, height), flags=cv2.INTER_LINEAR) > 127)


def _name_of(mask: Callable[[np.ndarray, np.ndarray], np.ndarray] | None) -> str:
    if mask is None:
        return "landmark outline"
    return str(getattr(mask, "__name__", getattr(mask, "version", "given")))


def skin_colour(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(3,) median linear RGB within the outline of the landmarks, which is mostly skin. NaN outside the picture."""
    inside = _outline(landmarks[:, :2], *picture.shape[:2])
    pixels = picture[inside]
    if not len(pixels):
        return np.full(3, np.nan)
    return np.asarray(srgb8_to_linear(np.median(pixels, axis=0).round().astype(np.uint8)[None, None])[0, 0])


def _outline(points: np.ndarray, height: int, width: int) -> np.ndarray:
    canvas = np.zeros((height, width), np.uint8)
    hull = cv2.convexHull((points - 0.5).astype(np.float32))
    cv2.fillConvexPoly(canvas, np.round(hull).astype(np.int32), 1)
    return canvas.astype(bool)


@dataclass(frozen=True)
class Number:
    """One number of an edit, asked and achieved; `achieved` is NaN without a face."""

    asked: float
    achieved: float
    unit: str


def achieved(
    wanted: FaceParams,
    measured: FaceParams | None,
    head: HeadSpec,
    edit: EditSpec,
    unit: float = 1.0,
    source: FaceParams | None = None,
) -> dict[str, Number]:
    """Asked and achieved numbers, with the names of `EditSpec`.

    Args:
        wanted, measured: coefficients of one face, by `transfer` and re-measured on the output (or None).
        edit: only its numbers are listed, and all numbers of a copied trait; of a swap the pose, which it should keep.
        unit: linear radiance of a light of strength 1: `transfer.exposure` of the source, unless the edit's light is
            absolute.
        source: the face before the edit, by which the number that was asked is known; None: as `wanted` has it.

    Returns:
        `yaw_deg`, `pitch_deg`, `roll_deg`; `expression.smile` ...; `light.azimuth_deg`, `light.elevation_deg`,
        `light.intensity`, `light.ambient`.
    """
    out: dict[str, Number] = {}
    goal, got = _degrees(wanted), _degrees(measured)
    for name, asked, now in zip(("yaw_deg", "pitch_deg", "roll_deg"), goal, got):
        if edit.take & {"pose", "identity"} or getattr(edit, name) is not None:
            out[name] = Number(float(asked), float(now), "degrees")
    named = list(edit.expression)
    if "expression" in edit.take:  # every axis above `MIN_SHOWN`
        for k, name in enumerate(head.expression_names):
            shown = max(abs(float(p.expression[k])) for p in (wanted, measured) if p is not None)
            if shown > MIN_SHOWN and name not in named:
                named.append(name)
    for name in named:
        now = np.nan if measured is None else expression_amount(measured, name, head)
        asked = asked_amount(wanted if source is None else source, wanted, name, edit, head)
        out[f"expression.{name}"] = Number(asked, now, "1 = in full")
    if "light" in edit.take or edit.light is not None:
        goal_light = describe_light(wanted.light, unit)
        if source is not None and edit.light is not None and edit.light.sh is None:
            goal_light["azimuth_deg"] = wanted_azimuth(goal_light["azimuth_deg"], head)
        got_light = dict.fromkeys(goal_light, np.nan) if measured is None else describe_light(measured.light, unit)
        for name, asked in goal_light.items():
            out[f"light.{name}"] = Number(asked, got_light[name], "degrees" if name.endswith("deg") else "strength")
    return out


def _degrees(params: FaceParams | None) -> np.ndarray:
    return np.full(3, np.nan) if params is None else to_degrees(to_matrix(params.head_rotation[None]))[0]
