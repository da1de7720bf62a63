"""Jobs where they are kept: on a disk or on S3, so that a service which was killed finds them again.

Path: `jobs.py`, `job_batch.py`, `job_clip.py` -> `JobStore` -> `rigface.storage.store.Store` -> objects that are whole or not there:

    jobs/<id>/in/<sha256>          the files it was given
    jobs/<id>/job.json             the job; it is accepted once this is there, and replaced whole when something changes
    jobs/<id>/part/<n>.<suffix>    pieces of a clip on the way
    jobs/<id>/out/<n>.<suffix>     results; each is published once and never replaced, so none is doubled

One process keeps a shelf at a time (`rigface/storage/lock.py`), with its records in memory: a second one, as in a rollout, is told `busy`
until the first has ended, and finds then all that was accepted. Everything here blocks, so call it in a thread.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from rigface.errors import OutputBusy
from rigface.storage import lock
from rigface.storage.objects import presigned
from rigface.storage.store import Store
from rigface.telemetry.json_logging import log_fields
from serve.messages import JobSubmission
from serve.problems import ApiError
from serve.schemas import JobState

LOG = logging.getLogger("rigface.serve")
OPEN = ("queued", "running")
TAKEN = "another process of the service still keeps these jobs; this one goes on with them when that has ended"
TYPES = {
    "png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp",
    "mp4": "video/mp4", "mov": "video/quicktime",
}  # fmt: skip


@dataclass
class Job:
    """A job's record; times are seconds since 1970.

    Args:
        asked: the request without its files, as JSON.
        picture, clip, traits: as in `JobSubmission`.
        tries: how often it was begun since something of it was last finished.
        hook: `tries` and `next` (when) of the message to `asked["webhook"]`; `state` as on the wire.
        key, what: hashes of its Idempotency-Key and of all that was asked; empty without a key.
    """

    id: str
    owner: str
    kind: str
    asked: dict[str, Any]
    picture: str = ""
    clip: str = ""
    traits: dict[str, str] = field(default_factory=dict)
    state: str = "queued"
    total: int = 0
    finished: int = 0
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    tries: int = 0
    rows: list[list[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    hook: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    what: str = ""
    results: set[int] = field(default_factory=set)

    @property
    def suffix(self) -> str:
        """Of its results."""
        return self.asked["format"] if self.kind == "batch" else self.asked["container"]

    @property
    def media_type(self) -> str:
        """Of its results."""
        return TYPES[self.suffix]

    def on_the_wire(self, keep_s: float) -> JobState:
        """As callers see it."""
        return JobState(
            id=self.id, kind=self.kind, state=self.state, total=self.total,  # type: ignore[arg-type]
            finished=len(self.results) if self.kind == "batch" else self.finished,
            results=sorted(self.results), media_type=self.media_type, created_at=_when(self.created) or "",
            started_at=_when(self.started), ended_at=_when(self.ended),
            expires_at=_when(self.ended + keep_s) if self.ended else None,
            asked=[row[0] for row in self.rows], achieved=[row[1] for row in self.rows], notes=self.notes,
            error=self.error, webhook=self.hook.get("state", "none"),  # type: ignore[arg-type]
        )  # fmt: skip


class JobStore:
    """All jobs of one place; close it.

    Args:
        uri: a folder, or s3://bucket/prefix.
        keep_s: how long a job that has ended is kept.

    Raises:
        Trouble: `busy`: another process keeps it.
    """

    def __init__(self, uri: str, keep_s: float) -> None:
        self.store, self.keep_s, self.is_ours = Store(uri), keep_s, True
        self._lock, self._adding = threading.Lock(), threading.Lock()
        self._writing: dict[str, threading.Lock] = {}  # by job: one record at a time, and none after it was removed
        self._jobs: dict[str, Job] = {}
        with ExitStack() as stack:
            try:
                self._check = stack.enter_context(lock.hold(self.store))
            except OutputBusy:
                raise ApiError("busy", TAKEN, 5) from None
            for path in self.store.paths("jobs", "/job.json"):
                self._take_up(path)
            self._held = stack.pop_all()

    def _take_up(self, path: str) -> None:
        try:
            job = Job(**json.loads(self.store.read(path)))
            job.results = set(self._numbers(job))
        except (ValueError, TypeError, KeyError):  # damaged, or of another version: it is left there
            LOG.exception("not a record: %s", path, extra=log_fields())
            return
        self._jobs[job.id] = job

    def check(self) -> bool:
        """Whether it is still ours; where not, nothing is written any more. It was lost where this process was cut off for long."""
        try:
            self._check()
        except OutputBusy:
            self.is_ours = False
        return self.is_ours

    def close(self) -> None:
        """Leave it to the next."""
        self.is_ours = False
        self._held.close()

    def all(self) -> list[Job]:
        """The oldest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda j: (j.created, j.id))

    def find(self, name: str, owner: str) -> Job:
        """A caller's own job.

        Raises:
            Trouble: `unknown-job`, for somebody else's too.
        """
        job = self._jobs.get(name)
        if job is None or job.owner != owner:
            raise ApiError("unknown-job")
        return job

    def add(self, submission: JobSubmission, owner: str, total: int, once: str, room: Callable[[], None]) -> Job:
        """Take a job in; it is kept when this returns.

        Args:
            once: the caller's Idempotency-Key; the same again gives the same job.
            room: raises where there is none for a new job.

        Raises:
            Trouble: `conflict`, where the key came with another job before; `busy`, where the shelf is not ours any more.
        """
        asked = submission.asked.model_dump(mode="json", exclude={"picture", "clip", "target", "targets"})
        name = secrets.token_hex(16)
        job = Job(name, owner, submission.asked.kind, asked, submission.picture, submission.clip, submission.traits, total=total,
                  created=time.time())  # fmt: skip
        if asked["webhook"]:
            job.hook = {"state": "waiting", "tries": 0, "next": 0.0}
        if not self.is_ours:
            raise ApiError("busy", TAKEN, 5)
        with self._adding:
            if once and (first := self._first(job, once)) is not None:
                return first
            room()
            for key, data in submission.files.items():
                self.store.publish(self._file(job, key), data)
            self._write(job)
            with self._lock:
                self._jobs[job.id] = job
        return job

    def _first(self, job: Job, once: str) -> Job | None:
        """The job that came with this key first."""
        told = json.dumps([job.asked, job.picture, job.clip, job.traits], sort_keys=True)
        job.key = hashlib.sha256(f"{job.owner} {once}".encode()).hexdigest()
        job.what = hashlib.sha256(told.encode()).hexdigest()
        first = next((j for j in self.all() if j.key == job.key), None)
        if first is not None and first.what != job.what:
            raise ApiError("conflict", "this Idempotency-Key came with another job before")
        return first

    def save(self, job: Job) -> None:
        """Write the record as it is, unless the job was removed meanwhile."""
        with self._writing.setdefault(job.id, threading.Lock()):
            if self.is_ours and job.id in self._jobs:
                self._write(job)

    def _write(self, job: Job) -> None:
        record = {name: value for name, value in asdict(job).items() if name != "results"}
        self.store.publish(f"jobs/{job.id}/job.json", json.dumps(record).encode())

    def remove(self, job: Job) -> None:
        """The job and its files; the record last, so that what a crash leaves is found again."""
        with self._writing.setdefault(job.id, threading.Lock()):
            for folder in ("in", "part", "out"):
                self.store.delete_folder(f"jobs/{job.id}/{folder}")
            self.store.delete_folder(f"jobs/{job.id}")
            with self._lock:
                self._jobs.pop(job.id, None)
        self._writing.pop(job.id, None)

    def sweep(self) -> int:
        """Remove what has been kept long enough; how many."""
        old = [j for j in self.all() if j.ended and time.time() > j.ended + self.keep_s]
        for job in old:
            self.remove(job)
        self.store.sweep()
        return len(old)

    def files(self, job: Job) -> dict[str, bytes]:
        """The pictures that it was given, by hash."""
        names = {job.picture, *job.traits.values()} - {""}
        return {name: self.store.read(self._file(job, name)) for name in names}

    def clip(self, job: Job) -> bytes:
        """The clip that it was given."""
        return self.store.read(self._file(job, job.clip))

    def put(self, job: Job, number: int, data: bytes, about: dict[str, Any] | None = None) -> bytes:
        """Publish a result, and what is to be said of it; the bytes that are there then: an earlier life's, if it had come so far."""
        path = self._out(job, number, job.suffix)
        if about is not None:
            self.store.publish(self._out(job, number, "json"), json.dumps(about).encode())
        if not self.store.publish(path, data, replace=False):
            data = self.store.read(path)
        if job.id not in self._jobs:  # it was removed meanwhile
            self.store.delete_folder(f"jobs/{job.id}")
        job.results.add(number)
        job.tries = 0
        return data

    def result(self, job: Job, number: int, links_s: float = 0.0) -> tuple[bytes, str, dict[str, Any]]:
        """A result's bytes, type, and what is to be said of it.

        Args:
            links_s: on S3, instead of the bytes say the `location` where anybody may fetch them for so long.

        Raises:
            Trouble: `not-found`.
        """
        if number not in job.results:
            raise ApiError("not-found", f"result {number} is not there (yet)")
        about = self._out(job, number, "json")
        said = json.loads(self.store.read(about)) if job.kind == "batch" else {}
        path = self._out(job, number, job.suffix)
        if links_s and self.store.is_s3:
            link = presigned(f"s3://{self.store.at(path)}", seconds=int(links_s), media_type=job.media_type)
            return b"", job.media_type, {**said, "location": link}
        return self.store.read(path), job.media_type, said

    def part(self, job: Job, number: int, suffix: str) -> str:
        """Where a piece of a clip lies in the store."""
        return f"jobs/{job.id}/part/{number:06d}.{suffix}"

    def _out(self, job: Job, number: int, suffix: str) -> str:
        return f"jobs/{job.id}/out/{number:06d}.{suffix}"

    def _file(self, job: Job, name: str) -> str:
        return f"jobs/{job.id}/in/{name.removeprefix('sha256:')}"

    def _numbers(self, job: Job) -> list[int]:
        return [int(name) for name in self.store.ids(f"jobs/{job.id}/out", f".{job.suffix}")]


def _when(seconds: float) -> str | None:
    """RFC 3339."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds") if seconds else None
