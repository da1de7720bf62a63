"""Settings that faces are analysed and drawn with, as a model was trained with them.

Path: a checkpoint's config.json -> `FaceProfile` -> `FaceAnalyzer.load`, `FaceEstimator.load`; with style and size it
is a `ConditionSpec` -> `Composer`, training examples, the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, get_args, get_type_hints

CropRule = Literal["own", "rigface"]
DetectorName = Literal["mediapipe", "insightface"]
ParserName = Literal["selfie", "colours", "bisenet", "segformer"]
RenderStyle = Literal["albedo", "texture", "shape", "points"]
ExpressionField = Literal["expression", "bfm_expression"]
IdentityName = Literal["", "dlib", "arcface"]


@dataclass(frozen=True)
class FaceProfile:
    """Networks and rules between a photograph and the conditions of a model; the defaults are this project's own.

    Raises:
        ValueError: an unknown value; the message names the field.
    """

    reconstructor: Literal["fit", "deca", "deca-rigface", "emoca", "smirk"] = "fit"  # crops -> coefficients
    head: Literal["open", "flame", "basel"] = "open"  # model of the coefficients and of the render
    texture: Literal["none", "flame", "basel"] = "none"  # albedo by texture coordinates; none: the head's own
    expression_codes: Literal["none", "d3dfr", "deep3d"] = "none"  # network of `FaceParams.bfm_expression`
    parser: ParserName = "selfie"  # crop -> person mask
    mask: Literal["person-without-clothes", "everything"] = "person-without-clothes"  # classes that the mask holds
    margin: float = 0.03  # of the crop's side, by which the hole in the background exceeds the mask
    colours: Literal["srgb", "linear-as-is"] = "srgb"  # encoding of albedo times shading in the render
    crop: CropRule = "own"  # square around a face; rigface: by SCRFD's box if that found the face, black outside
    detector: DetectorName = "mediapipe"
    align_centre: bool = False  # an edit keeps the centre of eyes and mouth in place (DECA's `align_ffhq`)

    def __post_init__(self) -> None:
        for name, known in _choices(type(self)).items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}: want one of {', '.join(known)}, got {value!r}")
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin: want a share of the side in [0, 0.5), got {self.margin}")

    def adjusted(self, detector: str | None, parser: str | None) -> FaceProfile:
        """The profile with another detector or parser; None or empty: its own."""
        return replace(self, detector=detector or self.detector, parser=parser or self.parser)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ConditionSpec:
    """Conditions that a model takes, from its checkpoint's config.

    Raises:
        ValueError: an unknown style or field; the message names it.
    """

    render_style: RenderStyle = "texture"  # content of the render condition, see conditions.py
    size: int = 256  # side of the pictures, px
    expression_field: ExpressionField = "expression"  # field of `FaceParams` that is the expression code
    detail: bool = False  # the model changes the render and leaves its detail alone; matters for pasting only
    profile: FaceProfile = field(default_factory=FaceProfile)
    identity: IdentityName = ""  # network of the source's identity vector; "": the model reads none

    def __post_init__(self) -> None:
        for name, known in _choices(type(self)).items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}: want one of {', '.join(known)}, got {value!r}")


def _choices(kind: type) -> dict[str, tuple[str, ...]]:
    """The values that each field of a dataclass may have, for those with a list of them."""
    return {name: get_args(hint) for name, hint in get_type_hints(kind).items() if get_args(hint)}


OWN = FaceProfile()
PROFILES: Mapping[str, FaceProfile] = MappingProxyType(
    {
        "own": OWN,
        # The released RigFace weights. SCRFD's boxes frame faces as our own rule does, within 2 %, so no pack of
        # InsightFace is needed.
        "rigface": FaceProfile(
            reconstructor="deca-rigface",
            head="flame",
            texture="flame",
            expression_codes="d3dfr",
            parser="bisenet",
            mask="everything",
            margin=0.0,
            colours="linear-as-is",
            crop="rigface",
            align_centre=True,
        ),
    }
)
