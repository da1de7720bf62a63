"""Plans of inputs, the units of work they are cut into, and the shards that units are bundled into.

Path: survey.py -> a Plan per input -> `with_shards` -> OUT/.rigface/plans -> `units_of` -> the units of each shard.

A unit is what is detected, tracked, given up and counted: a chunk of a video, or a picture. A shard is what one actor
takes and what becomes one object: some units of one cut video, or many short inputs.

unit_id = sha256(uri, content, chunk, config)[:24], and the name of a shard is the hash of those of its units: the same
work has the same name in every run. `content` is the hash of the first MiB and the size. Units keep their names if the
uris of a dataset are rewritten (`adopt.py`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.extract.config import OPENING
from rigface.video.decode import Chunk

Kind = Literal["image", "video"]


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass; `asdict` copies them deeply, in five times the time."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


to_json = json.JSONEncoder(default=_fields).encode  # of plans and records
_sorted_json = json.JSONEncoder(default=_fields, sort_keys=True).encode


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
    shards: tuple[str, ...] = ()  # the name of the shard of each unit

    def following(self, earlier: Plan | None) -> Plan:
        """The plan with the names that the earlier plan of the same input gave to the units they share."""
        if earlier is None:
            return self
        shards = earlier.shards if self.has_units_of(earlier) else ()
        return replace(self, first_uri=earlier.first_uri, shards=shards)

    def has_units_of(self, earlier: Plan) -> bool:
        """True if the units are those of the earlier plan."""
        return (self.sha256, self.chunks) == (earlier.sha256, earlier.chunks)

    def refused(self, stage: str, reason: str) -> Plan:
        """The plan of the same input if it cannot be used."""
        return replace(self, status="error", stage=stage, reason=reason, chunks=(), expected=(), shards=())

    def to_json(self) -> str:
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        chunks = tuple(_chunk(chunk) for chunk in fields.pop("chunks"))
        expected, shards = (tuple(fields.pop(name, ())) for name in ("expected", "shards"))
        return cls(chunks=chunks, expected=expected, shards=tuple(map(sys.intern, shards)), **fields)


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """One unit of work: a chunk of a video, or an image."""

    unit_id: str
    uri: str
    index: int  # its place among the units of its input
    chunks: int  # number of these units
    chunk: Chunk | None
    expected: int  # sampled frames, an estimate
    shard: str = ""  # the shard it belongs to

    @property
    def work(self) -> int:
        """Work, in frames."""
        return OPENING + self.expected

    @classmethod
    def of(cls, fields: dict[str, Any]) -> UnitPlan:
        """A plan from its fields as JSON has them."""
        return cls(chunk=_chunk(fields.pop("chunk")), **fields)


def _chunk(fields: dict[str, Any] | None) -> Chunk | None:
    return None if fields is None else Chunk(**fields)


def units_of(plan: Plan, config: str) -> Iterator[UnitPlan]:
    """The units of one input."""
    shards = plan.shards or ("",) * len(plan.chunks)
    for index, (chunk, expected, shard) in enumerate(zip(plan.chunks, plan.expected, shards)):
        name = _hash((plan.first_uri or plan.uri, plan.sha256, _sorted_json(chunk), config))
        yield UnitPlan(name, plan.uri, index, len(plan.chunks), chunk, expected, shard)


def bundles(units: Iterable[UnitPlan], frames: float) -> Iterator[list[UnitPlan]]:
    """The units in their order, in bundles of at most so many frames' work or one unit.

    Units of a cut input share a bundle with nothing else: their tracks are numbered anew when the last one is done,
    and no two inputs may rewrite one object.
    """
    bundle: list[UnitPlan] = []
    work = 0
    for unit in units:
        is_other = bool(bundle) and unit.uri != bundle[-1].uri and max(unit.chunks, bundle[-1].chunks) > 1
        if bundle and (is_other or work + unit.work > frames):
            yield bundle
            bundle, work = [], 0
        bundle.append(unit)
        work += unit.work
    if bundle:
        yield bundle


def shard_name(units: Iterable[UnitPlan]) -> str:
    """The name of a shard of these units, in whatever order."""
    return _hash(sorted(unit.unit_id for unit in units))


def with_shards(plans: Collection[Plan], config: str, frames: float) -> list[Plan]:
    """The plans with a shard, of about so many frames' work, for each unit that has none."""
    units = {plan.uri: list(units_of(plan, config)) for plan in plans}
    new = (unit for of_input in units.values() for unit in of_input if not unit.shard)
    names = {unit.unit_id: shard_name(bundle) for bundle in bundles(new, frames) for unit in bundle}
    return [replace(plan, shards=tuple(u.shard or names[u.unit_id] for u in units[plan.uri])) for plan in plans]


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
