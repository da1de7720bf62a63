"""Masks of regions of a face, which bound what an edit may change, and where its prompts are followed; labels of
regions, which weigh a training's loss.

Path: `EditSpec.region` -> `bounded`, after an edit was drawn: all else is the picture's own, to the bit.
`EditSpec.prompts` -> `region_prompts` -> the model's sampling.
Landmarks and mask of a target -> `region_labels` -> column `regions` of examples/.

* `eyes`: with the brows; `mouth`: with chin and jaw, up to the nose; both before and after the edit, so that what moves
  leaves nothing behind. `hair`: the person around the face, above the chin.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from rigface.edits import EditSpec, Region, RegionPrompt
from rigface.errors import BadEdit
from rigface.face.geometry import alignment
from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.contours import CONTOURS
from rigface.face.head.open_head import OpenHead
from rigface.face.preview.relight import one_row
from rigface.types import CROP_PX, REGION_LABELS, Face, FaceParams

OUTLINE, EYES, LIPS, BROWS = CONTOURS[0], CONTOURS[1:3], CONTOURS[5], (CONTOURS[7:9], CONTOURS[9:11])
NOSE_BASE, CHIN, CORNERS = 2, 152, (61, 291)  # landmarks; the last two of the mouth
GROWN = {
    "eyes": 0.03,
    "mouth": 0.08,
}  # of the crop's side, by which regions are grown: a jaw moves the cheeks beside it
SOFT = 0.012  # of the crop's side: spread of the edge
RIM, AROUND_FEATURES = 0.02, 0.02  # of the side: half the width of the rim, and what features are grown by


def bounded(
    before: np.ndarray, after: np.ndarray, face: Face, wanted: FaceParams, edit: EditSpec, mask: np.ndarray | None
) -> np.ndarray:
    """A picture (H, W, 3) uint8 after an edit of a face, where the edit's region allows it, and before it elsewhere.

    The `mask` (H, W) or (H, W, 3) uint8 of any size bounds it further, unless it is that of a prompt: what may change
    is white. An edit of nothing but prompts of regions changes these regions alone.
    """
    if edit.prompts and replace(edit, prompts={}).is_nothing:
        regions = [one.mask for one in region_prompts(edit, face, wanted, mask, before.shape[:2])]
        after = within(before, after, np.maximum.reduce(regions), face.frame_to_crop)
    if edit.region != "face":
        after = within(before, after, region_mask(face, wanted, edit.region), face.frame_to_crop)
    if mask is not None and "mask" not in edit.prompts:
        after = within(before, after, mask if mask.ndim == 2 else mask.max(2), None)
    return after


def region_prompts(
    edit: EditSpec, face: Face, wanted: FaceParams, mask: np.ndarray | None, size: tuple[int, int]
) -> list[RegionPrompt]:
    """The edit's prompts of regions with their masks (512, 512) of the face's crop.

    `mask` as for `bounded`, `size` is height and width of the whole picture, px. BadEdit for a prompt of the mask
    without one.
    """
    out = []
    for name, text in edit.prompts.items():
        if name != "mask":
            out.append(RegionPrompt(text, region_mask(face, wanted, name)))
        elif mask is None:
            raise BadEdit("prompts.mask: needs a mask, a picture whose white parts it is for")
        else:
            whole = cv2.resize(mask if mask.ndim == 2 else mask.max(2), size[::-1], interpolation=cv2.INTER_AREA)
            out.append(RegionPrompt(text, alignment.crop(whole, face.frame_to_crop)))
    return out


def region_mask(face: Face, wanted: FaceParams, region: Region) -> np.ndarray:
    """(512, 512) uint8, 255 where an edit of a face may change its crop; `wanted` as drawn, on any head."""
    if region == "face":
        return np.full((CROP_PX, CROP_PX), 255, np.uint8)
    shown = [np.asarray(face.landmarks)[:, :2]]
    if len(wanted.expression) == OpenHead.load().spec.expression:
        row, head = wanted.map(one_row), OpenHead.load().head(0)
        shown.append(to_crop_px(project(head.of(row), row.camera), CROP_PX)[0, :, :2].numpy())
    out: np.ndarray = np.zeros((CROP_PX, CROP_PX), np.uint8)
    if region == "hair":
        out[: int(np.clip(shown[0][CHIN, 1], 0, CROP_PX))] = 255
        out = np.minimum(out, face.mask)
        out = np.where(_filled([shown[0][OUTLINE]]) > 0, np.uint8(0), out)
        return np.asarray(cv2.GaussianBlur(out, (0, 0), SOFT * CROP_PX))
    for points in shown:
        out |= _filled(_outlines(points, region))
    out = cv2.dilate(out, _disc(GROWN[region] * CROP_PX))
    return np.asarray(cv2.GaussianBlur(out, (0, 0), SOFT * CROP_PX))


def region_labels(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(S, S) uint8 numbers of `REGION_LABELS`, from landmarks (478, 2) px and mask (S, S) uint8 of a person.

    `person`: hair and neck; `rim`: both sides of the person's edge; `features`: eyes and mouth. A later one lies
    over an earlier one.
    """
    size = len(mask)
    person = np.where(mask > 127, np.uint8(255), np.uint8(0))
    grown, shrunk = (change(person, _disc(RIM * size)) for change in (cv2.dilate, cv2.erode))
    features = _filled([points[outline] for outline in (*EYES, LIPS)], size)
    shown = {
        "person": person > 0,
        "face": (_filled([points[OUTLINE]], size) > 0) & (person > 0),
        "rim": grown != shrunk,
        "features": (cv2.dilate(features, _disc(AROUND_FEATURES * size)) > 0) & (person > 0),
    }
    labels = np.zeros((size, size), np.uint8)
    for name, where in shown.items():
        labels[where] = REGION_LABELS.index(name)
    return labels


def within(before: np.ndarray, after: np.ndarray, mask: np.ndarray, frame_to_crop: np.ndarray | None) -> np.ndarray:
    """The picture (H, W, 3) uint8 after an edit inside a mask, and before it elsewhere.

    The mask (S, S) is of the face's crop, whose affine (2, 3) is for 512 px, or of the whole picture, at any size.
    """
    height, width = before.shape[:2]
    if frame_to_crop is None:
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    else:
        to_frame = alignment.invert(frame_to_crop).astype(np.float64)
        to_frame[:, 2] += to_frame[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV's pixel centres are whole numbers
        mask = cv2.warpAffine(mask, to_frame, (width, height), flags=cv2.INTER_LINEAR)
    share = mask[..., None].astype(np.float32) / 255
    return np.asarray((before + share * (after.astype(np.float32) - before) + 0.5).astype(np.uint8))


def _outlines(points: np.ndarray, region: Region) -> list[np.ndarray]:
    if region == "eyes":
        return [points[[*eye, *(k for line in brow for k in line)]] for eye, brow in zip(EYES, BROWS)]
    below = min(points[k, 1] for k in CORNERS)
    jaw = [k for k in OUTLINE if points[k, 1] > below]
    return [points[[*LIPS, NOSE_BASE, *jaw]]]


def _disc(radius: float) -> np.ndarray:
    """A kernel for growing by some pixels."""
    side = 2 * round(radius) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def _filled(outlines: list[np.ndarray], size: int = CROP_PX) -> np.ndarray:
    out = np.zeros((size, size), np.uint8)
    for outline in outlines:
        hull = cv2.convexHull(outline.astype(np.float32))
        cv2.fillConvexPoly(out, np.rint((hull - 0.5) * 16).astype(np.int32), 255, shift=4)
    return out
