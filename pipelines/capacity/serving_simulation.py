"""A painter that is not there: edits join and leave its batch between two steps, as in the service.

Path: time of a step by rows (two measured runs) -> `simulate` -> edits a second and latency for so many callers -> docs/scaling.md.
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
    def through(cls, alone: tuple[float, float], crowd: tuple[float, float], steps: float) -> Step:
        """From two loads, each (edits a second, mean rows of a batch), of edits with so many steps on average."""
        (one, few), (many, rows) = alone, crowd
        base = (1 / one - 1 / many) / steps / (1 / few - 1 / rows)
        return cls(base, 1 / one / steps - base / few)


@dataclass(frozen=True)
class ServedRequest:
    """What came of it."""

    edits_per_s: float
    p50_s: float
    p95_s: float
    mean_batch: float


def simulate(step: Step, callers: int, steps: tuple[int, ...], most_rows: int = 16, edits: int = 400) -> ServedRequest:
    """A closed loop: each caller asks for its next edit when it has the last one; steps of an edit go round `steps`."""
    turns = [itertools.cycle(steps[k % len(steps) :] + steps[: k % len(steps)]) for k in range(callers)]
    waiting = [(0.0, k) for k in range(callers)]  # since when, who
    inside: list[list] = []  # steps left, since when, who
    latencies: list[float] = []
    now, rows, taken = 0.0, 0, 0
    while len(latencies) < edits:
        while waiting and len(inside) < most_rows:
            since, who = waiting.pop(0)
            inside.append([next(turns[who]), since, who])
        now += step.base_s + step.row_s * len(inside)
        rows, taken = rows + len(inside), taken + 1
        for one in inside:
            one[0] -= 1
        for _, since, who in [one for one in inside if not one[0]]:
            latencies.append(now - since)
            waiting.append((now, who))
        inside = [one for one in inside if one[0]]
    p50, p95 = np.percentile(latencies, [50, 95])
    return ServedRequest(len(latencies) / now, float(p50), float(p95), rows / taken)
