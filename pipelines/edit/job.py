"""Edit a picture or a clip, or animate a picture by a clip: the jobs behind `rigface edit`, `animate` and `sliders`.

Path: files and a Wish -> Editor -> files, and a table of what was asked against what was reached.

One machine, one process, no Ray: a picture takes a second, a clip about 15 frames a second. Pictures are here; whatever
moves is in `edit_clip.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.edit.config import SAMPLING, AnimateJob, EditJob, Engine
from pipelines.edit.console import LOOK_CLOSER, EditReport, comparison_rows, hints
from pipelines.edit.flags import read, save, traits
from pipelines.edit.inputs import PICTURES, kind_of, picture
from rigface.edits import NAMED_EXPRESSIONS, EditSpec, Trait
from rigface.errors import NoFace, PlanError

if TYPE_CHECKING:
    from rigface.editor import Editor
    from rigface.types import Face


def edit(job: EditJob) -> EditReport:
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
    givers = load_targets(paths, editor)
    if is_video:
        from pipelines.edit.video import edit_clip

        return edit_clip(job, spec, editor, givers)
    return _edit_picture(job, spec, editor, givers)


def animate(job: AnimateJob) -> EditReport:
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
    return animate_picture(job, spec, editor, load_targets(paths, editor), taken)


def _edit_picture(job: EditJob, spec: EditSpec, editor: Editor, givers: Mapping[Trait, Face]) -> EditReport:
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
        comparison_rows(source.params, wanted, found, spec, editor)
        for source, wanted, found in zip(done.sources, done.wanted, done.found)
    ]
    return EditReport(
        job.out, [] if job.engine.quick else rows, seconds=time.monotonic() - began, notes=hints(job.engine, editor)
    )


def load(engine: Engine) -> Editor:
    """The editor, its eyes and perhaps a model."""
    import torch

    from rigface.editor import Editor
    from rigface.face.analyzer import FaceAnalyzer

    if engine.device.startswith("cuda") and not torch.cuda.is_available():
        raise PlanError(f"--device {engine.device}: no CUDA device is usable here; leave it out to compute on the CPU")
    see, sampling = FaceAnalyzer.load(small_faces=engine.small_faces), engine.sampling()
    try:
        editor = Editor.load(engine.checkpoint, engine.device, see, compile=engine.compile, **sampling)
    except ValueError as e:
        raise PlanError(f"--{e}") from e
    if sampling and not editor.has_model:
        flag = next(name for name, option in SAMPLING.items() if option in sampling).replace("_", "-")
        raise PlanError(f"--{flag}: the preview samples nothing; name a model with --checkpoint")
    return editor


def load_targets(paths: Mapping[Trait, Path], editor: Editor) -> dict[Trait, Face]:
    """Whom each trait is copied from; a picture that gives several is looked at once, a row of a dataset is read.

    Raises:
        PlanError: not a picture, or nobody in it; no such row, or one of another head.
    """
    from pipelines.examples.face_reader import face_at, is_row
    from rigface.face.analyzer import choose_faces

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
                seen[path] = choose_faces(editor.see(picture(path)), "largest")[0]
            except NoFace as e:
                raise PlanError(f"{path}: {e.reason}{LOOK_CLOSER}") from e
    return {trait: seen[path] for trait, path in paths.items()}


def check(out: Path, source: Path, is_video: bool, face: str) -> None:
    """Complain about an output or a choice of face that cannot be, before anything is loaded."""
    from rigface.face.analyzer import FACE_CHOICES
    from rigface.video.writer import SUFFIXES

    good = tuple(SUFFIXES) if is_video else PICTURES
    if out.suffix.lower() not in good:
        made = "a video" if is_video else "a picture"
        raise PlanError(f"{out}: {source.name} gives {made}, so want a name that ends in {', '.join(good)}")
    if out.exists() and out.resolve() == source.resolve():
        raise PlanError(f"{out}: is the source itself; name another file")
    if face not in FACE_CHOICES and not face.isdigit():
        raise PlanError(f"--face: want {', '.join(FACE_CHOICES)} or a number counted from the left, got {face!r}")


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
            near = get_close_matches(name, [*NAMED_EXPRESSIONS, *head.expression_names], n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise PlanError(f"--expression: nothing is called {name!r}.{hint} `rigface sliders` lists all") from None
