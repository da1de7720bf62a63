"""One request, one trace: from the door through handles to eye, painter and seal; and nothing at all where it is off."""

import asyncio
import contextvars
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from serve.api.routes import Services, make_api
from serve.app import EyeDeployment, PainterDeployment
from serve.inference.edit_pipeline import EditPipeline
from serve.remote import RemoteDiffusionWorker, RemoteFaceWorker
from serve.telemetry import tracing
from tests.conftest import ROOT


class Handle:
    """A handle to a replica in this process: arguments are copied, and nothing else gets across, as between two machines."""

    def __init__(self, replica):
        self._replica = replica
        self.call = self

    def options(self, stream):
        return Streaming(self._replica)

    def remote(self, *args, **more):
        args, more = pickle.loads(pickle.dumps((args, more)))
        work = self._replica.call(*args, **more)
        return asyncio.get_running_loop().create_task(work, context=contextvars.Context())


class Streaming:
    def __init__(self, replica):
        self._replica = replica

    def __getattr__(self, name):
        def remote(*args, **more):
            args, more = pickle.loads(pickle.dumps((args, more)))
            return Events(getattr(self._replica, name)(*args, **more))

        return SimpleNamespace(remote=remote)


class Events:
    """What a handle gives of a generator."""

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
    tracing.keep(SimpleSpanProcessor(memory), "test")
    yield memory.get_finished_spans
    tracing.stop()


@pytest.fixture
def client(face_worker, diffusion_worker, monkeypatch):
    monkeypatch.setattr(PainterDeployment.func_or_class, "__del__", lambda self: None)  # the studio is of all tests
    replicas = [kind.func_or_class.__new__(kind.func_or_class) for kind in (EyeDeployment, PainterDeployment)]
    diffusion_worker = RemoteDiffusionWorker(Handle(replicas[1]))
    replicas[0]._face_worker, replicas[0]._easel = face_worker, EditPipeline(face_worker, diffusion_worker)
    replicas[1]._diffusion_worker, replicas[1]._models = diffusion_worker, []
    with TestClient(make_api(Services(RemoteFaceWorker(Handle(replicas[0])), diffusion_worker))) as made:
        yield made


def edit(client, png, **headers):
    request = '{"edit": {"yaw_deg": 5}, "steps": 3, "model": "tiny"}'
    return client.post("/v1/edits", files={"picture": png}, data={"request": request}, headers=headers)


def test_an_edit_is_one_trace_from_door_to_seal(client, spans, png):
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = edit(client, png, traceparent=caller, **{"X-Request-Id": "request-of-mine"})
    assert answer.status_code == 200
    found = {span.name: span for span in spans()}
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {caller.split("-")[1]}
    ids = {span.context.span_id: name for name, span in found.items()}
    parents = {name: ids.get(span.parent.span_id, "the caller") for name, span in found.items()}
    wanted = {
        "request": "the caller", "eye.edit": "request", "edit.compose": "eye.edit", "edit.paint": "eye.edit",
        "painter.paint": "edit.paint", "edit.finish": "eye.edit", "seal": "edit.finish",
    }  # fmt: skip
    assert {name: parents.get(name) for name in wanted} == wanted
    assert found["request"].attributes["request_id"] == "request-of-mine"
    assert (found["request"].attributes["route"], found["request"].attributes["status"]) == ("/v1/edits", 200)
    assert [e.attributes["step"] for e in found["painter.paint"].events] == [1, 2, 3]
    assert found["painter.paint"].attributes["crowd"] == 1
    assert found["painter.paint"].end_time > found["painter.paint"].start_time


def test_no_attribute_holds_a_picture_or_an_edit(client, spans, png):
    edit(client, png)
    values = [v for s in spans() for a in (s.attributes, *(e.attributes for e in s.events)) for v in a.values()]
    assert values
    assert all(isinstance(v, int | float | bool) or len(v) < 100 for v in values)
    assert not any("yaw" in str(v) for v in values)


def test_off_nothing_is_handed_on_and_nothing_is_imported(client, png):
    assert tracing.carried() == {}
    assert edit(client, png).status_code == 200
    code = "import sys, serve.telemetry.tracing, serve.schemas.middleware, serve.inference.edit_service; print([m for m in sys.modules if 'opentelemetry' in m])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"


def test_health_checks_leave_no_trace(client, spans):
    client.get("/healthz")
    client.get("/readyz")
    assert {span.name for span in spans()} <= set()


def test_spans_arrive_at_a_collector(monkeypatch):
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
    tracing.start("otlp", "door")
    with tracing.span("hello", face=1):
        pass
    tracing._tracer.span_processor.force_flush()
    tracing.stop()
    server.shutdown()
    assert [path for path, _ in got] == ["/v1/traces"]
    assert b"hello" in got[0][1]
    assert b"rigface" in got[0][1]


def test_an_exporter_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="'otlp', 'console', got 'jaeger'"):
        tracing.start("jaeger", "door")
