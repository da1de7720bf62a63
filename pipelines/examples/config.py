"""The settings of pairing faces into training examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Suppress, arg

from pipelines.cluster.actor_pool import Workers
from pipelines.examples.split import HELD_OUT


@dataclass(frozen=True)
class PairSettings:
    """What examples to make. An output has one of these."""

    style: str = "texture"
    """What the render shows: `texture` (the preview) or `albedo`."""
    size: int = 256
    """Side of the pictures in pixels."""
    pairs: int = 20_000
    """Pairs of two frames, at most."""
    relit: int = 5_000
    """Examples made of one frame and itself under an invented light, people in turns."""
    posed: float = 0.6
    """Share of those whose source is turned, too, and has another's expression: for people of whom there is one picture."""
    relit_pairs: float = 0.25
    """Share of the pairs whose source gets an invented light too."""
    mirrored: float = 0.5
    """Share of examples seen in a mirror."""
    least_confidence: float = 0.5
    least_sharpness: float = 0.1
    least_face_px: float = 80.0
    """Smaller faces teach blur."""
    largest_identity_distance: float = 0.0
    """Between the identity vectors of two tracks of one person; 0: the network's own rule (dlib 0.6, ArcFace 1.1)."""
    least_covered: float = 0.7
    """Share of the source's crop that the target's must show."""
    largest_background_change: float = 0.12
    """Mean difference of the two backgrounds; beyond, the camera moved or the scene changed."""
    per_group: int = 2_000
    """Candidates drawn per person and input."""
    held_out: float = HELD_OUT
    """Share of people who are never trained on."""
    captions: str = ""
    """What is said of the pictures: a .csv or .parquet with the columns uri, caption and, for words of one frame, frame_index. A
    model with a text encoder learns to listen to them. Words of left and right are wrong in a mirror: then --mirrored 0."""
    quality: int = 0
    """Of the stored JPEGs; 0: PNG."""
    part: int = 64
    """Examples per unit of work."""
    seed: int = 0


@dataclass(frozen=True)
class PairConfig:
    """One run of the job."""

    faces: Suppress[str]
    out: Suppress[str]
    settings: Annotated[PairSettings, arg(name="")] = field(default_factory=PairSettings)
    run: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
    overwrite: bool = False
    """Throw away what is in OUT and begin again."""
