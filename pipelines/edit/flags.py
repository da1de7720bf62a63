"""Flags of an edit, and the way from flags to an EditSpec.

Path: command line -> EditFlags -> `parse_edits` -> FaceEdits, with the images that traits are copied from -> `job.py`.

Precedence: a file (`--edit`) first, then copied traits (`--take`, `--pose-from` ...), then numbers, flag by
flag. An error names the flag, or the file and its field.

With more than one `--face` the flags of an edit that follow each are of that face, those before the first of all; with
more than one `--region` the `--prompt` that follows each is of that region.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tyro
from tyro.conf import arg

from rigface.edits import NAMED_EXPRESSIONS, EditSpec, FaceEdit, LightEdit, Region, Trait, face_edits, record_of
from rigface.errors import PlanError
from rigface.ranges import in_range
from rigface.storage.whole_file import write_whole


def _optional(metavar: str) -> Any:
    return arg(metavar=metavar, help_behavior_hint="")  # leaves out "default: None"


T = TypeVar("T")
Degrees = Annotated[float | None, _optional("DEGREES")]
Amount = Annotated[float | None, _optional("0..1")]
Strength = Annotated[float | None, _optional("FACTOR")]
File = Annotated[Path | None, _optional("FILE")]

LAMP = ("azimuth_deg", "elevation_deg", "intensity", "ambient", "colour")


@dataclass(frozen=True)
class EditFlags:
    """An edit: numbers, and images to copy traits from. Traits that are not named do not change."""

    yaw: Degrees = None  # Turn of the head, degrees within 90: positive is the viewer's right (the person's left).
    pitch: Degrees = None  # Degrees within 60: positive looks down.
    roll: Degrees = None  # Degrees within 90: positive tilts clockwise as you see it.
    relative: bool = False  # Add yaw, pitch and roll to the present pose instead of replacing it.

    smile: Amount = None  # Expressions run from 0 (none) to 1 (full); -1 to 2 is allowed, for caricatures.
    frown: Amount = None
    jaw_open: Amount = None
    pucker: Amount = None
    blink: Amount = None
    blink_left: Amount = None  # The person's left.
    blink_right: Amount = None
    eyes_wide: Amount = None
    squint: Amount = None
    brows_up: Amount = None
    brows_down: Amount = None
    expression: Annotated[tuple[str, ...], _optional("NAME=VALUE...")] = ()
    """Any axis by its name: `--expression jawOpen=0.4 mouthSmileLeft=1`. `rigface sliders` lists them."""
    region: Annotated[str, arg(metavar="face|eyes|mouth|hair|FILE")] = "face"
    """Region that may change, with a soft edge: eyes with the brows, mouth with chin and jaw, hair, or the white parts
    of an image, such as mask.png, which has the proportions of the whole picture. An expression changes by the axes of
    that region alone."""

    light_azimuth: Degrees = None
    """Add a lamp: its azimuth in degrees, 0 behind the camera, positive on the viewer's right."""
    light_elevation: Degrees = None  # Elevation of the lamp, degrees (default: 20).
    light_intensity: Strength = None  # Strength of the lamp, as a multiple of the present light (default: 0.8).
    light_ambient: Strength = None  # Even light around the lamp (default: 0.4).
    light_colour: Annotated[tuple[float, float, float] | None, _optional("R G B")] = None
    """Linear red, green, blue of the lamp; 1 1 1 is the white of the present light."""
    hdr: File = None
    """Light from an environment map: an equirectangular panorama (.hdr or any image), its middle behind the camera."""
    hdr_turn: Annotated[float, arg(metavar="DEGREES")] = 0.0
    """Turn the environment map around the person, degrees; its lamps move to the viewer's right."""

    take: Annotated[str, _optional("TRAIT,...")] = ""
    """Traits to copy from --target, separated by commas: pose, expression, light, shape; identity is a face swap."""
    target: File = None
    """Image to copy from (its largest face), or a row of a dataset: FOLDER#INPUT:FRAME or FOLDER#INPUT:FRAME:TRACK."""
    pose_from: File = None  # Copy the pose from this image or row.
    expression_from: File = None  # Copy the expression from this image or row.
    light_from: File = None  # Copy the light from this image or row.

    prompt: Annotated[str, _optional("WORDS")] = ""
    """Text prompt, for checkpoints that have a text encoder and were trained with captions, or with --clip for any."""
    region_prompt: Annotated[tuple[str, ...], _optional("REGION=WORDS...")] = ()
    """Prompts of regions, each followed there from step to step: `--region-prompt mouth="red lips" eyes="green eyes"`.
    With --region given more than once, `--region mouth --prompt "red lips" --region eyes --prompt "green eyes"` is the
    same. An edit of nothing else changes these regions alone."""

    strength: Annotated[float, arg(metavar="0..1.5")] = 1.0
    """Strength of the edit: 0 is the source, 1 the edit, up to 1.5 exaggerates."""
    edit: File = None  # Start from the edit in this JSON file.
    save_edit: File = None  # Write the edit as JSON, for --edit.

    def __post_init__(self) -> None:
        in_range(self, "[-360, 360]", "hdr_turn")


