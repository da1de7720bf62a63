"""Actors and tasks that wait for resources of the cluster, in words.

Path: a job that hears nothing from its actors -> `watching` -> its display.

Ray waits in silence for resources that are not free, for as long as it takes: another job may end, or nodes may start.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

FIRST_S, AGAIN_S = 10.0, 60.0  # without a result, until the first look, and between two


@dataclass(frozen=True)
class Need:
    """What each actor of a pool, or each task, takes."""

    name: str
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0
    actors: int = 0  # at the start; 0: tasks

    def __str__(self) -> str:
        values = {"CPU": self.cpus, "GPU": self.gpus, "GB": self.memory_gb}
        each = ", ".join(f"{value:g} {unit}" for unit, value in values.items() if value)
        actors = f"{self.actors} actor{'s' * (self.actors > 1)} of " if self.actors else ""
        return f"{self.name} ({actors}{each})"

    def fits(self, free: dict[str, float]) -> bool:
        """True if one fits into free resources of a node, as Ray names them."""
        needs = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_gb * 2**30}
        return all(free.get(name, 0.0) >= amount - 1e-6 for name, amount in needs.items())


def shortage(needs: Sequence[Need]) -> str:
    """A sentence if one of the needs fits on no node, and actors of this job are not placed; else empty."""
    import ray
    from ray._private import state  # there is no other interface to what is free on a node, and to pending actors

    try:
        nodes = list(state.available_resources_per_node().values())
        job = ray.get_runtime_context().get_job_id()
        actors = [actor for actor in state.actors().values() if actor["JobID"] == job]
    except Exception:  # the head does not answer: the job itself will say so
        return ""
    is_waiting = any(a["State"] == "PENDING_CREATION" and not a["Address"]["Port"] for a in actors)
    short = [need for need in needs if not any(need.fits(node) for node in nodes)]
    if not short or not (is_waiting or not all(need.actors for need in needs)):
        return ""
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    free = f"{total['CPU']:g} CPU, {total['GPU']:g} GPU, {total['memory'] / 2**30:.1f} GB"
    return f"waiting for the cluster: no node has room for {' or '.join(map(str, short))}; free are {free} in all"


@contextlib.contextmanager
def watching(needs: Sequence[Need], say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Say, on a thread, that the job waits for resources.

    Yields a function to be called with each result; the first after such a sentence says an empty one.
    """
    heard, said, end = threading.Event(), threading.Event(), threading.Event()

    def watch() -> None:
        wait_s = FIRST_S
        while not end.wait(wait_s):
            if not heard.is_set() and (sentence := shortage(needs)):
                said.set()
                say(sentence)
            wait_s = AGAIN_S
            heard.clear()

    def came() -> None:
        heard.set()
        if said.is_set():
            said.clear()
            say("")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield came
    finally:
        end.set()
        thread.join()
