"""Results of jobs: HEAD and ranges."""

import json
import time

import pytest

from rigface.storage.store import Store
from serve.jobs.byte_range import requested_range
from serve.problems import ApiError
from tests.serve.conftest import problem


def test_results_answer_head_and_ranges(serve_jobs, png, monkeypatch):
    client = serve_jobs()
    request = {"kind": "batch", "edits": [{"yaw_deg": 3}], "model": "preview"}
    files = {"request": (None, json.dumps(request)), "picture": ("a.png", png)}
    url = f"/v1/jobs/{client.post('/v1/jobs', files=files).json()['id']}"
    while client.get(url).json()["state"] in ("queued", "running"):
        time.sleep(0.02)
    whole = client.get(f"{url}/results/0")
    read = Store.read

    def read_no_result(self, path):
        assert "/out/" not in path or path.endswith(".json"), "the whole result is read"
        return read(self, path)

    monkeypatch.setattr(Store, "read", read_no_result)
    head = client.head(f"{url}/results/0")
    size = len(whole.content)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    assert head.headers["accept-ranges"] == whole.headers["accept-ranges"] == "bytes"
    part = client.get(f"{url}/results/0", headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, whole.content[8:16])
    assert part.headers["content-range"] == f"bytes 8-15/{size}"
    assert part.headers["content-type"] == whole.headers["content-type"]
    problem(client.get(f"{url}/results/0", headers={"Range": f"bytes={size}-"}), 416, "bad-range")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", (0, 100)), ("bytes=0-", (0, 100)), ("bytes=0-1", (0, 2)), ("bytes=90-200", (90, 100)),
        ("bytes=-10", (90, 100)), ("bytes=-200", (0, 100)), ("bytes=0-1,5-6", (0, 100)), ("items=0-1", (0, 100)),
        ("bytes=-", (0, 100)), ("bytes=100-", None), ("bytes=-0", None),
    ],
)  # fmt: skip
def test_requested_range(text, wanted):
    if wanted is not None:
        assert requested_range(text, 100) == wanted
        return
    with pytest.raises(ApiError, match="bad-range"):
        requested_range(text, 100)
