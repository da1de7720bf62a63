"""Decide what is to be done: look into every input's header, cut it into units, name them.

Path: uris -> survey (Ray tasks; one child process each, because a header can crash a decoder too) -> one plan per input ->
`units_of` -> the rows of the main dataset. Plans are kept in OUT/.rigface/plan; a later run reads them back and opens only
inputs whose size or date has changed.

unit_id = sha256(uri, content, chunk, config)[:24]: the same work has the same name in every run, so "done" is "an object
of this name exists". `content` is the hash of the first MiB and the size.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from pipelines.extract.config import Settings
from pipelines.inputs import open_input, sources
from pipelines.telemetry.worker_process import WorkerDied, WorkerProcess
from rigface.errors import BadInput, BadVideo, PlanError
from rigface.storage import s3_client

HEAD_BYTES = 2**20
TRIES = 2

Plan = dict[str, Any]


class Surveyor:
    """Looks into one input; lives in a child process.

    Args:
        settings: what to compute.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, uri: str, begin: Callable[[str], None]) -> Plan:
        """The plan of one input. A bad input is a plan with status `error` and no chunks."""
        begin("decode")
        s3_client.sign_of_life = lambda: begin("decode")  # waiting for a storage is not hanging
        plan = {**empty_plan(uri), "stamp": open_input.stamp(uri)}
        try:
            with open_input.opened(uri) as file:
                self._fill(plan, file)
        except BadInput as e:
            return refused(plan, e.stage, e.reason)
        return plan

    def _fill(self, plan: Plan, file: Any) -> None:
        from rigface.image import SNIFF_BYTES, sniff
        from rigface.video import decode

        head, size = sources.head(file, HEAD_BYTES)
        plan["bytes"] = size
        plan["sha256"] = hashlib.sha256(head + size.to_bytes(8, "little")).hexdigest()
        if not head:
            raise BadVideo("empty file")
        kind = sniff(head[:SNIFF_BYTES])
        if kind == "unknown":
            raise BadVideo("not a video and not a picture, judging by its content")
        plan["kind"] = kind
        if kind == "image":
            plan["shown_frames"], plan["chunks"], plan["expected"] = 1, [None], [1]
            return
        info, chunks = decode.plan_chunks(file, self._settings.rate, self._settings.chunk_frames)
        plan.update(width=info.width, height=info.height, duration_s=info.duration_s, shown_frames=info.shown_frames)
        plan["rate"] = min((rate for rate in (self._settings.rate, info.fps) if rate), default=None)
        plan["chunks"] = [asdict(chunk) for chunk in chunks]
        plan["expected"] = _expected(info, len(chunks), self._settings)


def empty_plan(uri: str) -> Plan:
    """All that a plan holds, before anything is known."""
    return {
        "uri": uri,
        "stamp": "",
        "kind": None,
        "status": "ok",
        "stage": None,
        "reason": None,
        "bytes": None,
        "sha256": "",
        "width": None,
        "height": None,
        "duration_s": None,
        "shown_frames": None,
        "rate": None,  # frames looked at per second
        "chunks": [],
        "expected": [],  # frames to look at, per chunk; an estimate for progress and forecast
    }


def refused(plan: Plan, stage: str, reason: str) -> Plan:
    """The plan of an input that cannot be used."""
    return {**plan, "status": "error", "stage": stage, "reason": reason, "chunks": [], "expected": []}


def _expected(info: Any, chunks: int, settings: Settings) -> list[int]:
    frames = info.shown_frames or round(info.duration_s * (info.fps or 25))
    if settings.rate is not None and info.duration_s:
        frames = min(frames, int(info.duration_s * settings.rate) + 1)
    return [max(frames * (k + 1) // chunks - frames * k // chunks, 1) for k in range(chunks)]


def survey(uris: list[str], settings: Settings, silence_s: float) -> list[Plan]:
    """Plans of some inputs, in their order. The body of a Ray task."""
    storage = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    child = _child(settings, silence_s, storage)
    return [_survey(child, uri) for uri in uris]


def _survey(child: WorkerProcess, uri: str) -> Plan:
    for left in reversed(range(TRIES)):
        try:
            return child(uri)
        except WorkerDied as died:
            if not left:
                reason = f"the decoder crashed while opening it, {TRIES} times ({died.how})"
                return refused(empty_plan(uri), "decode", reason)
    raise AssertionError("unreachable")


@functools.lru_cache(maxsize=1)
def _child(settings: Settings, silence_s: float, storage: tuple[tuple[str, str], ...]) -> WorkerProcess:
    """One child per worker process, kept for its next task; another one where the way to the storage has changed."""
    return WorkerProcess("pipelines.extract.plan:Surveyor", {"settings": settings}, silence_s)


def unit_id(plan: Plan, index: int, config: str) -> str:
    """The name of a unit of work."""
    chunk = json.dumps(plan["chunks"][index], sort_keys=True)
    return hashlib.sha256("\0".join((plan["uri"], plan["sha256"], chunk, config)).encode()).hexdigest()[:24]


def units_of(plan: Plan, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The units of one input: name, and what the stages need to know."""
    for index, (chunk, expected) in enumerate(zip(plan["chunks"], plan["expected"])):
        yield (
            unit_id(plan, index, config),
            {
                "uri": plan["uri"],
                "kind": plan["kind"],
                "index": index,
                "chunks": len(plan["chunks"]),
                "chunk": chunk,
                "expected": expected,
            },
        )


def check(stages: Iterable[Any], start: Iterable[str], wanted: Iterable[str]) -> None:
    """Follow the face columns through the stages.

    Args:
        stages: classes or objects with a name, `needs` and `adds`.
        start: columns there are before the first.
        wanted: columns there must be after the last.

    Raises:
        PlanError: a stage needs a column that nothing before it adds, or one that is wanted never appears.
    """
    have = set(start)
    for stage in stages:
        if missing := set(stage.needs) - have:
            raise PlanError(f"{stage.name} needs {sorted(missing)}; before it there are {sorted(have)}")
        have |= set(stage.adds)
    if missing := set(wanted) - have:
        raise PlanError(f"no stage adds {sorted(missing)}")
