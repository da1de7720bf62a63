"""The choice of an edit's model, and its name in metrics and headers."""

from urllib.parse import unquote

import pytest
from starlette.testclient import TestClient

from rigface.edits import PREVIEW
from serve.api.routes import make_api
from serve.schemas import ModelInfo
from serve.telemetry import metrics
from tests.serve.conftest import problem, send

NAME = "\u6a21\u578b \u00e9 %"


class NamedModels:
    """A diffusion worker with one model and the preview; it samples nothing."""

    async def models(self):
        infos = {"kind": "", "size": 0, "steps": 0, "loaded": True}
        return [ModelInfo(name=NAME, default=True, **infos), ModelInfo(name=PREVIEW, default=False, **infos)]

    async def ready(self):
        return True


@pytest.fixture
def named(services):
    services.diffusion_worker = NamedModels()
    with TestClient(make_api(services), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("edit", [{}, {"yaw_deg": 5}])
def test_unknown_model_is_refused_and_is_no_metric_label(named, services, png, tmp_path, edit):
    services.audit_log = (lines := []).append
    assert NAME in problem(send(named, png, edit, model="x" * 50), 404, "unknown-model")
    assert lines == []
    counted = named.get("/metrics").text
    assert metrics.EDITS.name in counted
    assert "xxx" not in counted


def test_model_name_outside_latin_1_is_quoted_in_the_header(named, png):
    answer = send(named, png, {}, model=NAME)
    assert answer.status_code == 200
    assert unquote(answer.headers["RigFace-Model"]) == NAME
    assert send(named, png, {}, model=PREVIEW).headers["RigFace-Model"] == PREVIEW
