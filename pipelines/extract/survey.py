"""Survey of inputs: read each header, cut the input into chunks.

Path: uris -> `survey` (Ray tasks; one child process each, because a header can crash a decoder) -> one Plan per
input. A later run reads the kept plans and surveys only inputs whose size or date has changed.
"""

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from pipelines.extract.config import Settings
from pipelines.extract.plan import Kind, Plan
from pipelines.inputs import open_input, sources
from pipelines.telemetry.worker_process import WorkerDied, WorkerProcess
from rigface.errors import BadInput, BadVideo
from rigface.image import SNIFF_BYTES, sniff
from rigface.storage import s3_client
from rigface.video import decode

HEAD_BYTES = 2**20
TRIES = 2


class Surveyor:
    """Plans one input; runs in a child process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, uri: str, begin: Callable[[str], None]) -> Plan:
        """The plan of one input. A bad input is a plan with status `error` and no chunks."""
        begin("decode")
        s3_client.sign_of_life = lambda: begin("decode")  # waiting for a storage is not hanging
        address = sources.located(uri, self._settings.root)
        plan = Plan(uri, stamp=open_input.stamp(address))
        try:
            with open_input.opened(address) as file:
                head, size = sources.read_head(file, HEAD_BYTES)
                digest = hashlib.sha256(head + size.to_bytes(8, "little")).hexdigest()
                plan = replace(plan, bytes=size, sha256=digest)
                plan = replace(plan, kind=_kind(head))
                return self._cut(plan, file)
        except BadInput as e:
            return plan.refused(e.stage, e.reason)

    def _cut(self, plan: Plan, file: BinaryIO) -> Plan:
        if plan.kind == "image":
            return replace(plan, shown_frames=1, chunks=(None,), expected=(1,))
        info, chunks = decode.plan_chunks(file, self._settings.rate, self._settings.chunk_frames)
        return replace(
            plan,
            width=info.width,
            height=info.height,
            duration_s=info.duration_s,
            shown_frames=info.shown_frames,
            rate=min((rate for rate in (self._settings.rate, info.fps) if rate), default=None),
            chunks=tuple(chunks),
            expected=_expected(info, len(chunks), self._settings.rate),
        )


def _kind(head: bytes) -> Kind:
    if not head:
        raise BadVideo("empty file")
    kind = sniff(head[:SNIFF_BYTES])
    if kind == "unknown":
        raise BadVideo("not a video and not a picture, judging by its content")
    return kind


def _expected(info: decode.VideoInfo, chunks: int, rate: float | None) -> tuple[int, ...]:
    frames = info.shown_frames or round(info.duration_s * (info.fps or 25))
    if rate is not None and info.duration_s:
        frames = min(frames, int(info.duration_s * rate) + 1)
    return tuple(max(frames * (k + 1) // chunks - frames * k // chunks, 1) for k in range(chunks))


def survey(uris: list[str], settings: Settings, silence_s: float) -> list[Plan]:
    """Plans of some inputs, in their order. The body of a Ray task."""
    storage = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    child = _child(settings, silence_s, storage)
    return [_survey(child, uri) for uri in uris]


def _survey(child: WorkerProcess, uri: str) -> Plan:
    for tries_left in reversed(range(TRIES)):
        try:
            return child(uri)
        except WorkerDied as died:
            if not tries_left:
                reason = f"the decoder crashed while opening it, {TRIES} times ({died.how})"
                return Plan(uri).refused("decode", reason)
    raise AssertionError("unreachable")


@functools.lru_cache(maxsize=1)
def _child(settings: Settings, silence_s: float, storage: tuple[tuple[str, str], ...]) -> WorkerProcess:
    """One child per worker process, kept for its next task; a new one if the credentials or endpoint have changed."""
    return WorkerProcess("pipelines.extract.survey:Surveyor", {"settings": settings}, silence_s)
