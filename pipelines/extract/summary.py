"""Outcome of an extract job: a row per input, and counts by status."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from pipelines.extract.unit import Record

InputStatus = Literal["ok", "no_face", "partial", "error"]


@dataclass(frozen=True)
class InputRow:
    """A row of `OUT/inputs/`; the columns are explained in `rigface.schema.inputs_schema`."""

    uri: str
    kind: str | None
    status: InputStatus
    stage: str | None
    reason: str | None
    frames: int
    faces: int
    tracks: int
    shown_frames: int
    duration_s: float | None
    width: int | None
    height: int | None
    bytes: int | None
    sha256: str | None
    chunks: int
    stage_seconds: list[tuple[str, float]]


@dataclass
class StatusCount:
    """Counts of the inputs with one status and stage."""

    inputs: int = 0
    frames: int = 0
    faces: int = 0
    example: str = ""  # file name and reason of one input

    def add(self, uri: str, reason: str | None, frames: int, faces: int) -> None:
        self.inputs, self.frames, self.faces = self.inputs + 1, self.frames + frames, self.faces + faces
        if reason and not self.example:
            self.example = f"{uri.rsplit('/', 1)[-1]}: {reason}"


@dataclass
class Summary:
    """State of the dataset for the inputs of a job, and the work of this run."""

    outcomes: dict[tuple[str, str], StatusCount] = field(default_factory=dict)  # by status and stage
    done: Counter[str] = field(default_factory=Counter)  # this run: units, frames, faces, bytes
    seconds: dict[str, float] = field(default_factory=dict)  # this run, by step
    cpu_seconds: float = 0.0
    start_s: float = 0.0  # until the first unit came back
    wall_s: float = 0.0
    identities: str = ""  # result of the identity clustering, in words

    @property
    def inputs(self) -> int:
        return sum(outcome.inputs for outcome in self.outcomes.values())

    def count_input(
        self, uri: str, status: str, stage: str | None, reason: str | None, frames: int, faces: int
    ) -> None:
        """Count an input by some columns of its row."""
        self.outcomes.setdefault((status, stage or ""), StatusCount()).add(uri, reason, frames, faces)

    def add(self, record: Record) -> None:
        done = self.done
        done["units"] += 1
        done["frames"] += record.frames
        done["faces"] += record.faces
        done["bytes"] += record.bytes
        self.cpu_seconds += record.cpu_seconds
        for step, seconds in record.seconds.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds
