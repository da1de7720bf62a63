"""Parts of a batch: retries."""

import pytest

from serve.jobs.batch import with_retries
from serve.problems import ApiError
from tests.serve.conftest import run


def test_busy_or_failing_service_is_retried(monkeypatch):
    waits, fails = [], [ApiError("busy", retry_after_s=2), ConnectionError("a replica died"), ApiError("draining")]

    async def slept(seconds):
        waits.append(seconds)

    async def work():
        if fails:
            raise fails.pop(0)
        return "made"

    async def hopeless():
        raise ConnectionError("again")

    async def wrong():
        raise ApiError("bad-request", "never")

    monkeypatch.setattr("serve.jobs.batch.asyncio.sleep", slept)
    assert run(with_retries(work)) == "made"
    assert waits[0] >= 1.4
    waits.clear()
    with pytest.raises(ConnectionError):
        run(with_retries(hopeless))
    assert len(waits) == 5
    with pytest.raises(ApiError, match="never"):
        run(with_retries(wrong))
