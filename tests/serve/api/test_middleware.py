"""Middleware and health: access to metrics, readiness, internal errors, concurrency, key limits."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from serve.limits import Limits
from serve.security.api_keys import KeyRing, add
from tests.serve.conftest import problem, send


def test_metrics_need_the_metrics_scope_and_health_needs_no_key(services, tmp_path):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    file = tmp_path / "keys.jsonl"
    alice, scraper = add(file, "alice", ("edit",)), add(file, "prometheus", ("metrics",))
    services.keys = KeyRing(file)
    client = TestClient(make_api(services), raise_server_exceptions=False)
    problem(client.get("/metrics"), 401, "unauthorized")
    problem(client.get("/metrics", headers={"Authorization": f"Bearer {alice}"}), 403, "forbidden")
    metrics = client.get("/metrics", headers={"Authorization": f"Bearer {scraper}"})
    assert metrics.status_code == 200
    assert 'rigface_problems_total{type="unauthorized"} 1.0' in metrics.text
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_readiness_of_workers_is_cached(services):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    asked = []

    async def ready():
        asked.append(1)
        await asyncio.sleep(0)
        raise OSError("/secret/place is away")

    services.face_worker = SimpleNamespace(ready=ready)
    with TestClient(make_api(services)) as client:
        answers = [client.get("/readyz") for _ in range(20)]
        assert {a.status_code for a in answers} == {503}
        assert answers[0].json() == {"status": "not ready", "face_worker": "OSError", "diffusion_worker": "ok"}
        assert len(asked) == 1
        services.gate.draining = True
        assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (503, {"status": "draining"})


@pytest.mark.parametrize("accept", ["image/png", "text/event-stream"])
def test_unexpected_error_is_internal_and_has_no_detail(services, png, caplog, accept):
    """A ValueError of some library, whose text may name anything; in a stream, too, it is counted and in the log."""
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    async def broken(*_):
        raise ValueError("/home/operator/secret.jsonl: line 3")

    services.face_worker = SimpleNamespace(reconstruct=broken, preview=broken, edit_without_diffusion=broken)
    caplog.set_level("INFO", logger="rigface.serve")
    with TestClient(make_api(services), raise_server_exceptions=False) as client:
        answer = send(client, png, {"yaw_deg": 3}, model="preview", accept=accept)
        assert "secret" not in answer.text
        if accept == "image/png":
            problem(answer, 500, "internal")
        else:
            assert "urn:rigface:problem:internal" in answer.text.split("event: error")[1]
        assert 'rigface_problems_total{type="internal"} 1.0' in client.get("/metrics").text
    broken_lines = [r for r in caplog.records if r.msg == "broken"]
    assert len(broken_lines) == 1
    assert "secret.jsonl" in str(broken_lines[0].exc_info[1])
    (request,) = (r for r in caplog.records if r.msg == "request" and r.log_fields["route"] == "/v1/edits")
    assert request.log_fields["problem"] == "internal"
    assert request.log_fields["request_id"] == broken_lines[0].log_fields["request_id"]


def test_unreadable_operator_file_is_an_internal_error(services, png, tmp_path):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api
    from serve.inference.face_worker import FaceWorker
    from serve.security.consent import Policy, enroll

    consent, file = tmp_path / "consent.jsonl", tmp_path / "keys.jsonl"
    enroll(consent, "anna", [np.zeros(128)])
    key = {"Authorization": f"Bearer {add(file, 'alice')}"}
    services.face_worker = FaceWorker(
        services.face_worker.analyzer, policy=Policy(str(consent), embed=lambda *_: np.zeros(128))
    )
    services.keys = KeyRing(file)
    with TestClient(make_api(services), raise_server_exceptions=False, headers=key) as client:
        assert send(client, png, {"yaw_deg": 3}, to="/v1/preview").status_code == 200
        consent.write_text("{}\n")
        assert problem(send(client, png, {"yaw_deg": 3}, to="/v1/preview"), 500, "internal") == ""
        file.write_text('{"name": "alice"}\n')
        assert problem(client.get("/v1/models"), 500, "internal") == ""
    with pytest.raises(ValueError, match=r"keys.jsonl: line 1: want a key"):
        KeyRing(file).find("Bearer rf_x")


def test_refusals_by_the_middleware_are_counted(services, png):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    services.limits = Limits(max_body_bytes=10, max_concurrent_requests=0)
    with TestClient(make_api(services)) as client:
        problem(send(client, png), 413, "too-large")
        problem(client.get("/v1/models"), 503, "busy")
        found = client.get("/metrics").text
    assert 'rigface_problems_total{type="too-large"} 1.0' in found
    assert 'rigface_problems_total{type="busy"} 1.0' in found


def test_stream_counts_as_a_concurrent_request_until_it_ends(services, png, tmp_path):
    """No more at a time than the key allows, and a refusal is one before the answer has begun."""
    from concurrent.futures import ThreadPoolExecutor

    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    may_end, began = threading.Event(), threading.Event()

    async def slow(edit_input, output_options, refiner):
        began.set()
        await asyncio.to_thread(may_end.wait, 20)
        return await face_worker.edit_without_diffusion(edit_input, output_options, refiner)

    face_worker, file = services.face_worker, tmp_path / "keys.jsonl"
    services.keys = KeyRing(file)
    key = {"Authorization": f"Bearer {add(file, 'alice', max_concurrent=1)}"}
    services.face_worker = SimpleNamespace(edit_without_diffusion=slow)
    with TestClient(make_api(services), headers=key) as client, ThreadPoolExecutor(1) as pool:
        request = {"edit": {"yaw_deg": 3}, "model": "preview", "accept": "text/event-stream"}
        first = pool.submit(send, client, png, **request)
        assert began.wait(10)
        problem(send(client, png, **request), 429, "rate-limited")
        may_end.set()
        assert "event: result" in first.result().text
        assert "event: result" in send(client, png, **request).text
        services.face_worker = SimpleNamespace()  # breaks the stream
        assert "event: error" in send(client, png, **request).text
        assert client.get("/v1/models").status_code == 200


def test_key_burst_follows_its_rate_and_zero_limits_are_refused(tmp_path, capsys):
    from serve.__main__ import main
    from serve.security.api_keys import read

    file = str(tmp_path / "keys.jsonl")
    assert main(["key", "add", "slow", "--rate", "1", "--file", file]) == 0
    assert main(["key", "add", "fast", "--rate", "20", "--file", file]) == 0
    assert main(["key", "add", "eager", "--rate", "0.1", "--burst", "5", "--file", file]) == 0
    assert main(["key", "add", "rare", "--rate", "0.1", "--file", file]) == 0
    assert [key.burst for key in read(tmp_path / "keys.jsonl")] == [3, 60, 5, 1]
    capsys.readouterr()
    for wrong in (["--rate", "0"], ["--burst", "0.5"], ["--max-concurrent", "0"], ["--scopes", "everything"]):
        assert main(["key", "add", "wrong", "--file", file, *wrong]) == 1
    assert main(["key", "list", "--file", file]) == 0
    assert "slow\tedit,jobs,verify\t1/s\t3 burst\t16 concurrent" in capsys.readouterr().out
    assert len(read(tmp_path / "keys.jsonl")) == 4
