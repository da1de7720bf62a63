"""Many edits of one picture, a few at a time, so that they share the painter's steps.

Path: a `Job` of the kind `batch` -> `batch` -> `Editing`, like any other edit -> results on the shelf.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from rigface.errors import BadInput
from serve.inference.edit_service import CompletedEdit, Editing
from serve.jobs.store import Job, JobStore
from serve.messages import EditInput
from serve.problems import ApiError
from serve.schemas import BatchJob, EditRequest, Painting
from serve.security.api_keys import Key

Made = TypeVar("Made")
BROKEN_MOST = 5  # times that one piece of a job is begun again because something broke
LONGEST_S = 30.0


async def batch(job: Job, job_store: JobStore, editing: Editing, at_once: int) -> None:
    """Do the edits that have no result yet.

    Raises:
        Trouble, BadInput, ValueError: an edit cannot be done; the others' results stay.
    """
    asked = BatchJob.model_validate(job.asked)
    files = await asyncio.to_thread(job_store.files, job)
    left = iter([n for n in range(job.total) if n not in job.results])

    async def one(number: int) -> CompletedEdit:
        edit = asked.edits[number]
        shared = {name: getattr(asked, name) for name in (*Painting.model_fields, "face", "format")}
        request = EditRequest(edit=edit, **shared)
        traits = {str(trait): job.traits[trait] for trait in edit.take}
        edit_input = EditInput(job.picture, edit, dict(files), traits, asked.face)
        return await editing.whole(editing.plan(request, edit_input, job.media_type, Key(job.owner), job.id))

    async def some() -> None:
        for number in left:
            done = await patiently(lambda number=number: one(number))  # type: ignore[misc]
            result = done.result()
            about: dict[str, Any] = {"headers": done.headers(), "asked": result.asked, "achieved": result.achieved}
            await asyncio.to_thread(job_store.put, job, number, done.data, about)

    await together(*(some() for _ in range(at_once)))


async def together(*work: Awaitable[None]) -> None:
    """All of it; the first that fails stops the others."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def patiently(work: Callable[[], Awaitable[Made]]) -> Made:
    """A piece of a job: begun again as long as the service is busy, and a few times where a replica broke under it.

    Raises:
        Trouble, BadInput, ValueError: it cannot be done.
    """
    broken = 0
    while True:
        try:
            return await work()
        except (BadInput, ValueError):
            raise
        except ApiError as trouble:
            if trouble.slug not in ("busy", "draining", "rate-limited", "timeout", "internal"):
                raise
            broken += trouble.slug in ("timeout", "internal")
            if broken > BROKEN_MOST:
                raise
            wait = trouble.retry_after_s or 1.0
        except Exception:
            broken += 1
            if broken > BROKEN_MOST:
                raise
            wait = 2.0**broken / 4
        await asyncio.sleep(min(wait, LONGEST_S) * random.uniform(0.7, 1.3))
