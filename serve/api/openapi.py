"""Additions to the OpenAPI document: bodies that are JSON or multipart, and problem responses.

Path: `openapi_extra=body(...)` and `responses=responses(...)` of a route -> /openapi.json; `describe` adds types.
"""

from typing import Any, get_args

from fastapi import FastAPI, Header
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rigface.edits import Trait
from serve.problems import KNOWN
from serve.schemas import AnimationJob, BatchJob, EditRequest, PictureRequest, PreviewRequest, ProblemDocument, VideoJob

REF = "#/components/schemas/{model}"
PART_OF_FACE = rf"faces\.[0-9]{{1,2}}\.(mask|target(\.({'|'.join(get_args(Trait))}))?)"
FILE = {"type": "string", "format": "binary"}
BODIES = (PictureRequest, PreviewRequest, EditRequest, BatchJob, VideoJob, AnimationJob)
COMMON = ("unauthorized", "forbidden", "rate-limited", "busy", "internal", "bad-request", "timeout",
          "method-not-allowed")  # fmt: skip
BODY = ("too-slow", "too-large", "unsupported-type", "bad-image", "no-face", "unknown-picture")
KEY_OF_REQUEST = Header(
    alias="Idempotency-Key", max_length=200, description="a request that is sent again under the same key is done once"
)
REQUEST_ID = {"X-Request-Id": {"schema": {"type": "string"}, "description": "id of the request in the log"}}
RETRY = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "seconds"}}
EDIT_HEADERS = {name: {"schema": {"type": "string"}} for name in (
    "RigFace-Asked", "RigFace-Achieved", "RigFace-Warnings", "RigFace-Seed", "RigFace-Model", "RigFace-Picture",
    "Server-Timing")}  # fmt: skip


def binary(*types: str) -> dict[str, Any]:
    """Content of a response that is a file of one of these media types."""
    return {name: {"schema": FILE} for name in types}


def responses(
    *slugs: str, status: int = 200, content: dict[str, Any] | None = None, headers: dict[str, Any] | None = None
) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: its success, and problems by the slugs of `serve.problems.KNOWN`.

    The success has its `content` by media type, beside the route's own model, and `headers`.
    """
    success: dict[str, Any] = {"headers": REQUEST_ID | (headers or {})}
    out: dict[int | str, dict[str, Any]] = {status: success | ({"content": content} if content else {})}
    problem = {"application/problem+json": {"schema": {"$ref": REF.format(model=ProblemDocument.__name__)}}}
    for code in sorted({KNOWN[slug][0] for slug in slugs}):
        titles = "; ".join(f"{KNOWN[slug][1]} ({slug})" for slug in slugs if KNOWN[slug][0] == code)
        retry = RETRY if code in (429, 503, 504) else {}
        out[code] = {"description": titles, "content": problem, "headers": REQUEST_ID | retry}
    return out


def body(*kinds: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route whose body is one of these, as JSON or as multipart."""
    schemas = [{"$ref": REF.format(model=kind.__name__)} for kind in kinds]
    fields = set().union(*(kind.model_fields for kind in kinds))
    targets = ["target", *(f"target.{trait}" for trait in get_args(Trait))] if "targets" in fields else []
    files = [name for name in ("picture", "clip", "mask") if name in fields] + targets
    about = "the fields that are not files, as JSON"
    request = {"type": "string", "contentMediaType": "application/json", "description": about}
    multipart = {
        "type": "object", "properties": {name: FILE for name in files} | {"request": request},
        "required": ["request"] if "clip" in fields else ["picture"], "additionalProperties": False,
    }  # fmt: skip
    if "faces" in fields:
        multipart["patternProperties"] = {f"^{PART_OF_FACE}$": FILE}
    mapping = {get_args(kind.model_fields["kind"].annotation)[0]: ref["$ref"] for kind, ref in zip(kinds, schemas)
               if "kind" in kind.model_fields}  # fmt: skip
    union = {"oneOf": schemas, "discriminator": {"propertyName": "kind", "mapping": mapping}}
    json = union if mapping else schemas[0]
    content = {"application/json": {"schema": json}, "multipart/form-data": {"schema": multipart}}
    return {"requestBody": {"required": True, "content": content}}


def describe(api: FastAPI) -> None:
    """Add the types of the bodies and of problems to the document, and the table of all problems."""
    _, bodies = models_json_schema([(kind, "validation") for kind in BODIES], ref_template=REF)
    _, problem = models_json_schema([(ProblemDocument, "serialization")], ref_template=REF)
    generate = api.openapi

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            out = generate()
            components = out.setdefault("components", {})
            components["schemas"] = bodies["$defs"] | problem["$defs"] | components.get("schemas", {})
            out["x-problems"] = {slug: {"status": status, "title": title} for slug, (status, title) in KNOWN.items()}
        return api.openapi_schema or {}

    api.openapi = document  # type: ignore[method-assign]
