"""The outcome of an extract job, counted by status."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class StatusCount:
    """Inputs that ended alike."""

    inputs: int = 0
    frames: int = 0
    faces: int = 0
    example: str = ""  # name and reason of one


@dataclass
class Summary:
    """How the dataset stands for the inputs that were asked for, and what this run did."""

    outcomes: dict[tuple[str, str], StatusCount] = field(default_factory=dict)  # by status and stage
    done: Counter[str] = field(default_factory=Counter)  # this run: units, frames, faces, bytes
    seconds: dict[str, float] = field(default_factory=dict)  # this run, by step
    cpu_seconds: float = 0.0
    start_s: float = 0.0  # until the first unit came back
    wall_s: float = 0.0
    identities: str = ""  # what the pass over identities found, in words

    @property
    def inputs(self) -> int:
        """How many inputs were asked for."""
        return sum(outcome.inputs for outcome in self.outcomes.values())
