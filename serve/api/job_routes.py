"""Routes of jobs: submit, list, follow, cancel, remove, fetch results."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from serve.api.dependencies import JobsKey, State, within
from serve.api.openapi import BODY, COMMON, KEY_OF_REQUEST, binary, body, responses
from serve.jobs.store import TYPES
from serve.messages import ResultRequest
from serve.schemas import AnimationJob, BatchJob, JobList, JobState, VideoJob

router = APIRouter(prefix="/v1/jobs")
RESULT = binary(*TYPES.values())
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
    submission = await api.parser.read_job(request, key.id)
    work = api.jobs.submit(submission, key.id, idempotency_key)
    return await within(request, work, api.services.limits.edit_timeout_s)


@router.get("", responses=responses(*COMMON))
async def jobs(request: Request, key: JobsKey, api: State) -> JobList:
    """The caller's jobs, the newest first."""
    return JobList(jobs=await api.soon(request, api.jobs.jobs_of(key.id)))


@router.get("/{name}", responses=ONE_JOB)
async def job(request: Request, name: str, key: JobsKey, api: State) -> JobState:
    """Progress of a job."""
    return await api.soon(request, api.jobs.status(name, key.id))


@router.post("/{name}/cancel", responses=ONE_JOB)
async def cancel(request: Request, name: str, key: JobsKey, api: State) -> JobState:
    """Stop a job; results so far stay."""
    return await api.soon(request, api.jobs.cancel(name, key.id))


@router.delete("/{name}", status_code=204, responses=responses(*COMMON, "unknown-job", status=204))
async def remove(request: Request, name: str, key: JobsKey, api: State) -> None:
    """Stop a job and remove it with its files."""
    await api.soon(request, api.jobs.remove(name, key.id))


@router.head("/{name}/results/{number}", include_in_schema=False)
@router.get(
    "/{name}/results/{number}",
    response_class=Response,
    responses=responses(*COMMON, "unknown-job", "bad-range", content=RESULT)
    | {206: {"description": "the range", "content": RESULT}, 307: {"description": "the result is at Location"}},
)
async def job_result(
    request: Request, name: str, number: int, key: JobsKey, api: State, through: bool = False,
    range_: Annotated[str, Header(alias="Range", description="of bytes, such as `bytes=0-1023`")] = "",
) -> Response:  # fmt: skip
    """An image of a batch, or the video (number 0); a redirect to the bucket if the operator allows that."""
    wanted = ResultRequest(number, through, range_, with_data=request.method != "HEAD")
    result = await api.soon(request, api.jobs.result(name, key.id, wanted))
    headers = {"Cache-Control": "no-store", "Accept-Ranges": "bytes", **result.headers}
    if result.location:
        return Response(status_code=307, headers={**headers, "Location": result.location})
    start, end, size = result.part
    is_part = (start, end) != (0, size)
    headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if is_part else {}
    headers["Content-Length"] = str(end - start)
    return Response(result.data, 206 if is_part else 200, headers, result.media_type)
