"""Access: loopback names of a service without keys, ids of keys, and limits of bodies."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from serve.api import rate_limit, routes
from serve.api.routes import make_api
from serve.problems import ApiError
from serve.security.api_keys import KeyRing, add, read, remove, rotate
from serve.security.loopback import LOOPBACK
from tests.serve.conftest import problem, run, send


def test_service_without_keys_answers_loopback_names_and_its_own_page_only(services, tmp_path):
    services.loopback_names = LOOPBACK
    client = TestClient(make_api(services), base_url="http://127.0.0.1:8000", client=("127.0.0.1", 5000))
    for headers in (
        {"Host": "rebound.example.com"}, {"Host": "127.0.0.1.example.com:8000"}, {"Host": "[::1"}, {"Host": ""},
        {"Origin": "https://example.com"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "cross-site"},
    ):  # fmt: skip
        problem(client.get("/v1/models", headers=headers), 403, "forbidden")
        problem(client.post("/v1/edits", headers=headers, files={"picture": b"x"}), 403, "forbidden")
        assert client.get("/healthz", headers=headers).status_code == 200
    for headers in ({}, {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, {"Host": "[::1]:8000"}):
        assert client.get("/v1/models", headers=headers).status_code == 200
    elsewhere = TestClient(make_api(services), base_url="http://127.0.0.1:8000", client=("10.0.0.7", 5000))
    assert "--keys" in problem(elsewhere.get("/v1/models"), 403, "forbidden")
    services.keys = KeyRing(tmp_path / "keys.jsonl")
    key = {"Authorization": f"Bearer {add(tmp_path / 'keys.jsonl', 'alice')}", "Host": "faces.example.com"}
    assert elsewhere.get("/v1/models", headers=key).status_code == 200


def test_jobs_survive_rotation_of_a_key_and_are_not_inherited_by_its_name(services, serve_jobs, png, tmp_path):
    file = tmp_path / "keys.jsonl"
    first = add(file, "alice")
    services.keys = KeyRing(file)
    client = serve_jobs(max_running_jobs=0)
    body = {"request": (None, json.dumps({"kind": "batch", "edits": [{"yaw_deg": 3}]})), "picture": ("a.png", png)}
    as_ = lambda key: {"Authorization": f"Bearer {key}"}  # noqa: E731
    job = client.post("/v1/jobs", files=body, headers=as_(first)).json()["id"]
    second = rotate(file, "alice")
    problem(client.get("/v1/jobs", headers=as_(first)), 401, "unauthorized")
    assert [j["id"] for j in client.get("/v1/jobs", headers=as_(second)).json()["jobs"]] == [job]
    remove(file, "alice")
    third = add(file, "alice")
    assert client.get("/v1/jobs", headers=as_(third)).json()["jobs"] == []
    file.write_text(json.dumps({"name": "old", "digest": "0", "scopes": ["jobs"]}))
    assert read(file)[0].id == "old"
    with pytest.raises(ValueError, match="no key 'alice'"):
        rotate(file, "alice")


def test_json_that_is_slow_to_parse_is_refused(client):
    dense = b'{"edit": {"expression": {' + b",".join(b'"a%d":0' % n for n in range(60_000)) + b"}}}"
    headers = {"content-type": "application/json"}
    problem(client.post("/v1/preview", content=dense, headers=headers), 413, "too-large")
    problem(client.post("/v1/preview", files={"request": ("r.json", dense)}), 413, "too-large")


def test_body_that_arrives_below_the_minimum_rate_is_refused(monkeypatch):
    monkeypatch.setattr(rate_limit, "BODY_GRACE_S", 0.05)

    async def receive():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": bytes(400), "more_body": True}  # 20 kB a second

    async def read_all():
        limited = rate_limit.bounded(receive, 10**6)
        while True:
            await limited()

    with pytest.raises(ApiError, match="too-slow"):
        run(asyncio.wait_for(read_all(), 5))


def test_streams_send_comments_while_nothing_happens(services, client, png, monkeypatch):
    real = services.face_worker

    async def slow(*args):
        await asyncio.sleep(0.1)
        return await real.edit_without_diffusion(*args)

    monkeypatch.setattr(routes, "HEARTBEAT_S", 0.02)
    services.face_worker = SimpleNamespace(edit_without_diffusion=slow)
    text = send(client, png, {"yaw_deg": 3}, model="preview", accept="text/event-stream").text
    assert ": waiting\n\n" in text.split("event: result")[0]
    assert "event: result" in text


def test_idempotency_keys_above_the_limit_are_refused_not_cut(client, png):
    for name, status in (("k" * 200, 200), ("k" * 201, 422)):
        answer = client.post("/v1/edits", files={"picture": png}, headers={"Idempotency-Key": name})
        assert answer.status_code == status
