"""Fakes of detector, identity, reconstructor, mask and quality: the whole job in seconds, without a model.

People are coloured discs on grey. `video` and `picture` draw them, `FakeDetector` finds them by their colour,
`FakeIdentity` recognises them by their hue, `FakeReconstructor` derives coefficients from the crop. Everything is a
pure function of the pixels, so that runs can be compared row by row. The preset `debug` uses these.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import av
import cv2
import numpy as np

from rigface.face.reconstruction.protocol import Fit
from rigface.face.steps import AlignedFaces
from rigface.types import CROP_PX, DLIB_WIDTH, Detection, DetectorSpec, FaceParams, HeadSpec, Quality

GREY = 60
COLOURED = 70  # a pixel whose strongest and weakest channel differ by more belongs to a disc

DETECTOR = DetectorSpec(
    "fake", "1", landmarks=478, blendshape_names=("bright", "red", "blue"), identity="fake", parser="fake"
)
HEAD = HeadSpec("fake", "1", shape=2, expression=3, albedo=2, expression_names=("bright", "red", "blue"))


def _points() -> np.ndarray:
    """(478, 2) landmarks in the unit box: MediaPipe's named ones at their place on a face, the rest spread evenly."""
    turn = np.arange(478) * (3 - 5**0.5) * np.pi
    reach = 0.49 * np.sqrt((np.arange(478) + 0.5) / 478)
    points = 0.5 + np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1)
    named = {263: (0.8, 0.4), 362: (0.6, 0.4), 33: (0.2, 0.4), 133: (0.4, 0.4), 2: (0.5, 0.6), 1: (0.5, 0.55)}
    for index, place in (named | {234: (0.02, 0.5), 454: (0.98, 0.5)}).items():
        points[index] = place
    return points.astype(np.float32)


def picture(
    people: Sequence[float], size: tuple[int, int] = (96, 128), at: float = 0.0, seed: int = 0, radius: int = 14
) -> np.ndarray:
    """People (a hue in [0, 1] each) as discs at `at` in [0, 1] of their path, that of `seed`: (H, W, 3) uint8."""
    height, width = size
    image = np.full((height, width, 3), GREY, np.uint8)
    rows, columns = np.mgrid[:height, :width] + 0.5
    random = np.random.default_rng(seed)
    for i, hue in enumerate(people):
        phase, sway = random.uniform(0, 2 * np.pi), 0.25 * width / len(people)
        x = width * (i + 0.5) / len(people) + (sway - radius / 2) * np.sin(2 * np.pi * at + phase)
        y = height / 2 + 0.1 * height * np.cos(2 * np.pi * at + phase)
        image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = np.multiply(colorsys.hsv_to_rgb(hue, 0.9, 0.8), 255)
    return image


