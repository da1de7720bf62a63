"""Whose face may be edited: those who have enrolled, where consent is asked for, and nobody on the list of the refused.

Path: a picture's faces, or those of a clip as they pass -> identity vectors -> `Policy.check` -> nothing, or `no-consent` or
`refused`. Asked before anything is made: of the source, and of a target whose identity or shape is taken.

A list is a file of JSON lines, one person each: a name and a few identity vectors, never a picture (`rigface serve enroll`). It is
read again when it changes. Vectors are biometric data: the file is for its owner's eyes only.

Two pictures are one person where dlib's vectors are nearer than 0.6, which is also true of 0.8 % of pairs of strangers
(`rigface/face/identity/dlib_embedding.py`): consent by this list keeps honest people from mistakes, and does not replace asking. A face that
cannot be recognised is not let through by either list.
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

NEAR = 0.6
LOOK_S, LOOKS = 1.0, 8  # a face of a clip is looked at so often, and so many times
DECIDED = 5  # looks after which a face that nobody enrolled is refused before the clip has ended
TAKES_IDENTITY = ("identity", "shape")

Who = Callable[[np.ndarray, Any], np.ndarray | None]
"""A picture and one of its faces to an identity vector; None where it cannot be recognised."""


@dataclass(frozen=True, eq=False)
class Person:
    """One line of a list. `vectors` is (N, 128)."""

    name: str
    vectors: np.ndarray


class Dlib:
    """Identity vectors by dlib's network, loaded at the first face; one at a time."""

    def __init__(self) -> None:
        self._network: Any = None
        self._lock = threading.Lock()

    def __call__(self, image: np.ndarray, face: Face) -> np.ndarray | None:
        """As `Who`."""
        from rigface.face.geometry import alignment
        from rigface.face.identity.dlib_embedding import face_chip

        points = alignment.apply(alignment.invert(face.frame_to_crop), face.landmarks[:, :2])
        one = face_chip(image, points)
        if one is None:
            return None
        with self._lock:
            if self._network is None:
                from rigface.face.identity.dlib_embedding import DlibIdentity

                self._network = DlibIdentity()
            return self._network.embed([one])[0]


class Policy:
    """The lists of a service.

    Args:
        consent: whoever is not on it is not edited; empty asks for no consent. deny: whoever is on it is refused.
        who: recognises.
        near: distance below which two vectors are one person's.

    Raises:
        FileNotFoundError, ValueError: a list is not there, or is none.
    """

    def __init__(self, consent: str = "", deny: str = "", who: Who | None = None, near: float = NEAR) -> None:
        self._consent, self._deny = (_List(Path(path)) if path else None for path in (consent, deny))
        self._who, self._near = who or Dlib(), near

    @property
    def is_active(self) -> bool:
        """Whether there is anything to check."""
        return self._consent is not None or self._deny is not None

    def vector(self, image: np.ndarray, face: Face) -> np.ndarray | None:
        """Whose face it is, as numbers."""
        return self._who(image, face)

    def check(self, vectors: Sequence[np.ndarray | None]) -> None:
        """Refuse where one of these may not be edited.

        Raises:
            Trouble: `refused`, `no-consent`.
        """
        for one in vectors:
            self.check_denied(one)
        if self._consent is not None and any(self._consent.nearest(one) >= self._near for one in vectors):
            raise ApiError("no-consent", "a face of this picture is nobody's who is enrolled")

    def check_denied(self, one: np.ndarray | None) -> None:
        """The first half of `check`."""
        if self.is_active and one is None:
            raise ApiError("refused", "a face cannot be recognised, and this service edits only those it can")
        if self._deny is not None and self._deny.nearest(one) < self._near:
            raise ApiError("refused", "a face of this picture is on the list of those that are not edited")

    def check_faces(self, image: np.ndarray, faces: Sequence[Face]) -> None:
        """`check` of a picture's faces."""
        if self.is_active:
            self.check([self.vector(image, face) for face in faces])

    def watch(self) -> ConsentMonitor | None:
        """What looks at the faces of a clip as they pass; None where there is nothing to check."""
        return ConsentMonitor(self) if self.is_active else None


class ConsentMonitor:
    """The faces of one clip. What a list says of a track is said of the mean of its looks; of the refused, of each look."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._seen: dict[int, list[np.ndarray]] = {}
        self._last: dict[int, float] = {}

    def __call__(self, frame: Frame, seen: list[tuple[int, Face]]) -> None:
        """As `rigface.video_editor.Met`.

        Raises:
            Trouble: as soon as it is certain that the clip may not be made.
        """
        for track, face in seen:
            looks = self._seen.setdefault(track, [])
            if len(looks) >= LOOKS or frame.time_s - self._last.get(track, -LOOK_S) < LOOK_S:
                continue
            self._last[track] = frame.time_s
            one = self._policy.vector(frame.image, face)
            if one is None:
                continue  # for a moment; `end` refuses a track that never could be recognised
            self._policy.check_denied(one)
            looks.append(one)
            if len(looks) >= DECIDED:
                self._policy.check([np.mean(looks, axis=0)])

    def end(self) -> None:
        """The whole clip has passed.

        Raises:
            Trouble: it may not be made.
        """
        for looks in self._seen.values():
            self._policy.check([np.mean(looks, axis=0) if looks else None])


class _List:
    def __init__(self, path: Path) -> None:
        self._path, self._read_at = path, -1
        self._vectors = np.zeros((0, 0))
        self.nearest(None)

    def nearest(self, one: np.ndarray | None) -> float:
        """Distance to the nearest of all vectors; infinite where there is none."""
        changed = self._path.stat().st_mtime_ns
        if changed != self._read_at:
            people = read(self._path)
            self._vectors = np.concatenate([p.vectors for p in people]) if people else np.zeros((0, 0))
            self._read_at = changed
        if one is None or not len(self._vectors):
            return float("inf")
        return float(np.linalg.norm(self._vectors - np.asarray(one, np.float64), axis=1).min())


def read(path: Path) -> list[Person]:
    """Everybody on a list.

    Raises:
        ValueError: it is none; the message names the line.
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
    """Put a person on a list; more vectors of one who is there are added to theirs."""
    old = read(path) if path.exists() else []
    own = [v for p in old if p.name == name for v in p.vectors]
    _write(path, [*(p for p in old if p.name != name), Person(name, np.array([*own, *vectors], np.float64))])


def remove(path: Path, name: str) -> bool:
    """Take a person off a list; whether there was one."""
    old = read(path)
    _write(path, [p for p in old if p.name != name])
    return any(p.name == name for p in old)


def _write(path: Path, people: Sequence[Person]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    aside = path.with_name(path.name + ".new")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as out:
        for person in people:
            vectors = [[round(float(v), 6) for v in row] for row in person.vectors]
            out.write(json.dumps({"name": person.name, "written": now, "vectors": vectors}) + "\n")
    aside.replace(path)
