"""Where the time of a request goes: OpenTelemetry spans over all processes of the service, where somebody asks for them.

Path: `front.py` (a span a request; a caller's `traceparent` is taken up) -> `edits.py` -> `far.py` hands the context on ->
deployments -> eye, painter, seal -> an exporter. Off, which is the default, nothing of OpenTelemetry is imported, and a span
is a test of one variable. Attributes are numbers and names, as in log lines; never pictures or edits.

The id of the request goes the same way, for log lines, whether spans are kept or not.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any

from rigface.extras import extra

EXPORTERS = ("", "otlp", "console")
Carried = Mapping[str, str] | None
_tracer: Any = None
_request: ContextVar[str] = ContextVar("request", default="")


class _Nothing:
    """The span of a service that keeps no traces."""

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Is not kept."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Is not kept."""

    def end(self) -> None:
        """Nothing ends."""


NOTHING = _Nothing()


def start(exporter: str, part: str) -> None:
    """Keep traces from now on in this process, a part of the service: `door`, `eye`, `painter`, `jobs`.

    Args:
        exporter: `otlp` (to OTEL_EXPORTER_OTLP_ENDPOINT), `console` (standard error), or empty: none.

    Raises:
        ValueError: there is no such exporter.
        MissingExtra: its package is not installed.
    """
    if exporter not in EXPORTERS:
        raise ValueError(f"traces: want one of {', '.join(map(repr, EXPORTERS))}, got {exporter!r}")
    if not exporter or _tracer is not None:
        return
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    if exporter == "console":
        keep(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)), part)
        return
    with extra("traces"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    keep(BatchSpanProcessor(OTLPSpanExporter()), part)


def keep(processor: Any, part: str) -> Any:
    """Give spans to a processor of OpenTelemetry's; returns the provider, which can be flushed and shut down."""
    global _tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.name": "rigface", "service.part": part}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("rigface")
    return provider


def stop() -> None:
    """Keep no more."""
    global _tracer
    _tracer = None


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[Any]:
    """A stretch of work below the one that is under way here."""
    if _tracer is None:
        yield NOTHING
        return
    with _tracer.start_as_current_span(name, attributes=attributes) as made:
        yield made


@contextmanager
def under(carried: Carried, name: str) -> Iterator[Any]:
    """A stretch of work below one of another process; none where that process keeps no traces."""
    if _tracer is None or carried is None:
        yield NOTHING
        return
    with _tracer.start_as_current_span(name, context=_context(carried)) as made:
        yield made


@contextmanager
def asked(path: str, headers: Mapping[bytes, bytes], request_id: str) -> Iterator[Any]:
    """A request to the API: below the caller's span, where it names one; calls of other parts carry its id."""
    working_on(request_id)
    if _tracer is None or not path.startswith("/v1/"):
        yield NOTHING
        return
    from opentelemetry.trace import SpanKind

    sent = {
        name.decode(): headers[name].decode("latin-1") for name in (b"traceparent", b"tracestate") if name in headers
    }
    options = {"context": _context(sent), "kind": SpanKind.SERVER, "attributes": {"request_id": request_id}}
    with _tracer.start_as_current_span("request", **options) as made:
        yield made


async def drawn(carried: Carried, name: str, events: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """A generator's events, its work a stretch below one of another process: done in a task, so that the span is current there only."""
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def work() -> None:
        with under(carried, name):
            try:
                async with aclosing(events):
                    async for event in events:
                        queue.put_nowait((event, None))
                queue.put_nowait((None, StopAsyncIteration()))
            except Exception as error:
                queue.put_nowait((None, error))

    task = asyncio.ensure_future(work())
    try:
        while True:
            event, error = await queue.get()
            if isinstance(error, StopAsyncIteration):
                return
            if error is not None:
                raise error
            yield event
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def working_on(request_id: str) -> None:
    """Have calls of other parts, from this task on, carry the id of a request or a job."""
    _request.set(request_id)


def loose(carried: Carried, name: str) -> Any:
    """A span of a generator, which must not be the current one of whoever draws from it: `end` it."""
    if _tracer is None or carried is None:
        return NOTHING
    return _tracer.start_span(name, context=_context(carried))


def carried() -> dict[str, Any]:
    """What a call to another process hands on: `request`, an id; `trace`; or neither."""
    told = {"request": request} if (request := _request.get()) else {}
    if _tracer is None:
        return told
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(context)
    return {**told, "trace": context} if context else told


def _context(carried: Mapping[str, str]) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(carried)
