"""HTTP in, HTTP out: the routes. No torch, no model code, no pictures as arrays.

Path: request -> `front.py` -> here -> `incoming.py` -> eye and painter -> answer. `make_api` takes whatever sees and paints:
the deployments of `app.py`, or an `Eye` and a `Studio` of the same process in tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import mimetypes
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from serve.api.health import Readiness
from serve.api.idempotency import IdempotencyCache
from serve.api.middleware import Gate, GatewayMiddleware, noted
from serve.api.openapi import EVENTS, KEY, MESHES, NUMBERS, body, describe, files
from serve.api.rate_limit import ConcurrencyLimiter, TokenBucket
from serve.api.request_parser import PictureStore, read, read_job
from serve.content_cache import LruCache
from serve.inference.edit_service import MEDIA, Editing, Plan, server_timing, sse, wanted_type
from serve.jobs.store import TYPES
from serve.limits import Limits
from serve.messages import EditInput
from serve.problems import EXPECTED, ApiError, problem_of
from serve.schemas import (
    API_VERSION,
    AnimationJob,
    BatchJob,
    EditRequest,
    EditResult,
    JobList,
    JobState,
    Models,
    PictureRequest,
    PreviewRequest,
    Reconstruction,
    Verified,
    VideoJob,
)
from serve.security.api_keys import Key, KeyRing
from serve.security.url_allowlist import UrlAllowlist
from serve.telemetry.metrics import Numbers

WEB = Path(__file__).parent.parent / "web"
Made = TypeVar("Made")


@dataclass
class Services:
    """All a door needs.

    Args:
        eye: as `serve.inference.face_worker.FaceWorker`. painter: as `serve.inference.diffusion_worker.DiffusionWorker`.
        places: that files may be fetched from.
        audit: told after each edit. jobs: as `serve.jobs.queue.Jobs`; None takes none.
        gate: closed to drain the door.
    """

    face_worker: Any
    diffusion_worker: Any
    keys: KeyRing = field(default_factory=KeyRing)
    limits: Limits = field(default_factory=Limits)
    url_allowlist: UrlAllowlist = field(default_factory=UrlAllowlist)
    audit_log: Callable[[dict[str, Any]], None] | None = None
    jobs: Any = None
    gate: Gate = field(default_factory=Gate)


def make_api(services: Services) -> FastAPI:
    """The application: OpenAPI at /openapi.json, the editor page at /."""
    numbers = Numbers()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield

    api = FastAPI(
        title="RigFace", version=API_VERSION, docs_url=None, redoc_url=None, lifespan=life,
        description="Change the pose, expression and light of a face and keep the person.",
    )  # fmt: skip
    routes = Routes(services, numbers)
    routes.routes(api)
    _errors(api)
    describe(api)
    api.state.numbers, api.state.routes = numbers, routes
    api.add_middleware(GatewayMiddleware, limits=services.limits, numbers=numbers, gate=services.gate)
    return api


class Routes:
    def __init__(self, services: Services, numbers: Numbers) -> None:
        self.services, self.numbers = services, numbers
        self.bucket, self.concurrency_limiter = TokenBucket(), ConcurrencyLimiter()
        self.picture_store = PictureStore(
            LruCache(services.limits.store_mb * 2**20, len, "door"), services.url_allowlist
        )
        self.editing = Editing(services, numbers)
        self.repeats = IdempotencyCache(lambda done: len(done.data))
        self.readiness = Readiness(self.parts)

    def routes(self, api: FastAPI) -> None:
        def post(path: str, *kinds: type, more: Any = None, **options: Any) -> Any:
            extra = {"requestBody": body(*kinds)} if kinds else {}
            return api.post(path, openapi_extra=extra | (more or {}), **options)

        again = {"parameters": [KEY]}
        post("/v1/reconstruct", PictureRequest, response_model=Reconstruction, responses={200: {"content": files(*MESHES)}})(
            self.reconstruct)  # fmt: skip
        post("/v1/preview", PreviewRequest, response_class=Response, responses={200: {"content": files("image/jpeg"), "headers": NUMBERS}})(
            self.preview)  # fmt: skip
        post("/v1/edits", EditRequest, more=again, response_model=EditResult,
             responses={200: {"content": files(*MEDIA.values()) | EVENTS, "headers": NUMBERS}})(self.edit)  # fmt: skip
        post("/v1/verify", PictureRequest, response_model=Verified)(self.verify)
        api.get("/v1/models", response_model=Models)(self.models)
        if self.services.jobs is not None:
            post("/v1/jobs", BatchJob, VideoJob, AnimationJob, more=again, status_code=202, response_model=JobState)(
                self.submit)  # fmt: skip
            api.get("/v1/jobs", response_model=JobList)(self.jobs)
            api.get("/v1/jobs/{name}", response_model=JobState)(self.job)
            api.delete("/v1/jobs/{name}", status_code=204, response_class=Response)(self.remove)
            api.post("/v1/jobs/{name}/cancel", response_model=JobState)(self.cancel)
            api.get("/v1/jobs/{name}/results/{number}", response_class=Response,
                    responses={200: {"content": files(*TYPES.values())}, 307: {"description": "it is at Location"}})(
                self.job_result)  # fmt: skip
        api.get("/healthz", include_in_schema=False)(self.healthz)
        api.get("/readyz", include_in_schema=False)(self.readyz)
        api.get("/metrics", include_in_schema=False)(self.metrics)
        api.get("/", include_in_schema=False)(self.page)
        api.get("/web/{name}", include_in_schema=False)(self.asset)

    @asynccontextmanager
    async def caller(self, request: Request, scope: str) -> AsyncIterator[Key]:
        """Who asks, let in within their limits."""
        key = self.services.keys.find(request.headers.get("authorization"))
        request.state.key = key.name
        key.need(scope)
        self.bucket.take(key.name, key.rate, key.burst)
        self.concurrency_limiter.enter(key.name, key.at_a_time)
        try:
            yield key
        finally:
            self.concurrency_limiter.leave(key.name)

    async def reconstruct(
        self, request: Request, mesh: Literal["glb", "obj"] | None = Query(None, description="the textured head")
    ) -> Response:
        """Picture -> faces: coefficients, box, landmarks, confidence; with `?mesh=` the textured head instead."""
        async with self.caller(request, "edit") as key:
            _, edit_input = await read(
                request, PictureRequest, self.picture_store, key.name, self.services.limits.body_bytes
            )
            limit = self.services.limits.preview_s
            if mesh is not None:
                data = await within(
                    request, self.ask(edit_input, lambda w: self.services.face_worker.mesh(w, mesh)), limit
                )
                kind = {"glb": "model/gltf-binary", "obj": "application/zip"}[mesh]
                return Response(data, media_type=kind)
            seen = await within(request, self.ask(edit_input, self.services.face_worker.reconstruct), limit)
            return Response(seen.model_dump_json(), media_type="application/json")

    async def preview(self, request: Request) -> Response:
        """Picture (or its content hash) + edit -> the instant preview, a JPEG."""
        began = time.monotonic()
        async with self.caller(request, "edit") as key:
            _, edit_input = await read(
                request, PreviewRequest, self.picture_store, key.name, self.services.limits.body_bytes
            )
            work = self.editing.preview(edit_input, key, request.state.request_id)
            made = await within(request, work, self.services.limits.preview_s)
        seconds = made.seconds | {"total": time.monotonic() - began}
        headers = {
            "RigFace-Asked": json.dumps(_rounded(made.asked)),
            "RigFace-Picture": edit_input.picture,
            "Server-Timing": server_timing(seconds),
            "Cache-Control": "no-store",
        }
        return Response(made.data, media_type="image/jpeg", headers=headers)

    async def edit(self, request: Request) -> Response:
        """Picture + edit -> picture, with asked and achieved numbers; JSON or a stream of progress by `Accept`."""
        kind = wanted_type(request.headers.get("accept", "*/*"))
        async with AsyncExitStack() as inside:
            key = await inside.enter_async_context(self.caller(request, "edit"))
            limits = self.services.limits
            asked, edit_input = await read(request, EditRequest, self.picture_store, key.name, limits.body_bytes)
            plan = self.editing.plan(asked, edit_input, kind, key, request.state.request_id)
            if kind == "text/event-stream":
                events = self._stream(plan, request.scope)
                return _Streamed(events, inside.pop_all())  # the caller stays inside until it ends
            once = request.headers.get("idempotency-key", "")
            if once:
                same = plan.asked, edit_input.picture, sorted(edit_input.traits.items()), kind
                what = hashlib.sha256(repr(same).encode()).digest()
                work = self.repeats.once((key.name, once), what, lambda: self.editing.whole(plan))
            else:
                work = self.editing.whole(plan)
            done = await within(request, work, limits.edit_s)
        if kind == "application/json":
            return Response(done.result().model_dump_json(), media_type=kind, headers={"Cache-Control": "no-store"})
        return Response(done.data, media_type=done.media_type, headers=done.headers())

    async def _stream(self, plan: Plan, scope: Scope) -> AsyncGenerator[bytes, None]:
        try:
            async with asyncio.timeout(self.services.limits.edit_s), aclosing(self.editing.steps(plan)) as events:
                async for name, content in events:
                    yield sse(name, content)
        except Exception as error:
            yield sse("error", noted(error, scope).document(plan.request_id))

    async def ask(self, edit_input: EditInput, method: Callable[[EditInput], Awaitable[Made]]) -> Made:
        """Ask an eye by hash first; where it has forgotten the picture, with the bytes."""
        return await self.editing.ask(edit_input, method)

    async def _soon(self, request: Request, work: Awaitable[Made]) -> Made:
        return await within(request, work, self.services.limits.preview_s)

    async def submit(self, request: Request) -> JobState:
        """Queue a batch of edits, a video edit or an animation."""
        async with self.caller(request, "jobs") as key:
            submission = await read_job(request, self.picture_store, key.name, self.services.limits.clip_bytes)
            work = self.services.jobs.submit(submission, key.name, request.headers.get("idempotency-key", "")[:200])
            return await within(request, work, self.services.limits.edit_s)

    async def jobs(self, request: Request) -> JobList:
        """The caller's jobs, the newest first."""
        async with self.caller(request, "jobs") as key:
            return JobList(jobs=await self._soon(request, self.services.jobs.mine(key.name)))

    async def job(self, request: Request, name: str) -> JobState:
        """How far a job is."""
        async with self.caller(request, "jobs") as key:
            return await self._soon(request, self.services.jobs.status(name, key.name))

    async def cancel(self, request: Request, name: str) -> JobState:
        """Stop a job; results so far stay."""
        async with self.caller(request, "jobs") as key:
            return await self._soon(request, self.services.jobs.cancel(name, key.name))

    async def remove(self, request: Request, name: str) -> None:
        """Stop a job and remove it with its files."""
        async with self.caller(request, "jobs") as key:
            await self._soon(request, self.services.jobs.remove(name, key.name))

    async def job_result(self, request: Request, name: str, number: int, through: bool = False) -> Response:
        """A picture of a batch, or the video (number 0); where the operator allows it, the bucket's own address of it."""
        async with self.caller(request, "jobs") as key:
            data, kind, about = await self._soon(request, self.services.jobs.result(name, key.name, number, through))
            headers = {"Cache-Control": "no-store", **about.get("headers", {})}
            if "location" in about:
                return Response(status_code=307, headers={**headers, "Location": about["location"]})
            return Response(data, media_type=kind, headers=headers)

    async def verify(self, request: Request) -> Verified:
        """Did this service make this picture? Reads the manifest of the file and the watermark of the pixels."""
        async with self.caller(request, "verify") as key:
            _, edit_input = await read(
                request, PictureRequest, self.picture_store, key.name, self.services.limits.body_bytes
            )
            data = edit_input.pictures[edit_input.picture]
            return await self._soon(request, self.services.face_worker.verify(data))

    async def models(self, request: Request) -> Models:
        """The models that an edit may ask for."""
        async with self.caller(request, "edit"):
            found, limits = await self._soon(request, self.services.diffusion_worker.models()), self.services.limits
            jobs = self.services.jobs is not None
            return Models(models=found, body_bytes=limits.body_bytes, clip_bytes=limits.clip_bytes, jobs=jobs)

    async def healthz(self) -> dict[str, str]:
        """The door stands."""
        return {"status": "ok"}

    async def readyz(self) -> Response:
        """Eye and painter answer, and this door takes requests."""
        if self.services.gate.draining:
            return JSONResponse({"status": "draining"}, 503)
        found = await self.readiness()
        good = set(found.values()) == {"ok"}
        return JSONResponse({"status": "ok" if good else "not ready", **found}, 200 if good else 503)

    def parts(self) -> dict[str, Any]:
        """What has to answer."""
        jobs = {} if self.services.jobs is None else {"jobs": self.services.jobs}
        return {"eye": self.services.face_worker, "painter": self.services.diffusion_worker, **jobs}

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format; it names models and says how much is at work, so a key is asked for where keys are."""
        async with self.caller(request, "metrics"):
            return Response(self.numbers.text(), media_type=CONTENT_TYPE_LATEST)

    async def page(self) -> Response:
        """The editor page."""
        return _file("index.html")

    async def asset(self, name: str) -> Response:
        """A file of the editor page."""
        return _file(name)


class _Streamed(StreamingResponse):
    """Server-sent events; `inside` is closed with them, also where the caller left before the first."""

    def __init__(self, events: AsyncGenerator[bytes, None], inside: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._events, self._inside = events, inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._inside, aclosing(self._events):
            await super().__call__(scope, receive, send)


async def within(request: Request, work: Awaitable[Made], limit_s: float) -> Made:
    """The result, unless the time is up or the caller leaves; then the work is cancelled.

    Raises:
        Trouble: `timeout`.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, gone}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ApiError("bad-request", "the caller has left")
        raise ApiError("timeout", f"not done within {limit_s:g} s", retry_after_s=5)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _file(name: str) -> Response:
    path = WEB / name
    if path.parent != WEB or not path.is_file():
        raise ApiError("not-found")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})


def _rounded(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: round(value, 4) for name, value in row.items()} for row in rows]


def _errors(api: FastAPI) -> None:
    def reply(request: Request, trouble: ApiError) -> JSONResponse:
        request.state.problem = trouble.slug
        document = trouble.document(getattr(request.state, "request_id", ""))
        return JSONResponse(document, trouble.status, trouble.headers, "application/problem+json")

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return reply(request, ApiError("bad-request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "bad-request")
        answer = reply(request, ApiError(slug))
        answer.headers.update(error.headers or {})
        return answer

    async def ours(request: Request, error: Exception) -> JSONResponse:
        return reply(request, problem_of(error))

    for kind in (*EXPECTED, TimeoutError):
        api.add_exception_handler(kind, ours)
