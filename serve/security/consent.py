"""Consent and deny lists: check the identity of faces before they are edited.

Path: the faces of an image, or those of a video frame by frame -> identity vectors -> `Policy.check` -> nothing, or
`no-consent` or `refused`. Checked are the source, and a target whose identity or shape is taken.

A list is a file of JSON lines, one person each: a name and a few identity vectors, never an image (`rigface serve
enroll`). It is read again when it changes. Vectors are biometric data, so only the file's owner can read it.

A list of N vectors compares a stranger N times, so the distance that counts as a match shrinks as a consent list
grows: `match_distance` keeps a stranger's chance to match any of them at `false_accept_rate`. That is measured for
dlib alone; for ArcFace the operator states the distance. A deny list keeps the
distance of two pictures, because there the error that counts is a person who is missed. Both are logged when a list is
read. A consent list prevents mistakes, and does not replace asking. A face that cannot be recognised is refused.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rigface.face.geometry import alignment
from rigface.face.identity.arcface import WIDTH as ARCFACE_WIDTH
from rigface.face.identity.arcface import ArcFace
from rigface.face.identity.dlib_embedding import DlibIdentity
from rigface.storage.whole_file import write_whole
from rigface.types import DLIB_WIDTH, Face, Frame
from serve.problems import ApiError

LOG = logging.getLogger("rigface.serve")
MAX_DISTANCE = 0.6
FALSE_ACCEPT_RATE = 0.01
STRANGERS = ((1e-6, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2), (0.306, 0.428, 0.466, 0.489, 0.529, 0.572, 0.606))
"""Share of pairs of strangers, and the distance they are below: of 13,023 pairs; the first point is extrapolated."""
CHECK_EVERY_S, MAX_UNCHECKED_S = 1.0, 2.0  # of each track of a video: between two looks; between two that recognise it
UNMEASURED = (
    "identity `arcface` with a list needs `same_person_distance` (--same-person-distance): ArcFace's distances are not "
    "measured here. Of pairs of strangers of your own take the distance that the share you accept, divided by the "
    "number of vectors on the list, is nearer than; vectors have length 1, so a cosine of 0.4 is 1.1"
)
TAKES_IDENTITY = ("identity", "shape")

IdentityName = Literal["dlib", "arcface"]
EmbedFace = Callable[[np.ndarray, Face], np.ndarray | None]
"""An image and one of its faces -> identity vector; None if it cannot be recognised."""


@dataclass(frozen=True, eq=False)
class Person:
    """An entry of a list; `vectors` is (N, 128) of dlib, (N, 512) of ArcFace."""

    name: str
    vectors: np.ndarray


class NetworkEmbedding:
    """Identity vectors by dlib's network or ArcFace's, loaded at the first face; serialized among threads."""

    def __init__(self, identity: IdentityName = "dlib", folder: str = "") -> None:
        self._identity, self._folder = identity, folder
        self._network: DlibIdentity | ArcFace | None = None
        self._lock = threading.Lock()

    def __call__(self, image: np.ndarray, face: Face) -> np.ndarray | None:
        points = alignment.apply(alignment.invert(face.frame_to_crop), face.landmarks[:, :2])
        with self._lock:
            if self._network is None:
                self._network = ArcFace(self._folder or None) if self._identity == "arcface" else DlibIdentity()
            chip = self._network.chip(image, points)
            return None if chip is None else self._network.embed([chip])[0]


class Policy:
    """The lists of a service: people who may be edited (empty: all), and people who may not.

    Two vectors of a person are nearer than `max_distance`; a stranger passes the consent list with one picture at
    `false_accept_rate`. Those of ArcFace are not measured here: `max_distance` is required, and lists of all sizes use
    it. FileNotFoundError or ValueError if a list is missing, invalid, or of the other network.
    """

    def __init__(
        self, consent: str = "", deny: str = "", embed: EmbedFace | None = None, max_distance: float | None = None,
        false_accept_rate: float = FALSE_ACCEPT_RATE, identity: IdentityName = "dlib", identity_folder: str = "",
    ) -> None:  # fmt: skip
        if identity == "arcface" and (consent or deny):
            if max_distance is None:
                raise ValueError(UNMEASURED)
            LOG.warning("ArcFace is not measured here: lists of all sizes match below %.3f, as given", max_distance)
        nearest = MAX_DISTANCE if max_distance is None else max_distance
        given = lambda vectors: nearest  # noqa: E731
        by_size = lambda vectors: match_distance(vectors, false_accept_rate, nearest)  # noqa: E731
        of_consent, width = (given, ARCFACE_WIDTH) if identity == "arcface" else (by_size, DLIB_WIDTH)
        self._consent = _PersonList(Path(consent), "consent", of_consent, width) if consent else None
        self._deny = _PersonList(Path(deny), "deny", given, width) if deny else None
        self._embed = embed or NetworkEmbedding(identity, identity_folder)

    @property
    def is_active(self) -> bool:
        return self._consent is not None or self._deny is not None

    def vector(self, image: np.ndarray, face: Face) -> np.ndarray | None:
        return self._embed(image, face)

    def check(self, vectors: Sequence[np.ndarray | None]) -> None:
        """Refuse identity vectors that may not be edited, by an ApiError `refused` or `no-consent`."""
        if self.is_active and any(vector is None for vector in vectors):
            raise ApiError("refused", "a face cannot be recognised; this service edits recognised faces only")
        if self._deny is not None and any(self._deny.matches(vector) for vector in vectors):
            raise ApiError("refused", "a face in this image is on the deny list")
        if self._consent is not None and not all(self._consent.matches(vector) for vector in vectors):
            raise ApiError("no-consent", "no enrolled person matches a face in this image")

    def check_faces(self, image: np.ndarray, faces: Sequence[Face]) -> None:
        if self.is_active:
            self.check([self.vector(image, face) for face in faces])

    def monitor(self) -> ConsentMonitor | None:
        """A monitor for one video; None if there is no list to check."""
        return ConsentMonitor(self) if self.is_active else None


class ConsentMonitor:
    """Checks the faces of one video, as long as each track lives.

    Each track is checked at its first frame, then at random times at most `CHECK_EVERY_S` apart, and at its last frame.
    A check that fails refuses the whole video, so each edited frame lies between two checks that passed. A face may be
    hidden between them for `MAX_UNCHECKED_S`.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._tracks: dict[int, _CheckedTrack] = {}

    def __call__(self, frame: Frame, faces: list[tuple[int, Face]]) -> None:
        """A `rigface.video_editor.FaceMonitor`; ApiError if the video may not be edited."""
        for track, face in faces:
            state = self._tracks.setdefault(track, _CheckedTrack(frame.time_s))
            state.frame, state.face = frame, face
            if frame.time_s >= state.due_s:
                self._check(state)
        for track in self._tracks.keys() - {track for track, _ in faces}:
            self._check(self._tracks.pop(track), is_last=True)

    def end(self) -> None:
        """Check the last frame of each track that lives at the end of the video; raises as a call."""
        for state in self._tracks.values():
            self._check(state, is_last=True)

    def _check(self, state: _CheckedTrack, is_last: bool = False) -> None:
        frame = state.frame
        if frame is None or frame.time_s == state.passed_s:
            return
        vector = None if state.face is None else self._policy.vector(frame.image, state.face)
        unchecked_s = frame.time_s - (state.began_s if state.passed_s is None else state.passed_s)
        if vector is None and unchecked_s < MAX_UNCHECKED_S and not (is_last and state.passed_s is None):
            return  # hidden for a moment; the next frame is checked
        self._policy.check([vector])
        state.passed_s, state.due_s = frame.time_s, frame.time_s + CHECK_EVERY_S * random.uniform(0.5, 1.0)


