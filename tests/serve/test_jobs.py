"""Jobs: queued on disk, done one after the other, stopped, and taken up again after a restart."""

import json
import time

import pytest

from rigface.image import decode
from serve.jobs import Jobs


@pytest.fixture
def served(house, tmp_path):
    from starlette.testclient import TestClient

    from serve.door import make_api

    house.jobs = Jobs(tmp_path, house.eye, house.painter)
    with TestClient(make_api(house)) as client:
        yield client


def submit(client, png, edits, **more):
    body = json.dumps({"edits": edits, "model": "tiny", "steps": 1, **more})
    return client.post("/v1/jobs", files={"picture": ("a.png", png), "request": (None, body)})


def wait(client, name, state):
    end = time.monotonic() + 20
    while (now := client.get(f"/v1/jobs/{name}").json())["state"] != state:
        assert time.monotonic() < end, now
        time.sleep(0.02)
    return now


def test_a_job_is_done_and_its_results_can_be_fetched(served, png):
    answer = submit(served, png, [{"yaw_deg": v} for v in (0.5, 10, 20)])
    assert answer.status_code == 202, answer.text
    name = answer.json()["id"]
    assert wait(served, name, "done")["finished"] == 3
    result = served.get(f"/v1/jobs/{name}/results/2")
    assert decode(result.content).shape == (96, 80, 3)
    assert served.get(f"/v1/jobs/{name}/results/3").status_code == 404
    assert served.get("/v1/jobs/..").status_code == 404
    assert served.get(f"/v1/jobs/{name[:-1]}0x").json()["type"].endswith("unknown-job")


def test_a_job_that_cannot_be_done_says_why_and_the_next_goes_on(served, png, flat):
    bad = submit(served, flat, [{"yaw_deg": 1}]).json()["id"]
    good = submit(served, png, [{"yaw_deg": 1}]).json()["id"]
    assert wait(served, bad, "failed")["error"]["type"].endswith("no-face")
    wait(served, good, "done")


def test_a_restart_goes_on_with_the_first_result_that_is_lacking(house, png, tmp_path):
    from starlette.testclient import TestClient

    from serve.door import make_api

    house.jobs = Jobs(tmp_path, house.eye, house.painter)
    with TestClient(make_api(house)) as client:
        name = submit(client, png, [{"yaw_deg": v} for v in (1, 2, 3)]).json()["id"]
        wait(client, name, "done")
    first, second = tmp_path / name / "000000.png", tmp_path / name / "000001.png"
    second.unlink()
    written = first.stat().st_mtime_ns
    job = tmp_path / name / "job.json"
    job.write_text(json.dumps({**json.loads(job.read_text()), "state": "running"}))  # as a killed service leaves it
    house.jobs = Jobs(tmp_path, house.eye, house.painter)
    with TestClient(make_api(house)) as client:
        assert client.get("/readyz").json()["jobs"] == "ok"
        wait(client, name, "done")
    assert second.exists()
    assert first.stat().st_mtime_ns == written


def test_a_job_can_be_stopped(served, png):
    name = submit(served, png, [{"yaw_deg": v} for v in range(1, 60)]).json()["id"]
    assert served.delete(f"/v1/jobs/{name}").json()["state"] == "cancelled"
    time.sleep(0.3)
    assert served.get(f"/v1/jobs/{name}").json()["finished"] < 59
