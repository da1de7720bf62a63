"""ASGI middleware: request id, body limits, security headers, access log, metrics.

Path: ASGI server -> `GatewayMiddleware` -> `routes.py`. Plain ASGI, so that responses stream and disconnects are
noticed.

A log line is JSON: key name, route, seconds, status. Never a picture, a body, a query or a key.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rigface.telemetry.json_logging import log_fields
from serve.api.rate_limit import bounded
from serve.limits import Limits
from serve.problems import EXPECTED, ApiError, problem_of
from serve.telemetry import metrics, tracing

LOG = logging.getLogger("rigface.serve")
UNLOGGED = ("/healthz", "/readyz", "/metrics")  # polled by machines
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{8,64}$")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; "
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


class Gate:
    """Admits requests to the gateway, and counts the running ones."""

    def __init__(self) -> None:
        self.running, self.draining = 0, False

    @contextmanager
    def admit(self, max_running: int) -> Iterator[None]:
        """Count a request until the context ends, or refuse it as `draining` or `busy`."""
        if self.draining:
            raise ApiError("draining", retry_after_s=5)
        if self.running >= max_running:
            raise ApiError("busy", f"{max_running} requests are already in progress", 1)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def drain(self, limit_s: float) -> bool:
        """Refuse new requests and wait for the running ones; True if all ended in time."""
        self.draining = True
        end = time.monotonic() + limit_s
        while self.running and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return not self.running


class GatewayMiddleware:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, limits: Limits, numbers: metrics.GatewayMetrics, gate: Gate) -> None:
        self._app, self._limits, self._numbers, self._gate = app, limits, numbers, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if REQUEST_ID.match(asked) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began, status, sent = time.monotonic(), 499, 0

        async def out(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "X-Request-Id": request_id}.items():
                    headers.setdefault(name, value)
            sent += len(message.get("body", b""))
            await send(message)

        with tracing.request_span(scope["method"], scope["path"], dict(scope["headers"]), request_id) as span:
            try:
                await self._admit(scope, receive, out)
            except Exception as error:
                problem = noted(error, scope)
                if status != 499:  # the response has begun
                    raise
                await problem_response(problem, request_id)(scope, receive, out)
            finally:
                route = getattr(scope.get("route"), "path", "") or "none"
                span.set_attributes({tracing.HTTP_ROUTE: route, tracing.HTTP_STATUS: status})
                self._record(scope, route, status, time.monotonic() - began, sent)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = inner(scope)
        if not path.startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        max_bytes = self._limits.max_body_bytes + (self._limits.max_clip_bytes if path == "/v1/jobs" else 0)
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared) > max_bytes:
            raise ApiError("too-large", f"the limit is {max_bytes} bytes")
        with self._gate.admit(self._limits.max_concurrent_requests):
            self._numbers.change_in_flight(1)
            try:
                await self._app(scope, bounded(receive, max_bytes), send)
            finally:
                self._numbers.change_in_flight(-1)

    def _record(self, scope: Scope, route: str, status: int, seconds: float, sent: int) -> None:
        state = scope["state"]
        self._numbers(metrics.REQUESTS, route=route, status=str(status))
        self._numbers(metrics.REQUEST_SECONDS, seconds, route=route)
        if state.get("problem"):
            self._numbers(metrics.PROBLEMS, type=state["problem"])
        if inner(scope) not in UNLOGGED:
            fields = {"method": scope["method"], "route": route, "status": status, "seconds": seconds, "bytes": sent}
            fields |= {name: state.get(name) for name in ("request_id", "key", "problem")}
            LOG.info("request", extra=log_fields(**fields))


def inner(scope: Scope) -> str:
    """The path without the prefix of an operator or a proxy."""
    return scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))


def noted(error: Exception, scope: Scope) -> ApiError:
    """The problem for the caller, recorded for log line and metrics; unexpected errors are logged in full."""
    problem, state = problem_of(error), scope["state"]
    state["problem"] = problem.slug
    if not isinstance(error, (*EXPECTED, TimeoutError)):
        LOG.error("broken", exc_info=error, extra=log_fields(request_id=state.get("request_id")))
    return problem


def problem_response(problem: ApiError, request_id: str) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse(problem.document(request_id), problem.status, problem.headers, "application/problem+json")
