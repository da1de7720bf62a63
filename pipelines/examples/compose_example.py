"""Composition of one training example from two rows of faces/: target laid over the source, source optionally staged.

Path: two `Face`s -> `lay_over` -> `transfer` -> `Composer` -> a row of examples/.

The conditions come from `Composer`, as for every edit. In the target picture the head has also moved, and its crop with
it. So the target's crop is laid into the source's crop, where the background fits, and the coefficients' camera is
moved with it: render, background and target agree pixel by pixel.

A staged source gives what clips hardly have: light pairs, and pairs of people of whom there is one photograph. The
photograph under an invented light, or turned and with another's expression, is the source; the untouched photograph is
the target. Mirroring is done after composing (`compose_worker.py`), so that left and right change everywhere at once.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from rigface.conditions import Composed, Composer
from rigface.edits import EditSpec, LightEdit, Trait
from rigface.face.controls.transfer import exposure, light_coefficients, transfer
from rigface.face.geometry import alignment
from rigface.face.geometry.rotation import from_degrees, to_axis_angle, to_degrees, to_matrix
from rigface.face.region_masks import region_labels
from rigface.image import resized
from rigface.types import CROP_PX, Face, FaceParams, HeadSpec

TAKE: frozenset[Trait] = frozenset({"pose", "expression", "light"})
POSE_DEG = (13.0, 7.0, 5.0)  # yaw, pitch, roll: standard deviation of an invented turn
MAX_DEG = (40.0, 25.0, 30.0)


@dataclass(frozen=True, eq=False)
class ComposedExample:
    """A composed example."""

    composed: Composed  # the conditions
    target: np.ndarray  # (S, S, 3) uint8
    mask: np.ndarray  # (S, S) uint8, the person in the target
    regions: np.ndarray  # (S, S) uint8, numbers of `REGION_LABELS`
    wanted: FaceParams  # the edited coefficients
    overlap: float  # share of the source's crop that the target's crop shows; the rest was filled from the preview
    background_change: float  # mean absolute difference where neither picture shows the person, in [0, 1]


def compose(source: Face, target: Face, composer: Composer, head: HeadSpec) -> ComposedExample:
    """An example that turns `source` into `target`; both from the same input.

    Outside of the target's crop the target picture is filled from the preview: there the model should change nothing.
    """
    picture, mask, shown = lay_over(source, target)
    change = background_change(source, picture, np.where(shown, mask, 255).astype(np.uint8))
    wanted = replace(transfer(source.params, EditSpec(TAKE), head, target.params), camera=moved(source, target))
    composed, size = composer(source, wanted, mask), composer.spec.size
    small, small_mask, small_shown = (resized(a, size) for a in (picture, mask, shown.astype(np.uint8) * 255))
    full = small_shown == 255
    small = np.where(full[..., None], small, composed.image)
    small_mask = np.where(np.where(full, small_mask, composed.mask) > 127, 255, 0).astype(np.uint8)
    points = np.asarray(target.landmarks)[:, :2] @ between(source, target)[:, :2].T + between(source, target)[:, 2]
    regions = region_labels(points * (size / CROP_PX), small_mask)
    return ComposedExample(composed, small, small_mask, regions, wanted, float(shown.mean()), change)


def between(source: Face, target: Face) -> np.ndarray:
    """(2, 3) affine from the target's crop to the source's, px: both lie in the same frame."""
    to_frame = np.vstack([alignment.invert(target.frame_to_crop), [0, 0, 1]])
    return (np.vstack([source.frame_to_crop, [0, 0, 1]]) @ to_frame)[:2]


def lay_over(source: Face, target: Face) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The target's picture (512, 512, 3) and mask (512, 512) in the source's crop, and the pixels they cover (bool)."""
    size = (CROP_PX, CROP_PX)
    if np.allclose(source.frame_to_crop, target.frame_to_crop, atol=1e-3):
        return target.crop, target.mask, np.ones(size, bool)
    affine = between(source, target)
    affine[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV's pixel centres are whole numbers
    shown = cv2.warpAffine(np.full(size, 255, np.uint8), affine, size, flags=cv2.INTER_LINEAR)
    picture = cv2.warpAffine(target.crop, affine, size, flags=cv2.INTER_LINEAR)
    return picture, cv2.warpAffine(target.mask, affine, size, flags=cv2.INTER_LINEAR), shown == 255


def moved(source: Face, target: Face) -> np.ndarray:
    """(3,) float32 the target's camera, for the source's crop.

    In crop units u = scale (p + shift); the affine between the crops makes of it u' = zoom u + offset.
    """
    affine = between(source, target)
    zoom = affine[0, 0]
    middle = affine[:, :2] @ (CROP_PX / 2, CROP_PX / 2) + affine[:, 2]
    offset = (middle / (CROP_PX / 2) - 1) * (1, -1)
    scale, x, y = target.params.camera
    new = zoom * scale
    return np.array([new, x + offset[0] / new, y + offset[1] / new], np.float32)


def background_change(source: Face, picture: np.ndarray, mask: np.ndarray) -> float:
    """Mean change outside of both people in [0, 1]: a cut, a moving camera, a passer-by."""
    small = (64, 64)
    a, b = (cv2.resize(p, small, interpolation=cv2.INTER_AREA).astype(np.float32) for p in (source.crop, picture))
    people = cv2.resize(np.maximum(source.mask, mask), small, interpolation=cv2.INTER_AREA)
    outside = cv2.dilate(people, np.ones((5, 5), np.uint8)) < 8
    return float(np.abs(a - b)[outside].mean() / 255) if outside.sum() > 40 else 0.0


def stage(face: Face, params: FaceParams, composer: Composer) -> Face:
    """The face as if photographed with other coefficients, by the preview; on heads without one only the light may
    differ.
    """
    crop, mask = composer.staged(face, params)
    return replace(face, crop=crop, mask=mask, params=params)


def invent_pose(own: FaceParams, others: np.ndarray, random: np.random.Generator) -> FaceParams:
    """The coefficients turned a little, and two times of three with an expression of `others` (N, E).

    Turned by no more than the preview can do without inventing half a face, and never beyond half a profile.
    """
    degrees = to_degrees(to_matrix(own.head_rotation[None]))[0]
    wanted = degrees + random.normal(0, POSE_DEG).clip(-2 * np.array(POSE_DEG), 2 * np.array(POSE_DEG))
    wanted = np.where(np.abs(wanted) < MAX_DEG, wanted, degrees)
    rotation = to_axis_angle(from_degrees(np.array([wanted], np.float32)))[0].astype(np.float32)
    if len(others) and random.random() < 2 / 3:
        share = random.uniform(0.5, 1)
        expression = own.expression + share * (others[random.integers(len(others))] - own.expression)
        return replace(own, head_rotation=rotation, expression=expression.astype(np.float32))
    return replace(own, head_rotation=rotation)


def invent_light(own: np.ndarray, others: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(9, 3) a plausible light: every second time one of `others` (N, 9, 3), else a lamp over a surround.

    It has nearly the exposure of the face's own light, as cameras adapt to it.
    """
    brightness = random.uniform(0.7, 1.35)
    if random.random() < 0.5 and len(others):
        other = others[random.integers(len(others))]
        return other * (brightness * exposure(own) / exposure(other))
    warmth = random.normal(0, 0.12)
    edit = LightEdit(
        azimuth_deg=random.uniform(-110, 110),
        elevation_deg=random.uniform(-25, 60),
        intensity=random.uniform(0.3, 1.3),
        ambient=random.uniform(0.25, 0.8),
        colour=(1 + warmth, 1.0, 1 - warmth),
    )
    light = light_coefficients(edit, exposure(own))
    return light * (brightness * exposure(own) / exposure(light))
