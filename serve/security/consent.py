"""Consent and deny lists: check the identity of faces before they are edited.

Path: the faces of an image, or those of a video frame by frame -> identity vectors -> `Policy.check` -> nothing, or
`no-consent` or `refused`. Checked are the source, and a target whose identity or shape is taken.

A list is a file of JSON lines, one person each: a name and a few identity vectors, never an image (`rigface serve
enroll`). It is read again when it changes. Vectors are biometric data, so only the file's owner can read it.

Two images show the same person if dlib's vectors are nearer than 0.6, which is also true of 0.8 % of pairs of strangers
(`rigface/face/identity/dlib_embedding.py`): the consent list prevents mistakes, and does not replace asking. A face
that cannot be recognised is refused with either list.
"""

from __future__ import annotations

import datetime
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serve.problems import ApiError

if TYPE_CHECKING:
    from rigface.types import Face, Frame

MAX_DISTANCE = 0.6
CHECK_EVERY_S, MAX_VECTORS = 1.0, 8  # of each track of a video
MIN_VECTORS = 5  # of a track before it can be refused for want of consent; at the end of the video one is enough
TAKES_IDENTITY = ("identity", "shape")

EmbedFace = Callable[[np.ndarray, "Face"], np.ndarray | None]
"""An image and one of its faces -> identity vector; None if it cannot be recognised."""


@dataclass(frozen=True, eq=False)
class Person:
    """An entry of a list; `vectors` is (N, 128)."""

    name: str
    vectors: np.ndarray


class DlibEmbedding:
    """Identity vectors by dlib's network, loaded at the first face; serialized among threads."""

    def __init__(self) -> None:
        self._network: Any = None
        self._lock = threading.Lock()

    def __call__(self, image: np.ndarray, face: Face) -> np.ndarray | None:
        """As `EmbedFace`."""
        from rigface.face.geometry import alignment
        from rigface.face.identity.dlib_embedding import face_chip

        points = alignment.apply(alignment.invert(face.frame_to_crop), face.landmarks[:, :2])
        chip = face_chip(image, points)
        if chip is None:
            return None
        with self._lock:
            if self._network is None:
                from rigface.face.identity.dlib_embedding import DlibIdentity

                self._network = DlibIdentity()
            return self._network.embed([chip])[0]


class Policy:
    """The lists of a service.

    Args:
        consent: people who may be edited; empty allows all. deny: people who may not.
        embed: makes identity vectors; None: dlib's network.
        max_distance: between two vectors of the same person.

    Raises:
        FileNotFoundError, ValueError: a list is missing or invalid.
    """

    def __init__(
        self, consent: str = "", deny: str = "", embed: EmbedFace | None = None, max_distance: float = MAX_DISTANCE
    ) -> None:
        self._consent, self._deny = (_PersonList(Path(path)) if path else None for path in (consent, deny))
        self._embed, self._max_distance = embed or DlibEmbedding(), max_distance

    @property
    def is_active(self) -> bool:
        """True if there is a list to check."""
        return self._consent is not None or self._deny is not None

    def vector(self, image: np.ndarray, face: Face) -> np.ndarray | None:
        """The identity vector of a face."""
        return self._embed(image, face)

    def check(self, vectors: Sequence[np.ndarray | None]) -> None:
        """Refuse identity vectors that may not be edited.

        Raises:
            ApiError: `refused`, `no-consent`.
        """
        for vector in vectors:
            self.check_denied(vector)
        consent, limit = self._consent, self._max_distance
        if consent is not None and any(consent.distance(vector) >= limit for vector in vectors):
            raise ApiError("no-consent", "no enrolled person matches a face in this image")

    def check_denied(self, vector: np.ndarray | None) -> None:
        """Refuse an unrecognised face, and one on the deny list.

        Raises:
            ApiError: `refused`.
        """
        if self.is_active and vector is None:
            raise ApiError("refused", "a face cannot be recognised; this service edits recognised faces only")
        if self._deny is not None and self._deny.distance(vector) < self._max_distance:
            raise ApiError("refused", "a face in this image is on the deny list")

    def check_faces(self, image: np.ndarray, faces: Sequence[Face]) -> None:
        """`check` of the faces of an image."""
        if self.is_active:
            self.check([self.vector(image, face) for face in faces])

    def monitor(self) -> ConsentMonitor | None:
        """A monitor for one video; None if there is no list to check."""
        return ConsentMonitor(self) if self.is_active else None


