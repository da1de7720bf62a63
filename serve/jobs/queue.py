"""Work that takes longer than a request: queued where a restart finds it again, done a few at a time, told of at the end.

Path: `POST /v1/jobs` -> `Jobs.submit` -> `JobStore` (a disk or S3) -> workers -> `job_batch.py` or `job_clip.py` -> results.

The queue is bounded, in all and for each key. Next is the oldest job of whoever has the fewest at work, so that one caller's
hundred jobs do not keep another's single one waiting. A job that was under way when the service stopped goes on with the first
piece that it lacks; one that takes the service down with it three times in a row is given up. One whose shelf is away or full
waits until it is back, and nothing that a loop of this file meets ends the loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from rigface.errors import StorageGone
from rigface.storage.store import NO_ROOM
from rigface.telemetry.json_logging import log_fields
from rigface.video.sandbox import DecoderDied
from serve.inference.edit_service import Editing
from serve.inference.watchdog import WatchdogExecutor
from serve.jobs.batch import batch
from serve.jobs.store import OPEN, Job, JobStore
from serve.jobs.webhook import MOST_TRIES as HOOK_TRIES
from serve.jobs.webhook import Webhooks, wait_s
from serve.limits import Limits
from serve.messages import JobSubmission
from serve.problems import ApiError, problem_of
from serve.provenance.encoder import NoSigner, Signer
from serve.schemas import JobState
from serve.security.consent import Policy
from serve.security.url_allowlist import UrlAllowlist
from serve.telemetry import tracing
from serve.telemetry.metrics import Numbers, jobs_by_state

LOG = logging.getLogger("rigface.serve")
MOST_TRIES = 3
SWEEP_S = 3600.0
TELL_S = 1.0
TELL_AT_ONCE, TELL_EACH = 64, 4  # messages under way, in all and of one key: an address that hangs delays nobody else's
LOOKS_AT_ONCE = 2  # clips that are looked at before they are taken in
CHECK_S = 5.0  # until it is looked whether the shelf is still ours
AWAY_S = 15.0  # until a shelf that was away or full is tried again


class Jobs:
    """The queue of one place and its workers. One process works on a place at a time.

    Args:
        uri: a folder, or s3://bucket/prefix.
        eye, painter: as `serve.inference.face_worker.FaceWorker` and `serve.inference.diffusion_worker.DiffusionWorker`.
        audit: told after each edit.
        see: gives eyes for clips, which are looked at in this process; None: the default ones.
        seal: of videos.
        webhooks: who is told when a job has ended; None: nobody.
        policy: whose faces of clips may be edited; pictures are the eye's.
    """

    def __init__(
        self,
        uri: str,
        face_worker: Any,
        diffusion_worker: Any,
        limits: Limits | None = None,
        *,
        audit_log: Callable[[dict[str, Any]], None] | None = None,
        see: Callable[[], Any] | None = None,
        signer: Signer | None = None,
        webhooks: Webhooks | None = None,
        policy: Policy | None = None,
    ) -> None:
        self._uri, self._limits = uri, limits or Limits()
        self._webhooks = webhooks or Webhooks(UrlAllowlist())
        self._clips: Any = None
        self._clip_parts = see, diffusion_worker, signer or NoSigner(), audit_log, policy or Policy()
        self._editing = Editing(
            SimpleNamespace(
                face_worker=face_worker, diffusion_worker=diffusion_worker, limits=self._limits, audit_log=audit_log
            ),
            Numbers(),
        )
        self._job_store: JobStore | None = None
        self._starting: asyncio.Lock | None = None
        self._more = asyncio.Event()
        self._background: list[asyncio.Task] = []
        self._leaving: asyncio.Task | None = None
        self._at_work: dict[str, asyncio.Task] = {}
        self._telling: dict[str, asyncio.Task] = {}
        self._unsaved: set[str] = set()
        self._looks = WatchdogExecutor(most=LOOKS_AT_ONCE)
        self._open = True

    async def submit(self, submission: JobSubmission, owner: str, once: str = "") -> JobState:
        """Queue it; it is kept when this returns.

        Raises:
            Trouble: `busy` or `rate-limited`, where the queue or the caller's part of it is full; `draining`, `conflict`;
                `too-large` or `bad-clip` for a clip.
        """
        job_store = await self.start()
        if not self._open:
            raise ApiError("draining", retry_after_s=5)
        if submission.asked.webhook is not None:
            self._webhooks.check(submission.asked.webhook)
        if submission.asked.kind == "batch":
            total = len(submission.asked.edits)
        else:
            total = (await self._looks(self._clip_maker().look, submission.files[submission.clip])).shown_frames
        job = await asyncio.to_thread(
            job_store.add, submission, owner, total, once, lambda: self._room(job_store, owner)
        )
        jobs_by_state(j.state for j in job_store.all())
        self._more.set()
        return self._said(job)

    async def status(self, name: str, owner: str) -> JobState:
        """How far it is; `unknown-job` for somebody else's."""
        return self._said((await self.start()).find(name, owner))

    async def mine(self, owner: str) -> list[JobState]:
        """A caller's jobs, the newest first."""
        return [self._said(j) for j in reversed((await self.start()).all()) if j.owner == owner]

    async def cancel(self, name: str, owner: str) -> JobState:
        """Take it out of the queue, or stop it; results so far stay."""
        job = (await self.start()).find(name, owner)
        if job.state in OPEN:
            await self._end(job, "cancelled")
            await self._stop(job)
        if job.id in self._unsaved:
            raise ApiError(
                "busy", "it is stopped, but where jobs are kept is away or full, so it may not stay so", AWAY_S
            )
        return self._said(job)

    async def remove(self, name: str, owner: str) -> None:
        """Stop it and remove it with its files."""
        job_store = await self.start()
        await self.cancel(name, owner)
        job = job_store.find(name, owner)
        if (message := self._telling.get(job.id)) is not None:
            message.cancel()
        await asyncio.to_thread(job_store.remove, job)

    async def result(
        self, name: str, owner: str, number: int, through: bool = False
    ) -> tuple[bytes, str, dict[str, Any]]:
        """As `JobStore.result`: the bytes, or where to fetch them unless they are wanted `through` the service."""
        job_store = await self.start()
        links_s = 0.0 if through else self._limits.links_s
        return await asyncio.to_thread(job_store.result, job_store.find(name, owner), number, links_s)

    async def ready(self) -> bool:
        """Whether it stands; also takes up what an earlier life left behind, once that has ended.

        Raises:
            RuntimeError: a clip hangs in this process, which has to be replaced.
        """
        try:
            await self.start()
        except ApiError as trouble:
            if trouble.slug != "busy":  # by another process: a rollout must not wait for its end
                raise
        if self._clips is not None and self._clips.is_stuck:
            raise RuntimeError("a clip hangs in its decoder")
        return True

    async def start(self) -> JobStore:
        """Have the shelf and the workers.

        Raises:
            Trouble: `busy`: another process still has the shelf. `draining`.
        """
        self._starting = self._starting or asyncio.Lock()
        async with self._starting:
            if self._job_store is None:
                if not self._open:
                    raise ApiError("draining", retry_after_s=5)
                job_store = await asyncio.to_thread(JobStore, self._uri, self._limits.keep_s)
                for job in job_store.all():
                    job.state = "queued" if job.state == "running" else job.state
                work = [self._work() for _ in range(self._limits.jobs_at_once)]
                services = (
                    _again(self._sweep, SWEEP_S),
                    _again(self._tell, TELL_S),
                    _again(self._write, AWAY_S),
                    _again(self._check, CHECK_S),
                )
                self._background = [asyncio.create_task(w) for w in (*work, *services)]
                self._job_store = job_store
                jobs_by_state(j.state for j in job_store.all())
        return self._job_store

    async def close(self) -> None:
        """Begin nothing any more and stop what is under way, to be taken up by the next life."""
        self._open = False
        await self._leave()
        if self._clips is not None:
            self._clips.decoders.close()

    async def _check(self) -> None:
        assert self._job_store is not None
        if not await asyncio.to_thread(self._job_store.check):
            LOG.error("the shelf was taken over by another process")
            self._leaving = asyncio.create_task(self._leave(lost=True))  # which ends the loop that this is a round of

    async def _leave(self, lost: bool = False) -> None:
        tasks = [*self._background, *self._at_work.values(), *self._telling.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._job_store is not None:
            await asyncio.to_thread(self._job_store.close)
        if lost:
            self._job_store = None

    async def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                self._more.clear()
                await self._more.wait()
                continue
            task = self._at_work[job.id] = asyncio.create_task(self._run(job))
            try:
                await asyncio.wait({task})
            finally:
                self._at_work.pop(job.id, None)

    def _next(self) -> Job | None:
        """The oldest of those whose owner has the fewest at work."""
        assert self._job_store is not None
        jobs = self._job_store.all()
        busy = [j.owner for j in jobs if j.id in self._at_work]
        queued = [j for j in jobs if j.state == "queued" and j.id not in self._at_work]
        return min(queued, key=lambda j: (busy.count(j.owner), j.created), default=None)

    async def _run(self, job: Job) -> None:
        tracing.working_on(job.id)
        job.state, job.started, job.tries = "running", job.started or time.time(), job.tries + 1
        try:
            while (pause_s := await self._tried(job)) is not None:
                await asyncio.sleep(pause_s)
        except asyncio.CancelledError:  # by a caller, who has said so in the record; or the service stops
            if job.state == "running":
                job.tries -= 1
                await self._record(job)
            raise
        except Exception as error:  # this job's trouble, not the queue's
            trouble = problem_of(error)
            if trouble.slug == "internal":
                LOG.exception("broken", extra=log_fields(job=job.id))
            await self._end(job, "failed", trouble)
        else:
            await self._end(job, "done")

    async def _tried(self, job: Job) -> float | None:
        """Do what is lacking of it; the seconds after which to go on, where it was stopped by what may be gone then."""
        try:
            await self._save(job)
            if job.tries > MOST_TRIES:
                raise ApiError("internal", f"it was begun {MOST_TRIES} times and ended the service each time")
            async with asyncio.timeout(self._limits.job_s):
                await self._do(job)
        except DecoderDied:  # another may get through; if not, that is this job's trouble alone
            if job.tries >= MOST_TRIES:
                raise
            job.tries += 1
            return 0.0
        except (StorageGone, OSError) as error:
            if not _is_away(error):
                raise
            LOG.warning("away: %s", error, extra=log_fields(job=job.id))
            return AWAY_S
        return None

    async def _do(self, job: Job) -> None:
        assert self._job_store is not None
        if job.kind == "batch":
            await batch(job, self._job_store, self._editing, self._limits.edits_at_once)
        else:
            await self._clip_maker()(job, self._job_store)

    def _clip_maker(self) -> Any:
        """Made at the first clip: it brings torch."""
        if self._clips is None:
            from rigface.face.analyzer import FaceAnalyzer
            from serve.jobs.video import Clips

            see, diffusion_worker, signer, audit_log, policy = self._clip_parts
            self._clips = Clips(see or FaceAnalyzer.load, diffusion_worker, self._limits, signer, audit_log, policy)
        return self._clips

    async def _end(self, job: Job, state: str, trouble: ApiError | None = None) -> None:
        job.state, job.ended = state, time.time()
        job.error = trouble.document() if trouble else None
        said = {"status": state, "problem": trouble and trouble.slug, "seconds": job.ended - job.created}
        LOG.info("job", extra=log_fields(job=job.id, key=job.owner, **said))
        await self._record(job)

    async def _stop(self, job: Job) -> None:
        task = self._at_work.get(job.id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _save(self, job: Job) -> None:
        assert self._job_store is not None
        await asyncio.to_thread(self._job_store.save, job)
        jobs_by_state(j.state for j in self._job_store.all())

    async def _record(self, job: Job) -> None:
        """Save it, now or as soon as its shelf is back."""
        try:
            await self._save(job)
        except Exception as error:  # `_write` does it
            LOG.warning("not saved: %s", error, extra=log_fields(job=job.id))
            self._unsaved.add(job.id)
        else:
            self._unsaved.discard(job.id)

    async def _write(self) -> None:
        assert self._job_store is not None
        for job in [j for j in self._job_store.all() if j.id in self._unsaved]:
            await self._record(job)
        self._unsaved &= {j.id for j in self._job_store.all()}

    async def _sweep(self) -> None:
        assert self._job_store is not None
        await asyncio.to_thread(self._job_store.sweep)

    async def _tell(self) -> None:
        """Begin the messages that are due."""
        assert self._job_store is not None
        now, jobs = time.time(), self._job_store.all()
        under_way = Counter(j.owner for j in jobs if j.id in self._telling)
        for job in jobs:
            due = job.ended and job.hook.get("state") == "waiting" and job.hook["next"] <= now
            room = len(self._telling) < TELL_AT_ONCE and under_way[job.owner] < TELL_EACH
            if due and room and job.id not in self._telling:
                under_way[job.owner] += 1
                task = self._telling[job.id] = asyncio.create_task(self._told(job))
                task.add_done_callback(partial(self._no_more, job.id))

    def _no_more(self, name: str, task: asyncio.Task) -> None:
        self._telling.pop(name, None)

    async def _told(self, job: Job) -> None:
        try:
            taken = await self._webhooks.tell(job.asked["webhook"], job.owner, self._said(job))
        except Exception:  # an address that breaks what asks for it is not asked every second
            LOG.exception("broken", extra=log_fields(job=job.id))
            taken = False
        tries = job.hook["tries"] + 1
        state = "delivered" if taken else "given-up" if tries >= HOOK_TRIES else "waiting"
        job.hook = {"state": state, "tries": tries, "next": time.time() + wait_s(tries)}
        await self._record(job)

    def _room(self, job_store: JobStore, owner: str) -> None:
        waiting = [j for j in job_store.all() if j.state in OPEN]
        if len(waiting) >= self._limits.jobs_waiting:
            raise ApiError("busy", f"{len(waiting)} jobs are waiting", 30)
        if sum(j.owner == owner for j in waiting) >= self._limits.jobs_each:
            raise ApiError("rate-limited", f"{self._limits.jobs_each} jobs of this key are waiting", 30)

    def _said(self, job: Job) -> JobState:
        return job.on_the_wire(self._limits.keep_s)


def _is_away(error: Exception) -> bool:
    """The shelf, or this machine's folder for what is on the way, is away or full."""
    return isinstance(error, StorageGone) or getattr(error, "errno", None) in NO_ROOM


async def _again(work: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """A round after the other, whatever one of them meets."""
    while True:
        try:
            await work()
        except Exception:
            LOG.exception("broken")
        await asyncio.sleep(pause_s)
