"""Settings of the editing jobs: one dataclass per job."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, Suppress, arg

from pipelines.edit.flags import EditFlags, FaceFlags
from rigface.profile import DetectorName, ParserName
from rigface.ranges import SEED, in_range

STRIP_NAME = "edits.png"  # a contact sheet of this name in a dataset is shown by `rigface inspect`
SAMPLING = {  # flags of `Engine` -> options of `RigFacePipeline`
    "steps": "steps",
    "scheduler": "scheduler",
    "guidance_identity": "identity_scale",
    "guidance_attributes": "attribute_scale",
    "guidance_text": "text_scale",
    "clip": "clip",
    "clip_scale": "clip_scale",
}
PRECISE = {"scheduler": "unipc", "steps": 50}  # the sampling of the released RigFace code


@dataclass(frozen=True)
class Engine:
    """The model that edits, and its sampling."""

    checkpoint: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """`refiner` (ships; corrects the preview), `mini` (ships; a small diffusion model), `rigface` (the released
    weights, after `rigface assets adopt`), a folder or s3:// prefix of weights, or `preview` (warps and relights the
    photograph, without a model). Default: the first of refiner, mini and preview that is installed."""
    adapter: Annotated[str | None, arg(metavar="FOLDER|FILE", help_behavior_hint="")] = None
    """LoRA adapter of the model: a folder or s3:// prefix in peft's layout, such as OUT/adapter of `rigface train`, or
    a `.safetensors` file for Stable Diffusion 1.5 in the names of kohya or diffusers."""
    device: str = "cpu"  # Device of the model: cpu, cuda, cuda:1 ...
    compile: bool = False
    """Compile the denoiser (torch.compile): tens of seconds before the first frame, then faster ones. For
    long videos."""
    seed: int = 0  # Seed of the model's noise; the same for every frame of a video.
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Network evaluations per image. Default: the number in the checkpoint."""
    scheduler: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Sampler: euler, unipc, dpm++ ..., or any diffusers scheduler for noise processes. Default: the one in
    the checkpoint."""
    guidance_identity: Annotated[float, arg(metavar="SCALE")] = 1.0
    """Guidance scale of the person's identity, for weights trained with dropout: 1 is off, 0 ignores the identity."""
    guidance_attributes: Annotated[float, arg(metavar="SCALE")] = 1.0  # Guidance scale of pose, expression and light.
    guidance_text: Annotated[float, arg(metavar="SCALE")] = 1.0  # Guidance scale of --prompt.
    clip: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder of a CLIP model (both halves, in transformers' layout), by which --prompt guides the sampling, also of
    models that read no text."""
    clip_scale: Annotated[float, arg(metavar="SCALE")] = 1.0  # Strength of that guidance.
    precise: bool = False
    """Sample as the released RigFace code does: UniPC, 50 steps, float32. Default: the few steps of the checkpoint, in
    bfloat16 on devices that multiply in it."""
    detector: Annotated[DetectorName | None, arg(help_behavior_hint="")] = None
    """Face detector: mediapipe, or the SCRFD of an InsightFace pack that you provide. Default: that of the model."""
    parser: Annotated[ParserName | None, arg(help_behavior_hint="")] = None
    """Segmentation of the person: selfie, colours, or a network that you provide. Default: that of the model."""
    small_faces: bool = False  # Detect faces down to 24 px; several times slower.
    quick: bool = False  # Do not measure the result; prints no table of asked against achieved.

    def __post_init__(self) -> None:
        in_range(self, SEED, "seed")
        in_range(self, "[1, 1000]", "steps")
        in_range(self, "[0, 100]", "guidance_identity", "guidance_attributes", "guidance_text")
        in_range(self, "[0, 100]", "clip_scale")

    def sampling(self) -> dict[str, Any]:
        """The options of `RigFacePipeline` that differ from their defaults."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        chosen = {option: changed[name] for name, option in SAMPLING.items() if name in changed}
        return PRECISE | chosen if self.precise else chosen


@dataclass(frozen=True)
class EditConfig:
    """One edit of an image or a video."""

    source: Annotated[Positional[Path], arg(metavar="IN")]  # An image or a video; recognised by its content.
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """File to write: .png or .jpg for an image, .mp4, .mov or .mkv for a video."""
    flags: Annotated[EditFlags, arg(name="")] = field(default_factory=EditFlags)
    face: Annotated[str, arg(metavar="WHICH")] = "largest"
    """Face to edit: largest, left-most, right-most, all, or a number counted from the left, from 0.

    Given more than once, the flags of an edit that follow are for this face, and all: every face without an edit of
    its own."""
    silent: bool = False  # Leave out the sound of the video.
    no_sign: bool = False  # Leave out the watermark and the signed manifest (C2PA) that say that the result is an edit.
    engine: Annotated[Engine, arg(name="")] = field(default_factory=Engine)
    faces: Suppress[tuple[FaceFlags, ...]] = ()  # edits of several faces, as `flags.split_faces` reads them


@dataclass(frozen=True)
class SwapConfig:
    """One face swap."""

    source: Annotated[Positional[Path], arg(metavar="IN")]  # An image or a video of the recipient.
    donor: Annotated[Positional[Path], arg(metavar="DONOR")]
    """Image of the person whose face is put there (the largest), or a row of a dataset: FOLDER#INPUT:FRAME."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """File to write: .png or .jpg for an image, .mp4, .mov or .mkv for a video."""
    face: Annotated[str, arg(metavar="WHICH")] = "largest"
    """Face to replace: largest, left-most, right-most, all, or a number counted from the left, from 0."""
    silent: bool = False  # Leave out the sound of the video.
    no_sign: bool = False  # Leave out the watermark and the signed manifest (C2PA) that say that the result is an edit.
    engine: Annotated[Engine, arg(name="")] = field(default_factory=lambda: Engine(checkpoint="preview"))

    def as_edit(self) -> EditConfig:
        """The same as an edit."""
        flags = EditFlags(take="identity", target=self.donor)
        more = {"silent": self.silent, "no_sign": self.no_sign, "engine": self.engine}
        return EditConfig(self.source, self.out, flags, self.face, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class AnimateConfig:
    """One image that is driven by a video."""

    source: Annotated[Positional[Path], arg(metavar="IMAGE")]  # Image of the person to animate.
    driving: Annotated[Positional[Path], arg(metavar="VIDEO")]  # Video whose largest face drives the image.
    out: Annotated[Positional[Path], arg(metavar="OUT")]  # Video to write: .mp4, .mov or .mkv.
    flags: Annotated[EditFlags, arg(name="")] = field(default_factory=lambda: EditFlags(take="pose,expression"))
    absolute: bool = False
    """Copy the driver's pose and expression as they are, instead of their change from the reference frame."""
    neutral: Literal["first", "calmest"] = "first"
    """Reference frame: the first with a face, or the one with the least expression (needs a pass over the video)."""
    face: Annotated[str, arg(metavar="WHICH")] = "largest"
    """Face to animate: largest, left-most, right-most, all, or a number counted from the left, from 0."""
    raw: bool = False  # Do not smooth the driver's coefficients; by default a One-Euro filter removes their jitter.
    silent: bool = False  # Leave out the sound of the video.
    no_sign: bool = False  # Leave out the watermark and the signed manifest (C2PA) that say that the result is an edit.
    max_side: int = 1280  # Longer side of the output at most, px; a larger image is reduced.
    engine: Annotated[Engine, arg(name="")] = field(default_factory=Engine)

    def __post_init__(self) -> None:
        in_range(self, "[16, 16384]", "max_side")


@dataclass(frozen=True)
class StripConfig:
    """One contact sheet of edits."""

    source: Annotated[Positional[Path], arg(metavar="IN")]  # An image, or a video: its first frame with a face.
    out: Annotated[Positional[Path], arg(metavar="OUT")]  # Image to write: .png.
    engine: Annotated[Engine, arg(name="")] = field(default_factory=Engine)
