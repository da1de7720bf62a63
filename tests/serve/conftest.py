"""Fixtures of a service in this process: a fake analyzer with one fitted head per picture, and a toy model."""

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from rigface.image import encode_jpeg, encode_png
from serve.security.loopback import LOOPBACK

TEST_NAMES = LOOPBACK | {"testserver", "testclient"}  # of Starlette's test client


class StillSee:
    """Sees a neutral open head in the middle of every picture that has contrast; no detector's model, no fit."""

    def __init__(self):
        from rigface.face.head.open_head import OpenHead

        model = OpenHead.load()
        self.head = model.head().spec
        self._size = (self.head.shape, self.head.expression, self.head.albedo)

    def detector(self, image, **_):
        from rigface.types import Detection

        if image.std() < 4:
            return []
        height, width = image.shape[:2]
        box = np.array([0.3 * width, 0.25 * height, 0.7 * width, 0.75 * height], np.float32)
        points = np.random.default_rng(0).uniform(box[:2], box[2:], (478, 2))
        return [Detection(box, np.pad(points, ((0, 0), (0, 1))).astype(np.float32), 1.0)]

    def __call__(self, image):
        return self.faces(image, self.detector(image))

    def coefficients(self, image, found):
        return [face.params for face in self.faces(image, found)]

    def faces(self, image, found):
        from rigface.face.geometry import alignment
        from rigface.types import Face, FaceParams

        shape, expression, albedo = self._size
        light = np.zeros((9, 3), np.float32)
        light[0] = 1.0
        params = FaceParams(
            shape=np.zeros(shape, np.float32), expression=np.zeros(expression, np.float32),
            head_rotation=np.zeros(3, np.float32), jaw_rotation=np.zeros(3, np.float32),
            camera=np.float32([7.5, 0, 0]), albedo=np.zeros(albedo, np.float32), light=light,
        )  # fmt: skip
        landmarks, mask = np.full((478, 3), 256, np.float32), np.full((512, 512), 255, np.uint8)
        affines = [alignment.frame_to_crop(detection.box) for detection in found]
        return [
            Face(alignment.crop(image, a), a, detection.box, landmarks, params, mask, 0.01)
            for detection, a in zip(found, affines)
        ]


def photo(seed: int = 0, size: tuple[int, int] = (96, 80)) -> np.ndarray:
    """(H, W, 3) uint8: smooth colours, no two seeds alike."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]] / 20.0
    phases = random.uniform(0, 6, (3, 2))
    waves = [np.sin(rows + a) + np.cos(columns + b) for a, b in phases]
    return np.clip(128 + 55 * np.stack(waves, -1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def face_worker():
    from serve.inference.face_worker import FaceWorker

    return FaceWorker(StillSee())


@pytest.fixture(scope="session")
def diffusion_worker():
    from serve.inference.diffusion_worker import DiffusionWorker

    worker = DiffusionWorker.load({"tiny": "tiny"})
    yield worker
    worker.close()


@pytest.fixture
def services(face_worker, diffusion_worker):
    from serve.api.routes import Services

    return Services(face_worker, diffusion_worker, loopback_names=TEST_NAMES)


@pytest.fixture
def two_faces(monkeypatch):
    """The analyzer sees a second face, shifted to the right."""
    real = StillSee.detector

    def detector(self, image, **how):
        found = real(self, image, **how)
        return [*found, *(replace(one, box=one.box + np.float32([20, 0, 20, 0])) for one in found)]

    monkeypatch.setattr(StillSee, "detector", detector)


@pytest.fixture
def client(services):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    with TestClient(make_api(services), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def serve_jobs(services, tmp_path):
    """A function that starts the service with a job store; each call restarts it on that store.

    `beside` keeps the earlier service of the same store running.
    """
    from contextlib import ExitStack
    from dataclasses import fields

    from starlette.testclient import TestClient

    from serve.api.routes import make_api
    from serve.jobs.queue import JobQueue
    from serve.limits import Limits

    started = {}
    with ExitStack() as stack:

        def open_(uri=str(tmp_path / "queue"), beside=False, **more):
            if uri in started and not beside:
                jobs, client = started[uri]
                client.portal.call(jobs.close)
            services.limits = replace(Limits(), **{f.name: more.pop(f.name) for f in fields(Limits) if f.name in more})
            services.jobs = JobQueue(
                uri,
                services.face_worker,
                services.diffusion_worker,
                services.limits,
                audit_log=services.audit_log,
                load_analyzer=lambda profile: StillSee(),
                **more,
            )
            client = stack.enter_context(TestClient(make_api(replace(services)), raise_server_exceptions=False))
            stack.callback(lambda jobs=services.jobs: client.portal.call(jobs.close))
            started[uri] = services.jobs, client
            return client

        yield open_


@pytest.fixture(scope="session")
def service(tmp_path_factory, on_cluster):
    """Address of the whole service on Ray Serve, with a real analyzer, a toy model and jobs, on the cluster of all
    tests: one replica each, since a second that autoscaling adds under the load of a test starts after its end.
    """
    from serve import app
    from serve.local import free_port, serving

    folders = {name: str(tmp_path_factory.mktemp(name)) for name in ("signing_folder", "jobs")}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FaceWorkerDeployment", "DiffusionWorkerDeployment", "Gateway"):
            one = getattr(app, name).options(autoscaling_config=None, num_replicas=1)
            patch.setattr(app, name, one)
        return on_cluster.enter_context(serving(port=free_port("127.0.0.1", 0), model="tiny", **folders))


@pytest.fixture(scope="session")
def png() -> bytes:
    return encode_png(photo())


@pytest.fixture(scope="session")
def flat() -> bytes:
    """An image without a face."""
    return encode_jpeg(np.full((64, 64, 3), 90, np.uint8))


@contextlib.contextmanager
def listening(services, gateways=1):
    """Address of services in this process, with requests to their gateways in turn."""
    import uvicorn

    from serve.api.routes import make_api

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    turns = itertools.cycle([make_api(services) for _ in range(gateways)])

    async def app(scope, receive, send):
        await next(turns)(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def run(coroutine):
    """A coroutine to its end."""
    return asyncio.run(coroutine)


def send(client, png, edit=None, to="/v1/edits", accept="image/png", **more):
    """The answer to a picture and an edit, sent as parts of a form."""
    body = json.dumps({"edit": edit or {}, **more})
    return client.post(to, files={"picture": ("a.png", png), "request": (None, body)}, headers={"Accept": accept})


def problem(answer, status, slug):
    """The detail of an answer that has to be this problem document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:rigface:problem:{slug}"
    assert answer.headers["x-request-id"] in answer.json()["instance"]
    return answer.json().get("detail", "")
