"""The OpenAPI document: what every request may hold and every answer may be, with examples that work.

Path: `door.py`'s routes, `api.py`'s types, `problems.py`'s table -> `describe` -> /openapi.json.

Bodies come as JSON or as parts, which FastAPI cannot say of one route; so bodies are described here, and FastAPI describes the
rest. Answers that are problems have one type, and `x-problems` of the document lists all their slugs.
"""

from __future__ import annotations

from typing import Any, get_args

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from rigface.edits import Trait
from serve.problems import KNOWN, PREFIX
from serve.schemas import (
    AnimationJob,
    BatchJob,
    EditRequest,
    EditResult,
    JobList,
    JobState,
    Models,
    PictureRequest,
    PreviewRequest,
    ProblemDocument,
    Reconstruction,
    Verified,
    VideoJob,
)

REF = "#/components/schemas/{model}"
FILE = {"type": "string", "format": "binary"}
MESHES = ("model/gltf-binary", "application/zip")
EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
ID = "sha256:" + "5f" * 32
PICTURE = {"base64": "iVBORw0KGgo="}
EDIT = {"yaw_deg": 15, "expression": {"smile": 0.6}, "light": {"azimuth_deg": 50}}
EXAMPLES: dict[type, dict[str, Any]] = {
    PictureRequest: {"picture": PICTURE},
    PreviewRequest: {"picture": {"id": ID}, "edit": EDIT, "max_side": 512},
    EditRequest: {"picture": {"id": ID}, "edit": EDIT, "seed": 7, "format": "jpeg"},
    BatchJob: {"kind": "batch", "picture": {"id": ID}, "edits": [{"yaw_deg": -20}, {"yaw_deg": 20}]},
    VideoJob: {"kind": "video", "clip": {"url": "https://bucket.example.com/clip.mp4?signed"}, "edit": EDIT},
    AnimationJob: {
        "kind": "animation", "picture": {"id": ID}, "clip": {"url": "https://bucket.example.com/clip.mp4?signed"},
        "take": ["pose", "expression"],
    },
}  # fmt: skip
ANSWERS = (Reconstruction, EditResult, JobState, JobList, Verified, Models, ProblemDocument)
NEEDS = {
    PictureRequest: ["picture"], PreviewRequest: ["picture"], EditRequest: ["picture"],
    BatchJob: ["kind", "picture", "edits"], VideoJob: ["kind", "clip"], AnimationJob: ["kind", "picture", "clip"],
}  # fmt: skip
KEY = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 200},
       "description": "the same request sent again under it is done once"}  # fmt: skip
ID_HEADER = {"X-Request-Id": {"schema": {"type": "string"}, "description": "the same id as in the service's log"}}
RETRY = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "seconds"}}
NUMBERS = {name: {"schema": {"type": "string"}} for name in (
    "RigFace-Asked", "RigFace-Achieved", "RigFace-Seed", "RigFace-Model", "RigFace-Picture", "Server-Timing")}  # fmt: skip


def files(*types: str) -> dict[str, Any]:
    """The content of an answer that is a file of one of these types."""
    return {name: {"schema": FILE} for name in types}


def body(*kinds: type) -> dict[str, Any]:
    """A body of one of these, as JSON or as parts."""
    schemas = [{"$ref": REF.format(model=kind.__name__)} for kind in kinds]
    schema: dict[str, Any] = schemas[0]
    if len(kinds) > 1:
        names = {kind.model_fields["kind"].annotation: kind.__name__ for kind in kinds}  # type: ignore[attr-defined]
        mapping = {get_args(literal)[0]: REF.format(model=name) for literal, name in names.items()}
        schema = {"oneOf": schemas, "discriminator": {"propertyName": "kind", "mapping": mapping}}
    sent = ["picture", "clip", "target", *(f"target.{trait}" for trait in get_args(Trait))]
    takes = {"target", "targets"} <= set(kinds[0].model_fields)  # type: ignore[attr-defined]
    has_clip = any("clip" in kind.model_fields for kind in kinds)  # type: ignore[attr-defined]
    sent = [f for f in sent if (takes or "target" not in f) and (has_clip or f != "clip")]
    parts: dict[str, Any] = {name: FILE for name in sent} | {"request": {"type": "string"}}
    parts["request"] |= {"contentMediaType": "application/json", "description": "the rest, as JSON"}
    needed = ["request"] if has_clip else ["picture"]
    multipart = {"type": "object", "properties": parts, "required": needed, "additionalProperties": False}
    examples = {kind.__name__: {"value": EXAMPLES[kind]} for kind in kinds}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": schema, "examples": examples},
            "multipart/form-data": {"schema": multipart},
        },
    }


def describe(api: FastAPI) -> None:
    """Make `api` give this document."""

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _document(api)
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]


def _document(api: FastAPI) -> dict[str, Any]:
    out = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
    _, asked = models_json_schema([(kind, "validation") for kind in EXAMPLES], ref_template=REF)
    _, answered = models_json_schema([(kind, "serialization") for kind in ANSWERS], ref_template=REF)
    schemas = {**asked["$defs"], **answered["$defs"]}
    for kind, names in NEEDS.items():  # in parts a file may be a part of its own; in JSON it has to be there
        schemas[kind.__name__]["required"] = names
    types = [PREFIX + slug for slug in KNOWN]
    schemas["ProblemDocument"]["properties"]["type"]["enum"] = types
    out["components"] = {
        "schemas": dict(sorted(schemas.items())),
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "an API key, rf_..."}},
    }
    out["security"] = [{}, {"key": []}]
    out["x-problems"] = {slug: {"status": status, "title": title} for slug, (status, title) in KNOWN.items()}
    for path, operations in out["paths"].items():
        for operation in operations.values():
            _answers(path, operation)
    return out


def _answers(path: str, operation: dict[str, Any]) -> None:
    """The answers of an operation: what it gives, and every problem it may have."""
    good = {status: a for status, a in operation["responses"].items() if status.startswith("2")}
    has_body = "requestBody" in operation
    of_job = "{name}" in path
    slugs = [
        "unauthorized",
        "forbidden",
        "rate-limited",
        "busy",
        "internal",
        "bad-request",
        "timeout",
        "method-not-allowed",
    ]
    slugs += (
        ["too-slow", "too-large", "unsupported-type", "bad-image", "no-face", "unknown-picture"] if has_body else []
    )
    slugs += ["not-acceptable", "conflict"] if path == "/v1/edits" else ["conflict"] if path == "/v1/jobs" else []
    slugs += ["unknown-job"] if of_job else []
    problem = {"application/problem+json": {"schema": {"$ref": REF.format(model="ProblemDocument")}}}
    by_status: dict[str, list[str]] = {}
    for slug in slugs:
        by_status.setdefault(str(KNOWN[slug][0]), []).append(slug)
    for status, names in sorted(by_status.items()):
        said = "; ".join(f"{KNOWN[name][1]} ({name})" for name in names)
        headers = ID_HEADER | (RETRY if status in ("429", "503", "504") else {})
        good[status] = {"description": said, "content": problem, "headers": headers}
    for status, answer in good.items():
        if status.startswith("2"):
            answer["headers"] = {**ID_HEADER, **answer.get("headers", {})}
    operation["responses"] = good
