"""What to change, as flags: the fields of an edit under the names people type, and one way from flags to an EditSpec.

Path: command line -> EditFlags -> `read` -> EditSpec and the pictures that traits are copied from -> `edit.py`, `edit_clip.py`.

Precedence: a file (`--edit`) first, then what is copied (`--take`, `--pose-from` ...), then numbers, flag by flag. Complaints
name the flag that was typed, or the file and the field in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

from tyro.conf import arg

from rigface.edits import NAMED_EXPRESSIONS, EditSpec, LightEdit, Region, Trait
from rigface.errors import BadInput, PlanError


def _shown(metavar: str) -> Any:
    return arg(metavar=metavar, help_behavior_hint="")  # "default: None" forty times teaches nobody


Degrees = Annotated[float | None, _shown("DEGREES")]
Amount = Annotated[float | None, _shown("0..1")]
Strength = Annotated[float | None, _shown("FACTOR")]
File = Annotated[Path | None, _shown("FILE")]

LAMP = ("azimuth_deg", "elevation_deg", "intensity", "ambient", "colour")


@dataclass(frozen=True)
class EditFlags:
    """An edit: numbers, and whom to copy. What is not named stays as it is."""

    yaw: Degrees = None
    """Turn of the head, degrees: positive is the viewer's right (the person's left), within 90."""
    pitch: Degrees = None
    """Degrees: positive looks down, within 60."""
    roll: Degrees = None
    """Degrees: positive tilts clockwise as you see it, within 90."""
    relative: bool = False
    """The three are added to the pose that is there, instead of replacing it."""

    smile: Amount = None
    """Expressions run from 0 (not at all) to 1 (in full); down to -1 and up to 2 for caricatures."""
    frown: Amount = None
    jaw_open: Amount = None
    pucker: Amount = None
    blink: Amount = None
    blink_left: Amount = None
    """Left is the person's left."""
    blink_right: Amount = None
    eyes_wide: Amount = None
    squint: Amount = None
    brows_up: Amount = None
    brows_down: Amount = None
    expression: Annotated[tuple[str, ...], _shown("NAME=VALUE...")] = ()
    """Any axis by its name: `--expression jawOpen=0.4 mouthSmileLeft=1`. `rigface sliders` lists them."""
    region: Region = "face"
    """Where the expression may change: the whole face, the eyes with brows and cheeks, or the mouth with the jaw."""

    light_azimuth: Degrees = None
    """A lamp: where it stands, degrees; 0 behind the camera, positive on the viewer's right."""
    light_elevation: Degrees = None
    """How high, degrees (20 if not said)."""
    light_intensity: Strength = None
    """Its strength, as a multiple of the light that is there (0.8)."""
    light_ambient: Strength = None
    """The even light around it (0.4)."""
    light_colour: Annotated[tuple[float, float, float] | None, _shown("R G B")] = None
    """Linear red, green, blue of the lamp; 1 1 1 is the white of the photograph's own light."""
    hdr: File = None
    """Light of a real place: an equirectangular panorama (.hdr, or any picture), its middle behind the camera."""
    hdr_turn: Annotated[float, arg(metavar="DEGREES")] = 0.0
    """Turns that place around the person, degrees; its lamps move to the viewer's right."""

    take: Annotated[str, _shown("TRAIT,...")] = ""
    """Traits copied from --target, with commas: pose, expression, light; for a face swap shape or identity."""
    target: File = None
    """Picture of whom to copy; its largest face. Or a row of a dataset: FOLDER#INPUT:FRAME, or :FRAME:TRACK."""
    pose_from: File = None
    """Copy the pose from this picture or row; the next two likewise. They may be three different ones."""
    expression_from: File = None
    light_from: File = None

    prompt: Annotated[str, _shown("WORDS")] = ""
    """What is said to the model besides: for checkpoints that have a text encoder and were trained with captions."""

    strength: Annotated[float, arg(metavar="0..1.5")] = 1.0
    """0 is the source, 1 the edit; in between, in between; up to 1.5."""
    edit: File = None
    """Begin with the edit in this JSON file."""
    save_edit: File = None
    """Write the whole edit as JSON, to use again."""


