"""A part behind a handle: asked again where its replica was lost, and never twice to take a job."""

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve import remote as far
from serve.problems import ApiError
from serve.remote import RemoteDeployment, RemoteDiffusionWorker
from tests.serve.conftest import run


class Handle:
    """Gives one answer after the other; an exception is raised. As `RemoteDeployment` needs of Ray Serve's handle, and no more."""

    def __init__(self, *answers):
        self.left, self.asked, self.cancelled = list(answers), [], 0

    call = paint = property(lambda self: self)

    def options(self, **options):
        self.told = options
        return self

    def remote(self, *args):
        self.asked.append(args)
        return Answer(self, self.left.pop(0))


class Answer:
    def __init__(self, handle, says):
        self.handle, self.says = handle, says

    def __await__(self):
        if isinstance(self.says, Exception):
            raise self.says
        yield from ()
        return self.says

    async def __aiter__(self):
        for event in self.says:
            if isinstance(event, Exception):
                raise event
            yield event

    def cancel(self):
        self.handle.cancelled += 1


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch):
    monkeypatch.setattr(far, "PAUSE_S", 0)


@pytest.mark.parametrize("lost", [ActorDiedError(), ActorUnavailableError("away", None)])
def test_a_call_is_made_again_where_the_replica_was_lost(lost):
    handle = Handle(lost, lost, "seen")
    assert run(RemoteDeployment(handle).preview("wish")) == "seen"
    assert handle.asked == [("preview", "wish")] * 3


def test_it_is_given_up_with_a_name_at_last():
    handle = Handle(*[ActorDiedError()] * 9)
    with pytest.raises(ApiError) as trouble:
        run(RemoteDeployment(handle).preview("wish"))
    assert (trouble.value.slug, len(handle.asked)) == ("busy", far.TRIES)
    assert trouble.value.headers["Retry-After"] == "2"


def test_a_job_is_not_submitted_twice():
    handle = Handle(ActorDiedError(), "taken")
    with pytest.raises(ApiError, match="busy"):
        run(RemoteDeployment(handle).submit("order", "anna", ""))
    assert len(handle.asked) == 1


@pytest.mark.parametrize("error", [BackPressureError(8, 64), DeploymentUnavailableError(None)])
def test_a_full_or_failed_part_is_busy(error):
    with pytest.raises(ApiError, match="busy"):
        run(RemoteDeployment(Handle(error)).preview("wish"))


def test_what_went_wrong_over_there_is_raised_here():
    there = RayTaskError("call", "a stack", KeyError("nose"))
    with pytest.raises(KeyError):
        run(RemoteDeployment(Handle(there)).preview("wish"))
    with pytest.raises(ApiError, match="no-face"):
        run(RemoteDeployment(Handle(ApiError("no-face"))).preview("wish"))


def painted(handle):
    async def all_of_it():
        return [event async for event in RemoteDiffusionWorker(handle).paint("tiny", "conditions")]

    return run(all_of_it())


def test_steps_begin_anew_where_the_painter_was_lost():
    handle = Handle([1, 2, ActorDiedError()], [1, 2, 3])
    assert painted(handle) == [1, 2, 1, 2, 3]
    assert handle.asked == [("tiny", "conditions")] * 2
    assert handle.cancelled == 2


def test_a_painter_s_refusal_ends_the_stream():
    with pytest.raises(ApiError, match="timeout"):
        painted(Handle([1, ApiError("timeout")]))


def test_what_a_painter_is_is_not_asked_for_each_edit(monkeypatch):
    handle = Handle(["tiny"], "spec", ApiError("unknown-model"), ["tiny", "mine"])
    diffusion_worker = RemoteDiffusionWorker(handle)
    assert [run(diffusion_worker.models()) for _ in range(3)] == [["tiny"]] * 3
    assert [run(diffusion_worker.input_spec("tiny")) for _ in range(2)] == ["spec"] * 2
    with pytest.raises(ApiError, match="unknown-model"):  # which is not kept
        run(diffusion_worker.input_spec("mine"))
    monkeypatch.setattr(far, "KEPT_S", 0)
    assert run(diffusion_worker.models()) == ["tiny", "mine"]


@pytest.mark.parametrize(("models", "told"), [(["tiny", "mine"], {"multiplexed_model_id": "tiny"}), (["tiny"], {})])
def test_where_there_are_several_models_the_painter_that_has_it_is_asked(models, told):
    handle = Handle([1])

    async def all_of_it():
        return [event async for event in RemoteDiffusionWorker(handle, models).paint("tiny", "conditions")]

    assert run(all_of_it()) == [1]
    assert handle.told == {"stream": True, **told}
