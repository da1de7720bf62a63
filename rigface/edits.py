"""EditSpec: an edit as a row of numbers that round-trips through JSON and names the field of a bad value.

Path: a slider, a flag, a request -> EditSpec -> `face/controls/transfer.py` (numbers to coefficients) -> preview or
model.

An edit has two halves. `take` names the traits copied from a target (another photograph, a dataset row); the numbers
override them, one by one. What is not named stays the source's. "Smile like her, but look left" is
`EditSpec(take={"expression"}, yaw_deg=20)`. A `prompt`, and `prompts` of regions, are for models that have a text
encoder, or that a CLIP model guides.

A `FaceEdit` is the edit of one face; a list of them gives each face of a picture its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

Trait = Literal["pose", "expression", "light", "shape", "identity"]
Region = Literal["face", "eyes", "mouth", "hair"]
PromptRegion = Literal["eyes", "mouth", "hair", "mask"]  # mask: the white parts of `FaceEdit.mask`
WarningCode = Literal["unseen-side", "cut-off", "uncertain-face", "too-much", "no-colour"]

# Everyday names for expressions, and the axes of the open head that make each in full. An axis is what a detector
# scores, and faces move more than one: a mouth that smiles also lifts its lip. The shares are what it takes for the
# preview of a resting face to be scored about 0.7 where 1 was asked.
NAMED_EXPRESSIONS = MappingProxyType(
    {
        "smile": {
            "mouthSmileLeft": 1.25, "mouthSmileRight": 1.25, "mouthDimpleLeft": 0.4, "mouthDimpleRight": 0.4,
            "mouthUpperUpLeft": 0.4, "mouthUpperUpRight": 0.4, "cheekSquintLeft": 0.3, "cheekSquintRight": 0.3,
        },
        "frown": {"mouthFrownLeft": 1.6, "mouthFrownRight": 1.6, "mouthShrugLower": 0.3},
        "jaw_open": {"jawOpen": 1.0},
        "pucker": {"mouthPucker": 1.4, "mouthFunnel": 0.2},
        "blink_left": {"eyeBlinkLeft": 1.25},
        "blink_right": {"eyeBlinkRight": 1.25},
        "blink": {"eyeBlinkLeft": 1.25, "eyeBlinkRight": 1.25},
        "eyes_wide": {"eyeWideLeft": 1.5, "eyeWideRight": 1.5},
        "squint": {"eyeSquintLeft": 1.3, "eyeSquintRight": 1.3},
        "brows_up": {"browInnerUp": 1.3, "browOuterUpLeft": 1.3, "browOuterUpRight": 1.3},
        "brows_down": {"browDownLeft": 1.6, "browDownRight": 1.6},
    }
)  # fmt: skip
PREVIEW = "preview"  # name of the editor without a model: warps and relights the photograph
MAX_PROMPT_CHARS = 1000  # characters of a prompt; encoders cut far earlier
MAX_FACE_EDITS = 32  # of one picture or video
EXPRESSION_RANGE = (-1.0, 2.0)  # of a named amount; 1 is full
MAX_DEGREES = {"yaw_deg": 90.0, "pitch_deg": 60.0, "roll_deg": 90.0}


def _expect(good: bool, name: str, wanted: str, got: Any) -> None:
    if not good:
        raise ValueError(f"{name}: want {wanted}, got {got!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class LightEdit:
    """A lamp over an even surround, or a light as nine harmonics; ValueError names a field that is out of its range."""

    azimuth_deg: float = 0.0  # of the lamp: 0 behind the camera, positive on the viewer's right, in [-180, 180]
    elevation_deg: float = 20.0  # in [-90, 90]
    intensity: float = 0.8  # the lamp's share; 1 lights the side that faces it as much as `ambient` = 1 would
    ambient: float = 0.4  # the surround's share, from everywhere
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)  # linear RGB of the lamp, each in [0, 4]; (1, 1, 1) is white
    sh: tuple[tuple[float, float, float], ...] | None = None  # (9, 3), `face/rendering/lighting.py`: replaces all above
    relative: bool = True  # strengths are multiples of the source's own exposure, not linear radiance

    def __post_init__(self) -> None:
        for name, low, high in (
            ("azimuth_deg", -180, 180), ("elevation_deg", -90, 90), ("intensity", 0, 10), ("ambient", 0, 10),
        ):  # fmt: skip
            value = getattr(self, name)
            _expect(_is_number(value) and low <= value <= high, f"light.{name}", f"a number in [{low}, {high}]", value)
        object.__setattr__(self, "colour", tuple(self.colour))
        good = len(self.colour) == 3 and all(_is_number(c) and 0 <= c <= 4 for c in self.colour)
        _expect(good, "light.colour", "three numbers in [0, 4]", self.colour)
        if self.sh is not None:
            object.__setattr__(self, "sh", tuple(tuple(row) for row in self.sh))
            good = len(self.sh) == 9 and all(len(row) == 3 and all(map(_is_number, row)) for row in self.sh)
            _expect(good, "light.sh", "nine rows of three numbers", self.sh)


@dataclass(frozen=True)
class EditSpec:
    """Traits copied from a target, and numbers that override them; everything else stays the source's.

    ValueError names the field of an unknown trait or name, or of a number out of its range.
    """

    take: frozenset[Trait] = frozenset()  # copied from the target; `identity`: its face itself, a face swap
    yaw_deg: float | None = None  # the pose wanted; None leaves it; signs as in `face/geometry/rotation.py`.
    pitch_deg: float | None = None
    roll_deg: float | None = None
    relative: bool = False  # the three are turns added to the pose instead of the pose itself
    expression: Mapping[str, float] = field(default_factory=dict)  # "smile" or "mouthSmileLeft" -> [-1, 2]; 1 is full
    light: LightEdit | None = None  # the light wanted; None leaves it
    strength: float = 1.0  # 0 gives the source, 1 the edit; in [0, 1.5]
    region: Region = "face"  # all that may change (`face/region_masks.py`); of an expression, by the names of its axes
    prompt: str = ""  # text for a model that has a text encoder; at most `MAX_PROMPT_CHARS` characters
    prompts: Mapping[PromptRegion, str] = field(default_factory=dict)  # texts of regions, each followed there alone

    def __post_init__(self) -> None:
        object.__setattr__(self, "take", frozenset(self.take))
        unknown = sorted(set(self.take) - set(get_args(Trait)))
        _expect(not unknown, "take", f"some of {', '.join(get_args(Trait))}", unknown)
        for name, limit in MAX_DEGREES.items():
            value = getattr(self, name)
            good = value is None or (_is_number(value) and abs(value) <= limit)
            _expect(good, name, f"a number in [-{limit:g}, {limit:g}]", value)
        for name, value in self.expression.items():
            low, high = EXPRESSION_RANGE
            _expect(_is_number(value) and low <= value <= high, f"expression.{name}", "a number in [-1, 2]", value)
        _expect(
            _is_number(self.strength) and 0 <= self.strength <= 1.5, "strength", "a number in [0, 1.5]", self.strength
        )
        _expect(self.region in get_args(Region), "region", f"one of {', '.join(get_args(Region))}", self.region)
        strange = sorted(set(self.prompts) - set(get_args(PromptRegion)))
        _expect(not strange, "prompts", f"some of {', '.join(get_args(PromptRegion))}", strange)
        for name, text in {"prompt": self.prompt, **{f"prompts.{n}": text for n, text in self.prompts.items()}}.items():
            good = isinstance(text, str) and len(text) <= MAX_PROMPT_CHARS and (text or name == "prompt")
            _expect(bool(good), name, f"a text of at most {MAX_PROMPT_CHARS} characters", text)

    @property
    def needs_target(self) -> bool:
        """True if a trait is copied from a target."""
        return bool(self.take)

    @property
    def has_prompt(self) -> bool:
        """True if it has text, for all of the face or for regions."""
        return bool(self.prompt or self.prompts)

    @property
    def is_nothing(self) -> bool:
        """True if the result is the source."""
        poses = (self.yaw_deg, self.pitch_deg, self.roll_deg)
        idle = not self.take and all(p is None for p in poses) and not self.expression and self.light is None
        idle = idle and not self.has_prompt
        return idle or self.strength == 0

    def to_json(self) -> str:
        """The edit as JSON; fields at their default are left out."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The edit as plain JSON values; fields at their default are left out."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            default = f.default if f.default is not MISSING else {}
            if value == default:
                continue
            out[f.name] = sorted(value) if f.name == "take" else dict(value) if isinstance(value, Mapping) else value
        if self.light is not None:
            out["light"] = {k: v for k, v in asdict(self.light).items() if v != getattr(LightEdit(), k)}
        plain: dict[str, Any] = json.loads(json.dumps(out))
        return plain

    @classmethod
    def from_json(cls, text: str | bytes) -> EditSpec:
        """The inverse of `to_json`; ValueError if it is not JSON, or names the bad field."""
        return cls.from_dict(_parsed(text))

    @classmethod
    def from_dict(cls, value: Any) -> EditSpec:
        """An edit from plain JSON values; see `from_json`."""
        _expect(isinstance(value, dict), "edit", "an object", value)
        _known(value, cls, "")
        value = dict(value)
        if isinstance(value.get("light"), dict):
            _known(value["light"], LightEdit, "light.")
            value["light"] = LightEdit(**value["light"])
        elif value.get("light") is not None:
            _expect(False, "light", "an object", value["light"])
        _expect(
            isinstance(value.get("take", []), (list, tuple, frozenset)), "take", "a list of traits", value.get("take")
        )
        for name in ("expression", "prompts"):
            _expect(isinstance(value.get(name, {}), dict), name, "an object", value.get(name))
        _expect(isinstance(value.get("relative", False), bool), "relative", "true or false", value.get("relative"))
        return cls(**value)


