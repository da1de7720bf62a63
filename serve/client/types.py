"""What the service answers, as its client gives it: dicts with these keys, which a type checker knows.

Path: JSON of the service -> `client.py` -> these. Here is nothing but the standard library; a test holds them to `api.py`.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Face(TypedDict):
    """One face of a picture: where it is, and what the sliders and the head model say of it."""

    box: list[float]
    landmarks: list[list[float]]
    confidence: float
    numbers: dict[str, float]
    coefficients: dict[str, Any]


class FacesAnswer(TypedDict):
    """A picture's faces, from left to right; `picture` is its name for later calls."""

    picture: str
    width: int
    height: int
    head: str
    faces: list[Face]
    contours: list[list[int]]


class Model(TypedDict):
    """A model that an edit may ask for."""

    name: str
    kind: str
    size: int
    steps: int
    default: bool
    loaded: bool
    about: str


class Verdict(TypedDict):
    """Whether the service made a picture: `record` is what its manifest says was done, `mark` what its pixels say."""

    made_here: bool
    manifest: Literal["trusted", "foreign", "invalid", "none"]
    record: dict[str, Any] | None
    watermark: bool
    mark: str | None
    score: float


class _Step(TypedDict):
    phase: str
    step: int
    steps: int


class Progress(_Step, total=False):
    """A step of an edit; of a painted one, of which face. `preview` is a JPEG in base64, where it was asked for."""

    face: int
    faces: int
    preview: str


class Job(TypedDict):
    """How far a job is: `finished` of `total` edits or frames, and the numbers of the `results` that are there."""

    id: str
    kind: Literal["batch", "video", "animation"]
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    total: int
    finished: int
    results: list[int]
    media_type: str
    created_at: str
    started_at: str | None
    ended_at: str | None
    expires_at: str | None
    asked: list[dict[str, float]]
    achieved: list[dict[str, float] | None]
    notes: list[str]
    error: dict[str, Any] | None
    webhook: Literal["none", "waiting", "delivered", "given-up"]
