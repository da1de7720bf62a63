"""Deployments on Ray Serve: one portrait through all of them, problems, metrics, logs."""

import base64
import json
import time
from pathlib import Path

import httpx
import pytest

from rigface.image import encode_png
from serve.__main__ import Start, model_of
from serve.client.client import Client, ClientResult, Refused
from serve.config import ServiceConfig
from serve.limits import Limits
from serve.telemetry import metrics
from tests.scrape import scraped, total

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faces(service):
    with Client(service) as client:
        yield client


def test_portrait_is_edited_by_three_deployments(faces, shared):
    portrait = (shared / "data" / "images" / "hum_i04.jpg").read_bytes()
    seen = faces.reconstruct(portrait)
    assert len(seen.faces) == 1
    assert faces.preview(seen.picture, {"yaw_deg": 10}, max_side=256)
    *steps, result = faces.stream(seen.picture, {"yaw_deg": 10}, steps=3, previews=1)
    assert [s.step for s in steps if s.phase == "paint"] == [1, 2, 3]
    assert isinstance(result, ClientResult)
    assert faces.verify(result.image).manifest == "trusted"


def test_problems_keep_their_type_across_deployments(faces):
    with pytest.raises(Refused) as refused:
        faces.edit(b"no picture", {"yaw_deg": 3})
    assert refused.value.slug == "bad-image"
    with pytest.raises(Refused) as refused:
        faces.edit("sha256:" + "0" * 64, {"yaw_deg": 3})
    assert refused.value.slug == "unknown-picture"
    assert [m.name for m in faces.models()] == ["tiny", "preview"]


def test_every_metric_is_exported_by_the_node(faces):
    from skimage import data

    portrait = encode_png(data.astronaut()[:256, 96:352])
    result = faces.edit(portrait, {"yaw_deg": 5}, steps=2)
    with pytest.raises(Refused):
        faces.edit(b"no picture", {"yaw_deg": 3})

    def all_arrived(text):  # each deployment sends its own
        hits = total(text, "rigface_cache_lookups_total", cache="layouts", result="hit")
        return min(hits, total(text, "rigface_problems_total", type="bad-image")) >= 1

    text = scraped([m.series[-1] for m in metrics.ALL], until=all_arrived)
    assert total(text, "rigface_edits_total", model="tiny") >= 1
    assert total(text, "rigface_diffusion_rows_total") >= total(text, "rigface_diffusion_steps_total") >= 2
    assert total(text, "rigface_faces_edited_total", model="tiny") >= len(result.asked) == 1
    phases = {"look", "wait", "paint", "finish", "total"}
    assert phases == {p for p in phases if total(text, "rigface_edit_seconds_count", phase=p)}


def test_request_id_is_in_the_logs_of_all_deployments(service):
    """Gateway, face worker and diffusion worker log the request and its problem, but none of its content."""
    from ray._private.worker import _global_node
    from skimage import data

    portrait = encode_png(data.astronaut()[:256, 96:352])
    body = {"picture": {"base64": base64.b64encode(portrait).decode()}, "edit": {"yaw_deg": 5}, "steps": 2}
    bad = {"picture": {"base64": base64.b64encode(b"no picture").decode()}, "edit": {"yaw_deg": 5}}
    for name, asked, status in (("followed-1", body, 200), ("followed-2", bad, 422)):
        headers = {"X-Request-Id": name}
        assert httpx.post(f"{service}/v1/edits", json=asked, headers=headers, timeout=60).status_code == status
    end, wanted = time.monotonic() + 20, {"face_worker.edit", "diffusion_worker.sample"}
    while True:
        lines = [
            json.loads(line)
            for path in Path(_global_node.get_logs_dir_path()).rglob("*.err")
            for line in path.read_text(errors="replace").splitlines()
            if '"request_id": "followed-' in line
        ]
        parts = {
            line["stage"]: line for line in lines if line["event"] == "stage" and line["request_id"] == "followed-1"
        }
        if wanted <= parts.keys() and {"request", "edit"} <= {line["event"] for line in lines}:
            break
        assert time.monotonic() < end, lines
        time.sleep(0.1)
    assert set(parts["diffusion_worker.sample"]["seconds"]) == {"queue", "sampling"}
    assert parts["face_worker.edit"]["seconds"] > 0
    assert "bad-image" in {
        line.get("problem") for line in lines if line["request_id"] == "followed-2" and "stage" in line
    }
    assert max(len(json.dumps(line)) for line in lines) < 1000


def test_default_model_is_mini_if_installed(mini, monkeypatch):
    assert Start()._args(8000)["model"] == "mini"
    assert ServiceConfig(**Start()._args(8000)).checkpoints() == {"mini": "mini"}
    assert model_of("preview") == ""
    monkeypatch.delenv("RIGFACE_ASSETS")
    assert model_of("") == ""
    assert model_of("runs/mine") == "runs/mine"


def test_settings_reach_the_limits_and_invalid_ones_are_refused():
    limits = ServiceConfig(
        max_edits_per_job=2, max_running_jobs=3, max_body_mb=1, keep_jobs_h=1, result_link_s=60
    ).limits()
    assert (limits.max_edits_per_job, limits.max_running_jobs, limits.max_body_bytes, limits.keep_jobs_s) == (
        2,
        3,
        2**20,
        3600,
    )
    assert limits.result_link_s == 60
    assert ServiceConfig().limits() == Limits()
    for name in ("max_edits_per_job", "max_batch_rows", "edit_timeout_s"):
        with pytest.raises(ValueError, match=name):
            ServiceConfig(**{name: 0})
    with pytest.raises(ValueError, match="max_edit_per_job"):
        ServiceConfig(max_edit_per_job=4)
