"""MediaPipe's Face Landmarker in torch: faces of many pictures at once, on any device.

Path: pictures -> BlazeFace (squares of 128 px) -> Face Mesh V2 (256 px a face) -> Blendshape V2 -> FoundFace.
Source: the networks of `face_landmarker.task`, read where it lies, and what MediaPipe's graph does around them in IMAGE
mode (`face_landmarker_graph.cc` and the graphs that it holds), with the numbers that stand there.

Squares are cut on the CPU by OpenCV, as MediaPipe does, from pictures that lie there anyway: the device gets 0.2 MB a
face. They are sampled without a filter, and a whole number is the corner of a square and the centre of a pixel alike,
which moves landmarks by half a pixel of the square and is part of the answer.

There is no pose matrix: MediaPipe fits it to the landmarks afterwards, and no column is made of it.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from rigface.face.detection.boxes import iou
from rigface.face.detection.mediapipe_library import FoundFace, without_plots
from rigface.face.networks.tflite import TfliteNetwork

DETECTOR_PX, MESH_PX = 128, 256
SURE = 0.5  # of a face (BlazeFace), and of its presence in the mesh's square
SAME_FACE, SAME_GLIMPSE = 0.5, 0.3  # overlap of boxes that are averaged: of the landmarker, of the detector by itself
MARGIN = 1.5  # side of the mesh's square over that of BlazeFace's box
BATCH = 64  # squares at a time; the mesh network holds 5 MB for each

_NUMBERS = (  # of the landmarks that the network of scores sees (`face_blendshapes_graph.cc`)
    "0 1 4 5 6 7 8 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 103 "
    "105 107 109 127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 168 172 173 176 "
    "178 181 185 191 195 197 234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 300 308 310 "
    "311 312 314 317 318 321 323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 382 384 385 386 "
    "387 388 389 390 397 398 400 402 405 409 415 454 466 468 469 470 471 472 473 474 475 476 477"
)
_SCORED = [int(number) for number in _NUMBERS.split()]


class _Glimpse(NamedTuple):
    """One of BlazeFace's finds."""

    score: float
    box: np.ndarray  # (4,) float32 x0, y0, x1, y1
    eyes: np.ndarray  # (2, 2) float32: the right one and the left one of the person, x and y


class _Square(NamedTuple):
    """The turned rectangle of a picture that the mesh network sees."""

    centre: np.ndarray  # (2,) px
    size: np.ndarray  # (2,) px: BlazeFace's boxes are not quite square
    turn: np.ndarray  # (2, 2): from the rectangle's axes to the picture's


