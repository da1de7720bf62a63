"""Deliver the webhooks of ended jobs, with retries and limits on concurrent messages."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from rigface.telemetry.json_logging import log_fields
from serve.jobs.store import Delivery, DeliveryState, Job
from serve.jobs.webhook import MAX_TRIES, Webhooks, retry_s
from serve.schemas import JobState

LOG = logging.getLogger("rigface.serve")
MAX_MESSAGES, MAX_MESSAGES_PER_KEY = 64, 4  # under way: an address that hangs delays no other caller's messages


class WebhookNotifier:
    """Messages under way: each has the job as callers see it (`wire_state`); `save` stores a job after an attempt."""

    def __init__(
        self, webhooks: Webhooks, wire_state: Callable[[Job], JobState], save: Callable[[Job], Awaitable[None]]
    ) -> None:
        self._webhooks, self._wire_state, self._save = webhooks, wire_state, save
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._tasks.values())

    def check(self, address: str) -> None:
        self._webhooks.check(address)

    def cancel(self, job_id: str) -> None:
        """Give up the message of a job that is removed."""
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()

    def start_due(self, jobs: Iterable[Job]) -> None:
        """Start the messages that are due, as far as the limits allow."""
        jobs, now = list(jobs), time.time()
        under_way = Counter(job.owner for job in jobs if job.id in self._tasks)
        for job in jobs:
            is_due = job.ended and job.delivery.state == "waiting" and job.delivery.due <= now
            has_room = len(self._tasks) < MAX_MESSAGES and under_way[job.owner] < MAX_MESSAGES_PER_KEY
            if is_due and has_room and job.id not in self._tasks:
                under_way[job.owner] += 1
                task = self._tasks[job.id] = asyncio.create_task(self._attempt(job))
                task.add_done_callback(lambda _, job_id=job.id: self._tasks.pop(job_id, None))  # type: ignore[misc]

    async def _attempt(self, job: Job) -> None:
        try:
            delivered = await self._webhooks.send(job.asked.webhook or "", job.owner, self._wire_state(job))
        except Exception:  # counts as a failed attempt, so the address is not tried every second
            LOG.exception("unexpected_error", extra=log_fields(job=job.id))
            delivered = False
        tries = job.delivery.tries + 1
        state: DeliveryState = "delivered" if delivered else "given-up" if tries >= MAX_TRIES else "waiting"
        job.delivery = Delivery(state, tries, time.time() + retry_s(tries))
        await self._save(job)
