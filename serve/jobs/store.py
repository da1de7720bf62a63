"""Durable storage of jobs on a disk or S3: a service that was killed resumes from it.

Path: `serve.jobs.queue`, `batch`, `video` -> `JobStore` -> `rigface.storage.store.Store` -> objects that are whole or
absent:

    jobs/<id>/in/<sha256>          the input files, until the job has ended
    jobs/<id>/job.json             the record; the job is accepted once it exists; replaced whole at each change
    jobs/<id>/part/<n>.json        finished pieces of a video, each with the name of its file beside it
    jobs/<id>/out/<n>.<suffix>     results; each is published once and never replaced

One process at a time holds the lock of a store (`rigface/storage/lock.py`), with the records in memory. A second one,
as in a rollout, gets `busy` until the first has ended, and then finds all accepted jobs. Everything here blocks, so
call it in a thread.
"""

import datetime
import hashlib
import io
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Literal

from pydantic import TypeAdapter

from rigface.errors import OutputBusy
from rigface.storage import lock
from rigface.storage.objects import presigned
from rigface.storage.store import Store
from rigface.telemetry.json_logging import log_fields
from serve.jobs.byte_range import requested_range
from serve.messages import JobResult, JobSubmission, ResultRequest
from serve.problems import ApiError
from serve.schemas import BatchJob, JobRequest, JobState, ProblemDocument, without_files

LOG = logging.getLogger("rigface.serve")
OPEN = ("queued", "running")
LOADERS = 32  # records read at a time when a store is opened
LOCKED = "another process of the service still has these jobs; this one resumes them when it has ended"
TYPES = {
    "png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp",
    "mp4": "video/mp4", "mov": "video/quicktime",
}  # fmt: skip
State = Literal["queued", "running", "done", "failed", "cancelled"]
DeliveryState = Literal["none", "waiting", "delivered", "given-up"]
Values = dict[str, float]


@dataclass(frozen=True)
class Delivery:
    """State of a job's webhook. `due`: time of the next attempt, seconds since 1970."""

    state: DeliveryState = "none"
    tries: int = 0
    due: float = 0.0


@dataclass(frozen=True)
class ResultInfo:
    """Metadata of one result of a batch: response headers, and the requested and achieved values per face."""

    headers: dict[str, str] = field(default_factory=dict)
    asked: list[Values] = field(default_factory=list)
    achieved: list[Values | None] = field(default_factory=list)


@dataclass
class Job:
    """A job's record; times are seconds since 1970."""

    id: str
    owner: str
    asked: JobRequest  # the request without its files
    picture: str = ""  # as in `JobSubmission`, with the next two
    clip: str = ""
    traits: dict[str, str] = field(default_factory=dict)
    state: State = "queued"
    total: int = 0
    finished: int = 0
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    tries: int = 0  # starts since a part of it was last finished
    parts: int = 0  # finished parts at its last start
    has_files: bool = True  # its input files and pieces are stored; they are deleted when it has ended
    rows: list[tuple[Values, Values | None]] = field(default_factory=list)  # asked and achieved, by face of a video
    notes: list[str] = field(default_factory=list)
    error: ProblemDocument | None = None
    delivery: Delivery = Delivery()  # of the message to `asked.webhook`
    key: str = ""  # hash of its Idempotency-Key, if it has one
    fingerprint: str = ""  # hash of its request, if it has a key
    results: set[int] = field(default_factory=set)  # numbers of the stored results; not in the record
    pieces: int = 0  # stored pieces of a video; not in the record

    @property
    def suffix(self) -> str:
        """File name suffix of its results."""
        return self.asked.format if isinstance(self.asked, BatchJob) else self.asked.container

    @property
    def media_type(self) -> str:
        return TYPES[self.suffix]

    def count_start(self) -> None:
        """Count a start; the count begins anew if a part was finished since the last one, even by a killed process."""
        parts = len(self.results) + self.pieces
        self.tries = 1 if parts > self.parts else self.tries + 1
        self.parts = parts

    def wire_state(self, keep_s: float) -> JobState:
        """The state that callers see."""
        return JobState(
            id=self.id, kind=self.asked.kind, state=self.state, total=self.total,
            finished=len(self.results) if self.asked.kind == "batch" else self.finished,
            results=sorted(self.results), media_type=self.media_type, created_at=_rfc3339(self.created) or "",
            started_at=_rfc3339(self.started), ended_at=_rfc3339(self.ended),
            expires_at=_rfc3339(self.ended + keep_s) if self.ended else None,
            asked=[row[0] for row in self.rows], achieved=[row[1] for row in self.rows], notes=self.notes,
            error=self.error, webhook=self.delivery.state,
        )  # fmt: skip


_RECORD = TypeAdapter(Job)


