"""The OpenAPI document against the service: generated requests, described responses, hostile files."""

import base64
import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from rigface.image import encode_png
from serve.problems import KNOWN, PREFIX, ApiError
from tests import remembered

OPERATIONS = (
    "POST /v1/reconstruct", "POST /v1/preview", "POST /v1/edits", "POST /v1/verify", "POST /v1/jobs", "GET /v1/models",
    "GET /v1/jobs", "GET /v1/jobs/{name}", "DELETE /v1/jobs/{name}", "POST /v1/jobs/{name}/cancel",
    "GET /v1/jobs/{name}/results/{number}",
)  # fmt: skip
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
EXAMPLES = 12
SENT = ("method", "url", "headers", "params", "json", "data", "files")


@pytest.fixture
def served(serve_jobs):
    return serve_jobs(max_queued_jobs_per_key=1000, max_queued_jobs=1000, max_running_jobs=0)


def test_openapi_lists_all_operations(served):
    paths = served.get("/openapi.json").json()["paths"]
    found = {f"{method.upper()} {path}" for path, of in paths.items() for method in of}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_generated_requests_never_break_the_service(served, png, operation):
    document = schemathesis.openapi.from_dict(served.get("/openapi.json").json())
    method, path = operation.split()
    described = document[path][method]
    real = {"base64": base64.b64encode(png).decode()}

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=described.as_strategy(), valid_picture=st.booleans())
    def ask(case, valid_picture):
        if valid_picture and isinstance(case.body, dict) and case.media_type == "application/json":
            case.body["picture"] = real  # most of what is made up is no picture; some requests should get further
            case.body.pop("targets", None)
        sent = case.as_transport_kwargs(base_url="http://testserver")
        sent = {"content" if name == "data" else name: value for name, value in sent.items() if name in SENT and value}
        answer = served.request(**sent)
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            known(answer)

    ask()


def known(answer):
    """A problem that the table knows."""
    document = json.loads(answer.content)
    assert document["type"].removeprefix(PREFIX) in KNOWN
    assert document["status"] == answer.status_code


def test_examples_of_the_openapi_document_are_valid(served):
    from jsonschema import Draft202012Validator

    from serve.api.openapi import BODIES

    schemas = served.get("/openapi.json").json()["components"]["schemas"]
    for kind in BODIES:
        (example,) = schemas[kind.__name__]["examples"]
        kind.model_validate(example)
        Draft202012Validator(
            {"$ref": f"#/components/schemas/{kind.__name__}", "components": {"schemas": schemas}}
        ).validate(example)


def test_openapi_describes_edits_with_bounds(served):
    schemas = served.get("/openapi.json").json()["components"]["schemas"]
    edit = schemas["EditRequest"]["properties"]["edit"]
    assert edit["properties"]["yaw_deg"]["anyOf"][0] == {"type": "number", "minimum": -90, "maximum": 90}
    assert edit["additionalProperties"] is False
    assert schemas["PictureRef"]["maxProperties"] == 1
    assert schemas["ProblemDocument"]["properties"]["type"]["enum"] == [PREFIX + slug for slug in KNOWN]


def test_service_docs_name_every_path(served):
    page = (
        (Path(__file__).parents[3] / "docs" / "service.md")
        .read_text()
        .replace("{id}", "{name}")
        .replace("{n}", "{number}")
    )
    assert [path for path in served.get("/openapi.json").json()["paths"] if path not in page] == []


def test_openapi_references_resolve(served):
    document = served.get("/openapi.json").json()
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    assert len(names) > 10


def test_each_problem_has_a_status_and_a_title():
    for slug in KNOWN:
        status, title = KNOWN[slug]
        assert 400 <= status < 600
        assert title
        assert ApiError(slug).document()["type"] == PREFIX + slug


@pytest.fixture(scope="module")
def real_face_worker():
    from serve.inference.face_worker import FaceWorker

    return FaceWorker(remembered.analyzer())


def test_hostile_files_are_problems_or_images(served, services, real_face_worker, shared):
    """Every file of the collection of bad inputs, as a picture, as whom to copy from, and as a clip."""
    from skimage import data as pictures

    def asked(**more):
        return {"request": (None, json.dumps({"edit": {"yaw_deg": 3, "light": {}}, **more}))}

    services.face_worker, good = real_face_worker, 0
    portrait = encode_png(pictures.astronaut()[:256, 96:352])
    for path in sorted((shared / "data" / "bad").iterdir()):
        if path.stat().st_size > services.limits.max_body_bytes:
            continue
        data = path.read_bytes()
        picture = served.post("/v1/reconstruct", files={"picture": (path.name, data)})
        verify = served.post("/v1/verify", files={"picture": (path.name, data)})
        job = {"request": (None, json.dumps({"kind": "video", "edit": {"yaw_deg": 3}}))}
        clip = served.post("/v1/jobs", files={"clip": (path.name, data), **job})
        as_picture = {"picture": (path.name, data)}
        preview = served.post("/v1/preview", files={**as_picture, **asked(max_side=256)})
        edited = served.post("/v1/edits", files={**as_picture, **asked(model="preview", format="jpeg")})
        parts = {"picture": ("her.png", portrait), "target.pose": (path.name, data)}
        copied = served.post("/v1/preview", files={**parts, **asked(max_side=256)})
        if picture.status_code != 200 or not picture.json()["faces"]:
            assert {preview.status_code, edited.status_code, copied.status_code} == {422}, (path.name, copied.text)
        else:
            good += 1
            assert {preview.status_code, edited.status_code, copied.status_code} == {200}, (path.name, copied.text)
        for answer in (picture, verify, clip, preview, edited, copied):
            assert answer.status_code < 500, (path.name, answer.text)
            if answer.status_code >= 400:
                known(answer)
    assert good >= 5
