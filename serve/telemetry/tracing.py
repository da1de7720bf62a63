"""OpenTelemetry spans of a request across all processes of the service, and the request id that log lines carry.

Path: `serve.api.middleware` (a span per request, below a caller's `traceparent`) -> `CallContext` in each call
between deployments -> spans of FaceWorker, DiffusionWorker and JobQueue -> an exporter. Off by default: nothing of
OpenTelemetry is imported then.

Attributes follow OpenTelemetry's semantic conventions; own ones begin with `rigface.`. Never an image or an edit.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rigface.extras import extra

EXPORTERS = ("", "otlp", "console")
Attribute = str | int | float | bool
Event = TypeVar("Event")

# Names of opentelemetry.semconv, which is not imported while tracing is off.
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
URL_PATH = "url.path"
ERROR_TYPE = "error.type"
MODEL = "gen_ai.request.model"
SEED = "gen_ai.request.seed"
REQUEST_ID = "rigface.request.id"
FACE = "rigface.face.index"
STEP, STEPS = "rigface.step", "rigface.steps"
QUEUE_S, SAMPLING_S, BATCH_ROWS = "rigface.queue_seconds", "rigface.sampling_seconds", "rigface.batch.rows"
FORMAT = "rigface.output.format"

_tracer: Any = None
_request_id: ContextVar[str] = ContextVar("request_id", default="")


@dataclass(frozen=True)
class CallContext:
    """Context of a call to another process: the id of its request or job, and W3C trace headers if tracing is on."""

    request_id: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)


NO_CONTEXT = CallContext()


class Span:
    """The part of OpenTelemetry's span that is used here; without traces it does nothing."""

    def add_event(self, name: str, attributes: Mapping[str, Attribute] | None = None) -> None:
        """Add a timestamped event."""

    def set_attributes(self, attributes: Mapping[str, Attribute]) -> None:
        """Set attributes."""

    def end(self) -> None:
        """End the span."""


NO_SPAN = Span()


def start(exporter: str, service: str) -> None:
    """Export the spans of this process, a part of the application such as `gateway` or `job-queue`, from now on.

    The exporter is `otlp` (to OTEL_EXPORTER_OTLP_ENDPOINT), `console` (standard error), or empty for none; ValueError
    for another, MissingExtra if its package is not installed.
    """
    if exporter not in EXPORTERS:
        raise ValueError(f"traces: want one of {', '.join(map(repr, EXPORTERS))}, got {exporter!r}")
    if not exporter or _tracer is not None:
        return
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    if exporter == "console":
        export_to(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)), service)
        return
    with extra("traces"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    export_to(BatchSpanProcessor(OTLPSpanExporter()), service)


def export_to(processor: Any, service: str) -> Any:
    """Send spans to an OpenTelemetry processor; returns the provider, to flush it and shut it down."""
    global _tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.namespace": "rigface", "service.name": service}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("rigface")
    return provider


def stop() -> None:
    """Make no more spans in this process."""
    global _tracer
    _tracer = None


@contextmanager
def span(name: str, attributes: Mapping[str, Attribute] | None = None) -> Iterator[Span]:
    """A span below the current one."""
    if _tracer is None:
        yield NO_SPAN
        return
    with _tracer.start_as_current_span(name, attributes=attributes) as current:
        yield current


@contextmanager
def span_in(context: CallContext, name: str) -> Iterator[Span]:
    """A span below one of the calling process; none if that process keeps no traces."""
    if _tracer is None or not context.trace:
        yield NO_SPAN
        return
    with _tracer.start_as_current_span(name, context=_extracted(context.trace)) as current:
        yield current


@contextmanager
def request_span(method: str, path: str, headers: Mapping[bytes, bytes], request_id: str) -> Iterator[Span]:
    """The span of an API request, below the caller's if the headers name it; calls made inside carry the request id."""
    set_request_id(request_id)
    if _tracer is None or not path.startswith("/v1/"):
        yield NO_SPAN
        return
    from opentelemetry.trace import SpanKind

    parent = {
        name.decode(): headers[name].decode("latin-1") for name in (b"traceparent", b"tracestate") if name in headers
    }
    attributes = {HTTP_METHOD: method, URL_PATH: path, REQUEST_ID: request_id}
    options = {"context": _extracted(parent), "kind": SpanKind.SERVER, "attributes": attributes}
    with _tracer.start_as_current_span(method, **options) as current:
        yield current


async def traced_events(
    context: CallContext, name: str, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[Event, None]:
    """A generator's events; it runs in a task below a span of the calling process, current in that task only."""
    queue: asyncio.Queue[tuple[Event | None, Exception | None]] = asyncio.Queue()

    async def work() -> None:
        with span_in(context, name):
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
            yield event  # type: ignore[misc]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def set_request_id(request_id: str) -> None:
    """Have calls from this task on carry the id of a request or a job."""
    _request_id.set(request_id)


def detached_span(context: CallContext, name: str, attributes: Mapping[str, Attribute]) -> Span:
    """A span of a generator, which must not become current in its consumer: `end` it."""
    if _tracer is None or not context.trace:
        return NO_SPAN
    return _tracer.start_span(name, context=_extracted(context.trace), attributes=attributes)


def current_context() -> CallContext:
    """The context for a call to another process."""
    if _tracer is None:
        return CallContext(_request_id.get())
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    trace: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(trace)
    return CallContext(_request_id.get(), trace)


def _extracted(trace: Mapping[str, str]) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(trace)
