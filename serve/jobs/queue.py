"""The queue of jobs that take longer than a request; it survives restarts.

Path: `POST /v1/jobs` -> `JobQueue.submit` -> `JobStore` (a disk or S3) -> workers -> `serve.jobs.batch` or
`serve.jobs.video` -> results, and a webhook (`serve.jobs.notifier`).

The queue is bounded, in all and for each key. Next is the oldest job of the owner with the fewest running jobs, so
the hundred jobs of one caller do not delay the single one of another. A job that was running when the service stopped
resumes with its first missing part; after three starts that each ended the process, it fails. While the store is away
or full, its jobs wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from rigface.errors import OutputBusy, StorageGone
from rigface.storage.store import NO_ROOM
from rigface.telemetry.json_logging import log_fields
from rigface.video.sandbox import DecoderDied
from serve.inference.edit_service import AuditSink, EditRunner, EditServices
from serve.inference.watchdog import WatchdogExecutor
from serve.jobs.batch import run_batch
from serve.jobs.notifier import WebhookNotifier
from serve.jobs.store import OPEN, Job, JobStore, PieceReplaced, State
from serve.jobs.webhook import Webhooks
from serve.limits import Limits
from serve.messages import JobResult, JobSubmission, ResultRequest
from serve.problems import ApiError, problem_of
from serve.protocols import DiffusionService, FaceService, JobService
from serve.provenance.encoder import NoSigner, Signer
from serve.schemas import BatchJob, JobState, ProblemDocument
from serve.security.consent import Policy
from serve.security.url_allowlist import UrlAllowlist
from serve.telemetry import tracing
from serve.telemetry.metrics import GatewayMetrics, record_job_states

if TYPE_CHECKING:
    from rigface.face.analyzer import FaceAnalyzer
    from rigface.profile import FaceProfile
    from serve.jobs.video import VideoRunner

LOG = logging.getLogger("rigface.serve")
MAX_STARTS = 3
SWEEP_S = 3600.0
NOTIFY_S = 1.0
MAX_PROBES = 2  # videos probed at a time before they are accepted
LOCK_CHECK_S = 5.0
RETRY_STORE_S = 15.0  # until a store that was away or full is tried again


class JobQueue(JobService):
    """A `JobService` in this process: the queue of one store, and its workers. One process at a time works on a store.

    Args:
        uri: a folder, or s3://bucket/prefix.
        load_analyzer: makes an analyzer of a profile for videos, which are analysed in this process; None: the real
            ones.
        signer: of videos.
        webhooks: None: no messages are sent.
        policy: consent of faces in videos; the face worker checks those of images.
        checkpoints: models by name; of those, refiners are run in this process.
    """

    def __init__(
        self,
        uri: str,
        face_worker: FaceService,
        diffusion_worker: DiffusionService,
        limits: Limits | None = None,
        *,
        audit_log: AuditSink | None = None,
        load_analyzer: Callable[[FaceProfile], FaceAnalyzer] | None = None,
        signer: Signer | None = None,
        webhooks: Webhooks | None = None,
        policy: Policy | None = None,
        checkpoints: Mapping[str, str] | None = None,
    ) -> None:
        self._uri, self._limits = uri, limits or Limits()
        self._services = EditServices(face_worker, diffusion_worker, self._limits, audit_log)
        self._load_analyzer, self._signer, self._policy = load_analyzer, signer or NoSigner(), policy or Policy()
        self._checkpoints = checkpoints or {}
        self._edits = EditRunner(self._services, GatewayMetrics())
        self._videos: VideoRunner | None = None
        self._notifier = WebhookNotifier(webhooks or Webhooks(UrlAllowlist()), self._wire_state, self._record)
        self._store: JobStore | None = None
        self._starting: asyncio.Lock | None = None
        self._submitted = asyncio.Event()
        self._background: list[asyncio.Task] = []
        self._leaving: asyncio.Task | None = None
        self._running: dict[str, asyncio.Task] = {}
        self._unsaved: set[str] = set()
        self._probes = WatchdogExecutor(max_threads=MAX_PROBES)
        self._open = True

    async def submit(self, submission: JobSubmission, owner: str, idempotency_key: str = "") -> JobState:
        """Queue a job; it is durable when this returns.

        ApiError `busy` or `rate-limited` if the queue or the owner's share is full; also `draining`, `conflict`,
        `too-large`, `bad-clip`.
        """
        store = await self.start()
        if not self._open:
            raise ApiError("draining", retry_after_s=5)
        if submission.asked.webhook is not None:
            self._notifier.check(submission.asked.webhook)
        if isinstance(submission.asked, BatchJob):
            total = len(submission.asked.edits)
        else:
            total = (await self._probes(self._video_runner().probe, submission.files[submission.clip])).shown_frames
        check_room = lambda: self._check_room(store, owner)  # noqa: E731
        job = await asyncio.to_thread(store.add, submission, owner, total, idempotency_key, check_room)
        record_job_states(j.state for j in store.all())
        self._submitted.set()
        return self._wire_state(job)

    async def status(self, job_id: str, owner: str) -> JobState:
        return self._wire_state((await self.start()).find(job_id, owner))

    async def jobs_of(self, owner: str) -> list[JobState]:
        return [self._wire_state(j) for j in reversed((await self.start()).all()) if j.owner == owner]

    async def cancel(self, job_id: str, owner: str) -> JobState:
        job = (await self.start()).find(job_id, owner)
        if job.state in OPEN:
            await self._end(job, "cancelled")
            await self._stop(job)
            await self._delete_files(job)
        if job.id in self._unsaved:
            raise ApiError(
                "busy", "the job is stopped, but its storage is away or full, so it may start again", RETRY_STORE_S
            )
        return self._wire_state(job)

    async def remove(self, job_id: str, owner: str) -> None:
        store = await self.start()
        await self.cancel(job_id, owner)
        job = store.find(job_id, owner)
        self._notifier.cancel(job.id)
        await asyncio.to_thread(store.remove, job)

    async def result(self, job_id: str, owner: str, request: ResultRequest) -> JobResult:
        store = await self.start()
        return await asyncio.to_thread(store.result, store.find(job_id, owner), request, self._limits.result_link_s)

    async def ready(self) -> bool:
        """True; also resumes the jobs of the process before, once it has ended. RuntimeError if a video hangs."""
        try:
            await self.start()
        except ApiError as problem:
            if problem.slug != "busy":  # locked by another process; a rollout must not wait for its end
                raise
        if self._videos is not None and self._videos.is_stuck:
            raise RuntimeError("a video hangs in its decoder")
        return True

    async def start(self) -> JobStore:
        """Open the store and start the workers, once; `busy` if another process still has the store."""
        self._starting = self._starting or asyncio.Lock()
        async with self._starting:
            if self._store is None:
                if not self._open:
                    raise ApiError("draining", retry_after_s=5)
                store = await asyncio.to_thread(JobStore, self._uri, self._limits.keep_jobs_s)
                for job in store.all():
                    job.state = "queued" if job.state == "running" else job.state
                loops = [self._work() for _ in range(self._limits.max_running_jobs)]
                loops += [
                    _repeat(self._sweep, SWEEP_S),
                    _repeat(self._notify, NOTIFY_S),
                    _repeat(self._save_again, RETRY_STORE_S),
                    _repeat(self._check_lock, LOCK_CHECK_S),
                ]
                self._background = [asyncio.create_task(loop) for loop in loops]
                self._store = store
                record_job_states(j.state for j in store.all())
        return self._store

    async def close(self) -> None:
        """Start nothing any more and stop what is running; the next process resumes it."""
        self._open = False
        await self._leave()
        if self._videos is not None:
            self._videos.decoders.close()

    async def _check_lock(self) -> None:
        assert self._store is not None
        if not await asyncio.to_thread(self._store.check):
            LOG.error("another process has taken over the store of jobs")
            self._leaving = asyncio.create_task(self._leave(lost=True))  # which cancels this loop

    async def _leave(self, lost: bool = False) -> None:
        tasks = [*self._background, *self._running.values(), *self._notifier.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)
        if lost:
            self._store = None

    async def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                self._submitted.clear()
                await self._submitted.wait()
                continue
            task = self._running[job.id] = asyncio.create_task(self._run(job))
            try:
                await asyncio.wait({task})
            finally:
                self._running.pop(job.id, None)

    def _next(self) -> Job | None:
        """The oldest job of the owner with the fewest running."""
        assert self._store is not None
        jobs = self._store.all()
        owners = [j.owner for j in jobs if j.id in self._running]
        queued = [j for j in jobs if j.state == "queued" and j.id not in self._running]
        return min(queued, key=lambda j: (owners.count(j.owner), j.created), default=None)

    async def _run(self, job: Job) -> None:
        tracing.set_request_id(job.id)
        job.state, job.started = "running", job.started or time.time()
        job.count_start()
        try:
            while (pause_s := await self._try(job)) is not None:
                await asyncio.sleep(pause_s)
        except asyncio.CancelledError:  # by a caller, who has changed the state; or the service stops
            if job.state == "running":
                job.tries -= 1
                await self._record(job)
            raise
        except Exception as error:  # of this job, not of the queue
            problem = problem_of(error)
            if problem.slug == "internal":
                LOG.exception("unexpected_error", extra=log_fields(job=job.id))
            await self._end(job, "failed", problem)
        else:
            await self._end(job, "done")
        await self._delete_files(job)

    async def _try(self, job: Job) -> float | None:
        """Run the missing parts of a job; None at its end, or the seconds after which to try again."""
        try:
            await self._save(job)
            if job.tries > MAX_STARTS:
                raise ApiError("internal", f"the job was started {MAX_STARTS} times and ended the service each time")
            async with asyncio.timeout(self._limits.job_timeout_s):
                await self._do(job)
        except DecoderDied:  # a new decoder may succeed
            job.count_start()
            if job.tries > MAX_STARTS:
                raise
            return 0.0
        except PieceReplaced:
            return 0.0
        except OutputBusy:  # the lock is lost, which `JobStore.check` finds soon
            return RETRY_STORE_S
        except (StorageGone, OSError) as error:
            if not _is_storage_away(error):
                raise
            LOG.warning("storage is away: %s", error, extra=log_fields(job=job.id))
            return RETRY_STORE_S
        return None

    async def _do(self, job: Job) -> None:
        assert self._store is not None
        if isinstance(job.asked, BatchJob):
            await run_batch(job, job.asked, self._store, self._edits, self._limits.max_edits_per_job)
        else:
            await self._video_runner()(job, job.asked, self._store)

    def _video_runner(self) -> VideoRunner:
        """Made at the first video: it imports torch."""
        if self._videos is None:
            from rigface.face.analyzer import FaceAnalyzer
            from serve.jobs.video import VideoRunner

            load, services = self._load_analyzer or FaceAnalyzer.load, self._services
            self._videos = VideoRunner(
                load, services.diffusion_worker, self._limits, self._signer, services.audit_log, self._policy,
                checkpoints=self._checkpoints,
            )  # fmt: skip
        return self._videos

    async def _end(self, job: Job, state: State, problem: ApiError | None = None) -> None:
        job.state, job.ended = state, time.time()
        job.error = ProblemDocument(**problem.document()) if problem else None
        end = {"status": state, "problem": problem and problem.slug, "seconds": job.ended - job.created}
        LOG.info("job", extra=log_fields(job=job.id, key=job.owner, **end))
        await self._record(job)

    async def _delete_files(self, job: Job) -> None:
        """Delete the faces that an ended job was given; `_sweep` does it if the storage is away now."""
        if self._store is not None and job.id not in self._unsaved:
            with contextlib.suppress(StorageGone, OSError):
                await asyncio.to_thread(self._store.delete_files, job)

    async def _stop(self, job: Job) -> None:
        task = self._running.get(job.id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _save(self, job: Job) -> None:
        assert self._store is not None
        await asyncio.to_thread(self._store.save, job)
        record_job_states(j.state for j in self._store.all())

    async def _record(self, job: Job) -> None:
        """Save a job, now or as soon as its storage is back."""
        try:
            await self._save(job)
        except Exception as error:  # `_save_again` tries later
            LOG.warning("job is not saved: %s", error, extra=log_fields(job=job.id))
            self._unsaved.add(job.id)
        else:
            self._unsaved.discard(job.id)

    async def _save_again(self) -> None:
        assert self._store is not None
        for job in [j for j in self._store.all() if j.id in self._unsaved]:
            await self._record(job)
            if job.ended:
                await self._delete_files(job)
        self._unsaved &= {j.id for j in self._store.all()}
        await asyncio.to_thread(self._store.delete_doubtful)

    async def _sweep(self) -> None:
        assert self._store is not None
        await asyncio.to_thread(self._store.sweep)

    async def _notify(self) -> None:
        assert self._store is not None
        self._notifier.start_due(self._store.all())

    def _check_room(self, store: JobStore, owner: str) -> None:
        waiting = [j for j in store.all() if j.state in OPEN]
        if len(waiting) >= self._limits.max_queued_jobs:
            raise ApiError("busy", f"{len(waiting)} jobs are waiting", 30)
        if sum(j.owner == owner for j in waiting) >= self._limits.max_queued_jobs_per_key:
            raise ApiError("rate-limited", f"{self._limits.max_queued_jobs_per_key} jobs of this key are waiting", 30)

    def _wire_state(self, job: Job) -> JobState:
        return job.wire_state(self._limits.keep_jobs_s)


def _is_storage_away(error: Exception) -> bool:
    """True if the store, or the local folder for temporary files, is away or full."""
    return isinstance(error, StorageGone) or getattr(error, "errno", None) in NO_ROOM


async def _repeat(work: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """Call it again and again; errors are logged."""
    while True:
        try:
            await work()
        except Exception:
            LOG.exception("unexpected_error")
        await asyncio.sleep(pause_s)