class ConsentMonitor:
    """Checks the faces of one video: each vector against the deny list, the mean vector of each track against both."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._vectors: dict[int, list[np.ndarray]] = {}
        self._checked_at: dict[int, float] = {}

    def __call__(self, frame: Frame, faces: list[tuple[int, Face]]) -> None:
        """A `rigface.video_editor.FaceMonitor`.

        Raises:
            ApiError: as soon as it is certain that the video may not be edited.
        """
        for track, face in faces:
            vectors = self._vectors.setdefault(track, [])
            since = frame.time_s - self._checked_at.get(track, -CHECK_EVERY_S)
            if len(vectors) >= MAX_VECTORS or since < CHECK_EVERY_S:
                continue
            self._checked_at[track] = frame.time_s
            vector = self._policy.vector(frame.image, face)
            if vector is None:
                continue  # for now; `end` refuses a track that was never recognised
            self._policy.check_denied(vector)
            vectors.append(vector)
            if len(vectors) >= MIN_VECTORS:
                self._policy.check([np.mean(vectors, axis=0)])

    def end(self) -> None:
        """Check all tracks at the end of the video.

        Raises:
            ApiError: it may not be edited.
        """
        for vectors in self._vectors.values():
            self._policy.check([np.mean(vectors, axis=0) if vectors else None])


class _PersonList:
    def __init__(self, path: Path) -> None:
        self._path, self._read_at = path, -1
        self._vectors = np.zeros((0, 0))
        self.distance(None)  # reads the file

    def distance(self, vector: np.ndarray | None) -> float:
        """Distance to the nearest vector of the list; infinite without one."""
        changed = self._path.stat().st_mtime_ns
        if changed != self._read_at:
            people = read(self._path)
            self._vectors = np.concatenate([p.vectors for p in people]) if people else np.zeros((0, 0))
            self._read_at = changed
        if vector is None or not len(self._vectors):
            return float("inf")
        return float(np.linalg.norm(self._vectors - np.asarray(vector, np.float64), axis=1).min())


def read(path: Path) -> list[Person]:
    """The people on a list.

    Raises:
        ValueError: a line is invalid; the message names it.
    """
    out = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            vectors = np.asarray(row["vectors"], np.float64)
            good = vectors.ndim == 2 and len(vectors) > 0 and bool(np.isfinite(vectors).all())
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise ValueError(
                f"{path}: line {number}: want a person's name and vectors; make them by `rigface serve enroll`"
            )
        out.append(Person(str(row["name"]), vectors))
    return out


def enroll(path: Path, name: str, vectors: Sequence[np.ndarray]) -> None:
    """Add a person to a list, or vectors to a person on it."""
    old = read(path) if path.exists() else []
    own = [v for p in old if p.name == name for v in p.vectors]
    _write(path, [*(p for p in old if p.name != name), Person(name, np.array([*own, *vectors], np.float64))])


def remove(path: Path, name: str) -> bool:
    """Remove a person from a list; False if the name is not on it."""
    old = read(path)
    _write(path, [p for p in old if p.name != name])
    return any(p.name == name for p in old)


def _write(path: Path, people: Sequence[Person]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    temporary = path.with_name(path.name + ".new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as out:
        for person in people:
            vectors = [[round(float(v), 6) for v in row] for row in person.vectors]
            out.write(json.dumps({"name": person.name, "written": now, "vectors": vectors}) + "\n")
    temporary.replace(path)
