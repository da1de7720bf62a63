"""The messages that travel between the deployments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rigface.edits import EditSpec
from serve.schemas import AnimationJob, BatchJob, Format, VideoJob


@dataclass(frozen=True)
class EditInput:
    """An edit with its pictures by content hash.

    Args:
        pictures: hash -> bytes; None where the receiver should still have it.
        traits: trait -> hash of the picture it is copied from.
    """

    picture: str
    edit: EditSpec
    pictures: dict[str, bytes | None] = field(default_factory=dict)
    traits: dict[str, str] = field(default_factory=dict)
    face: str | int = "largest"
    max_side: int = 1024


@dataclass(frozen=True)
class JobSubmission:
    """A job with its files by content hash.

    Args:
        asked: without its pictures and its clip; each edit takes the traits that have a picture of their own.
        files: hash -> bytes.
        picture, clip: hashes; empty where the kind has none.
        traits: trait -> hash of the picture it is copied from.
    """

    asked: BatchJob | VideoJob | AnimationJob
    files: dict[str, bytes]
    picture: str = ""
    clip: str = ""
    traits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplingOptions:
    """How one picture is painted."""

    seed: int = 0
    steps: int | None = None
    scheduler: str | None = None
    identity_scale: float = 1.0
    attribute_scale: float = 1.0
    text_scale: float = 1.0
    strength: float = 1.0
    prompt: str | None = None


@dataclass(frozen=True)
class ModelInputSpec:
    """What the model paints on: as a checkpoint's config says."""

    style: str
    size: int
    expression_field: str = "expression"
    detail: bool = False


@dataclass(frozen=True)
class OutputOptions:
    """How a result is encoded, and what is recorded of how it came about. `quality` is of JPEG and WebP."""

    format: Format = "png"
    record: dict[str, Any] = field(default_factory=dict)
    quality: int = 94
