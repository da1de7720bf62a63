"""Calls through a handle: retries after a lost replica, except for the submission of a job."""

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfDiskError,
    OutOfMemoryError,
    RayTaskError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve import remote
from serve.messages import OutputOptions, SampleRequest
from serve.problems import ApiError
from serve.remote import RemoteDiffusionWorker, RemoteFaceWorker, RemoteJobQueue
from tests.serve.conftest import run


class Handle:
    """A handle with one answer for each call; an exception is raised."""

    def __init__(self, *answers):
        self.left, self.calls, self.cancelled, self.used_options = list(answers), [], 0, None

    def options(self, **options):
        self.used_options = options
        return self

    def __getattr__(self, name):
        return Method(self, name)


class Method:
    def __init__(self, handle, name):
        self.handle, self.name = handle, name

    def remote(self, *args, context):
        self.handle.calls.append((self.name, *args))
        return Answer(self.handle, self.handle.left.pop(0))


class Answer:
    def __init__(self, handle, value):
        self.handle, self.value = handle, value

    def __await__(self):
        if isinstance(self.value, Exception) and not isinstance(self.value, ApiError):
            raise self.value
        yield from ()
        return self.value

    async def __aiter__(self):
        for event in self.value:
            if isinstance(event, Exception) and not isinstance(event, ApiError):
                raise event
            yield event

    def cancel(self):
        self.handle.cancelled += 1


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    monkeypatch.setattr(remote, "RETRY_S", 0)


def preview(handle):
    return run(RemoteFaceWorker(handle).preview("edit", OutputOptions()))


@pytest.mark.parametrize(
    "lost", [ActorDiedError(), ActorUnavailableError("away", None), NodeDiedError("off"), OutOfMemoryError("killed")]
)
def test_call_is_repeated_after_lost_replica(lost):
    handle = Handle(lost, lost, "preview")
    assert preview(handle) == "preview"
    assert handle.calls == [("preview", "edit", OutputOptions())] * 3


def test_call_fails_as_busy_after_last_try():
    handle = Handle(*[ActorDiedError()] * 9)
    with pytest.raises(ApiError) as problem:
        preview(handle)
    assert (problem.value.slug, len(handle.calls)) == ("busy", remote.MAX_TRIES)
    assert problem.value.headers["Retry-After"] == "2"


def test_job_submission_is_not_repeated():
    handle = Handle(ActorDiedError(), "accepted")
    with pytest.raises(ApiError, match="busy"):
        run(RemoteJobQueue(handle).submit("submission", "anna", ""))
    assert len(handle.calls) == 1


@pytest.mark.parametrize("error", [BackPressureError(8, 64), DeploymentUnavailableError(None), OutOfDiskError("full")])
def test_overloaded_or_missing_deployment_is_busy(error):
    with pytest.raises(ApiError, match="busy"):
        preview(Handle(error))


def test_error_of_replica_is_raised_to_caller():
    with pytest.raises(KeyError):
        preview(Handle(RayTaskError("preview", "a stack", KeyError("nose"))))
    with pytest.raises(ApiError, match="no-face"):
        preview(Handle(ApiError("no-face")))


REQUEST = SampleRequest("tiny", "conditions")


def sampled(handle, models=()):
    async def collect():
        stream = RemoteDiffusionWorker(handle, models).sample(REQUEST)
        return [event async for event in stream]

    return run(collect())


def test_stream_starts_again_after_lost_replica():
    handle = Handle([1, 2, ActorDiedError()], [1, 2, 3])
    assert sampled(handle) == [1, 2, 1, 2, 3]
    assert handle.calls == [("sample", REQUEST)] * 2
    assert handle.cancelled == 2


def test_problem_in_stream_ends_it():
    with pytest.raises(ApiError, match="timeout"):
        sampled(Handle([1, ApiError("timeout")]))


def test_models_and_input_specs_are_cached(monkeypatch):
    handle = Handle(["tiny"], "spec", ApiError("unknown-model"), ["tiny", "mine"])
    worker = RemoteDiffusionWorker(handle)
    assert [run(worker.models()) for _ in range(3)] == [["tiny"]] * 3
    assert [run(worker.input_spec("tiny")) for _ in range(2)] == ["spec"] * 2
    with pytest.raises(ApiError, match="unknown-model"):  # errors are not cached
        run(worker.input_spec("mine"))
    monkeypatch.setattr(remote, "MODELS_TTL_S", 0)
    assert run(worker.models()) == ["tiny", "mine"]


@pytest.mark.parametrize(("models", "routing"), [(["tiny", "mine"], {"multiplexed_model_id": "tiny"}), (["tiny"], {})])
def test_request_is_routed_by_model_if_there_are_several(models, routing):
    handle = Handle([1])
    assert sampled(handle, models) == [1]
    assert handle.used_options == {"stream": True, **routing}