class PieceReplaced(Exception):
    """Another process has published this piece of a video; the job continues from the stored pieces."""


class JobStore:
    """All jobs of one store, a folder or s3://bucket/prefix; ended ones are kept for `keep_s`. Close it.

    ApiError `busy` if another process has the lock.
    """

    def __init__(self, uri: str, keep_s: float) -> None:
        self.store, self.keep_s, self.is_locked = Store(uri), keep_s, True
        self._lock, self._adding = threading.Lock(), threading.Lock()
        self._writing: dict[str, threading.Lock] = {}  # by job: one record at a time, none after its removal
        self._jobs: dict[str, Job] = {}
        self._doubtful: set[str] = set()  # ids of refused jobs whose record may be stored all the same
        with ExitStack() as stack:
            try:
                self._check_lock = stack.enter_context(lock.hold(self.store))
            except OutputBusy:
                raise ApiError("busy", LOCKED, 5) from None
            with ThreadPoolExecutor(LOADERS) as pool:
                list(pool.map(self._load, self.store.paths("jobs", "/job.json")))
            self._exit_stack = stack.pop_all()

    def _load(self, path: str) -> None:
        try:
            job = _read_record(self.store.read(path))
            if path != f"jobs/{job.id}/job.json":
                raise ValueError(f"the record of the job {job.id!r}")
            job.results = {int(name) for name in self.store.ids(f"jobs/{job.id}/out", f".{job.suffix}")}
            if job.state in OPEN and job.clip:
                job.pieces = len(self.store.ids(f"jobs/{job.id}/part", ".json"))
        except (ValueError, TypeError, KeyError):  # of another version, or damaged: left in place
            LOG.exception("unreadable job record: %s", path, extra=log_fields())
            return
        self._jobs[job.id] = job

    def check(self) -> bool:
        """True if this process still has the lock; without it, after being cut off for long, it writes nothing."""
        try:
            self._check_lock()
        except OutputBusy:
            self.is_locked = False
        return self.is_locked

    def close(self) -> None:
        """Release the lock."""
        self.is_locked = False
        self._exit_stack.close()

    def all(self) -> list[Job]:
        """All jobs, the oldest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda j: (j.created, j.id))

    def find(self, job_id: str, owner: str) -> Job:
        """A caller's own job; ApiError `unknown-job` for another owner's, too."""
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise ApiError("unknown-job")
        return job

    def add(
        self, submission: JobSubmission, owner: str, total: int, idempotency_key: str, check_room: Callable[[], None]
    ) -> Job:
        """Store a job, durably; a repeated Idempotency-Key returns the first job. `check_room` may refuse it.

        ApiError: `conflict`: the key came with another job before; `busy`: the lock is lost.
        """
        asked = without_files(submission.asked)
        job = Job(
            secrets.token_hex(16), owner, asked, submission.picture, submission.clip, submission.traits,
            total=total, created=time.time(),
        )  # fmt: skip
        if asked.webhook:
            job.delivery = Delivery("waiting")
        if not self.is_locked:
            raise ApiError("busy", LOCKED, 5)
        with self._adding:
            if idempotency_key and (first := self._first(job, idempotency_key)) is not None:
                return first
            check_room()
            self.delete_doubtful()
            try:
                for key, data in submission.files.items():
                    self.store.publish(self._file(job, key), data)
                self._write(job)
            except Exception:  # a write whose answer was lost may have happened: the caller will submit the job again
                self._doubtful.add(job.id)
                raise
            with self._lock:
                self._jobs[job.id] = job
        return job

    def delete_doubtful(self) -> None:
        """Delete what is stored of jobs that were refused while the storage was away, so that they never run."""
        if not self._doubtful or not self.check():
            return
        for job_id in sorted(self._doubtful):
            self.store.delete_folder(f"jobs/{job_id}")
            self._doubtful.discard(job_id)

    def _first(self, job: Job, idempotency_key: str) -> Job | None:
        """The earlier job with this key; None if this is the first."""
        job.key = hashlib.sha256(f"{job.owner} {idempotency_key}".encode()).hexdigest()
        job.fingerprint = _fingerprint(job)
        first = next((j for j in self.all() if j.key == job.key), None)
        if first is not None and first.fingerprint != job.fingerprint:
            raise ApiError("conflict", "this Idempotency-Key came with another job before")
        return first

    def save(self, job: Job) -> None:
        """Write the record, unless the job was removed meanwhile."""
        with self._writing.setdefault(job.id, threading.Lock()):
            if self.is_locked and job.id in self._jobs:
                self._write(job)

    def _write(self, job: Job) -> None:
        self.store.publish(f"jobs/{job.id}/job.json", _RECORD.dump_json(job, exclude={"results", "pieces"}))

    def delete_files(self, job: Job) -> None:
        """Delete the input files and the pieces of an ended job; its results stay."""
        if self.check():  # else another process may be working on it
            for folder in ("in", "part"):
                self.store.delete_folder(f"jobs/{job.id}/{folder}")
            job.has_files = False
            self.save(job)

    def remove(self, job: Job) -> None:
        """Delete the job and its files; the record last, so that a removal resumes after a crash."""
        with self._writing.setdefault(job.id, threading.Lock()):
            for folder in ("in", "part", "out"):
                self.store.delete_folder(f"jobs/{job.id}/{folder}")
            self.store.delete_folder(f"jobs/{job.id}")
            with self._lock:
                self._jobs.pop(job.id, None)
        self._writing.pop(job.id, None)

    def sweep(self) -> int:
        """Remove jobs kept longer than `keep_s`; their number."""
        old = [j for j in self.all() if j.ended and time.time() > j.ended + self.keep_s]
        for job in old:
            self.remove(job)
        for job in self.all():
            if job.ended and job.has_files:
                self.delete_files(job)
        self.store.sweep()
        return len(old)

    def files(self, job: Job) -> dict[str, bytes]:
        """Its input images by hash."""
        names = {job.picture, *job.traits.values()} - {""}
        return {name: self.store.read(self._file(job, name)) for name in names}

    def clip(self, job: Job) -> bytes:
        """Its input video."""
        return self.store.read(self._file(job, job.clip))

    def put(self, job: Job, number: int, data: bytes, info: ResultInfo | None = None) -> bytes:
        """Publish a result; the bytes that are stored then, which are those of the first publication."""
        path = self._out(job, number, job.suffix)
        if info is not None:
            self.store.publish(self._out(job, number, "json"), json.dumps(asdict(info)).encode())
        if not self.store.publish(path, data, replace=False):
            data = self.store.read(path)
        if job.id not in self._jobs:  # removed meanwhile
            self.store.delete_folder(f"jobs/{job.id}")
        job.results.add(number)
        return data

    def result(self, job: Job, request: ResultRequest, result_link_s: float = 0.0) -> JobResult:
        """A result, or its address. Only the bytes asked for are read.

        Args:
            result_link_s: lifetime of a pre-signed address, returned instead of the bytes by a store on S3; 0: bytes.

        Raises:
            ApiError: `not-found`, `bad-range`.
        """
        number = request.number
        if number not in job.results:
            raise ApiError("not-found", f"result {number} is not there (yet)")
        info = ResultInfo()
        if job.asked.kind == "batch":
            info = ResultInfo(**json.loads(self.store.read(self._out(job, number, "json"))))
        path = self._out(job, number, job.suffix)
        if result_link_s and self.store.is_s3 and not request.through:
            link = presigned(f"s3://{self.store.at(path)}", seconds=int(result_link_s), media_type=job.media_type)
            return JobResult(b"", job.media_type, info.headers, location=link)
        if request.with_data and not request.byte_range:
            data = self.store.read(path)
            return JobResult(data, job.media_type, info.headers, (0, len(data), len(data)))
        with self.store.open(path) as file:
            size = file.seek(0, io.SEEK_END)
            start, end = requested_range(request.byte_range, size)
            file.seek(start)
            data = file.read(end - start) if request.with_data else b""
        return JobResult(data, job.media_type, info.headers, (start, end, size))

    def part(self, job: Job, name: str) -> str:
        """Path of a file of a piece of a video in the store."""
        return f"jobs/{job.id}/part/{name}"

    def _out(self, job: Job, number: int, suffix: str) -> str:
        return f"jobs/{job.id}/out/{number:06d}.{suffix}"

    def _file(self, job: Job, name: str) -> str:
        return f"jobs/{job.id}/in/{name.removeprefix('sha256:')}"


def _fingerprint(job: Job) -> str:
    request = json.dumps([job.asked.model_dump(mode="json"), job.picture, job.clip, job.traits], sort_keys=True)
    return hashlib.sha256(request.encode()).hexdigest()


def _read_record(text: bytes) -> Job:
    """A record, also of the first layout, whose `hook` is now `delivery` and whose `what` is now `fingerprint`."""
    record = json.loads(text)
    if "hook" not in record:
        return _RECORD.validate_python(record)
    hook = {"state": "none", "tries": 0, "next": 0.0} | record["hook"]
    delivery = Delivery(hook["state"], hook["tries"], hook["next"])
    job = _RECORD.validate_python({**record, "delivery": delivery})
    job.fingerprint = job.key and _fingerprint(job)
    return job


def _rfc3339(seconds: float) -> str | None:
    """A time, or None for 0."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds") if seconds else None
