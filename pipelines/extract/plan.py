"""Plans of inputs, and the units of work they are cut into.

Path: survey.py -> a Plan per input, kept in OUT/.rigface/plans -> `units_of` -> a UnitPlan per row of the main dataset.

unit_id = sha256(uri, content, chunk, config)[:24]: the same work has the same name in every run, so "done" is "an
object of this name exists". `content` is the hash of the first MiB and the size. Units keep their names if the uris of
a dataset are rewritten (`adopt.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rigface.video.decode import Chunk

Kind = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The work that one input needs."""

    uri: str
    stamp: str = ""  # size and date when the input was surveyed; empty: unknown
    kind: Kind | None = None
    status: Literal["ok", "error"] = "ok"  # `error` if the input cannot be used; then it has no chunks
    stage: str | None = None
    reason: str | None = None
    bytes: int | None = None
    sha256: str = ""  # of its first MiB and its size
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    shown_frames: int | None = None
    rate: float | None = None  # sampled frames per second
    chunks: tuple[Chunk | None, ...] = ()  # one per unit; None: an image
    expected: tuple[int, ...] = ()  # sampled frames of each chunk, an estimate for progress and forecasts
    first_uri: str = ""  # the uri in the names of its units, if it was another; empty: `uri`

    def named_as(self, earlier: Plan | None) -> Plan:
        """The plan with the uri in the names of its units that the earlier plan of the same input has."""
        return self if earlier is None else replace(self, first_uri=earlier.first_uri)

    def refused(self, stage: str, reason: str) -> Plan:
        """The plan of the same input if it cannot be used."""
        return replace(self, status="error", stage=stage, reason=reason, chunks=(), expected=())

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        chunks = tuple(_chunk(chunk) for chunk in fields.pop("chunks"))
        return cls(chunks=chunks, expected=tuple(fields.pop("expected")), **fields)


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """One unit of work: a chunk of a video, or an image."""

    unit_id: str
    uri: str
    index: int  # its place among the units of its input
    chunks: int  # number of these units
    chunk: Chunk | None
    expected: int  # sampled frames, an estimate

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> UnitPlan:
        fields = json.loads(text)
        return cls(chunk=_chunk(fields.pop("chunk")), **fields)


def _chunk(fields: dict[str, Any] | None) -> Chunk | None:
    return None if fields is None else Chunk(**fields)


def units_of(plan: Plan, config: str) -> Iterator[UnitPlan]:
    """The units of one input."""
    for index, (chunk, expected) in enumerate(zip(plan.chunks, plan.expected)):
        described = json.dumps(chunk and asdict(chunk), sort_keys=True)
        work = "\0".join((plan.first_uri or plan.uri, plan.sha256, described, config))
        yield UnitPlan(
            hashlib.sha256(work.encode()).hexdigest()[:24], plan.uri, index, len(plan.chunks), chunk, expected
        )
