"""Correction of previews by a small network, on a tight crop of the face; all else stays the preview's.

Path: a preview of any size -> tight crop of preview, photograph and geometry -> `RefinerNetwork` -> its flow and
change, applied at the preview's own size. Training (`pipelines/refine`) cuts its examples by the same functions.

*Tight crop*: the square around the drawn face mesh, `RATIO` times its larger side, S px. The photograph is cut around
its own face, so that its mouth and eyes are near those of the preview.

The flow moves the preview at the preview's own size, so the photograph's detail stays. It moves features and rim alone:
on the skin between it brings no gain, and moves the person's own proportions. The change of colour is 128 px wide, and
a network answers doubt with a mean. So the change is laid on whole only where that takes no detail away: in mouth and
eyes unless it blurs them, and where the preview invented. Elsewhere its low frequencies are, less their mean over the
skin, whose colour the photograph knows; inside an open mouth a quarter of it; beyond the rim, where nothing was
learned, none. Everything fades out for mouths that open wider than those of the examples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from rigface.errors import BadCheckpoint
from rigface.face.geometry import alignment
from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.head.head_model import Head
from rigface.face.head.open_head import OpenHead
from rigface.face.preview.relight import one_row
from rigface.face.preview.warp import Preview
from rigface.face.reconstruction.quality import is_grey
from rigface.face.rendering.renderer import render
from rigface.refiner.network import RefinerConfig, RefinerNetwork, load_refiner
from rigface.refiner.regions import features_of, reach_of, regions_of, skin_of
from rigface.types import CROP_PX, FaceParams

RATIO = 1.15  # side of the tight crop, relative to the larger side of the projected face
LOW = 1.5 / 128  # of the tight crop's side: spread of the low-pass of the change beside mouth and eyes
FADE = 0.08  # of the tight crop's side, over which the change fades out at its border
KEPT = (0.5, 0.9)  # ratios of detail after and before, between which a change in mouth and eyes is laid on as a whole
VEIL = 0.75  # share of the change that is left out inside the mouth: a mean of teeth, tongue and dark is a veil
OPENED = (0.5, 1.2)  # change of `jawOpen` between which all corrections fade out: the examples open few mouths wider
SEAM = 5 / 128  # of the tight crop's side, by which what was invented is grown: its seam is to be corrected too
MOVING = ("shape", "expression", "head_rotation", "jaw_rotation", "camera")  # what a refiner may have to correct
MESH_STEPS = 1  # subdivisions of the open head's mesh, as in the preview


@dataclass(frozen=True, eq=False)
class RefinerInputs:
    """What the network sees of one edit, (S, S, 3) uint8 each, and (2 E,) float32."""

    preview: np.ndarray
    photograph: np.ndarray
    geometry: np.ndarray  # x and y of the normals, 128 is 0; and the share that the preview invented, 255 is all
    code: np.ndarray  # the wanted expression, then the photograph's own
    regions: np.ndarray  # (S, S) uint8 of `regions.REGIONS`, of the wanted face; the network does not see it


class TightCrops:
    """Cuts the inputs of a refiner. Stateless between calls."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._head, self._control = (OpenHead.load().head(steps) for steps in (MESH_STEPS, 0))

    def square(self, params: FaceParams) -> np.ndarray:
        """(2, 3) affine from the 512 px crop of one face, numpy, to its tight crop."""
        points = _projected(self._head, params)
        low, high = points.min(0), points.max(0)
        scale = self.size / (RATIO * float((high - low).max()))
        shift = self.size / 2 - scale * (low + high) / 2
        return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])

    def inputs(self, crop: np.ndarray, source: FaceParams, wanted: FaceParams, preview: Preview) -> RefinerInputs:
        """Inputs for an edit of a crop (T, T, 3) uint8 whose preview has the same size."""
        to_512 = CROP_PX / len(crop)
        square = self.square(wanted)
        after, before = _scaled(square, to_512), _scaled(self.square(source), to_512)
        invented = (preview.invented * 255).astype(np.uint8)
        normals = self._normals(wanted, square)
        points = alignment.apply(square, _projected(self._control, wanted))
        return RefinerInputs(
            preview=alignment.crop(preview.image, after, self.size),
            photograph=alignment.crop(crop, before, self.size),
            geometry=np.dstack([normals[..., :2], alignment.crop(invented, after, self.size)]),
            code=np.concatenate([wanted.expression, source.expression]).astype(np.float32),
            regions=regions_of(points, self.size),
        )

    def _normals(self, params: FaceParams, square: np.ndarray) -> np.ndarray:
        """(S, S, 3) uint8: normals of the wanted face, camera frame, from [-1, 1] to [0, 255]; 0 beside the face."""
        zoom = square[0, 0] * CROP_PX / self.size
        middle = square[:, :2] @ (CROP_PX / 2, CROP_PX / 2) + square[:, 2]
        offset = (middle / (self.size / 2) - 1) * (1, -1)
        scale, x, y = params.camera
        camera = np.array([zoom * scale, x + offset[0] / (zoom * scale), y + offset[1] / (zoom * scale)], np.float32)
        row = params.map(one_row)
        drawn = render(self._head, replace(row, camera=one_row(camera)), size=self.size)
        normals = drawn.normal_image[0].permute(1, 2, 0).numpy()
        return np.where(drawn.alpha[0, 0, ..., None].numpy() > 0, (normals * 0.5 + 0.5) * 255, 0).astype(np.uint8)


class PreviewRefiner:
    """Corrects previews with one network.

    Raises:
        MissingAsset, BadCheckpoint: as `load_refiner`; or it was trained with another head.
    """

    def __init__(self, network: RefinerNetwork, config: RefinerConfig) -> None:
        installed = OpenHead.load().head(0).spec
        if (config.head.name, config.head.expression) != (installed.name, installed.expression):
            raise BadCheckpoint(
                f"this refiner was trained with {config.head.expression} expressions of the head {config.head.name!r}, "
                f"previews have {installed.expression} of {installed.name!r}"
            )
        self.config, self._network = config, network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._crops = TightCrops(config.size)
        self._jaw = config.head.expression_names.index("jawOpen")
        ramp = np.minimum(np.arange(config.size) + 0.5, config.size - np.arange(config.size) - 0.5)
        ramp = np.clip(ramp / (FADE * config.size), 0, 1)
        self._window = np.minimum.outer(ramp, ramp).astype(np.float32)

    @classmethod
    def load(cls, folder: Path) -> PreviewRefiner:
        return cls(*load_refiner(folder))

    def __call__(self, crop: np.ndarray, source: FaceParams, wanted: FaceParams, preview: Preview) -> np.ndarray:
        """The corrected preview.

        Args:
            crop: (T, T, 3) uint8, the photograph; the preview has its size.
            source, wanted: coefficients of one face before and after the edit, numpy.

        Returns:
            (T, T, 3) uint8.
        """
        if not any(np.any(getattr(source, name) != getattr(wanted, name)) for name in MOVING):
            return preview.image  # the light alone changes: there is nothing to correct
        inputs = self._crops.inputs(crop, source, wanted, preview)
        flow, change = self._correction(inputs)
        square = _scaled(self._crops.square(wanted), CROP_PX / len(crop))
        left, top, right, bottom = _covered(square, self.config.size, len(crop))
        back = alignment.invert(square)
        zoom = float(back[0, 0])
        back[:, 2] += back[:, :2] @ (0.5, 0.5) - 0.5 - (left, top)  # OpenCV's pixel centres are whole numbers
        window, size = self._window[..., None], (right - left, bottom - top)
        flow = cv2.warpAffine(flow * window * zoom, back, size, flags=cv2.INTER_LINEAR)
        change = cv2.warpAffine(change * window, back, size, flags=cv2.INTER_CUBIC)
        refined = preview.image.copy()
        moved = _moved(preview.image, flow, (left, top))
        refined[top:bottom, left:right] = cv2.add(moved, change, dtype=cv2.CV_8U)
        return refined

    def refine(self, inputs: RefinerInputs) -> np.ndarray:
        """(S, S, 3) float32 in [0, 255]: the tight crop of the preview, corrected."""
        flow, change = self._correction(inputs)
        return np.asarray((_moved(inputs.preview, flow) + change).clip(0, 255))

    @torch.inference_mode()
    def _correction(self, inputs: RefinerInputs) -> tuple[np.ndarray, np.ndarray]:
        """Flow (S, S, 2), px, and change (S, S, 3), grey levels; of the latter what may be laid on."""
        pictures = np.dstack([inputs.preview, inputs.photograph, inputs.geometry]).astype(np.float32) / 127.5 - 1
        batch = torch.from_numpy(pictures).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
        answer = self._network(batch, torch.from_numpy(inputs.code)[None])
        flow, change = (part[0].permute(1, 2, 0).numpy() for part in answer)
        if is_grey(inputs.photograph):
            change = np.repeat(change.mean(2, keepdims=True), 3, axis=2)
        size = len(flow)
        features, skin = features_of(inputs.regions), skin_of(inputs.regions)
        flow, change = flow * (1 - skin[..., None]) * np.float32(size / 2), change * 127.5
        low = cv2.GaussianBlur(change, (0, 0), LOW * size)
        tone = (change * skin[..., None]).sum((0, 1)) / max(float(skin.sum()), 1.0)
        low -= skin[..., None] * tone  # skin keeps its mean colour, which the photograph knows better
        grown = cv2.dilate(inputs.geometry[..., 2], np.ones((round(SEAM * size) | 1,) * 2, np.uint8))
        invented = cv2.GaussianBlur(grown.astype(np.float32) / 255, (0, 0), LOW * size)
        moved = _moved(inputs.preview, flow).astype(np.float32)
        kept = (_detail(moved + change) / _detail(moved) - KEPT[0]) / (KEPT[1] - KEPT[0])
        whole = (features * kept.clip(0, 1) + (1 - features) * invented)[..., None]
        hollow = cv2.GaussianBlur(inputs.geometry[..., 2] / np.float32(255), (0, 0), LOW * size) * features
        wanted, own = np.split(inputs.code, 2)
        opened = abs(float(wanted[self._jaw] - own[self._jaw]))
        learned = float(np.clip((OPENED[1] - opened) / (OPENED[1] - OPENED[0]), 0, 1))
        share = learned * reach_of(inputs.regions) * (1 - VEIL * hollow)
        return learned * flow, (low + whole * (change - low)) * share[..., None]


def _detail(picture: np.ndarray) -> np.ndarray:
    """(S, S) mean size of the finest detail about each pixel, grey levels."""
    fine = np.abs(picture - cv2.GaussianBlur(picture, (0, 0), LOW * len(picture))).mean(2)
    return np.asarray(cv2.GaussianBlur(fine, (0, 0), 2 * LOW * len(picture)) + 1)


def _moved(picture: np.ndarray, flow: np.ndarray, start: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(H, W, 3) what a picture shows where a flow (H, W, 2), px, points; the flow's corner is at `start` (x, y)."""
    steps = (np.arange(first, first + n, dtype=np.float32) for first, n in zip(start, flow.shape[1::-1]))
    columns, rows = np.meshgrid(*steps)
    columns, rows = columns + flow[..., 0], rows + flow[..., 1]
    return np.asarray(cv2.remap(picture, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))


def _covered(square: np.ndarray, size: int, side: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels of a picture `side` px wide that a tight crop shows."""
    corners = alignment.apply(alignment.invert(square), np.array([[0.0, 0.0], [size, size]]))
    (left, top), (right, bottom) = np.floor(corners[0]), np.ceil(corners[1])
    return tuple(int(np.clip(v, 0, side)) for v in (left, top, right, bottom))  # type: ignore[return-value]


def _projected(head: Head, params: FaceParams) -> np.ndarray:
    """(V, 2) vertices of one face, px of the 512 px crop."""
    row = params.map(one_row)
    return to_crop_px(project(head.of(row), row.camera), CROP_PX)[0, :, :2].numpy()  # type: ignore[no-any-return]


def _scaled(affine: np.ndarray, times: float) -> np.ndarray:
    """An affine of the 512 px crop for the same crop at another size, (2, 3)."""
    return np.concatenate([affine[:, :2] * times, affine[:, 2:]], axis=1)
