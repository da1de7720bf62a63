"""Simulation of continuous batching in the service: edits join and leave the batch between two steps.

Path: time of a step by rows (two measured runs) -> `simulate` -> edits per second and latency by number of
callers -> docs/scaling.md.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Step:
    """A step with r rows takes `base_s + row_s * r`."""

    base_s: float
    row_s: float

    @classmethod
    def from_loads(cls, single: tuple[float, float], batched: tuple[float, float], steps: float) -> Step:
        """Fit to two loads, each (edits per second, mean rows of a batch), of edits with `steps` steps on average."""
        (slow, few), (fast, many) = single, batched
        base = (1 / slow - 1 / fast) / steps / (1 / few - 1 / many)
        return cls(base, 1 / slow / steps - base / few)


@dataclass(frozen=True)
class ServedRequest:
    """Throughput and latency of a simulation."""

    edits_per_s: float
    p50_s: float
    p95_s: float
    mean_batch: float


def simulate(step: Step, callers: int, steps: tuple[int, ...], max_rows: int = 16, edits: int = 400) -> ServedRequest:
    """A closed loop: each caller requests its next edit when the last one is done; their step counts cycle
    through `steps`."""
    turns = [itertools.cycle(steps[k % len(steps) :] + steps[: k % len(steps)]) for k in range(callers)]
    waiting = [(0.0, k) for k in range(callers)]  # since, caller
    inside: list[list] = []  # steps left, since, caller
    latencies: list[float] = []
    now, rows, taken = 0.0, 0, 0
    while len(latencies) < edits:
        while waiting and len(inside) < max_rows:
            since, caller = waiting.pop(0)
            inside.append([next(turns[caller]), since, caller])
        now += step.base_s + step.row_s * len(inside)
        rows, taken = rows + len(inside), taken + 1
        for edit in inside:
            edit[0] -= 1
        for left, since, caller in inside:
            if not left:
                latencies.append(now - since)
                waiting.append((now, caller))
        inside = [edit for edit in inside if edit[0]]
    p50, p95 = np.percentile(latencies, [50, 95])
    return ServedRequest(len(latencies) / now, float(p50), float(p95), rows / taken)
