"""Edit a picture or a clip, or animate a picture by a clip: the jobs behind `rigface edit`, `animate` and `sliders`.

Path: files and a Wish -> Editor -> files, and a table of what was asked against what was reached.

One machine, one process, no Ray: a picture takes a second, a clip about 15 frames a second. Pictures are here; whatever
moves is in `edit_clip.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from pipelines.edit.console import Outcome, flame_table, show, slider_tables
from pipelines.edit.flags import Wish, read, save, traits
from rigface.edits import NAMED, EditSpec, Trait
from rigface.errors import BadInput, NoFace, PlanError

if TYPE_CHECKING:
    from pipelines.edit.console import Rows
    from rigface.editor import Editor
    from rigface.types import Face, FaceParams

MOST_COPIED = 8  # axes of a copied expression that the table shows
PICTURES = (".png", ".jpg", ".jpeg")
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
    wish: Annotated[Wish, arg(name="")] = field(default_factory=Wish)
    face: Annotated[str, arg(metavar="WHICH")] = "largest"
    """Which face: largest, left-most, right-most, all, or a number counted from the left, from 0."""
    silent: bool = False
    """Leave the clip's sound out."""
    engine: Annotated[Engine, arg(name="")] = field(default_factory=Engine)

    def run(self) -> int:
        """Do it and print the table."""
        return show(edit(self))


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
    wish: Annotated[Wish, arg(name="")] = field(default_factory=lambda: Wish(take="pose,expression"))
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

    def run(self) -> int:
        """Do it and print the table."""
        return show(animate(self))


@dataclass(frozen=True)
class SlidersJob:
    """List every number an edit can have: names, ranges, and what the named expressions are made of.

    rigface sliders
    rigface sliders --head weights/flame     how well FLAME follows the same names, by the map that is fitted to it
    """

    head: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """A folder of FLAME's released files."""

    def run(self) -> int:
        """Print them."""
        from rich.console import Console

        console = Console()
        for table in slider_tables() if self.head is None else [flame_table(self.head)]:
            console.print(table)
        return 0


def edit(job: EditJob) -> Outcome:
    """Edit a picture or a clip.

    Raises:
        PlanError: nonsense in the flags, or a file that is not there or not what it should be; the message names it.
        MissingAsset, BadCheckpoint: no such weights.
    """
    spec, paths = read(job.wish)
    is_video = kind_of(job.source) == "video"
    check(job.out, job.source, is_video, job.face)
    if job.wish.save_edit is not None:
        save(job.wish.save_edit, spec)
    editor = load(job.engine)
    check_names(spec, editor)
    givers = people(paths, editor)
    if is_video:
        from pipelines.edit.video import edit_clip

        return edit_clip(job, spec, editor, givers)
    return _edit_picture(job, spec, editor, givers)


def animate(job: AnimateJob) -> Outcome:
    """Drive a picture by a clip; raises as `edit`."""
    from pipelines.edit.video import animate_picture

    # What the clip gives is not copied from a picture, so `read` must not ask for one.
    if job.wish.target is not None:
        raise PlanError("--target: the clip is whom is copied; use --pose-from, --expression-from or --light-from")
    spec, paths = read(replace(job.wish, take=""))
    taken: frozenset[Trait] = frozenset(traits(job.wish.take)) - set(paths)
    if kind_of(job.driving) != "video":
        raise PlanError(f"{job.driving}: want a video to drive {job.source.name}, this is a picture")
    if kind_of(job.source) != "image":
        raise PlanError(f"{job.source}: want a picture to animate; to change a video use `rigface edit`")
    check(job.out, job.driving, True, job.face)
    spec = replace(spec, take=spec.take | taken)
    if job.wish.save_edit is not None:
        save(job.wish.save_edit, spec)
    editor = load(job.engine)
    check_names(spec, editor)
    return animate_picture(job, spec, editor, people(paths, editor), taken)


def _edit_picture(job: EditJob, spec: EditSpec, editor: Editor, givers: Mapping[Trait, Face]) -> Outcome:
    from rigface.image import encode_jpeg, encode_png

    began = time.monotonic()
    image = picture(job.source)
    try:
        done = editor.edit(image, spec, givers, face=job.face, seed=job.engine.seed, measure=not job.engine.quick)
    except NoFace as e:
        raise PlanError(f"{job.source}: {e.reason}{LOOK_CLOSER}") from e
    except ValueError as e:
        raise PlanError(str(e)) from e
    data = encode_png(done.image) if job.out.suffix.lower() == ".png" else encode_jpeg(done.image, 95)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    beside = job.out.with_name(f".{job.out.name}.{os.getpid()}")
    beside.write_bytes(data)
    os.replace(beside, job.out)
    rows = [
        rows_of(source.params, wanted, found, spec, editor)
        for source, wanted, found in zip(done.sources, done.wanted, done.found)
    ]
    return Outcome(
        job.out, [] if job.engine.quick else rows, seconds=time.monotonic() - began, notes=hints(job.engine, editor)
    )


LOOK_CLOSER = ". Is it small, or seen from behind? --small-faces looks closer"


def hints(engine: Engine, editor: Editor) -> tuple[str, ...]:
    """What the user may want to know about what edited, where they did not say it themselves."""
    if engine.checkpoint is not None:
        return ()
    if editor.has_model:
        return ("made by mini; --checkpoint preview is faster, --checkpoint FOLDER paints with weights of yours",)
    return ("made by the preview, as mini is not here; --checkpoint FOLDER paints with a model",)