@dataclass
class _CheckedTrack:
    """A track of a video: its latest frame and face, and the times of its last passed check and of the next."""

    began_s: float
    due_s: float = -math.inf
    passed_s: float | None = None
    frame: Frame | None = None
    face: Face | None = None


class _PersonList:
    """A list in a file, read again when it changes; `limit_of` so many vectors a vector matches below this distance."""

    def __init__(self, path: Path, name: str, limit_of: Callable[[int], float], width: int) -> None:
        self._path, self._name, self._limit_of, self._width, self._read_at = path, name, limit_of, width, -1
        self._vectors, self._limit = np.zeros((0, 0)), 0.0
        self._refresh()

    def matches(self, vector: np.ndarray | None) -> bool:
        self._refresh()
        if vector is None or not len(self._vectors):
            return False
        distances = np.linalg.norm(self._vectors - np.asarray(vector, np.float64), axis=1)
        return bool(distances.min() < self._limit)

    def _refresh(self) -> None:
        changed = self._path.stat().st_mtime_ns
        if changed == self._read_at:
            return
        people = read(self._path)
        _check_width(self._path, people, self._width)
        self._vectors = np.concatenate([p.vectors for p in people]) if people else np.zeros((0, 0))
        self._limit, self._read_at = self._limit_of(len(self._vectors)), changed
        LOG.info("%s list: %d people; a match is nearer than %.3f", self._name, len(people), self._limit)


def match_distance(vectors: int, false_accept_rate: float, max_distance: float = MAX_DISTANCE) -> float:
    """Distance below which a vector matches a list of so many, if a stranger may match any of them that often."""
    of_each = 1 - (1 - false_accept_rate) ** (1 / max(1, vectors))
    rates, distances = STRANGERS
    return min(max_distance, float(np.interp(np.log(of_each), np.log(rates), distances)))


def read(path: Path) -> list[Person]:
    """The people on a list; ValueError names an invalid line."""
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
    """Add a person to a list, or vectors to a person on it; ValueError if the list is of another network."""
    old = read(path) if path.exists() else []
    _check_width(path, old, len(vectors[0]))
    own = [v for p in old if p.name == name for v in p.vectors]
    _write(path, [*(p for p in old if p.name != name), Person(name, np.array([*own, *vectors], np.float64))])


def _check_width(path: Path, people: Sequence[Person], width: int) -> None:
    if any(person.vectors.shape[1] != width for person in people):
        raise ValueError(f"{path}: its vectors are of another network, not of {width} numbers; enroll the people again")


def remove(path: Path, name: str) -> bool:
    """Remove a person from a list; False if the name is not on it."""
    old = read(path)
    _write(path, [p for p in old if p.name != name])
    return any(p.name == name for p in old)


def _write(path: Path, people: Sequence[Person]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    lines = []
    for person in people:
        vectors = [[round(float(v), 6) for v in row] for row in person.vectors]
        lines.append(json.dumps({"name": person.name, "written": now, "vectors": vectors}) + "\n")
    write_whole(path, "".join(lines).encode(), 0o600)
