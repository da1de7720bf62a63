"""Spans of a request across gateway and workers, and none while tracing is off."""

import asyncio
import contextvars
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import GEN_AI_REQUEST_MODEL
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.url_attributes import URL_PATH
from starlette.testclient import TestClient

from serve.api.routes import Services, make_api
from serve.app import DiffusionWorkerDeployment, FaceWorkerDeployment
from serve.inference.edit_pipeline import EditPipeline
from serve.remote import RemoteDiffusionWorker, RemoteFaceWorker
from serve.telemetry import tracing
from tests.conftest import ROOT
from tests.serve.conftest import TEST_NAMES


class Handle:
    """A handle to a replica in this process: arguments are pickled, and context variables stay behind, as between
    processes.
    """

    def __init__(self, replica, stream=False):
        self._replica, self._stream = replica, stream

    def options(self, stream):
        return Handle(self._replica, stream)

    def __getattr__(self, name):
        def remote(*args, **more):
            args, more = pickle.loads(pickle.dumps((args, more)))
            result = getattr(self._replica, name)(*args, **more)
            if self._stream:
                return Events(result)
            return asyncio.get_running_loop().create_task(result, context=contextvars.Context())

        return SimpleNamespace(remote=remote)


class Events:
    """The response of a handle to a generator."""

    def __init__(self, generator):
        self._generator, self._context = generator, contextvars.Context()

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await asyncio.get_running_loop().create_task(self._generator.__anext__(), context=self._context)

    def cancel(self):
        pass


@pytest.fixture
def spans():
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    tracing.export_to(SimpleSpanProcessor(memory), "test")
    yield memory.get_finished_spans
    tracing.stop()


@pytest.fixture
def client(face_worker, diffusion_worker):
    replicas = [
        kind.func_or_class.__new__(kind.func_or_class) for kind in (FaceWorkerDeployment, DiffusionWorkerDeployment)
    ]
    remote = RemoteDiffusionWorker(Handle(replicas[1]))
    replicas[0]._worker, replicas[0]._edits = face_worker, EditPipeline(face_worker, remote)
    replicas[1]._worker, replicas[1]._multiplexed = diffusion_worker, []
    with TestClient(
        make_api(Services(RemoteFaceWorker(Handle(replicas[0])), remote, loopback_names=TEST_NAMES))
    ) as client:
        yield client
    replicas[1]._worker = SimpleNamespace(close=lambda: None)  # the worker is shared by all tests


def edit(client, png, **headers):
    request = '{"edit": {"yaw_deg": 5}, "steps": 3, "model": "tiny"}'
    return client.post("/v1/edits", files={"picture": png}, data={"request": request}, headers=headers)


def test_edit_is_one_trace_across_processes(client, spans, png):
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = edit(client, png, traceparent=caller, **{"X-Request-Id": "request-of-mine"})
    assert answer.status_code == 200
    by_name = {span.name: span for span in spans()}
    assert {f"{span.context.trace_id:032x}" for span in by_name.values()} == {caller.split("-")[1]}
    ids = {span.context.span_id: name for name, span in by_name.items()}
    parents = {name: ids.get(span.parent.span_id, "the caller") for name, span in by_name.items()}
    wanted = {
        "POST": "the caller", "face_worker.edit": "POST", "edit.compose": "face_worker.edit",
        "edit.sample": "face_worker.edit", "diffusion_worker.sample": "edit.sample", "edit.finish": "face_worker.edit",
        "sign": "edit.finish",
    }  # fmt: skip
    assert {name: parents.get(name) for name in wanted} == wanted
    request, sample = by_name["POST"], by_name["diffusion_worker.sample"]
    assert request.attributes["rigface.request.id"] == "request-of-mine"
    assert (request.attributes[HTTP_ROUTE], request.attributes[HTTP_RESPONSE_STATUS_CODE]) == ("/v1/edits", 200)
    assert (request.attributes[HTTP_REQUEST_METHOD], request.attributes[URL_PATH]) == ("POST", "/v1/edits")
    assert [e.attributes["rigface.step"] for e in sample.events] == [1, 2, 3]
    assert (sample.attributes[GEN_AI_REQUEST_MODEL], sample.attributes["rigface.batch.rows"]) == ("tiny", 1)
    assert sample.end_time > sample.start_time


def test_attributes_hold_no_images_and_no_edits(client, spans, png):
    edit(client, png)
    values = [v for s in spans() for a in (s.attributes, *(e.attributes for e in s.events)) for v in a.values()]
    assert values
    assert all(isinstance(v, int | float | bool) or len(v) < 100 for v in values)
    assert not any("yaw" in str(v) for v in values)


def test_tracing_that_is_off_imports_nothing_and_passes_no_context(client, png):
    assert tracing.current_context() == tracing.NO_CONTEXT
    assert edit(client, png).status_code == 200
    code = "import sys, serve.telemetry.tracing, serve.api.middleware, serve.inference.edit_service\n"
    code += "print([m for m in sys.modules if 'opentelemetry' in m])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"


def test_health_checks_have_no_spans(client, spans):
    client.get("/healthz")
    client.get("/readyz")
    assert {span.name for span in spans()} <= set()


def test_otlp_exporter_sends_spans_to_collector(monkeypatch):
    pytest.importorskip(
        "opentelemetry.exporter.otlp.proto.http", reason="needs the extra: pip install 'rigface[traces]'"
    )
    got = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    tracing.start("otlp", "gateway")
    with tracing.span("hello", {tracing.FACE: 1}):
        pass
    tracing._tracer.span_processor.force_flush()
    tracing.stop()
    server.shutdown()
    assert [path for path, _ in got] == ["/v1/traces"]
    assert b"hello" in got[0][1]
    assert b"rigface" in got[0][1]


def test_unknown_exporter_is_refused():
    with pytest.raises(ValueError, match="'otlp', 'console', got 'jaeger'"):
        tracing.start("jaeger", "gateway")
