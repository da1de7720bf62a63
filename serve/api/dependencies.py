"""FastAPI dependencies: the services, the state of one application, the caller's API key, and cancellable waiting.

The key is checked and its limits are applied before a body is read.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes

from serve.api.health import Readiness
from serve.api.idempotency import IdempotencyCache
from serve.api.middleware import Gate
from serve.api.rate_limit import KeyLimiter
from serve.api.request_parser import RequestParser
from serve.inference.edit_service import EditRunner, EditServices
from serve.problems import ApiError
from serve.protocols import JobService, Service
from serve.security.api_keys import Key, KeyRing
from serve.security.loopback import LOOPBACK, check
from serve.security.url_allowlist import UrlAllowlist
from serve.telemetry.metrics import GatewayMetrics

Result = TypeVar("Result")
BEARER = HTTPBearer(scheme_name="key", auto_error=False, description="an API key, rf_...; an open service needs none")


@dataclass
class Services(EditServices):
    """The parts of the service that the routes call."""

    keys: KeyRing = field(default_factory=KeyRing)
    url_allowlist: UrlAllowlist = field(default_factory=UrlAllowlist)  # of pictures and clips that are fetched
    jobs: JobService | None = None  # None: the job routes are absent
    gate: Gate = field(default_factory=Gate)  # closed to drain the gateway
    loopback_names: frozenset[str] = LOOPBACK  # names and addresses of this machine, for a service without keys

    def parts(self) -> dict[str, Service]:
        """The workers and the job queue by name."""
        jobs: dict[str, Service] = {} if self.jobs is None else {"jobs": self.jobs}
        return {"face_worker": self.face_worker, "diffusion_worker": self.diffusion_worker, **jobs}


class ApiState:
    """State that the requests of one application share."""

    def __init__(self, services: Services, numbers: GatewayMetrics) -> None:
        self.services, self.numbers = services, numbers
        self.key_limiter = KeyLimiter()
        self.parser = RequestParser(services.limits, services.url_allowlist)
        self.editing = EditRunner(services, numbers)
        self.idempotency = IdempotencyCache(lambda done: len(done.data))
        self.readiness = Readiness(services.parts)

    @property
    def jobs(self) -> JobService:
        """The job queue; without one the job routes are absent."""
        assert self.services.jobs is not None
        return self.services.jobs

    async def soon(self, request: Request, work: Awaitable[Result]) -> Result:
        """The result of work that takes as long as a preview at most; see `within`."""
        return await within(request, work, self.services.limits.preview_timeout_s)


def state_of(request: Request) -> ApiState:
    """The state of the application that the request is for."""
    return request.app.state.api


State = Annotated[ApiState, Depends(state_of)]


async def admit(
    request: Request, api: State, scopes: SecurityScopes, _: Annotated[Any, Security(BEARER)]
) -> AsyncIterator[Key]:
    """The caller's key, until the response was sent; ApiError `unauthorized`, `forbidden`, `rate-limited`."""
    if api.services.keys.is_open:
        check(request, api.services.loopback_names)
    key = api.services.keys.find(request.headers.get("authorization"))
    request.state.key = key.name
    for scope in scopes.scopes:
        key.need(scope)
    with api.key_limiter.admit(key):
        yield key


EditKey = Annotated[Key, Security(admit, scopes=["edit"])]
JobsKey = Annotated[Key, Security(admit, scopes=["jobs"])]
VerifyKey = Annotated[Key, Security(admit, scopes=["verify"])]
MetricsKey = Annotated[Key, Security(admit, scopes=["metrics"])]


async def within(request: Request, work: Awaitable[Result], limit_s: float) -> Result:
    """The result, or ApiError `timeout`; the work is cancelled then, and when the caller disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ApiError("bad-request", "the caller has disconnected")
        raise ApiError("timeout", f"not done within {limit_s:g} s", retry_after_s=5)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