@dataclass(frozen=True)
class FaceFlags:
    """The flags of one face of several."""

    face: str
    flags: EditFlags


def split_faces(words: Sequence[str]) -> tuple[list[str], tuple[FaceFlags, ...]]:
    """The words of a command without those of its faces, and the flags of each face; none without a second --face."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--face=") else [word])]
    begins = [i for i, word in enumerate(words) if word == "--face"]
    if len(begins) < 2 or {"-h", "--help"} & set(words):
        return paired_prompts(words), ()
    rest, faces = paired_prompts(words[: begins[0]]), []
    for begin, end in zip(begins, [*begins[1:], len(words)]):
        which, *own = paired_prompts(words[begin + 1 : end]) or [""]
        flags, others = tyro.cli(EditFlags, prog="rigface edit", args=own, return_unknown_args=True)
        faces.append(FaceFlags(which, flags))
        rest += others
    return rest, tuple(faces)


def paired_prompts(words: Sequence[str]) -> list[str]:
    """Words with `--region-prompt` for each of several `--region` and the `--prompt` that follows it."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith(_PAIRED) else [word])]
    begins = [i for i, word in enumerate(words) if word == "--region"]
    if len(begins) < 2:
        return words
    rest, pairs = words[: begins[0]], []
    for begin, end in zip(begins, [*begins[1:], len(words)]):
        region, *own = words[begin + 1 : end] or [""]
        if "--prompt" not in own[:-1]:
            raise PlanError(f"--region {region}: of several regions each wants a --prompt of its own behind it")
        at = own.index("--prompt")
        pairs.append(f"{region}={own[at + 1]}")
        rest += own[:at] + own[at + 2 :]
    return [*rest, "--region-prompt", *pairs]


_PAIRED = ("--region=", "--prompt=")


def parse_edits(face: str, flags: EditFlags, faces: Sequence[FaceFlags] = ()) -> list[FaceEdit[Path]]:
    """The edits that flags ask for, with the image of each copied trait; PlanError names an invalid flag or file.

    Args:
        face: which face the flags are for, if neither the file of `--edit` nor the command line names several.
        flags: of all faces.
        faces: the flags of each face of several.
    """
    if faces:
        own = [
            replace(flags, **{f.name: v for f in fields(flags) if (v := getattr(one.flags, f.name)) != f.default})
            for one in faces
        ]
        return [FaceEdit(one.face, *parse_flags(of), mask_of(of)) for one, of in zip(faces, own)]
    read, mask = _from_file(flags.edit), mask_of(flags)
    if len(read) == 1:
        return [FaceEdit(face, *parse_flags(flags), mask)]
    return [FaceEdit(one.face, *parse_flags(flags, one.edit), mask) for one in read]


def mask_of(flags: EditFlags) -> Path | None:
    """The file of a region, or of a region's prompt; PlanError for more than one."""
    names = [flags.region, *(item.partition("=")[0] for item in flags.region_prompt)]
    masks = {mask for name in names if (mask := _mask(name)) is not None}
    if len(masks) > 1:
        raise PlanError(f"--region: one file at most, got {', '.join(sorted(map(str, masks)))}")
    return next(iter(masks), None)


def _region_prompts(flags: EditFlags) -> Iterator[tuple[str, str]]:
    for item in flags.region_prompt:
        name, _, text = item.partition("=")
        if not text:
            raise PlanError(f"--region-prompt: want REGION=WORDS such as mouth=red lips, got {item!r}")
        yield "mask" if _mask(name) else name, text


def _mask(region: str) -> Path | None:
    """The file of a region that is no name; PlanError if there is none."""
    if region in get_args(Region):
        return None
    if not Path(region).is_file():
        raise PlanError(f"--region: want {', '.join(get_args(Region))} or an image, got {region!r}")
    return Path(region)


