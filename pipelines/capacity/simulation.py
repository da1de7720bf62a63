"""Discrete-event simulation of a job on a cluster: its stages, actors and machines until the last unit is written.

Path: measured costs of the stages, a cluster -> `simulate` -> time, machine hours, money, bottleneck.

Modelled: the driver hands out units one after the other. A stage has actors; each takes CPUs of one machine
and some seconds to start. A full queue blocks the stage before it. A stage whose queue grows requests more
actors, and more machines if they do not fit; machines start later. Idle actors and machines stop. Spot
machines are lost at random; their units restart at the first stage. Not modelled: network, throttled storage,
memory.

Many units are simulated as few tokens of many units each, so that ten million take seconds. A lost machine loses whole
tokens, which is too pessimistic if a token is many units.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rigface.errors import PlanError

TICK_S = 5.0  # period of the autoscaler
TOKENS = 12_000
AHEAD = 2  # units that wait before an actor, as in `dataflow.TASKS_IN_FLIGHT`


@dataclass(frozen=True)
class Stage:
    """One pool of actors."""

    name: str
    seconds: float  # of one actor for one frame
    cpus: float = 1.0  # of each actor
    actors: int = 1  # at the start
    max_actors: int = 1


@dataclass(frozen=True)
class Machines:
    """The machines of the cluster."""

    cpus: float  # of one machine
    nodes: int = 1  # at the start
    max_nodes: int = 1
    price: float = 0.0  # of one machine, per hour
    start_s: float = 180.0  # from the request of a machine until it works
    spot_hours: float = 0.0  # mean time until a machine is reclaimed; 0: never
    idle_s: float = 120.0  # a machine without work stops after this time


@dataclass(frozen=True)
class Work:
    """The work of the job."""

    units: int
    frames: float | tuple[int, ...] = 10.0  # of one unit, or of each
    spread: float = 0.2  # of the time a unit takes, standard deviation over mean
    unit_s: float = 0.0  # of an actor for each unit, besides its frames
    driver_s: float = 0.016  # of a driver for each unit
    jobs: int = 1  # drivers that share the units
    actor_s: float = 10.0  # start of an actor


@dataclass
class SimulationResult:
    """Result of a simulation."""

    wall_s: float
    node_s: float
    peak_nodes: int
    lost_nodes: int
    redone: float  # share of the work that was repeated
    busy: dict[str, float]  # by stage: share of the time of its actors that they worked
    driver: float  # share of the time that the drivers worked
    cost: float

    @property
    def bottleneck(self) -> str:
        """The busiest stage, or the driver."""
        return max({**self.busy, "driver": self.driver}.items(), key=lambda item: item[1])[0]


@dataclass(eq=False)
class _Node:
    born: float
    free: float
    actors: list[_Actor] = field(default_factory=list)
    idle_since: float = 0.0
    gone: bool = False


@dataclass(eq=False)
class _Actor:
    stage: int
    node: _Node
    born: float
    ready: bool = False
    gone: bool = False
    token: int | None = None
    since: float = 0.0  # start of its token
    until: float = 0.0  # end of its token, or of its latest one


def simulate(work: Work, stages: tuple[Stage, ...], machines: Machines, seed: int = 0) -> SimulationResult:
    """Simulate a job; PlanError if a machine is smaller than an actor, or the first actors do not fit."""
    return _Simulation(work, stages, machines, seed).run()


class _Simulation:
    def __init__(self, work: Work, stages: tuple[Stage, ...], machines: Machines, seed: int) -> None:
        if work.units < 1 or any(s.cpus > machines.cpus for s in stages):
            raise PlanError("a simulation needs at least one unit, and machines that are larger than an actor")
        self.work, self.stages, self.machines = work, stages, machines
        self.random = np.random.default_rng(seed)
        self.per_token = math.ceil(work.units / TOKENS)
        self.count = math.ceil(work.units / self.per_token)
        self.frames = np.resize(np.asarray(work.frames, np.float64), self.count) * work.units / self.count
        self.waiting = deque(range(self.count))
        self.queues: list[deque[int]] = [deque() for _ in stages]
        self.blocked: list[deque[_Actor]] = [deque() for _ in stages]  # done, but the next queue is full
        self.idle: list[list[_Actor]] = [[] for _ in stages]
        self.actors: list[dict[_Actor, None]] = [{} for _ in stages]  # dicts keep the order, so results repeat
        self.nodes: dict[_Node, None] = {}
        self.events: list[tuple[float, int, Callable[..., None], Any]] = []
        self.order = itertools.count()
        self.now = self.node_s = self.lost_s = self.driver_s = 0.0
        self.coming = self.peak = self.lost = self.finished = 0
        self.handing = False
        self.busy, self.present = [0.0] * len(stages), [0.0] * len(stages)

    def run(self) -> SimulationResult:
        for _ in range(self.machines.nodes):
            self._add_node()
        for index, stage in enumerate(self.stages):
            for _ in range(stage.actors):
                if not self._start(index):
                    raise PlanError(f"the first machines have no room for {stage.actors} actors of {stage.name}")
        self._at(0.0, self._hand)
        self._at(TICK_S, self._tick)
        while self.finished < self.count:
            self.now, _, then, what = heapq.heappop(self.events)
            then(*what)
        for node in list(self.nodes):
            self._close(node)
        share = {s.name: float(b / p) if p else 0.0 for s, b, p in zip(self.stages, self.busy, self.present)}
        return SimulationResult(
            wall_s=float(self.now),
            node_s=float(self.node_s),
            peak_nodes=self.peak,
            lost_nodes=self.lost,
            redone=float(self.lost_s / (sum(self.busy) or 1.0)),
            busy=share,
            driver=min(1.0, float(self.driver_s / self.now)),
            cost=float(self.node_s / 3600 * self.machines.price),
        )

    def _at(self, time: float, then: Callable[..., None], *what: Any) -> None:
        heapq.heappush(self.events, (time, next(self.order), then, what))

    # --- units

    def _hand(self) -> None:
        """Hand out a token, if the first queue has room."""
        self.handing = bool(self.waiting) and self._room(0)
        if self.handing:
            took = self.work.driver_s * self.per_token / self.work.jobs
            self.driver_s += took
            self.queues[0].append(self.waiting.popleft())
            self._feed(0)
            self._at(self.now + took, self._hand)

    def _feed(self, stage: int) -> None:
        """Give queued tokens to idle actors, and unblock the stage before."""
        queue = self.queues[stage]
        while queue and (actor := self._idle(stage)) is not None:
            self.idle[stage].pop()
            actor.token, actor.since = queue.popleft(), self.now
            mean = self.frames[actor.token] * self.stages[stage].seconds + self.work.unit_s * self.per_token
            shape = self.per_token / max(self.work.spread, 1e-3) ** 2
            actor.until = self.now + mean * self.random.gamma(shape, 1 / shape)
            self._at(actor.until, self._done, actor)
            if stage and self.blocked[stage - 1]:
                self._at(self.now, self._done, self.blocked[stage - 1].popleft())
            if not stage and not self.handing:
                self.handing = True  # one hand at a time, however many actors wait
                self._at(self.now, self._hand)

    def _done(self, actor: _Actor) -> None:
        stage = actor.stage
        if actor.gone or actor.token is None:
            return
        last = stage + 1 == len(self.stages)
        if not last and not self._room(stage + 1):
            self.blocked[stage].append(actor)
            return
        self.busy[stage] += actor.until - actor.since
        token, actor.token = actor.token, None
        self.idle[stage].append(actor)
        if last:
            self.finished += 1
        else:
            self.queues[stage + 1].append(token)
            self._feed(stage + 1)
        self._feed(stage)

    def _idle(self, stage: int) -> _Actor | None:
        idle = self.idle[stage]
        while idle and idle[-1].gone:
            idle.pop()
        return idle[-1] if idle else None

    def _room(self, stage: int) -> bool:
        return len(self.queues[stage]) < AHEAD * max(len(self.actors[stage]), 1)

    # --- actors

    def _start(self, stage: int) -> bool:
        """Start an actor, if it fits on a machine."""
        node = max(self.nodes, key=lambda n: n.free, default=None)
        if node is None or node.free < self.stages[stage].cpus - 1e-9:
            return False
        node.free -= self.stages[stage].cpus
        actor = _Actor(stage, node, self.now)
        node.actors.append(actor)
        self.actors[stage][actor] = None
        self._at(self.now + self.work.actor_s, self._ready, actor)
        return True

    def _ready(self, actor: _Actor) -> None:
        if not actor.gone:
            actor.ready, actor.until = True, self.now
            self.idle[actor.stage].append(actor)
            self._feed(actor.stage)

    def _stop(self, actor: _Actor) -> None:
        actor.gone = True
        actor.node.free += self.stages[actor.stage].cpus
        actor.node.actors.remove(actor)
        actor.node.idle_since = self.now
        self.actors[actor.stage].pop(actor, None)
        self.present[actor.stage] += self.now - actor.born

    # --- autoscaler

    def _tick(self) -> None:
        self._shrink()
        self._grow()
        self._at(self.now + TICK_S, self._tick)

    def _grow(self) -> None:
        """Start actors for congested stages, the last stage first, and machines if they do not fit."""
        missing_cpus = 0.0
        for index in reversed(range(len(self.stages))):
            stage, count = self.stages[index], len(self.actors[index])
            more = stage.actors - count  # lost with a machine
            if self._is_congested(index):
                more = max(more, min(stage.max_actors - count, max(1, count // 2)))
            for _ in range(more):
                if not self._start(index):
                    missing_cpus += stage.cpus
        have = len(self.nodes) + self.coming
        short = math.ceil(max(0.0, missing_cpus - self.coming * self.machines.cpus) / self.machines.cpus)
        for _ in range(min(max(short, self.machines.nodes - have), self.machines.max_nodes - have)):
            self.coming += 1
            self._at(self.now + self.machines.start_s, self._add_node, True)

    def _is_congested(self, index: int) -> bool:
        """True if the queue is full while all actors of the stage work, and the next stage keeps up."""
        keeps_up = index + 1 == len(self.stages) or self._room(index + 1)
        is_busy = self._idle(index) is None and all(a.ready for a in self.actors[index])
        return keeps_up and is_busy and not self._room(index)

    def _shrink(self) -> None:
        for index, stage in enumerate(self.stages):
            for actor in [a for a in self.idle[index] if not a.gone and self.now - a.until > self.machines.idle_s]:
                if len(self.actors[index]) > stage.actors:
                    self._stop(actor)
        for node in [n for n in self.nodes if not n.actors and self.now - n.idle_since > self.machines.idle_s]:
            if len(self.nodes) > self.machines.nodes:
                self._close(node)

    # --- machines

    def _add_node(self, was_requested: bool = False) -> None:
        self.coming -= was_requested
        node = _Node(self.now, self.machines.cpus, idle_since=self.now)
        self.nodes[node] = None
        self.peak = max(self.peak, len(self.nodes))
        if self.machines.spot_hours:
            self._at(self.now + self.random.exponential(self.machines.spot_hours * 3600), self._lose, node)

    def _lose(self, node: _Node) -> None:
        """Reclaim a machine: the tokens of its actors restart."""
        if node.gone:
            return
        self.lost += 1
        for actor in node.actors:
            if actor.token is not None:
                self.lost_s += min(self.now, actor.until) - actor.since
                self.waiting.appendleft(actor.token)
        self._close(node)
        if not self.handing:
            self._hand()

    def _close(self, node: _Node) -> None:
        node.gone = True
        self.nodes.pop(node, None)
        self.node_s += self.now - node.born
        for actor in list(node.actors):
            self._stop(actor)