def video(
    path: str | Path,
    people: Sequence[float] = (0.0,),
    frames: int = 24,
    fps: int = 12,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    """Write an MP4 of `picture`s; the same arguments give the same pixels."""
    path = Path(path)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, stream.bit_rate = *size, 2_000_000
        stream.codec_context.gop_size = 12
        stream.thread_count = 1
        for i in range(frames):
            image = picture(people, size, i / max(frames - 1, 1), seed)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


class FakeDetector:
    """Finds the discs. Implements `rigface.face.detection.detector.Detector`."""

    spec = DETECTOR

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        """One detection per disc, from left to right."""
        mask = (_spread(image) > COLOURED).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        detections = []
        for i in range(1, count):
            x, y, width, height, area = stats[i]
            if area < 40:
                continue
            colour = image[labels == i].mean(0) / 255
            box = np.array([x, y, x + width, y + height], np.float32)
            flat = box[:2] + _points() * (box[2:] - box[:2])
            shapes = np.array([colour.mean(), colour[0], colour[2]], np.float32)
            landmarks = np.concatenate([flat, np.zeros((len(flat), 1), np.float32)], axis=1)
            detections.append(Detection(box, landmarks, score=float(area / (width * height)), blendshapes=shapes))
        return sorted(detections, key=lambda d: float(d.box[0]))


class FakeIdentity:
    """Embeds the hue: near hues have near vectors. Replaces `rigface.face.identity.dlib_embedding.DlibIdentity`."""

    version, width = "fake", DLIB_WIDTH

    def chip(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        from rigface.face.identity.dlib_embedding import face_chip

        return face_chip(image, landmarks)

    def embed(self, chips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, 128) float32."""
        vectors = np.zeros((len(chips), DLIB_WIDTH), np.float32)
        for vector, chip in zip(vectors, chips):
            turn = 2 * np.pi * colorsys.rgb_to_hsv(*_skin(chip))[0]
            vector[:2] = 4 * np.cos(turn), 4 * np.sin(turn)  # longer than the mean face in all of dlib's vectors
        return vectors


class FakeReconstructor:
    """Derives coefficients from the colours. Implements `rigface.face.reconstruction.reconstructor.Reconstructor`."""

    head_spec, version = HEAD, ""

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        """Shape and albedo are the mean of the track, the rest is the frame's own."""
        skins = np.array([_skin(crop) for crop in crops], np.float32).reshape(-1, 3)
        shared = np.stack([skins[tracks == track].mean(0) for track in tracks]) if len(skins) else skins
        count = len(skins)
        middle = landmarks[:, :, :2].mean(1) / (CROP_PX / 2) - 1
        params = FaceParams(
            shape=shared[:, :2].astype(np.float32),
            expression=np.zeros((count, 3), np.float32) if blendshapes is None else np.asarray(blendshapes, np.float32),
            head_rotation=np.concatenate([middle, np.zeros((count, 1))], axis=1).astype(np.float32),
            jaw_rotation=np.zeros((count, 3), np.float32),
            camera=np.tile(np.array([5, 0, 0], np.float32), (count, 1)),
            albedo=shared[:, 1:].astype(np.float32),
            light=np.tile(np.eye(9, 3, dtype=np.float32), (count, 1, 1)),
        )
        zero = np.zeros(count, np.float32)
        return Fit(params, landmark_residual=zero, photometric_residual=zero, occlusion=zero)


def fake_mask(
    crop: np.ndarray,
    landmarks: np.ndarray | None = None,
    inside: tuple[float, float, float, float] | None = None,
    size: int | None = None,
) -> np.ndarray:
    """(size, size) uint8, 255 where the crop is coloured. Replaces `face.reconstruction.segmentation.person_mask`."""
    mask = np.where(_spread(crop) > COLOURED, 255, 0).astype(np.uint8)
    times = (size or CROP_PX) // len(crop)
    return mask.repeat(times, 0).repeat(times, 1)


def fake_quality(
    faces: AlignedFaces, i: int, mask: np.ndarray | None, rotation_deg: np.ndarray, residuals: np.ndarray
) -> Quality:
    """Quality from box and score. Replaces `rigface.face.steps.assess`."""
    box, score = faces.boxes[i], float(faces.scores[i])
    size = float(max(box[2] - box[0], box[3] - box[1]))
    flags = {f.name: size < 48 if f.name == "is_tiny" else False for f in fields(Quality) if f.name.startswith("is_")}
    zeros = dict.fromkeys((f.name for f in fields(Quality) if not f.name.startswith("is_")), 0.0)
    known = {"confidence": score, "landmark_confidence": score, "face_size_px": size, "sharpness": 1.0, "exposure": 0.5}
    return Quality(**{**zeros, **known, **flags})  # type: ignore[arg-type]  # flags are bool, numbers float


def _spread(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the strongest less the weakest channel."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]  # ten times as fast as np.ptp over the last axis
    result: np.ndarray = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return result


def _skin(image: np.ndarray) -> tuple[float, float, float]:
    """Mean colour of the disc, each in [0, 1]."""
    image = image[::4, ::4]
    coloured = image[_spread(image) > COLOURED]
    red, green, blue = (coloured.mean(0) if len(coloured) else np.full(3, GREY)) / 255
    return float(red), float(green), float(blue)