def parse_flags(flags: EditFlags, spec: EditSpec | None = None) -> tuple[EditSpec, dict[Trait, Path]]:
    """One edit and the image of each copied trait; raises as `parse_edits`.

    The edit begins as `spec`, by default that of `--edit`.
    """
    if spec is None:
        spec, *more = (one.edit for one in _from_file(flags.edit))
        if more:
            raise PlanError(f"{flags.edit}: it has edits of several faces; name the file of one edit here")
    targets: dict[Trait, Path] = {}
    for trait in parse_traits(flags.take):
        if flags.target is None:
            raise PlanError(f"--take {trait} needs --target, an image to copy from")
        targets[trait] = flags.target
    if flags.target is not None and not flags.take and not spec.take:
        raise PlanError("--target needs --take: pose, expression, light, separated by commas")
    for trait in ("pose", "expression", "light"):
        if (path := getattr(flags, f"{trait}_from")) is not None:
            targets[trait] = path
    if flags.target is not None:
        targets |= {trait: flags.target for trait in spec.take if trait not in targets}
    for path in targets.values():
        if path.is_file():
            continue
        from pipelines.examples.face_reader import is_row  # imports pyarrow

        if not is_row(str(path)):
            raise PlanError(f"{path}: no such image to copy from")
    changes: dict[str, Any] = {"take": spec.take | set(targets)}
    for name in ("yaw", "pitch", "roll"):
        if (value := getattr(flags, name)) is not None:
            changes[f"{name}_deg"] = value
    for name in ("relative", "strength", "region", "prompt"):
        if (value := getattr(flags, name)) != getattr(EditFlags, name) and not (name == "region" and _mask(value)):
            changes[name] = value
    changes["expression"] = {**spec.expression, **dict(_expressions(flags))}
    changes["prompts"] = {**spec.prompts, **dict(_region_prompts(flags))}
    light = _light(flags, spec.light)
    if light is not None:
        changes["light"] = light
    return _checked(lambda: replace(spec, **changes)), targets


def save_edits(path: Path, edits: Sequence[FaceEdit[Any]]) -> None:
    """Write edits as a file for `--edit`."""
    text = edits[0].edit.to_json() if len(edits) == 1 else json.dumps(record_of(edits), sort_keys=True)
    write_whole(path, f"{text}\n".encode())


def _from_file(path: Path | None) -> list[FaceEdit[Any]]:
    if path is None:
        return [FaceEdit()]
    from pipelines.edit.inputs import errors_named  # imports OpenCV and FFmpeg

    try:
        with errors_named(path):
            return face_edits(path.read_bytes())
    except (ValueError, TypeError) as e:
        raise PlanError(f"{path}: {e}") from e


def parse_traits(text: str) -> list[Trait]:
    """The traits of `--take`, separated by commas; PlanError if one is unknown."""
    known = get_args(Trait)
    traits = [w.strip() for w in text.split(",") if w.strip()]
    if unknown := [t for t in traits if t not in known]:
        raise PlanError(f"--take: want some of {', '.join(known)}, got {unknown[0]!r}")
    return traits  # type: ignore[return-value]


def _expressions(flags: EditFlags) -> Iterator[tuple[str, float]]:
    for name in NAMED_EXPRESSIONS:
        if (value := getattr(flags, name)) is not None:
            yield name, value
    for item in flags.expression:
        name, _, text = item.partition("=")
        try:
            yield name, float(text)
        except ValueError:
            raise PlanError(f"--expression: want NAME=VALUE such as jawOpen=0.4, got {item!r}") from None


def _light(flags: EditFlags, before: LightEdit | None) -> LightEdit | None:
    asked = {name: getattr(flags, f"light_{name.removesuffix('_deg')}") for name in LAMP}
    asked = {name: value for name, value in asked.items() if value is not None}
    if flags.hdr is None:
        return _checked(lambda: replace(before or LightEdit(), **asked)) if asked else before
    if asked:
        flag = f"--light-{next(iter(asked)).removesuffix('_deg')}"
        raise PlanError(f"{flag}: --hdr sets all of the light; use one or the other")
    from pipelines.edit.inputs import decode_confined, errors_named
    from rigface.face.controls.transfer import exposure
    from rigface.face.rendering.environment_map import harmonics_of, read_environment_map

    with errors_named(flags.hdr, "--hdr "):
        light = harmonics_of(read_environment_map(flags.hdr, partial(decode_confined, linear=True)), flags.hdr_turn)
    light = light / exposure(light)  # as bright on average as the photograph
    return LightEdit(sh=light.astype(float).round(5).tolist())


def _checked(build: Callable[[], T]) -> T:
    """The value; its ValueError becomes a PlanError that names the flag."""
    try:
        return build()
    except ValueError as e:
        name, _, reason = str(e).partition(":")
        raise PlanError(f"{_FLAGS.get(name, name)}:{reason}") from None


_FLAGS = {f"{n}_deg": f"--{n}" for n in ("yaw", "pitch", "roll")}
_FLAGS |= {f"light.{n}": f"--light-{n.removesuffix('_deg')}" for n in LAMP}
_FLAGS |= {f"expression.{n}": f"--{n.replace('_', '-')}" for n in NAMED_EXPRESSIONS}
_FLAGS |= {"strength": "--strength", "region": "--region", "prompt": "--prompt", "take": "--take"}
_FLAGS |= {"prompts": "--region-prompt"}
