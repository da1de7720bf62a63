"""Survey of inputs: read each header, cut the input into chunks.

Path: uris -> `survey` (Ray tasks; a confined child process each, because a header can crash a decoder) -> a Plan per
input. A later run reads the kept plans and surveys only inputs whose size or date has changed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from pipelines.extract.config import Settings
from pipelines.extract.plan import Kind, Plan
from pipelines.inputs import open_input, sources
from pipelines.telemetry.worker_process import WorkerDied, kept_process
from rigface import confinement
from rigface.errors import BadInput, BadVideo
from rigface.image import SNIFF_BYTES, sniff
from rigface.storage import s3_client
from rigface.video import decode

HEAD_BYTES = 2**20
MEMORY_MB = 1024  # of a survey
TRIES = 2


class Surveyor:
    """Plans one input; runs in a child process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, uri: str, begin: Callable[[str], None], file: BinaryIO | None = None) -> Plan:
        """The plan of one input, which may be open already. A bad input is a plan with status `error` and no chunks."""
        begin("decode")
        s3_client.sign_of_life = lambda: begin("decode")  # waiting for a storage is not hanging
        address = sources.located(uri, self._settings.root)
        plan = Plan(uri, stamp=open_input.stamp(address))
        try:
            with open_input.opened(address, file) as content:
                head, size = sources.read_head(content, HEAD_BYTES)
                digest = hashlib.sha256(head + size.to_bytes(8, "little")).hexdigest()
                plan = replace(plan, bytes=size, sha256=digest)
                plan = replace(plan, kind=_kind(head))
                return self._cut(plan, content)
        except BadInput as e:
            return plan.refused(e.stage, e.reason)
        except MemoryError:
            return plan.refused("decode", f"its header needs more than {MEMORY_MB:,} MB of memory")

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


def confined(settings: Settings, network: bool) -> Surveyor:
    """A surveyor in a process that may take `MEMORY_MB` and open no files."""
    confinement.limit_memory(MEMORY_MB)
    confinement.confine_process(network=network)
    return Surveyor(settings)


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
    return [_survey(uri, settings, silence_s) for uri in uris]


def _survey(uri: str, settings: Settings, silence_s: float) -> Plan:
    address = sources.located(uri, settings.root)
    remote = open_input.is_remote(address)
    arguments = {"settings": settings, "network": remote}
    child = kept_process("pipelines.extract.survey:confined", arguments, silence_s, storage=remote)
    for tries_left in reversed(range(TRIES)):
        try:
            with open_input.handed(address) as file:
                return child(uri, file)
        except WorkerDied as died:
            if not tries_left:
                reason = f"the decoder crashed while opening it, {TRIES} times ({died.how})"
                return Plan(uri).refused("decode", reason)
    raise AssertionError("unreachable")
