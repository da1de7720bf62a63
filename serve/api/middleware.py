"""What every request passes first and every answer last: an id, limits, security headers, a log line, numbers.

Path: ASGI server -> `GatewayMiddleware` -> the routes of `door.py`. Plain ASGI, so that streams stream and a caller's leaving is felt.

A log line is JSON: who, what, how long, how it ended. Never a picture, a body, a query or a key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rigface.telemetry.json_logging import install_json_logging, log_fields
from serve.api.rate_limit import ConcurrencyLimiter, bounded
from serve.limits import Limits
from serve.problems import EXPECTED, ApiError, problem_of
from serve.telemetry import metrics, tracing

LOG = logging.getLogger("rigface.serve")
FREE = ("/healthz", "/readyz", "/metrics")  # asked by machines, all the time
GOOD_ID = re.compile(r"^[A-Za-z0-9._-]{8,64}$")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Gate:
    """Whether a door takes requests, and how many are inside."""

    def __init__(self) -> None:
        self._concurrency_limiter = ConcurrencyLimiter()
        self.draining = False

    def enter(self, most: int) -> None:
        """Go in.

        Raises:
            Trouble: `draining`, `busy`.
        """
        if self.draining:
            raise ApiError("draining", retry_after_s=5)
        self._concurrency_limiter.enter("door", most, "busy")

    def leave(self) -> None:
        """Come out."""
        self._concurrency_limiter.leave("door")

    async def drain(self, limit_s: float) -> bool:
        """Let nobody in any more, and wait for those inside; whether all have come out in time."""
        self.draining = True
        end = time.monotonic() + limit_s
        while self._concurrency_limiter.inside("door") and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return not self._concurrency_limiter.inside("door")


class GatewayMiddleware:
    """ASGI middleware."""

    def __init__(self, app: Any, limits: Limits, numbers: metrics.GatewayMetrics, gate: Gate) -> None:
        self._app, self._limits, self._numbers, self._gate = app, limits, numbers, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if GOOD_ID.match(asked) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        began, status, sent = time.monotonic(), 499, 0

        async def out(message: Any) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name.lower() for name, _ in message["headers"]}
                extra = {**HEADERS, "X-Request-Id": request_id}
                more = [(n.lower().encode(), v.encode()) for n, v in extra.items() if n.lower().encode() not in names]
                message = {**message, "headers": [*message["headers"], *more]}
            sent += len(message.get("body", b""))
            await send(message)

        try:
            with tracing.request_span(scope["method"], scope["path"], dict(scope["headers"]), request_id) as span:
                await self._let_in(scope, receive, out)
                route = getattr(scope.get("route"), "path", "") or "none"
                span.set_attributes({tracing.HTTP_ROUTE: route, tracing.HTTP_STATUS: status})
        except Exception as error:
            trouble = noted(error, scope)
            if status != 499:  # the answer has begun: nothing can be said any more
                raise
            await answer(trouble, request_id, out)
        finally:
            route = getattr(scope.get("route"), "path", "") or "none"
            seconds = time.monotonic() - began
            self._numbers(metrics.REQUESTS, route=route, status=str(status))
            self._numbers(metrics.REQUEST_SECONDS, seconds, route=route)
            if state.get("problem"):
                self._numbers(metrics.PROBLEMS, type=state["problem"])
            if inner(scope) not in FREE:
                said = {"method": scope["method"], "route": route, "status": status, "seconds": seconds, "bytes": sent}
                who = {"key": state.get("key"), "problem": state.get("problem")}
                LOG.info("request", extra=log_fields(request_id=request_id, **said, **who))

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = inner(scope)
        if not path.startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        most = self._limits.max_body_bytes + (self._limits.max_clip_bytes if path == "/v1/jobs" else 0)
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > most:
            raise ApiError("too-large", f"a request may have {most} bytes")
        self._gate.enter(self._limits.max_concurrent_requests)
        self._numbers.change_in_flight(1)
        try:
            await self._app(scope, bounded(receive, most), send)
        finally:
            self._gate.leave()
            self._numbers.change_in_flight(-1)


def inner(scope: Scope) -> str:
    """The path as the service knows it, whatever prefix an operator or a proxy has put before it."""
    return scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))


def noted(error: Exception, scope: Scope) -> ApiError:
    """What an error means to the caller, kept for the request's log line and numbers; the log has all of what nobody foresaw."""
    trouble, state = problem_of(error), scope["state"]
    state["problem"] = trouble.slug
    if not isinstance(error, (*EXPECTED, TimeoutError)):
        LOG.error("broken", exc_info=error, extra=log_fields(request_id=state.get("request_id")))
    return trouble


async def answer(trouble: ApiError, request_id: str, send: Send) -> None:
    """A problem as the whole answer."""
    body = json.dumps(trouble.document(request_id)).encode()
    headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body)), **trouble.headers}
    encoded = [(n.lower().encode(), v.encode()) for n, v in headers.items()]
    await send({"type": "http.response.start", "status": trouble.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def write_logs() -> None:
    """Log lines to standard error, once a process."""
    install_json_logging(LOG)
