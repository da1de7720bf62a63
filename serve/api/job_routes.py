"""Routes of jobs: submit, list, follow, cancel, remove, fetch results."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response

from serve.api.dependencies import JobsKey, State, within
from serve.api.openapi import BODY, COMMON, KEY_OF_REQUEST, binary, body, responses
from serve.jobs.store import TYPES
from serve.schemas import AnimationJob, BatchJob, JobList, JobState, VideoJob

router = APIRouter(prefix="/v1/jobs")
ONE_JOB = responses(*COMMON, "unknown-job")


@router.post(
    "",
    status_code=202,
    openapi_extra=body(BatchJob, VideoJob, AnimationJob),
    responses=responses(*COMMON, *BODY, "conflict", status=202),
)
async def submit(
    request: Request, key: JobsKey, api: State, idempotency_key: Annotated[str, KEY_OF_REQUEST] = ""
) -> JobState:
    """Queue a batch of edits, a video edit or an animation."""
    submission = await api.parser.read_job(request, key.name)
    work = api.jobs.submit(submission, key.name, idempotency_key)
    return await within(request, work, api.services.limits.edit_timeout_s)


@router.get("", responses=responses(*COMMON))
async def jobs(request: Request, key: JobsKey, api: State) -> JobList:
    """The caller's jobs, the newest first."""
    return JobList(jobs=await api.soon(request, api.jobs.jobs_of(key.name)))


@router.get("/{name}", responses=ONE_JOB)
async def job(request: Request, name: str, key: JobsKey, api: State) -> JobState:
    """Progress of a job."""
    return await api.soon(request, api.jobs.status(name, key.name))


@router.post("/{name}/cancel", responses=ONE_JOB)
async def cancel(request: Request, name: str, key: JobsKey, api: State) -> JobState:
    """Stop a job; results so far stay."""
    return await api.soon(request, api.jobs.cancel(name, key.name))


@router.delete("/{name}", status_code=204, responses=responses(*COMMON, "unknown-job", status=204))
async def remove(request: Request, name: str, key: JobsKey, api: State) -> None:
    """Stop a job and remove it with its files."""
    await api.soon(request, api.jobs.remove(name, key.name))


@router.get(
    "/{name}/results/{number}",
    response_class=Response,
    responses=responses(*COMMON, "unknown-job", content=binary(*TYPES.values()))
    | {307: {"description": "the result is at Location"}},
)
async def job_result(
    request: Request, name: str, number: int, key: JobsKey, api: State, through: bool = False
) -> Response:
    """An image of a batch, or the video (number 0); a redirect to the bucket if the operator allows that."""
    result = await api.soon(request, api.jobs.result(name, key.name, number, through))
    headers = {"Cache-Control": "no-store", **result.headers}
    if result.location:
        return Response(status_code=307, headers={**headers, "Location": result.location})
    return Response(result.data, media_type=result.media_type, headers=headers)
