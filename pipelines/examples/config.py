"""The settings of the jobs that make training examples: `pair`, `encode`, `autoencoder`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pipelines.cluster.workers import Workers
from pipelines.examples.split import HELD_OUT
from rigface.profile import IdentityName
from rigface.ranges import SEED, in_range


@dataclass(frozen=True)
class PairSettings:
    """Settings of the examples, fixed for an output."""

    profile: Literal["own", "rigface"] = "own"
    """Conditions of the examples: this project's own, or those of the released RigFace weights, for faces that were
    extracted with --profile rigface."""
    style: Literal["", "texture", "albedo", "shape", "points"] = ""
    """Style of the render: `texture` (the preview), `albedo`, `shape`, or `points` (five, drawn).
    Default: that of the profile."""
    identity: IdentityName = ""
    """Network of identity vectors of the sources, for recipes that read them (`train --recipe ip_adapter`): dlib, or
    the ArcFace of an InsightFace pack; empty: none."""
    size: int = 0
    """Side of the pictures in pixels; 0: that of the profile, 256 or 512."""
    pairs: int = 20_000  # Pairs of two frames, at most.
    relit: int = 5_000  # Examples made of one frame and itself under an invented light, people in turns.
    posed_fraction: float = 0.6
    """Fraction of those whose source is also turned and has another's expression: for people with only one picture."""
    relit_pair_fraction: float = 0.25  # Fraction of the pairs whose source gets an invented light too.
    mirrored_fraction: float = 0.5  # Fraction of examples that are mirrored left to right.
    min_confidence: float = 0.5
    min_sharpness: float = 0.1
    min_face_px: float = 80.0  # Smaller faces teach blur.
    max_identity_distance: float = 0.0
    """Between the identity vectors of two tracks of one person; 0: the network's own rule (dlib 0.6, ArcFace 1.1)."""
    min_overlap: float = 0.7  # Fraction of the source's crop that the target's must show.
    max_background_change: float = 0.12
    """Mean difference of the two backgrounds; beyond, the camera moved or the scene changed."""
    max_candidates: int = 2_000  # Candidate pairs drawn per person and input.
    held_out_fraction: float = HELD_OUT  # Fraction of people who are never trained on.
    captions: str = ""
    """Captions of the pictures: a .csv or .parquet with the columns uri, caption and, for captions of one frame,
    frame_index. A model with a text encoder learns from them. Left and right are wrong in a mirrored picture: then set
    --mirrored-fraction 0."""
    describe: bool = False
    """Give examples without a caption one made of their numbers, such as "a person turned 15 degrees to their left,
    smiling, lit from the upper right"; in mirrored ones left and right are exchanged."""
    jpeg_quality: int = 0  # Of the stored JPEGs; 0: PNG.
    unit_size: int = 64  # Examples per unit of work.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size:
            in_range(self, "[8, 4096]", "size")
        in_range(self, "[0, inf)", "pairs", "relit", "min_face_px", "max_identity_distance", "max_background_change")
        in_range(self, "[0, 1]", "posed_fraction", "relit_pair_fraction", "mirrored_fraction", "held_out_fraction")
        in_range(self, "[0, 1]", "min_confidence", "min_sharpness", "min_overlap")
        in_range(self, "[1, inf)", "max_candidates", "unit_size")
        in_range(self, "[0, 100]", "jpeg_quality")
        in_range(self, SEED, "seed")

    def resolved(self) -> PairSettings:
        """The settings with the style and the size of their profile in place of the defaults."""
        style, size = ("texture", 256) if self.profile == "own" else ("albedo", 512)
        return replace(self, style=self.style or style, size=self.size or size)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PairConfig:
    """One run of `pair`."""

    faces: Positional[str]  # The dataset of faces.
    out: Positional[str]  # Folder or s3:// prefix to write to.
    settings: Annotated[PairSettings, arg(name="")] = field(default_factory=PairSettings)
    pool: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
    overwrite: bool = False  # Delete an earlier output of `pair` in OUT once the new plan is made, and begin again.


@dataclass(frozen=True)
class EncodeConfig:
    """One run of `encode`."""

    examples: Positional[str]  # The output of `pair`.
    out: Positional[str]  # Folder or s3:// prefix to write to.
    autoencoder: str = ""
    """Folder or s3:// prefix of the autoencoder (diffusers' AutoencoderKL), or of a checkpoint or Stable Diffusion that
    has one; a `.safetensors` file of either; or `mini`."""
    batch: int = 16  # Examples encoded at once; four pictures each.
    keep_pictures: bool = False  # Keep the pictures of training rows, too.
    pool: Annotated[Workers, arg(name="")] = field(default_factory=Workers)

    def __post_init__(self) -> None:
        in_range(self, "[1, inf)", "batch")


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder to make."""

    size: int = 128  # Side of the pictures in pixels.
    patch: int = 8  # Side in pixels of the patches; latents are smaller than pictures by this factor.
    channels: int = 48
    """Components kept of each patch, a multiple of 4: 48 of the 192 numbers of 8 x 8 px reach 38 dB on faces."""
    max_crops: int = 4_000  # Crops to learn from, evenly chosen.
    held_out_fraction: float = HELD_OUT  # Fraction of people used for measuring only; the split of `pair`.

    def __post_init__(self) -> None:
        in_range(self, "[1, 4096]", "size", "patch", "channels")
        in_range(self, "[1, inf)", "max_crops")
        in_range(self, "[0, 1]", "held_out_fraction")