Target = TypeVar("Target")


@dataclass(frozen=True)
class FaceEdit(Generic[Target]):
    """The edit of the face, or of the faces, that `face` chooses; `all`: those that no other edit of a list chooses."""

    face: str | int = "largest"  # see `analyzer.choose_faces`
    edit: EditSpec = EditSpec()
    targets: Mapping[Trait, Target] = field(default_factory=dict)  # trait -> picture, face or name to copy from
    mask: Any = None  # a picture of the whole one's proportions, or its name; None: all
    """What may change is white; with a prompt for `mask`, where that is followed."""


def record_of(edits: Sequence[FaceEdit[Any]]) -> dict[str, Any]:
    """Edits as plain JSON values: `edit`, or the list `faces` of several, each with its `face` and `edit`."""
    if len(edits) == 1:
        return {"edit": edits[0].edit.to_dict()}
    return {"faces": [{"face": one.face, "edit": one.edit.to_dict()} for one in edits]}


def face_edits(value: Any) -> list[FaceEdit[Any]]:
    """The inverse of `record_of`, also of a bare edit, whose face is the largest, and of their JSON.

    ValueError if it is not JSON, or names the bad field.
    """
    value = _parsed(value) if isinstance(value, (str, bytes)) else value
    _expect(isinstance(value, dict), "edit", "an object", value)
    if "faces" not in value:
        return [FaceEdit(edit=EditSpec.from_dict(value.get("edit", value)))]
    faces = value["faces"]
    _expect(isinstance(faces, list) and 0 < len(faces) <= MAX_FACE_EDITS, "faces", "a list of edits", faces)
    out = []
    for n, one in enumerate(faces):
        good = isinstance(one, dict) and set(one) <= {"face", "edit"} and isinstance(one.get("face"), (int, str))
        _expect(good, f"faces.{n}", "an object with face and edit", one)
        try:
            out.append(FaceEdit[Any](one["face"], EditSpec.from_dict(one.get("edit", {}))))
        except ValueError as error:
            raise ValueError(f"faces.{n}.{error}") from None
    return out


class RegionPrompt(NamedTuple):
    """A text that a model follows in a part of the crop."""

    text: str
    mask: Any  # (S, S) uint8 array, 255 where it is followed; of the crop, at any size


@dataclass(frozen=True)
class EditWarning:
    """A remark on an edit that may look wrong; `face/controls/edit_warnings.py` makes them."""

    code: WarningCode
    text: str  # one sentence
    holds: dict[str, tuple[float, float]] = field(default_factory=dict)  # number of the edit -> range without it


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"an edit is a JSON object: {error}") from None


def _known(value: dict[str, Any], cls: type, prefix: str) -> None:
    names = [f.name for f in fields(cls)]
    unknown = sorted(set(value) - set(names))
    _expect(not unknown, f"{prefix}{unknown[0] if unknown else ''}", f"one of {', '.join(names)}", "an unknown field")
