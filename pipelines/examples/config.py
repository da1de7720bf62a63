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
    posed_fraction: float = 0.6
    """Share of those whose source is turned, too, and has another's expression: for people of whom there is one picture."""
    relit_pair_fraction: float = 0.25
    """Share of the pairs whose source gets an invented light too."""
    mirrored_fraction: float = 0.5
    """Share of examples seen in a mirror."""
    min_confidence: float = 0.5
    min_sharpness: float = 0.1
    min_face_px: float = 80.0
    """Smaller faces teach blur."""
    max_identity_distance: float = 0.0
    """Between the identity vectors of two tracks of one person; 0: the network's own rule (dlib 0.6, ArcFace 1.1)."""
    min_overlap: float = 0.7
    """Share of the source's crop that the target's must show."""
    max_background_change: float = 0.12
    """Mean difference of the two backgrounds; beyond, the camera moved or the scene changed."""
    max_candidates: int = 2_000
    """Candidates drawn per person and input."""
    held_out_fraction: float = HELD_OUT
    """Share of people who are never trained on."""
    captions: str = ""
    """What is said of the pictures: a .csv or .parquet with the columns uri, caption and, for words of one frame, frame_index. A
    model with a text encoder learns to listen to them. Words of left and right are wrong in a mirror: then --mirrored-fraction 0."""
    jpeg_quality: int = 0
    """Of the stored JPEGs; 0: PNG."""
    unit_size: int = 64
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