class TorchLandmarker:
    """The three networks on a device.

    Args:
        bundle: `face_landmarker.task`.
        faces: at most this many per picture.
        min_glimpse: least score of `glimpses`.
        device: of torch.
    """

    def __init__(self, bundle: Path, *, faces: int, min_glimpse: float, device: str) -> None:
        with zipfile.ZipFile(bundle) as members, without_plots():
            self._blaze, self._mesh, self._scores = (
                TfliteNetwork(members.read(f"{name}.tflite")).eval().to(device)
                for name in ("face_detector", "face_landmarks_detector", "face_blendshapes")
            )
        self._faces, self._min_glimpse, self._device = faces, min_glimpse, device
        if device != "cpu":  # memory and kernels of the largest batch: a process may be confined from here on
            for network, shape in ((self._blaze, (128, 128, 3)), (self._mesh, (256, 256, 3)), (self._scores, (146, 2))):
                self._run(network, [np.ones(shape, np.float32)] * BATCH)

    def faces(self, pictures: Sequence[np.ndarray]) -> list[list[FoundFace]]:
        """The faces of each picture, (H, W, 3) uint8 RGB; as `MediapipeLibrary` finds them, without the matrix."""
        squares = [
            (number, _square(glimpse))
            for number, found in enumerate(self._finds(pictures, SURE, SAME_FACE))
            for glimpse in found[: self._faces]
        ]
        faces: list[list[FoundFace]] = [[] for _ in pictures]
        if not squares:
            return faces
        cuts = [_mesh_cut(pictures[number], square) for number, square in squares]
        raw, presence, _ = self._run(self._mesh, cuts, 1 / 255)
        placed = [
            (number, _placed(points, square, pictures[number].shape))
            for (number, square), points, logit in zip(squares, raw.reshape(-1, 478, 3), presence.ravel())
            if logit > np.log(SURE / (1 - SURE))
        ]
        inputs = [
            points[_SCORED, :2] * np.array(pictures[number].shape[1::-1], np.float32) for number, points in placed
        ]
        for (number, points), scores in zip(placed, self._run(self._scores, inputs)[0] if placed else ()):
            faces[number].append(FoundFace(points, scores, None))
        return faces

    def glimpses(self, pictures: Sequence[np.ndarray]) -> list[list[tuple[np.ndarray, float]]]:
        """BlazeFace's boxes, whole px of each picture, and their scores, as `MediapipeLibrary` finds them."""
        found = self._finds(pictures, self._min_glimpse, SAME_GLIMPSE)
        return [[(_whole(glimpse.box), glimpse.score) for glimpse in glimpses] for glimpses in found]

    def _finds(self, pictures: Sequence[np.ndarray], least: float, same: float) -> list[list[_Glimpse]]:
        """BlazeFace's finds in each picture, in px, surest first."""
        if not pictures:
            return []
        boxes, logits = self._run(self._blaze, [_boxed(picture) for picture in pictures], 1 / 127.5, -1.0)
        out = []
        for picture, rows, row_logits in zip(pictures, boxes, logits[..., 0]):
            scores = 1 / (1 + np.exp(-row_logits.astype(np.float64).clip(-100, 100)))
            chosen = np.flatnonzero((scores >= least) & (rows[:, 2:4] > 0).all(1))  # a box has a size
            out.append(_in_px(_averaged(_decoded(rows[chosen], _ANCHORS[chosen]), scores[chosen], same), picture.shape))
        return out

    def _run(
        self, network: TfliteNetwork, items: Sequence[np.ndarray], scale: float = 1.0, offset: float = 0.0
    ) -> list[np.ndarray]:
        """The outputs of a network, each (N, ...), for `items * scale + offset`."""
        parts: list[list[np.ndarray]] = []
        for k in range(0, len(items), BATCH):
            batch = torch.from_numpy(np.stack(items[k : k + BATCH])).to(self._device).float() * scale + offset
            # with TF32, which convolutions are allowed otherwise, numbers have 10 bits
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                parts.append([output.cpu().numpy() for output in network(batch)])
        return [np.concatenate(outputs) for outputs in zip(*parts)]


def _anchors() -> np.ndarray:
    """(896, 2) float32 x and y in [0, 1]: centres of the cells that BlazeFace's boxes are relative to."""
    out = []
    for cells, boxes in ((16, 2), (8, 6)):  # per side, and of each cell
        y, x = np.mgrid[:cells, :cells]
        out.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, axis=0) + 0.5)
        out[-1] /= cells
    return np.concatenate(out).astype(np.float32)


_ANCHORS = _anchors()


def _letterbox(shape: tuple[int, ...]) -> tuple[float, np.ndarray]:
    """The side of the square around a picture, and the place (2,) of its corner; px."""
    height, width = shape[:2]
    side = float(max(height, width))
    return side, np.array([width - side, height - side]) / 2


def _boxed(picture: np.ndarray) -> np.ndarray:
    """(128, 128, 3) uint8: the picture in the middle of a black square."""
    side, corner = _letterbox(picture.shape)
    return _cut(picture, np.eye(2) * side / DETECTOR_PX, corner, DETECTOR_PX, cv2.BORDER_CONSTANT)


def _mesh_cut(picture: np.ndarray, square: _Square) -> np.ndarray:
    """(256, 256, 3) uint8."""
    axes = square.turn * square.size  # columns: the rectangle's sides in the picture
    return _cut(picture, axes / MESH_PX, square.centre - axes.sum(1) / 2, MESH_PX, cv2.BORDER_REPLICATE)


