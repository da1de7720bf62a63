"""Multiplexed models and graceful shutdown on real Ray Serve, with one face worker and two diffusion workers.

There are no networks and the analyzer sees one head in every image, so that three more replicas start in seconds.
"""

import asyncio
import threading
import time
from contextlib import aclosing
from types import SimpleNamespace

import numpy as np
import pytest

from rigface.edits import EditSpec, FaceEdit
from rigface.profile import ConditionSpec
from rigface.types import Conditions
from serve.app import DiffusionWorkerDeployment, FaceWorkerDeployment
from serve.config import ServiceConfig
from serve.content_cache import picture_id
from serve.messages import EditedImage, EditInput, ModelEdit, OutputOptions, SampleRequest, SamplingOptions
from serve.remote import RemoteDiffusionWorker, RemoteFaceWorker
from tests.serve.conftest import StillSee, run

pytestmark = pytest.mark.slow
MODELS = {"first": "1", "anna": "2", "ben": "3"}
STEP_S = 0.1


class Colour:
    """A pipeline that samples an image of one grey, its checkpoint's name; steps beyond the first take a while."""

    model_config = SimpleNamespace(
        conditions=ConditionSpec("texture", 32), size=32, process=SimpleNamespace(kind="grey", steps=1),
    )  # fmt: skip

    def __init__(self, place):
        self._grey = int(place)

    def sampling_batch(self):
        return Batch()

    def encode_reference(self, picture, identity):
        return SimpleNamespace(blocks={})

    def begin(self, *args, steps=None, **options):
        return SimpleNamespace(
            rows=1, index=0, steps=steps or 1, done=False, failed=None, detail=False, latents=self._grey
        )

    def pictures(self, latents, detail):
        return np.full((1, 32, 32, 3), latents, np.uint8)


class Batch:
    def __init__(self):
        self._states = []

    def join(self, state):
        self._states.append(state)

    def leave(self, state):
        self._states.remove(state)

    def step(self):
        for state in list(self._states):
            time.sleep(STEP_S if state.steps > 1 else 0)
            state.index += 1
            state.done = state.index == state.steps
            if state.done:
                self._states.remove(state)


@pytest.fixture(scope="module")
def pool(service):
    """Handles of a face worker and two diffusion workers with room for one model each, of three; they count loads."""
    from ray import serve

    colour, see = Colour, StillSee

    class Counting(DiffusionWorkerDeployment.func_or_class):
        def __init__(self, args):
            from serve.inference.diffusion_worker import DiffusionWorker

            self._read = []
            load = lambda place: self._read.append(place) or colour(place)  # noqa: E731
            DiffusionWorker.load = classmethod(lambda cls, models, device, **options: cls(models, load, **options))
            super().__init__(args)

        async def read(self):
            return self._read, list(self._worker.pool.loaded)

    class Still(FaceWorkerDeployment.func_or_class):
        def __init__(self, args, diffusion_worker):
            from serve.inference.face_worker import FaceWorker

            FaceWorker.load = classmethod(lambda cls, checkpoints, load_analyzer, **options: cls(see(), **options))
            super().__init__(args, diffusion_worker)

    args, small = ServiceConfig(models=MODELS, max_loaded_models=1), {"ray_actor_options": {"num_cpus": 0.1}}
    workers = serve.deployment(Counting, num_replicas=2, **small).bind(args)
    face_worker = serve.deployment(Still, graceful_shutdown_timeout_s=60, **small).bind(args, workers)
    yield serve.run(face_worker, name="pool", route_prefix=None), serve.get_deployment_handle("Counting", "pool")
    serve.delete("pool")


def test_request_goes_to_worker_with_its_model(pool):
    workers = pool[1]
    diffusion_worker = RemoteDiffusionWorker(workers, MODELS)
    asked = Conditions(*(np.zeros((32, 32, 3), np.uint8) for _ in range(3)), np.zeros(52, np.float32))

    async def sampled(*models):
        out = []
        for model in models:
            async for event in diffusion_worker.sample(SampleRequest(model, asked, timeout_s=60.0)):
                out.append(int(event.image[0, 0, 0]))
        return out

    def read():
        """The loads and the loaded models of each worker."""
        return sorted(workers.broadcast("read").results(timeout_s=30), key=lambda counts: counts[1])

    both = ["first", "anna"]
    for _ in range(30):  # until whoever asks knows which of them holds what; by chance sixteen do not all come right
        settled = read()
        assert run(sampled(*both * 8)) == [1, 2] * 8
        if read() == settled:
            break
        time.sleep(0.1)
    assert [held for _, held in settled] == [["anna"], ["first"]]
    assert run(sampled(*both * 8)) == [1, 2] * 8
    assert read() == settled, "a model was read again"
    assert run(sampled("ben")) == [3]  # a third replaces one of them
    assert sum(len(places) for places, _ in read()) == sum(len(places) for places, _ in settled) + 1


def test_running_edit_survives_shutdown_of_application(pool, png):
    from ray import serve

    face_worker, name = RemoteFaceWorker(pool[0]), picture_id(png)
    away = threading.Thread(target=serve.delete, args=("pool",))

    async def edit(seed):
        edit_input = EditInput(name, (FaceEdit(edit=EditSpec(yaw_deg=5 + seed)),), {name: png})
        steps, result = 0, None
        options = SamplingOptions(seed=seed, steps=20)
        edit = ModelEdit(edit_input, OutputOptions(), "first", options, previews=0, timeout_s=60.0)
        async with aclosing(face_worker.edit(edit)) as events:
            async for event in events:
                if isinstance(event, EditedImage):
                    result = event
                    continue
                steps += 1
                if steps == 2 and seed == 0:
                    away.start()
        return steps, result.finished.asked[0]["yaw_deg"]

    async def several():
        return await asyncio.gather(*(edit(seed) for seed in range(2)))

    began = time.monotonic()
    done = run(several())
    assert [steps for steps, _ in done] == [20, 20]
    assert [yaw for _, yaw in done] == pytest.approx([5, 6], abs=0.01)
    away.join(30)
    assert "pool" not in serve.status().applications
    assert time.monotonic() - began < 60  # of the graceful shutdown, after which edits are cut off
