"""Faces that MediaPipe's landmarker finds, as arrays.

Path: FaceLandmarker, mediapipe.Image -> `detect` -> MediapipeDetector.

MediaPipe's own `detect` makes a Python object of every point and score, 1.4 ms of the 11 ms of a face. Here the arrays
are read where its library put them. That is not its public interface: if a version of MediaPipe has it not, `detect`
reads the objects.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class FoundFace(NamedTuple):
    """One face."""

    points: np.ndarray  # (478, 3) float32 x, y, z in shares of the picture's width, height, width
    scores: np.ndarray  # (52,) float32
    matrix: np.ndarray  # (4, 4) float32


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
                np.asarray(found.facial_transformation_matrixes[i].to_numpy(), np.float32),
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
            np.asarray(matrix, np.float32),
        )
        for points, scores, matrix in zip(
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
