"""The types on the wire. Everything about an edit derives from `rigface.edits.EditSpec`: a field added there is here.

Path: JSON -> these -> `eye.py`, `painter.py` -> these -> JSON. No torch, no Ray, no pictures as arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import core_schema

from rigface.edits import LIMITS, NAMED, EditSpec, LightEdit, Trait

API_VERSION = "1"
PREVIEW = "preview"
"""The name of the model that is always there: no network, the photograph itself moved and lit."""
PictureId = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="content hash of a picture sent before")]
Format = Literal["png", "jpeg", "webp"]


class _EditWire:
    """Lets pydantic read an `EditSpec` with its own rules, and describes them in the OpenAPI document."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        def read(value: Any) -> EditSpec:
            return value if isinstance(value, EditSpec) else EditSpec.from_dict(value)

        written = core_schema.plain_serializer_function_ser_schema(EditSpec.to_dict)
        return core_schema.no_info_plain_validator_function(read, serialization=written)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return edit_schema()


def edit_schema() -> dict[str, Any]:
    """JSON Schema of an edit, from the dataclass, with the bounds that it checks."""
    whole, light = (TypeAdapter(kind).json_schema() for kind in (EditSpec, LightEdit))
    whole.pop("$defs", None)
    light["additionalProperties"] = whole["additionalProperties"] = False
    for name, (low, high) in {
        "azimuth_deg": (-180, 180), "elevation_deg": (-90, 90), "intensity": (0, 10), "ambient": (0, 10),
    }.items():  # fmt: skip
        light["properties"][name] |= {"minimum": low, "maximum": high}
    light["properties"]["colour"] = _numbers(3, minimum=0, maximum=4) | {"default": [1, 1, 1]}
    light["properties"]["sh"] = {
        "anyOf": [{"type": "array", "minItems": 9, "maxItems": 9, "items": _numbers(3)}, {"type": "null"}]
    }
    properties = whole["properties"]
    for name, limit in LIMITS.items():
        bounded = {"type": "number", "minimum": -limit, "maximum": limit}
        properties[name] |= {"anyOf": [bounded, {"type": "null"}]}
    properties["light"] = {"anyOf": [light, {"type": "null"}], "default": None}
    properties["strength"] |= {"minimum": 0, "maximum": 1.5}
    properties["expression"] = {
        "type": "object",
        "default": {},
        "propertyNames": {"pattern": "^[A-Za-z_0-9]{1,40}$"},
        "additionalProperties": {"type": "number", "minimum": -1, "maximum": 2},
        "description": f"{', '.join(NAMED)}, or an axis of the head model",
    }
    return whole


def _numbers(count: int, **bounds: float) -> dict[str, Any]:
    return {"type": "array", "minItems": count, "maxItems": count, "items": {"type": "number", **bounds}}


Edit = Annotated[EditSpec, _EditWire()]


class Strict(BaseModel):
    """Nothing unknown, nothing infinite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PictureRef(Strict):
    """A picture: its content hash, or its bytes, or an address in an object store that the operator allows."""

    id: PictureId | None = None
    base64: str | None = Field(None, description="the file, base64")
    url: str | None = Field(None, max_length=4096, description="a pre-signed address on the operator's allow-list")


class Guidance(Strict):
    """How much to exaggerate each condition; 1 is off, each other value costs one more row in the network."""

    identity: float = Field(default=1.0, ge=0, le=5)
    attributes: float = Field(default=1.0, ge=0, le=5)
    text: float = Field(default=1.0, ge=0, le=5)


class PreviewRequest(Strict):
    """What to change. In a multipart request the pictures are parts and this is the part `request`."""

    picture: PictureRef | None = Field(None, description="the source; in multipart the file part `picture`")
    target: PictureRef | None = Field(None, description="whom to copy `edit.take` from; multipart: `target`")
    targets: dict[Trait, PictureRef] = Field(
        default_factory=dict, description="a picture for one trait, which is then taken; multipart: `target.<trait>`"
    )
    edit: Edit = Field(default_factory=EditSpec)
    face: Literal["largest", "left-most", "right-most", "all"] | Annotated[int, Field(ge=0, le=999)] = "largest"
    max_side: int = Field(1024, ge=64, le=4096, description="longest side of a preview, px")


class EditRequest(PreviewRequest):
    """A preview's fields, and how to paint."""

    model: str | None = Field(None, max_length=100, description="see /v1/models; the service's default where left out")
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int | None = Field(None, ge=1, le=100)
    scheduler: str | None = Field(None, max_length=60)
    guidance: Guidance = Guidance()
    strength: float = Field(1.0, gt=0, le=1, description="below 1 begins from the render, partly noised")
    previews: int = Field(0, ge=0, le=100, description="in a stream: a picture after each so many steps; 0 sends none")
    format: Format | None = Field(None, description="of the picture inside JSON or a stream; PNG where left out")


