"""The type `Edit` of requests: an `EditSpec`, with the JSON Schema of its fields and bounds."""

from typing import Annotated, Any, get_args

import pydantic
from pydantic import TypeAdapter

from rigface.edits import MAX_DEGREES, MAX_PROMPT_CHARS, NAMED_EXPRESSIONS, EditSpec, LightEdit, PromptRegion


def _read_edit(value: Any) -> EditSpec:
    try:
        return value if isinstance(value, EditSpec) else EditSpec.from_dict(value)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def _edit_schema() -> dict[str, Any]:
    """JSON Schema of an edit, from the dataclass, with the bounds that it checks."""
    whole, light = (TypeAdapter(kind).json_schema() for kind in (EditSpec, LightEdit))
    whole.pop("$defs", None)
    light["additionalProperties"] = whole["additionalProperties"] = False
    for name, (low, high) in {
        "azimuth_deg": (-180, 180), "elevation_deg": (-90, 90), "intensity": (0, 10), "ambient": (0, 10),
    }.items():  # fmt: skip
        light["properties"][name] |= {"minimum": low, "maximum": high}
    light["properties"]["colour"] = _numbers(3, minimum=0, maximum=4) | {"default": [1, 1, 1]}
    null, properties = {"type": "null"}, whole["properties"]
    rows = {"type": "array", "minItems": 9, "maxItems": 9, "items": _numbers(3)}
    light["properties"]["sh"] = {"anyOf": [rows, null]}
    for name, limit in MAX_DEGREES.items():
        properties[name] |= {"anyOf": [{"type": "number", "minimum": -limit, "maximum": limit}, null]}
    properties["light"] = {"anyOf": [light, null], "default": None}
    properties["strength"] |= {"minimum": 0, "maximum": 1.5}
    properties["prompt"]["maxLength"] = MAX_PROMPT_CHARS
    text = {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT_CHARS}
    properties["prompts"] = {
        "type": "object", "default": {}, "properties": dict.fromkeys(get_args(PromptRegion), text),
        "additionalProperties": False, "description": "texts of regions; `mask`: of its white parts",
    }  # fmt: skip
    properties["expression"] = {
        "type": "object", "default": {}, "propertyNames": {"pattern": "^[A-Za-z_0-9]{1,40}$"},
        "additionalProperties": {"type": "number", "minimum": -1, "maximum": 2},
        "description": f"{', '.join(NAMED_EXPRESSIONS)}, or an axis of the head model",
    }  # fmt: skip
    return whole


def _numbers(count: int, **bounds: float) -> dict[str, Any]:
    return {"type": "array", "minItems": count, "maxItems": count, "items": {"type": "number", **bounds}}


Edit = Annotated[
    EditSpec,
    pydantic.PlainValidator(_read_edit),
    pydantic.PlainSerializer(EditSpec.to_dict),
    pydantic.WithJsonSchema(_edit_schema()),
]
