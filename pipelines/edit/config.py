"""The settings of the editing jobs: one dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from pipelines.edit.flags import EditFlags

if TYPE_CHECKING:
    pass


SAMPLING = {  # flags of `Engine` -> options of `RigFacePipeline`
    "steps": "steps",
    "scheduler": "scheduler",
    "guidance_identity": "identity_scale",
    "guidance_attributes": "attribute_scale",
    "guidance_text": "text_scale",
}


@dataclass(frozen=True)
class Engine:
    """What edits."""

    checkpoint: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """`mini` (the small model that ships), a folder or s3:// prefix of weights, or `preview`: the photograph itself, moved and
    lit. Without it `mini` where it is, else the preview."""
    device: str = "cpu"
    """Of the model: cpu, cuda, cuda:1 ..."""
    compile: bool = False
    """Compile the denoiser (torch.compile): tens of seconds before the first frame, then faster ones. For long clips."""
    seed: int = 0
    """Of the model's noise; the same for every frame of a clip."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Network evaluations of a picture; the checkpoint's own number if not said."""
    scheduler: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Sampler: euler, unipc, dpm++ ..., or for noise processes any diffusers scheduler; the checkpoint's own if not said."""
    guidance_identity: Annotated[float, arg(metavar="SCALE")] = 1.0
    """How much to exaggerate what the model knows of the person, for weights trained with dropout; 1 is off, 0 ignores it."""
    guidance_attributes: Annotated[float, arg(metavar="SCALE")] = 1.0
    """The same for pose, expression and light."""
    guidance_text: Annotated[float, arg(metavar="SCALE")] = 1.0
    """The same for --prompt."""
    small_faces: bool = False
    """Look for faces down to 24 px; several times slower."""
    quick: bool = False
    """Do not look at the result again; no table of asked against achieved."""

    def sampling(self) -> dict[str, Any]:
        """What was said of the model's sampling, as `RigFacePipeline` wants it; without what is as always."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {option: said[name] for name, option in SAMPLING.items() if name in said}


@dataclass(frozen=True)
class EditJob:
    """Change pose, expression or light of a face in a picture or in a whole clip, and keep the person.

    Only the face and what moves with it changes; every other pixel stays what it was. A clip keeps its frames, their
    times and its sound.

      rigface edit photo.jpg out.png --yaw 15 --smile 0.6 --light-azimuth 40
      rigface edit photo.jpg out.png --pose-from a.jpg --expression-from b.jpg --light-from c.jpg --strength 0.7
      rigface edit photo.jpg out.png --pose-from out/faces#clip.mp4:120
      rigface edit photo.jpg out.png --expression jawOpen=0.4 mouthSmileLeft=1 --region mouth
      rigface edit photo.jpg out.png --checkpoint runs/mine/model --prompt "a person with glasses" --guidance-text 3
      rigface edit photo.jpg out.png --hdr studio.hdr --hdr-turn 90 --save-edit studio.json
      rigface edit clip.mp4 out.mp4 --edit studio.json --face all
    """

    source: Annotated[Positional[Path], arg(metavar="IN")]
    """A picture or a video; told by its content."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Where to: .png or .jpg for a picture, .mp4, .mov or .mkv for a video."""
    wish: Annotated[EditFlags, arg(name="")] = field(default_factory=EditFlags)
    face: Annotated[str, arg(metavar="WHICH")] = "largest"
    """Which face: largest, left-most, right-most, all, or a number counted from the left, from 0."""
    silent: bool = False
    """Leave the clip's sound out."""
    engine: Annotated[Engine, arg(name="")] = field(default_factory=Engine)


@dataclass(frozen=True)
class AnimateJob:
    """Let a clip drive a picture: its head movements and expressions on the person of the picture.

    What moves is the difference to a reference frame of the clip, so the person keeps their own pose and face while the
    driver rests. Sound and timing are the clip's.

      rigface animate me.jpg speech.mp4 out.mp4
      rigface animate me.jpg speech.mp4 out.mp4 --neutral calmest --take pose,expression,light
      rigface animate me.jpg speech.mp4 out.mp4 --absolute --smile 0.3
    """

    source: Annotated[Positional[Path], arg(metavar="PICTURE")]
    """Whom to animate."""
    driving: Annotated[Positional[Path], arg(metavar="CLIP")]
    """The clip whose largest face drives it."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The video to write: .mp4, .mov or .mkv."""
    wish: Annotated[EditFlags, arg(name="")] = field(default_factory=lambda: EditFlags(take="pose,expression"))
    absolute: bool = False
    """Take the driver's pose and expression as they are, not what changes of them."""
    neutral: Literal["first", "calmest"] = "first"
    """The reference frame: the first with a face, or the one with the least expression (looks through the clip first)."""
    face: Annotated[str, arg(metavar="WHICH")] = "largest"
    """Which face of the picture: largest, left-most, right-most, all, or a number."""
    raw: bool = False
    """Keep the tremble of the driver's coefficients; without it a One-Euro filter takes it out."""
    silent: bool = False
    """Leave the clip's sound out."""
    max_side: int = 1280
    """The video's longer side at most, px; a larger picture is reduced."""
    engine: Annotated[Engine, arg(name="")] = field(default_factory=Engine)


@dataclass(frozen=True)
class SlidersJob:
    """List every number an edit can have: names, ranges, and what the named expressions are made of.

    rigface sliders
    rigface sliders --head weights/flame     how well FLAME follows the same names, by the map that is fitted to it
    """

    head: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """A folder of FLAME's released files."""


@dataclass(frozen=True)
class StripJob:
    """One picture that shows what editing does to somebody: as they are, the preview, turned, smiling, in another light.

    rigface strip photo.jpg edits.png
    rigface strip clip.mp4 out/faces/edits.png     which `rigface inspect out/faces` then shows
    """

    source: Annotated[Positional[Path], arg(metavar="IN")]
    """A picture, or a clip: its first frame with a face."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The picture to write: .png."""
    engine: Annotated[Engine, arg(name="")] = field(default_factory=Engine)
