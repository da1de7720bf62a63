"""Webhooks of ended jobs: limits on concurrent messages."""

import asyncio
import time

from tests.serve.jobs.conftest import submit, wait


class RecordedWebhooks:
    """Webhooks that record their messages; an address of `slow` never answers."""

    def __init__(self):
        self.begun, self.sent = [], []

    def check(self, address):
        pass

    async def send(self, address, key, job):
        self.begun.append(job.id)
        if "slow" in address:
            await asyncio.sleep(30)
        self.sent.append(job.id)
        return True


def test_hanging_webhook_delays_no_other_and_removed_job_stays_removed(serve_jobs, png, monkeypatch, tmp_path):
    monkeypatch.setattr("serve.jobs.queue.NOTIFY_S", 0.02)
    webhooks = RecordedWebhooks()
    served = serve_jobs(webhooks=webhooks)
    slow = submit(served, png, [{"yaw_deg": 1}], webhook="https://slow.example.com/").json()["id"]
    end = time.monotonic() + 20
    while slow not in webhooks.begun:
        assert time.monotonic() < end
        time.sleep(0.01)
    quick = submit(served, png, [{"yaw_deg": 1}], webhook="https://quick.example.com/").json()["id"]
    assert wait(served, quick, "delivered", "webhook")["state"] == "done"
    assert webhooks.sent == [quick]
    assert served.delete(f"/v1/jobs/{slow}").status_code == 204
    time.sleep(0.2)
    assert not (tmp_path / "queue" / "jobs" / slow).exists()