class JobRequest(EditRequest):
    """Many edits of one picture: an animation, or variants. `edit` is not read."""

    edits: list[Edit] = Field(min_length=1, max_length=1000)


class JobState(BaseModel):
    """How far a job is; result n is at /v1/jobs/{id}/results/{n}, from 0."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    total: int
    finished: int
    error: dict[str, Any] | None = None


class SeenFace(BaseModel):
    """One face of a picture."""

    box: list[float] = Field(description="x0, y0, x1, y1 in px of the upright picture")
    landmarks: list[list[float]] = Field(description="x, y in px of the picture")
    confidence: float = Field(description="how well the fitted head agrees with the landmarks, in [0, 1]")
    numbers: dict[str, float] = Field(description="what the sliders say of this face: pose, named expressions, light")
    coefficients: dict[str, Any] = Field(description="`FaceParams`, field by field")


class Reconstruction(BaseModel):
    """All faces of a picture, from left to right."""

    picture: PictureId
    width: int
    height: int
    head: str
    faces: list[SeenFace]


class EditResult(BaseModel):
    """An edited picture and what was reached. As a picture, the same comes in `RigFace-*` headers."""

    image: str = Field(description="base64")
    media_type: str
    picture: PictureId = Field(description="content hash of the source")
    model: str
    seed: int
    asked: list[dict[str, float]] = Field(description="one row per face edited")
    achieved: list[dict[str, float] | None] = Field(description="measured on the result; null where no face is found")
    seconds: dict[str, float]


class Verified(BaseModel):
    """Whether this service made a picture."""

    made_here: bool = Field(description="a manifest signed by this service, or its watermark")
    manifest: Literal["trusted", "foreign", "invalid", "none"] = Field(
        description="signed here; signed by another and intact; broken; absent"
    )
    record: dict[str, Any] | None = Field(None, description="what a trusted manifest says was done")
    watermark: bool
    mark: str | None = Field(
        None, description="the watermark's 32 bits, hex: the `mark` of the record and the audit log"
    )
    score: float = Field(description="of the watermark; about 32 by chance, found from 125")


class ModelInfo(BaseModel):
    """A model that can be asked for."""

    name: str
    kind: str = Field(description="`preview`, or the process of a diffusion model")
    size: int = Field(description="side of the square that is painted, px")
    steps: int = Field(description="network evaluations where a request does not say; 0 for the preview")
    default: bool
    loaded: bool


class Models(BaseModel):
    """All of them."""

    models: list[ModelInfo]


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None


# What travels inside the service, between its deployments.


@dataclass(frozen=True)
class Wish:
    """An edit with its pictures by content hash.

    Args:
        pictures: hash -> bytes; None where the receiver should still have it.
        traits: trait -> hash of the picture it is copied from.
    """

    picture: str
    edit: EditSpec
    pictures: dict[str, bytes | None] = field(default_factory=dict)
    traits: dict[str, str] = field(default_factory=dict)
    face: str | int = "largest"
    max_side: int = 1024


@dataclass(frozen=True)
class PaintOptions:
    """How one picture is painted."""

    seed: int = 0
    steps: int | None = None
    scheduler: str | None = None
    identity_scale: float = 1.0
    attribute_scale: float = 1.0
    text_scale: float = 1.0
    strength: float = 1.0


@dataclass(frozen=True)
class Canvas:
    """What the model paints on: as a checkpoint's config says."""

    style: str
    size: int
    expression_field: str = "expression"


@dataclass(frozen=True)
class Wrap:
    """How a result is encoded, and what is recorded of how it came about."""

    format: Format = "png"
    record: dict[str, Any] = field(default_factory=dict)