def rows_of(source: FaceParams, wanted: FaceParams, found: FaceParams | None, spec: EditSpec, editor: Editor) -> Rows:
    """Name, what it was, and what was asked and achieved, for each number that the edit is about.

    Of an expression that was copied, the few axes that changed most.
    """
    from rigface.evaluation.estimator import achieved
    from rigface.face.controls.transfer import axes_of, exposure

    is_relative = spec.light is None or spec.light.relative
    unit = exposure(source.light) if is_relative else 1.0
    head = editor.see.head
    was = {name: number.asked for name, number in achieved(source, None, head, spec, unit).items()}
    rows: Rows = []
    for name, number in achieved(wanted, found, head, spec, unit).items():
        own = was.get(name)
        if own is None:
            axes = axes_of(name.removeprefix("expression."), head)
            shares = np.array(list(axes.values()))
            own = float(source.expression[[head.expression_names.index(a) for a in axes]] @ shares / (shares @ shares))
        rows.append((name, own, number))
    asked = {f"expression.{name}" for name in spec.expression}
    copied = [row for row in rows if row[0].startswith("expression.") and row[0] not in asked]
    copied.sort(key=lambda row: -abs(row[2].asked - row[1]))
    return [row for row in rows if row not in copied] + copied[:MOST_COPIED]


def load(engine: Engine) -> Editor:
    """The editor, its eyes and perhaps a model."""
    import torch

    from rigface.editor import Editor
    from rigface.face.analyzer import See

    if engine.device.startswith("cuda") and not torch.cuda.is_available():
        raise PlanError(f"--device {engine.device}: no CUDA device is usable here; leave it out to compute on the CPU")
    see, sampling = See.load(small_faces=engine.small_faces), engine.sampling()
    try:
        editor = Editor.load(engine.checkpoint, engine.device, see, compile=engine.compile, **sampling)
    except ValueError as e:
        raise PlanError(f"--{e}") from e
    if sampling and not editor.has_model:
        flag = next(name for name, option in SAMPLING.items() if option in sampling).replace("_", "-")
        raise PlanError(f"--{flag}: the preview samples nothing; name a model with --checkpoint")
    return editor


def people(paths: Mapping[Trait, Path], editor: Editor) -> dict[Trait, Face]:
    """Whom each trait is copied from; a picture that gives several is looked at once, a row of a dataset is read.

    Raises:
        PlanError: not a picture, or nobody in it; no such row, or one of another head.
    """
    from pipelines.examples.face_reader import face_at, is_row
    from rigface.face.analyzer import choose

    seen: dict[Path, Face] = {}
    for path in paths.values():
        if path not in seen and is_row(str(path)):
            seen[path], head = face_at(str(path))
            own = editor.see.head
            if (head.name, head.version) != (own.name, own.version):
                raise PlanError(
                    f"{path}: the rows are of the head {head.name} {head.version}, edits are made with {own.name} {own.version}"
                )
        elif path not in seen:
            try:
                seen[path] = choose(editor.see(picture(path)), "largest")[0]
            except NoFace as e:
                raise PlanError(f"{path}: {e.reason}{LOOK_CLOSER}") from e
    return {trait: seen[path] for trait, path in paths.items()}


def picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 from a file.

    Raises:
        PlanError: it is not there, or not a picture.
    """
    from rigface.image import decode

    try:
        return decode(path.read_bytes())
    except OSError as e:
        raise PlanError(f"{path}: {e.strerror or e}") from e
    except BadInput as e:
        raise PlanError(f"{path}: {e.reason}") from e


def kind_of(path: Path) -> Literal["image", "video"]:
    """What a file is, by its content.

    Raises:
        PlanError: it is not there, or neither.
    """
    from rigface.image import SNIFF_BYTES, sniff

    try:
        with path.open("rb") as file:
            head = file.read(SNIFF_BYTES)
    except OSError as e:
        raise PlanError(f"{path}: {e.strerror or e}") from e
    kind = sniff(head)
    if kind == "unknown":
        raise PlanError(f"{path}: neither a picture nor a video")
    return kind


def check(out: Path, source: Path, is_video: bool, face: str) -> None:
    """Complain about an output or a choice of face that cannot be, before anything is loaded."""
    from rigface.face.analyzer import CHOICES
    from rigface.video.writer import SUFFIXES

    good = tuple(SUFFIXES) if is_video else PICTURES
    if out.suffix.lower() not in good:
        made = "a video" if is_video else "a picture"
        raise PlanError(f"{out}: {source.name} gives {made}, so want a name that ends in {', '.join(good)}")
    if out.exists() and out.resolve() == source.resolve():
        raise PlanError(f"{out}: is the source itself; name another file")
    if face not in CHOICES and not face.isdigit():
        raise PlanError(f"--face: want {', '.join(CHOICES)} or a number counted from the left, got {face!r}")


def check_names(spec: EditSpec, editor: Editor) -> None:
    """Complain about an expression that this head does not have, with those that are near; and about words nobody hears."""
    from rigface.face.controls.transfer import axes_of

    try:
        editor.check_prompt(spec)
    except ValueError as e:
        raise PlanError(f"--{e}") from None
    head = editor.see.head
    for name in spec.expression:
        try:
            axes_of(name, head)
        except ValueError:
            near = get_close_matches(name, [*NAMED, *head.expression_names], n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise PlanError(f"--expression: nothing is called {name!r}.{hint} `rigface sliders` lists all") from None


Command = EditJob | AnimateJob | SlidersJob
COMMANDS: dict[str, type[Command]] = {"edit": EditJob, "animate": AnimateJob, "sliders": SlidersJob}
