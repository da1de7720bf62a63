"""Jobs for tests: submit one, wait for its state, read its record."""

import json
import time


def submit(client, png, edits, headers=None, **more):
    body = json.dumps({"kind": "batch", "edits": edits, "model": "tiny", "steps": 1, **more})
    return client.post("/v1/jobs", files={"picture": ("a.png", png), "request": (None, body)}, headers=headers)


def wait(client, name, state, field="state"):
    end = time.monotonic() + 60
    while (now := client.get(f"/v1/jobs/{name}").json())[field] != state:
        assert time.monotonic() < end, now
        time.sleep(0.02)
    return now


def settled(record, state="done"):
    """The record of a job that is so far, when the service has written it down."""
    end = time.monotonic() + 60
    while (now := json.loads(record.read_text()))["state"] != state or (now["ended"] and now["has_files"]):
        assert time.monotonic() < end, now
        time.sleep(0.02)
    return now
