"""Editing jobs: edit an image or a video, or animate an image by a video.

Path: files and EditFlags -> Editor -> files, and an EditReport of asked against achieved.

One machine, one process, no Ray: an image takes a second, a video runs at about 15 frames a second. Images
are edited here, videos in `video.py`.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import torch

from pipelines.edit.config import SAMPLING, AnimateConfig, EditConfig, Engine
from pipelines.edit.flags import mask_of, parse_edits, parse_flags, parse_traits, save_edits
from pipelines.edit.inputs import IMAGE_SUFFIXES, errors_named, kind_of, read_image
from pipelines.edit.outputs import check_writable
from pipelines.edit.report import EditReport, comparison_rows, fit_notes, hints, limit_note, missing_note, warning_notes
from pipelines.edit.signing import EditSigner
from pipelines.edit.video import animate_image, edit_video
from rigface.editor import Editor, profile_of, usual_checkpoint
from rigface.edits import NAMED_EXPRESSIONS, PREVIEW, EditSpec, FaceEdit, Trait
from rigface.errors import PlanError
from rigface.face.analyzer import FACE_CHOICES, FaceAnalyzer, choose_faces
from rigface.face.controls.transfer import axes_of, axis_names
from rigface.provenance.signer import Origin
from rigface.types import Face
from rigface.video.writer import SUFFIXES as VIDEO_SUFFIXES


def edit(config: EditConfig) -> EditReport:
    """Edit an image or a video.

    Raises:
        PlanError: invalid flags, or a file that is missing or of the wrong kind; the message names it.
        MissingAsset, BadCheckpoint: no such weights.
    """
    asked = parse_edits(config.face, config.flags, config.faces)
    is_video = kind_of(config.source) == "video"
    check_output(config.out, config.source, is_video, [one.face for one in asked])
    if not is_video and (config.engine.checkpoint or usual_checkpoint()) in (PREVIEW, "refiner"):
        torch.set_num_threads(1)  # in networks so small threads wait for each other longer than they work
    editor, edits = _prepare(config, asked)
    donors = dict.fromkeys(one.targets["identity"] for one in asked if "identity" in one.targets)
    origins = [Origin(config.source), *(Origin(path, "componentOf") for path in donors if path.is_file())]
    if is_video:
        return edit_video(config, edits, editor, origins)
    return _edit_image(config, edits, editor, origins)


def animate(config: AnimateConfig) -> EditReport:
    """Animate an image by a video; raises as `edit`."""
    flags = config.flags
    if flags.target is not None:
        raise PlanError("--target: the video is the target; use --pose-from, --expression-from or --light-from")
    spec, paths = parse_flags(replace(flags, take=""))  # the traits of --take come from the video
    taken: frozenset[Trait] = frozenset(parse_traits(flags.take)) - set(paths)
    if kind_of(config.driving) != "video":
        raise PlanError(f"{config.driving}: want a video to drive {config.source.name}, this is an image")
    if kind_of(config.source) != "image":
        raise PlanError(f"{config.source}: want an image to animate; to change a video use `rigface edit`")
    check_output(config.out, config.driving, True, [config.face])
    asked = FaceEdit(config.face, replace(spec, take=spec.take | taken), paths, mask_of(flags))
    editor, (whole,) = _prepare(config, [asked])
    return animate_image(config, whole, editor, taken)


def _prepare(
    config: EditConfig | AnimateConfig, asked: Sequence[FaceEdit[Path]]
) -> tuple[Editor, list[FaceEdit[Face]]]:
    """Save the edits if asked, load the editor, check the edits against it, and read the targets."""
    for one in asked:
        if replace(one.edit, strength=1.0).is_nothing:
            where = f"face {one.face}: " * (len(asked) > 1)
            hint = "ask for an edit, such as --yaw 15 or --smile 0.6"
            raise PlanError(f"{where}nothing to change, so nothing is written: {hint}")
    for flags in (config.flags, *(one.flags for one in getattr(config, "faces", ()))):
        if flags.save_edit is not None:
            check_writable(flags.save_edit)
            save_edits(flags.save_edit, asked)
    editor = load_editor(config.engine)
    for one in asked:
        check_spec(one.edit, editor)
    faces = load_targets([path for one in asked for path in one.targets.values()], editor)
    masks = {one.mask: None if one.mask is None else read_image(one.mask) for one in asked}
    return editor, [
        FaceEdit(one.face, one.edit, {t: faces[path] for t, path in one.targets.items()}, masks[one.mask])
        for one in asked
    ]


def _edit_image(
    config: EditConfig, edits: Sequence[FaceEdit[Face]], editor: Editor, origins: Sequence[Origin]
) -> EditReport:
    began = time.monotonic()
    image = read_image(config.source)
    signer = EditSigner(config, edits, editor.has_model, origins)
    is_measured = not config.engine.quick
    try:
        with errors_named(config.source):
            edited = editor.edit(image, edits, seed=config.engine.seed, measure=is_measured)
    except ValueError as e:
        raise PlanError(str(e)) from e
    signer.write_image(edited.image, config.out)
    params = zip(edited.sources, edited.asked_params, edited.achieved_params, edited.edits) if is_measured else ()
    rows = [comparison_rows(source.params, wanted, found, spec, editor) for source, wanted, found, spec in params]
    notes = (
        *limit_note(config, len(edited.sources)),
        *fit_notes(edited.sources, edited.faces),
        *warning_notes(edited.warnings, edited.faces),
        *(missing_note(edited.achieved_params) if is_measured else ()),
        *hints(config.engine, editor),
    )
    return EditReport(config.out, rows, seconds=time.monotonic() - began, notes=notes, faces=tuple(edited.faces))


def load_editor(engine: Engine) -> Editor:
    """The editor with its face analyzer and, unless it is the preview, its model."""
    if engine.device.startswith("cuda") and not torch.cuda.is_available():
        raise PlanError(f"--device {engine.device}: no usable CUDA device; leave the flag out to compute on the CPU")
    checkpoint, sampling = engine.checkpoint or usual_checkpoint(), engine.sampling()
    if sampling and checkpoint == PREVIEW:
        flags = ["precise"] * engine.precise + [name for name, option in SAMPLING.items() if option in sampling]
        flag = flags[0].replace("_", "-")
        raise PlanError(f"--{flag} needs a model; the preview does no sampling. Name a model with --checkpoint")
    profile = profile_of(checkpoint).adjusted(engine.detector, engine.parser)
    device = "cpu" if profile.reconstructor == "fit" else engine.device  # a fit of one face gains nothing on a GPU
    try:
        analyzer = FaceAnalyzer.load(profile, device, small_faces=engine.small_faces)
        return Editor.load(
            checkpoint, engine.device, analyzer, autocast=None if engine.precise else "auto", compile=engine.compile,
            adapter=engine.adapter, **sampling,
        )  # fmt: skip
    except ValueError as e:
        raise PlanError(f"--{e}") from e


def load_targets(paths: Sequence[Path], editor: Editor) -> dict[Path, Face]:
    """The face of each file to copy from: of an image, analysed once, or a row of a dataset.

    PlanError if there is no such face, or it has another head model.
    """
    faces: dict[Path, Face] = {}
    head = editor.analyzer.head
    for path in dict.fromkeys(paths):
        if not path.is_file():  # then it is a row of a dataset: the flags are checked
            from pipelines.examples.face_reader import face_at  # imports pyarrow

            faces[path], spec = face_at(str(path))
            if (spec.name, spec.version) != (head.name, head.version):
                raise PlanError(
                    f"{path}: its head model is {spec.name} {spec.version}, edits need {head.name} {head.version}"
                )
        else:
            with errors_named(path):
                faces[path] = choose_faces(editor.analyzer(read_image(path)), "largest")[0]
    return faces


def check_output(out: Path, source: Path, is_video: bool, faces: Sequence[str | int]) -> None:
    """Refuse an impossible output or choice of face before anything is loaded."""
    suffixes = tuple(VIDEO_SUFFIXES) if is_video else IMAGE_SUFFIXES
    if out.suffix.lower() not in suffixes:
        kind = "a video" if is_video else "an image"
        raise PlanError(f"{out}: {source.name} is {kind}; choose a name that ends in {', '.join(suffixes)}")
    check_writable(out)
    if out.exists() and out.resolve() == source.resolve():
        raise PlanError(f"{out} is the source itself; choose another name")
    for face in map(str, faces):
        if face not in FACE_CHOICES and not (face.isascii() and face.isdigit()):
            raise PlanError(f"--face: want {', '.join(FACE_CHOICES)} or a number counted from the left, got {face!r}")


def check_spec(spec: EditSpec, editor: Editor) -> None:
    """Refuse an expression that the head model does not have, and a prompt without a text encoder."""
    try:
        editor.check_prompt(spec)
    except ValueError as e:
        raise PlanError(f"--{e}".replace(": needs", " needs")) from None
    head = editor.analyzer.head
    for name in spec.expression:
        try:
            axes_of(name, head)
        except ValueError:
            near = get_close_matches(name, [*NAMED_EXPRESSIONS, *axis_names(head)], n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise PlanError(f"--expression: unknown name {name!r}.{hint} `rigface sliders` lists all") from None
