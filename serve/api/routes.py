"""HTTP routes of pictures, edits and operations. No torch, no model code, no pixels.

Path: request -> `middleware.py` -> `dependencies.py` (key, limits) -> `request_parser.py` -> face and diffusion workers
-> response. `make_api` takes deployments (`serve/app.py`) or workers of the same process (tests).
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from serve import schemas
from serve.api import job_routes
from serve.api.dependencies import ApiState, EditKey, MetricsKey, Services, State, VerifyKey, within
from serve.api.middleware import GatewayMiddleware, noted, problem_response
from serve.api.openapi import BODY, COMMON, EDIT_HEADERS, KEY_OF_REQUEST, binary, body, describe, responses
from serve.inference.edit_service import MEDIA, EditPlan, server_timing, sse, wanted_type, warnings_header
from serve.problems import ApiError
from serve.schemas import EditRequest, PictureRequest, PreviewRequest
from serve.telemetry.metrics import GatewayMetrics

WEB = Path(__file__).parent.parent / "web"
HEARTBEAT_S = 15.0
MESHES = {"glb": "model/gltf-binary", "obj": "application/zip"}
EDIT_CONTENT = binary(*MEDIA.values()) | {"text/event-stream": {"schema": {"type": "string"}}}

router = APIRouter(prefix="/v1")
operations = APIRouter(include_in_schema=False)


def make_api(services: Services) -> FastAPI:
    """The application: OpenAPI at /openapi.json, the editor page at /."""
    numbers = GatewayMetrics()
    api = FastAPI(
        title="RigFace", version=schemas.API_VERSION, docs_url=None, redoc_url=None,
        description="Change the pose, expression and light of a face and keep the person.",
    )  # fmt: skip
    api.include_router(router)
    if services.jobs is not None:
        api.include_router(job_routes.router)
    api.include_router(operations)
    _handle_errors(api)
    describe(api)
    api.state.api = ApiState(services, numbers)
    api.add_middleware(GatewayMiddleware, limits=services.limits, numbers=numbers, gate=services.gate)
    return api


@router.post(
    "/reconstruct",
    response_model=schemas.Reconstruction,
    openapi_extra=body(PictureRequest),
    responses=responses(*COMMON, *BODY, content=binary(*MESHES.values())),
)
async def reconstruct(
    request: Request,
    key: EditKey,
    api: State,
    mesh: Annotated[Literal["glb", "obj"] | None, Query(description="the textured head")] = None,
) -> Response:
    """Faces of a picture: coefficients, box, landmarks, confidence; with `?mesh=` the textured head instead."""
    _, edit_input = await api.parser.read(request, PictureRequest, key.id)
    worker = api.services.face_worker
    if mesh is not None:
        data = await api.soon(request, api.editing.by_hash(edit_input, lambda given: worker.mesh(given, mesh)))
        return Response(data, media_type=MESHES[mesh])
    found = await api.soon(request, api.editing.by_hash(edit_input, worker.reconstruct))
    return Response(found.model_dump_json(), media_type="application/json")


@router.post(
    "/preview",
    response_class=Response,
    openapi_extra=body(PreviewRequest),
    responses=responses(*COMMON, *BODY, content=binary("image/jpeg"), headers=EDIT_HEADERS),
)
async def preview(request: Request, key: EditKey, api: State) -> Response:
    """Instant preview of an edit, a JPEG. The picture may be named by its content hash."""
    began = time.monotonic()
    _, edit_input = await api.parser.read(request, PreviewRequest, key.id)
    result = await api.soon(request, api.editing.preview(edit_input, key, request.state.request_id))
    headers = {
        "RigFace-Asked": json.dumps([{name: round(value, 4) for name, value in row.items()} for row in result.asked]),
        "RigFace-Warnings": warnings_header(result.warnings),
        "RigFace-Picture": edit_input.picture,
        "Server-Timing": server_timing(result.seconds | {"total": time.monotonic() - began}),
        "Cache-Control": "no-store",
    }
    return Response(result.data, media_type="image/jpeg", headers=headers)


@router.post(
    "/edits",
    response_model=schemas.EditResult,
    openapi_extra=body(EditRequest),
    responses=responses(*COMMON, *BODY, "not-acceptable", "conflict", content=EDIT_CONTENT, headers=EDIT_HEADERS),
)
async def edit(
    request: Request, key: EditKey, api: State, idempotency_key: Annotated[str, KEY_OF_REQUEST] = ""
) -> Response:
    """Edit a picture. `Accept` chooses an image, JSON with the asked and achieved numbers, or a stream of progress."""
    kind = wanted_type(request.headers.get("accept", "*/*"))
    asked, edit_input = await api.parser.read(request, EditRequest, key.id)
    plan = api.editing.plan(asked, edit_input, kind, key, request.state.request_id)
    if kind == "text/event-stream":
        return _EventStream(_events(api, plan, request.scope))
    if idempotency_key:
        same = plan.asked, edit_input.picture, sorted(map(repr, edit_input.record().items())), kind
        digest = hashlib.sha256(repr(same).encode()).digest()
        work = api.idempotency.once((key.id, idempotency_key), digest, lambda: api.editing.run(plan))
    else:
        work = api.editing.run(plan)
    done = await within(request, work, api.services.limits.edit_timeout_s)
    if kind == "application/json":
        return Response(done.result().model_dump_json(), media_type=kind, headers={"Cache-Control": "no-store"})
    return Response(done.data, media_type=done.media_type, headers=done.headers())


async def _events(api: ApiState, plan: EditPlan, scope: Scope) -> AsyncGenerator[bytes, None]:
    try:
        async with asyncio.timeout(api.services.limits.edit_timeout_s), aclosing(api.editing.events(plan)) as events:
            async for name, content in events:
                yield sse(name, content)
    except Exception as error:
        yield sse("error", noted(error, scope).document(plan.request_id))


class _EventStream(StreamingResponse):
    """Server-sent events, with comments while there are none, so that no proxy closes the connection as idle.

    Their source is closed at the end, also if the caller left before the first.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(self._with_heartbeats(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._events, self._queue = events, asyncio.Queue[bytes | None]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(self._collect())
        try:
            await super().__call__(scope, receive, send)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _collect(self) -> None:
        try:
            async with aclosing(self._events):
                async for event in self._events:
                    self._queue.put_nowait(event)
        finally:
            self._queue.put_nowait(None)

    async def _with_heartbeats(self) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    event = await self._queue.get()
            except TimeoutError:
                event = b": waiting\n\n"
            if event is None:
                return
            yield event


@router.post("/verify", openapi_extra=body(PictureRequest), responses=responses(*COMMON, *BODY))
async def verify(request: Request, key: VerifyKey, api: State) -> schemas.Verified:
    """Check if this service made a picture, by the manifest of the file and the watermark of the pixels."""
    _, edit_input = await api.parser.read(request, PictureRequest, key.id)
    return await api.soon(request, api.services.face_worker.verify(edit_input.pictures[edit_input.picture] or b""))


@router.get("/models", responses=responses(*COMMON))
async def models(request: Request, key: EditKey, api: State) -> schemas.Models:
    """The models that an edit may ask for, and the limits of the service."""
    found, limits = await api.soon(request, api.services.diffusion_worker.models()), api.services.limits
    jobs = api.services.jobs is not None
    return schemas.Models(models=found, body_bytes=limits.max_body_bytes, clip_bytes=limits.max_clip_bytes, jobs=jobs)


@operations.get("/healthz")
async def healthz() -> dict[str, str]:
    """Liveness: this process answers."""
    return {"status": "ok"}


@operations.get("/readyz")
async def readyz(api: State) -> Response:
    """Readiness: the workers answer, and this gateway takes requests."""
    if api.services.gate.draining:
        return JSONResponse({"status": "draining"}, 503)
    found = await api.readiness()
    ready = set(found.values()) == {"ok"}
    return JSONResponse({"status": "ok" if ready else "not ready", **found}, 200 if ready else 503)


@operations.get("/metrics")
async def metrics(key: MetricsKey, api: State) -> Response:
    """Metrics in Prometheus' text format. They name models and tell the load, so a key is needed if keys are used."""
    return Response(api.numbers.text(), media_type=CONTENT_TYPE_LATEST)


@operations.get("/")
async def page() -> Response:
    """The editor page."""
    return await asset("index.html")


@operations.get("/web/{name}")
async def asset(name: str) -> Response:
    """A file of the editor page."""
    path = WEB / name
    if path.parent != WEB or not path.is_file():
        raise ApiError("not-found")
    return FileResponse(path, headers={"Cache-Control": "no-cache"})


def _handle_errors(api: FastAPI) -> None:
    """Turn errors of the framework into problems; those of the service pass on to the middleware."""

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> None:
        first = error.errors()[0]
        raise ApiError("bad-request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        problem = ApiError({404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "bad-request"))
        request.state.problem = problem.slug
        response = problem_response(problem, request.state.request_id)
        response.headers.update(error.headers or {})
        return response
