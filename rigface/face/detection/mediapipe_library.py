"""MediaPipe's own library: its landmarker and its face detector, on the CPU, one picture after another.

Path: pictures -> MediapipeLibrary -> FoundFace, boxes and scores -> MediapipeDetector. `torch_landmarker.py` gives the
same from torch.

MediaPipe's own `detect` makes a Python object of every point and score, 1.4 ms of the 11 ms of a face. Here the arrays
are read where its library put them. That is not its public interface: if a version of MediaPipe has it not, `detect`
reads the objects.

It works on one core: the graph's threads wait for each other, so two detectors in two processes fill two cores.
"""

import _thread
import ctypes
import os
import re
import sys
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

_STDERR = threading.RLock()  # of the one thread that may replace it
_NOISE = re.compile(
    r"^(WARNING: (Logging before|All log messages before)|INFO: (Created TensorFlow Lite|\[\w+\.cc:)"
    r"|[IW]\d{4} \d\d:\d\d:)"
)


class FoundFace(NamedTuple):
    """One face."""

    points: np.ndarray  # (478, 3) float32 x, y, z in shares of the picture's width, height, width
    scores: np.ndarray  # (52,) float32
    matrix: np.ndarray | None  # (4, 4) float32; None if it was not computed


class MediapipeLibrary:
    """The landmarker of a bundle, and its face detector by itself. Not for use by several threads at once.

    Args:
        bundle: `face_landmarker.task`.
        faces: at most this many per picture.
        min_glimpse: least score of `glimpses`.
        matrices: compute them, too, in 3 % of a face's time.
    """

    def __init__(self, bundle: Path, *, faces: int, min_glimpse: float, matrices: bool = True) -> None:
        self._glimpsed, self._has_met_face = 0, False
        with _quiet(), without_plots():
            from mediapipe.tasks.python import BaseOptions, vision

            self.landmarker: Any = vision.FaceLandmarker.create_from_options(
                vision.FaceLandmarkerOptions(
                    base_options=BaseOptions(model_asset_path=str(bundle)),
                    num_faces=faces,
                    output_face_blendshapes=True,
                    output_facial_transformation_matrixes=matrices,
                )
            )
            with zipfile.ZipFile(bundle) as members:
                blaze = members.read("face_detector.tflite")
            self._blaze: Any = vision.FaceDetector.create_from_options(
                vision.FaceDetectorOptions(
                    base_options=BaseOptions(model_asset_buffer=blaze), min_detection_confidence=min_glimpse
                )
            )
            # the graph finishes its set-up, and its chatter, here
            self.glimpses([np.zeros((128, 128, 3), np.uint8)])
        weakref.finalize(self, _close, self.landmarker, self._blaze)

    def faces(self, pictures: Sequence[np.ndarray]) -> list[list[FoundFace]]:
        """The faces of each picture, (H, W, 3) uint8 RGB, in the order of BlazeFace's scores."""
        return [self._faces_of(picture) for picture in pictures]

    def _faces_of(self, picture: np.ndarray) -> list[FoundFace]:
        with nullcontext() if self._has_met_face else _quiet():  # its last networks are set up with the first face
            found = detect(self.landmarker, mediapipe_image(picture))
        self._has_met_face = self._has_met_face or bool(found)
        return found

    def glimpses(self, pictures: Sequence[np.ndarray]) -> list[list[tuple[np.ndarray, float]]]:
        """BlazeFace's boxes (4,) float32, in px of each picture, and their scores."""
        return [self._glimpses_of(picture) for picture in pictures]

    def _glimpses_of(self, picture: np.ndarray) -> list[tuple[np.ndarray, float]]:
        # It complains about the alignment of its buffers by chance: on the empty image, or on the first.
        with nullcontext() if self._glimpsed > 1 else _quiet():
            detections = self._blaze.detect(mediapipe_image(picture)).detections
        self._glimpsed += 1
        out = []
        for detection in detections:
            b = detection.bounding_box
            box = np.array([b.origin_x, b.origin_y, b.origin_x + b.width, b.origin_y + b.height], np.float32)
            out.append((box, float(detection.categories[0].score)))
        return out


def detect(landmarker: Any, image: Any) -> list[FoundFace]:
    """The faces of one image."""
    try:
        from mediapipe.tasks.python.vision.face_landmarker import MpFaceLandmarkerResultC as Result

        library: Any = landmarker._lib
        look: Callable[..., Any] = library.MpFaceLandmarkerDetectImage
        close: Callable[..., Any] = library.MpFaceLandmarkerCloseResult
        handle, pointer = landmarker._handle, image._image_ptr
    except (ImportError, AttributeError):
        return of_objects(landmarker.detect(image))
    found = Result()
    look(handle, pointer, None, ctypes.byref(found))
    try:
        return [
            FoundFace(
                _fields(found.face_landmarks[i].landmarks, found.face_landmarks[i].landmarks_count, "x", "y", "z"),
                _fields(found.face_blendshapes[i].categories, found.face_blendshapes[i].categories_count, "score")[
                    :, 0
                ],
                np.asarray(found.facial_transformation_matrixes[i].to_numpy(), np.float32)
                if found.facial_transformation_matrixes_count
                else None,
            )
            for i in range(found.face_landmarks_count)
        ]
    finally:
        close(ctypes.byref(found))


def of_objects(result: Any) -> list[FoundFace]:
    """The faces of a result of `FaceLandmarker.detect`."""
    return [
        FoundFace(
            np.array([(p.x, p.y, p.z) for p in points], np.float32),
            np.array([s.score for s in scores], np.float32),
            None if matrix is None else np.asarray(matrix, np.float32),
        )
        for points, scores, matrix in zip_longest(
            result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes
        )
    ]


def _fields(pointer: Any, count: int, *names: str) -> np.ndarray:
    """(count, len(names)) float32: these fields, all C floats, of an array of C structures, copied."""
    kind = pointer._type_
    words = np.ctypeslib.as_array(
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (count, ctypes.sizeof(kind) // 4)
    )
    return words[:, [getattr(kind, name).offset // 4 for name in names]]


def mediapipe_image(image: np.ndarray) -> Any:
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
def without_plots() -> Iterator[None]:
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
