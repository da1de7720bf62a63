"""Analysed images by content hash, with the consent check of their faces.

Requests name images by hash and may come without bytes, which saves megabytes at each move of a slider. If an image
is not cached any more, `unknown-picture` is raised and the caller sends the bytes.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rigface.face.analyzer import FaceAnalyzer, choose_faces
from rigface.profile import OWN, FaceProfile
from rigface.types import Face
from rigface.video.sandbox import DecoderPool
from serve.content_cache import LruCache
from serve.limits import MAX_PIXELS
from serve.messages import EditInput
from serve.problems import ApiError
from serve.security.consent import TAKES_IDENTITY, Policy
from serve.telemetry import tracing


@dataclass(frozen=True, eq=False)
class FaceAnalysis:
    """An image and its faces."""

    image: np.ndarray  # (H, W, 3) uint8
    faces: list[Face]
    data: bytes = b""  # the file, which results name as their source; empty if the image was resized

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) + self.image.nbytes + sum(f.crop.nbytes + f.mask.nbytes for f in self.faces)


class FaceCache:
    """Analyses of images, whole and resized, and identity vectors of their faces. Safe for threads.

    Args:
        analyzer_of: the analyzer of a profile.
    """

    def __init__(self, analyzer_of: Callable[[FaceProfile], FaceAnalyzer], policy: Policy, cache_mb: int) -> None:
        self._analyzer_of, self._policy, self.decoders = analyzer_of, policy, DecoderPool()
        self._analyses = LruCache(cache_mb * 2**20, lambda analysis: analysis.size, "analyses")
        self._resized = LruCache(cache_mb * 2**18, lambda analysis: analysis.size, "resized")
        self._vectors = LruCache(10_000, lambda vector: 1, "identity-vectors")
        self._locks = [threading.Lock() for _ in range(16)]  # by image, so that concurrent requests analyse it once

    def analyze(self, edit_input: EditInput, name: str, profile: FaceProfile = OWN) -> FaceAnalysis:
        """The faces of an image of the input, analysed with a profile; ApiError `unknown-picture` if it is not cached
        and has no bytes here.
        """
        key = name, profile
        analysis = self._analyses.get(key)
        if analysis is None:
            data = edit_input.pictures.get(name)
            if data is None:
                raise ApiError("unknown-picture", more={"picture": name})
            with self._locks[hash(key) % len(self._locks)], tracing.span("face_worker.analyze"):
                analysis = self._analyses.get(key)
                if analysis is None:
                    image = self.decoders.picture(data, MAX_PIXELS)
                    analysis = FaceAnalysis(image, self._analyzer_of(profile)(image), data)
                    self._analyses.put(key, analysis)
        return analysis

    def resized(self, edit_input: EditInput) -> FaceAnalysis:
        """The source, analysed at its own size, reduced to `max_side`."""
        analysis = self.analyze(edit_input, edit_input.picture)
        height, width = analysis.image.shape[:2]
        if max(height, width) <= edit_input.max_side:
            return analysis
        key = edit_input.picture, edit_input.max_side
        resized = self._resized.get(key)
        if resized is None:
            scale = edit_input.max_side / max(height, width)
            size = max(1, round(width * scale)), max(1, round(height * scale))
            image = cv2.resize(analysis.image, size, interpolation=cv2.INTER_AREA)
            shrink = np.array([1 / scale, 1 / scale, 1], np.float32)
            faces = [replace(f, frame_to_crop=f.frame_to_crop * shrink, box=f.box * scale) for f in analysis.faces]
            resized = FaceAnalysis(image, faces)
            self._resized.put(key, resized)
        return resized

    def check_consent(self, edit_input: EditInput, profile: FaceProfile = OWN) -> None:
        """Refuse an edit of a face, or by a taken identity, that the policy forbids: `refused`, `no-consent`. Faces
        are those that the edit's own profile finds.
        """
        if not self._policy.is_active:
            return
        asked: set[tuple[str, str | int]] = {(edit_input.picture, one.face) for one in edit_input.edits}
        for one in edit_input.edits:
            asked |= {(picture, "largest") for trait, picture in one.targets.items() if trait in TAKES_IDENTITY}
        for name, which in sorted(asked, key=str):
            analysis = self.analyze(edit_input, name, profile)
            self._policy.check([self._vector(name, analysis, face) for face in choose_faces(analysis.faces, which)])

    def _vector(self, name: str, analysis: FaceAnalysis, face: Face) -> np.ndarray | None:
        key = name, face.box.tobytes()
        cached = self._vectors.get(key)
        if cached is None:
            cached = (self._policy.vector(analysis.image, face),)
            self._vectors.put(key, cached)
        return cached[0]
