"""Run a batch job: many edits of one image, a few at a time, so that they share sampling steps.

Path: a `Job` of the kind `batch` -> `run_batch` -> `EditRunner`, as for any other edit -> results in the store.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rigface.errors import BadInput
from serve.inference.edit_service import CompletedEdit, EditRunner
from serve.jobs.store import Job, JobStore, ResultInfo
from serve.messages import EditInput, batch_edits
from serve.problems import ApiError
from serve.schemas import BatchJob, EditRequest, Sampling
from serve.security.api_keys import Key

Result = TypeVar("Result")
MAX_FAILURES = 5  # of one part of a job, apart from a busy service
MAX_WAIT_S = 30.0


async def run_batch(job: Job, asked: BatchJob, store: JobStore, edits: EditRunner, concurrency: int) -> None:
    """Run the edits that have no result yet; raises if an edit cannot be done, and the results of the others stay."""
    files = await asyncio.to_thread(store.files, job)
    missing = iter([n for n in range(job.total) if n not in job.results])

    async def run_edit(number: int) -> CompletedEdit:
        faces = batch_edits(asked, number, job.traits)
        shared = {name: getattr(asked, name) for name in (*Sampling.model_fields, "format")}
        request = EditRequest(**shared)  # the edits are in the input
        edit_input = EditInput(job.picture, faces, dict(files))
        return await edits.run(edits.plan(request, edit_input, job.media_type, Key(job.owner), job.id))

    async def work() -> None:
        for number in missing:
            completed = await with_retries(lambda number=number: run_edit(number))  # type: ignore[misc]
            result = completed.result()
            info = ResultInfo(completed.headers(), result.asked, result.achieved)
            await asyncio.to_thread(store.put, job, number, completed.data, info)

    tasks = [asyncio.ensure_future(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def with_retries(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run a part of a job: again as long as the service is busy, and a few times after other failures."""
    failures = 0
    while True:
        try:
            return await work()
        except (BadInput, ValueError):
            raise
        except ApiError as problem:
            if problem.slug not in ("busy", "draining", "rate-limited", "timeout", "internal"):
                raise
            failures += problem.slug in ("timeout", "internal")
            if failures > MAX_FAILURES:
                raise
            wait_s = problem.retry_after_s or 1.0
        except Exception:
            failures += 1
            if failures > MAX_FAILURES:
                raise
            wait_s = 2.0**failures / 4
        await asyncio.sleep(min(wait_s, MAX_WAIT_S) * random.uniform(0.7, 1.3))