def read(wish: EditFlags) -> tuple[EditSpec, dict[Trait, Path]]:
    """The edit that flags ask for, and the picture that each copied trait comes from.

    Raises:
        PlanError: nonsense; the message names the flag or the file.
    """
    from pipelines.examples.face_reader import is_row

    spec = _from_file(wish.edit)
    givers: dict[Trait, Path] = {}
    for trait in traits(wish.take):
        if wish.target is None:
            raise PlanError(f"--take {trait}: from whom? Name a picture with --target")
        givers[trait] = wish.target
    if wish.target is not None and not wish.take and not spec.take:
        raise PlanError("--target: what of it? Say --take pose, or expression, or light, with commas")
    for trait in ("pose", "expression", "light"):
        if (path := getattr(wish, f"{trait}_from")) is not None:
            givers[trait] = path
    if wish.target is not None:
        givers |= {trait: wish.target for trait in spec.take if trait not in givers}
    for path in givers.values():
        if not (path.is_file() or is_row(str(path))):
            raise PlanError(f"{path}: no such picture to copy from")
    changes: dict[str, Any] = {"take": spec.take | set(givers)}
    for name in ("yaw", "pitch", "roll"):
        if (value := getattr(wish, name)) is not None:
            changes[f"{name}_deg"] = value
    changes |= {"relative": True} if wish.relative else {}
    changes |= {"strength": wish.strength} if wish.strength != 1.0 else {}
    changes |= {"region": wish.region} if wish.region != "face" else {}
    changes |= {"prompt": wish.prompt} if wish.prompt else {}
    changes["expression"] = {**spec.expression, **dict(_expressions(wish))}
    light = _light(wish, spec.light)
    if light is not None:
        changes["light"] = light
    return _checked(lambda: replace(spec, **changes)), givers


def save(path: Path, spec: EditSpec) -> None:
    """Write an edit as a file that `--edit` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(spec.to_json() + "\n")


def _from_file(path: Path | None) -> EditSpec:
    if path is None:
        return EditSpec()
    try:
        return EditSpec.from_json(path.read_bytes())
    except OSError as e:
        raise PlanError(f"{path}: {e.strerror or e}") from e
    except (ValueError, TypeError) as e:
        raise PlanError(f"{path}: {e}") from e


def traits(words: str) -> list[Trait]:
    """`--take` taken apart.

    Raises:
        PlanError: one of them is no trait.
    """
    known = get_args(Trait)
    found = [w.strip() for w in words.split(",") if w.strip()]
    if unknown := [t for t in found if t not in known]:
        raise PlanError(f"--take: want some of {', '.join(known)}, got {unknown[0]!r}")
    return found  # type: ignore[return-value]


def _expressions(wish: EditFlags) -> Iterator[tuple[str, float]]:
    for name in NAMED_EXPRESSIONS:
        if (value := getattr(wish, name)) is not None:
            yield name, value
    for item in wish.expression:
        name, _, text = item.partition("=")
        try:
            yield name, float(text)
        except ValueError:
            raise PlanError(f"--expression: want NAME=VALUE such as jawOpen=0.4, got {item!r}") from None


def _light(wish: EditFlags, before: LightEdit | None) -> LightEdit | None:
    asked = {name: getattr(wish, f"light_{name.removesuffix('_deg')}") for name in LAMP}
    asked = {name: value for name, value in asked.items() if value is not None}
    if wish.hdr is None:
        return _checked(lambda: replace(before or LightEdit(), **asked)) if asked else before
    if asked:
        flag = f"--light-{next(iter(asked)).removesuffix('_deg')}"
        raise PlanError(f"{flag}: --hdr already says all of the light; use one or the other")
    from rigface.face.controls.transfer import exposure
    from rigface.face.rendering.environment_map import harmonics_of
    from rigface.face.rendering.environment_map import read_environment_map as panorama

    try:
        place = harmonics_of(panorama(wish.hdr), wish.hdr_turn)
    except BadInput as e:
        raise PlanError(f"--hdr {wish.hdr}: {e.reason}") from e
    except OSError as e:
        raise PlanError(f"--hdr {wish.hdr}: {e.strerror or e}") from e
    place = place / exposure(place)  # as bright, on the whole, as the photograph is
    return LightEdit(sh=place.astype(float).round(5).tolist())


def _checked(make: Any) -> Any:
    """The value, or a complaint in the words of the command line."""
    try:
        return make()
    except ValueError as e:
        where, _, what = str(e).partition(":")
        raise PlanError(f"{_FLAGS.get(where, where)}:{what}") from None


_FLAGS = {f"{n}_deg": f"--{n}" for n in ("yaw", "pitch", "roll")}
_FLAGS |= {f"light.{n}": f"--light-{n.removesuffix('_deg')}" for n in LAMP}
_FLAGS |= {f"expression.{n}": f"--{n.replace('_', '-')}" for n in NAMED_EXPRESSIONS}
_FLAGS |= {"strength": "--strength", "region": "--region", "prompt": "--prompt", "take": "--take"}