def _cut(picture: np.ndarray, steps: np.ndarray, corner: np.ndarray, px: int, border: int) -> np.ndarray:
    """(px, px, 3) uint8: pixel (x, y) shows the picture at `corner + steps @ (x, y)`.

    To the bit as the OpenCV 4 in MediaPipe, which samples at 32nds of a pixel and goes by blocks of 64; the exact
    sampling of OpenCV 5 moves landmarks by 0.1 px, and ties that are broken the other way by up to 0.2.
    """
    ends = np.array([[0, px], [0, 0], [px, 0], [px, px]], np.float32)
    there = cv2.getPerspectiveTransform((corner + ends @ steps.T).astype(np.float32), ends)
    back = cv2.invert(there)[1]
    x, blocks, y = np.arange(64), np.arange(0, px, 64)[:, None], np.arange(px)[:, None, None]
    first = [row[0] * blocks + row[1] * y + row[2] for row in back]  # (px, px / 64, 1)
    scale = 32 / (first[2] + back[2, 0] * x)
    whole, parts = np.empty((px, px, 2), np.int16), []
    for axis in (0, 1):
        place = np.rint((first[axis] + back[axis, 0] * x) * scale).astype(np.int32).reshape(px, px)
        whole[..., axis] = (place >> 5).clip(-(2**15), 2**15 - 1)
        parts.append(place & 31)
    return np.asarray(
        cv2.remap(picture, whole, (parts[1] << 5 | parts[0]).astype(np.uint16), cv2.INTER_LINEAR, None, border)
    )


def _decoded(rows: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(N, 16) float32, in [0, 1] of the square: a box's two corners, and six points, of which the eyes are the first.

    Rows hold centre and size of the box and the points, as x and y in px of the square from an anchor (N, 2).
    """
    pairs = rows.reshape(-1, 8, 2) / DETECTOR_PX
    pairs[:, [0, 2, 3, 4, 5, 6, 7]] += anchors[:, None]
    centre, size = pairs[:, 0].copy(), pairs[:, 1].copy()
    pairs[:, 0], pairs[:, 1] = centre - size / 2, centre + size / 2
    return pairs.reshape(-1, 16)


def _averaged(rows: np.ndarray, scores: np.ndarray, same: float) -> list[tuple[np.ndarray, float]]:
    """Weighted non-maximum suppression: the surest of each group and the group's mean, weighted by the scores."""
    order = np.argsort(-scores, kind="stable")
    out = []
    while len(order):
        is_near = iou(rows[order[0], :4], rows[order, :4]) > same
        is_near[0] = True
        group, weights = order[is_near], scores[order[is_near]]
        out.append(((rows[group] * weights[:, None]).sum(0) / weights.sum(), float(scores[order[0]])))
        order = order[~is_near]
    return out


def _in_px(found: list[tuple[np.ndarray, float]], shape: tuple[int, ...]) -> list[_Glimpse]:
    side, corner = _letterbox(shape)
    placed = [(row.reshape(8, 2) * side + corner, score) for row, score in found]
    return [_Glimpse(score, pairs[:2].ravel().astype(np.float32), pairs[2:4]) for pairs, score in placed]


def _whole(box: np.ndarray) -> np.ndarray:
    """A box (4,) with a corner and a size in whole px, rounded down as MediaPipe does."""
    first = np.trunc(box[:2])
    return np.concatenate([first, first + np.trunc(box[2:] - box[:2])])


def _square(glimpse: _Glimpse) -> _Square:
    """The rectangle of the mesh network, whose x axis lies along the eyes."""
    x, y = glimpse.eyes[1] - glimpse.eyes[0]
    angle = np.arctan2(y, x)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    first, last = glimpse.box[:2].astype(np.float64), glimpse.box[2:].astype(np.float64)
    return _Square((first + last) / 2, (last - first) * MARGIN, turn)


def _placed(points: np.ndarray, square: _Square, shape: tuple[int, ...]) -> np.ndarray:
    """(478, 3) float32 in shares of the picture's width, height, width, of landmarks in px of the mesh's square.

    The scale of z is that of the square's x axis, which MediaPipe measures in shares of width and height: a few per
    cent off for a turned face in a picture that is not square.
    """
    size = shape[1::-1]
    shares = points.astype(np.float64) / MESH_PX
    flat = ((shares[:, :2] - 0.5) * square.size @ square.turn.T + square.centre) / size
    depth = shares[:, 2:] * np.linalg.norm(square.turn[:, 0] * square.size[0] / size)
    return np.concatenate([flat, depth], axis=1).astype(np.float32)
