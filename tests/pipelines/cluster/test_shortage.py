"""Actors that wait for the cluster are named, with what is free; those that only start slowly are not."""

import time

import pytest

from pipelines.cluster import shortage as module
from pipelines.cluster.shortage import Need, shortage, watching


def test_need_fits_on_a_node_with_all_of_it():
    need = Need("reconstruct", 1.0, 1.0, 2.0, actors=3)
    assert str(need) == "reconstruct (3 actors of 1 CPU, 1 GPU, 2 GB)"
    assert need.fits({"CPU": 1.0, "GPU": 2.0, "memory": 3e9})
    assert not need.fits({"CPU": 8.0, "memory": 3e9})
    assert str(Need("the survey", 0.5)) == "the survey (0.5 CPU)"


def test_waiting_is_said_until_something_comes(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(module, "FIRST_S", 0.01)
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    monkeypatch.setattr(module, "shortage", lambda needs: "no room")
    with watching([Need("a")], said.append) as came:
        while not said:
            time.sleep(0.005)
        came()
        assert "" in said


@pytest.mark.slow
def test_actor_that_cannot_be_placed_is_named_and_one_that_starts_slowly_is_not(ray_cluster):
    import ray

    from pipelines.cluster.session import connected

    class Slow:
        def __init__(self) -> None:
            time.sleep(600)  # it is killed

    def await_shortage(need: Need) -> str:
        end = time.monotonic() + 20
        while not (found := shortage([need])) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    with connected(ray_cluster):
        slow = ray.remote(num_cpus=0.1)(Slow).remote()
        own, states = slow._actor_id.hex(), ray._private.state.actors
        while not (own in states() and states()[own]["Address"]["Port"]):  # that of another job may wait, too
            time.sleep(0.1)
        assert states()[own]["State"] == "PENDING_CREATION"
        assert shortage([Need("huge", 1000.0, actors=1)]) == ""  # all of ours have a place
        huge = ray.remote(num_cpus=1000)(Slow).remote()
        text = await_shortage(Need("huge", 1000.0, actors=1))
        assert "no node has room for huge (1 actor of 1000 CPU); free are " in text
        for actor in (slow, huge):
            ray.kill(actor)
