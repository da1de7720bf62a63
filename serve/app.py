"""The service as Ray Serve deployments: Door, Eye, Painter, each with its own replicas.

    python -m serve                                  on a laptop
    serve run serve.app:build model=weights/mini     the same, by Ray's own command
    serve deploy infra/serve.yaml                    on a cluster, with replicas and devices per deployment

What to compute is in `Args`; where it runs (replicas, autoscaling, devices) is in the YAML, and overrides the decorators
here. Door holds no torch; Eye and Painter import it in their constructors, so that the head node needs none.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from ray import serve
from ray.serve.handle import DeploymentHandle

from rigface.telemetry.json_logging import log_fields
from serve.api.middleware import LOG, write_logs
from serve.limits import Limits
from serve.problems import EXPECTED, ApiError, problem_of
from serve.remote import RemoteDeployment, RemoteDiffusionWorker, RemoteFaceWorker
from serve.security.consent import Policy
from serve.telemetry import tracing as traces

GROWING = {"min_replicas": 1, "max_replicas": 4, "upscale_delay_s": 10, "downscale_delay_s": 120}


class Args(BaseModel):
    """What an operator may set; Ray Serve checks the YAML against it.

    `models`: checkpoints by name; the first is the default. `model`: one, without a name. None at all: the preview.
    `keys`: file of API keys; empty is open. `seal`: folder of the signing key; empty is the user's own. `audit`: file that each
    edit adds a line to, or a folder with a file for each host. `jobs`: folder or s3:// of the queue, else the environment's RIGFACE_JOBS; empty takes no jobs. `fetch`: beginnings of addresses that files may come from, and networks (`places.py`); `webhooks`: of those that are told
    when a job has ended, signed with the environment's RIGFACE_WEBHOOK_SECRET. `consent`, `deny`: lists of people (`policy.py`), and `near`, the
    distance of identity vectors below which two faces are one person's. `traces`: where spans go (`traces.py`).

    `jobs_at_once`: jobs at work, `edits_at_once`: edits or frames of one of them that are with the painters together; each is a row
    of their batches (`most_rows`), which people who wait have to share with jobs. `most_loaded`: models that a painter holds.
    `links_s`: for how long a job's result may be fetched from the bucket itself, by a pre-signed address; 0: through the door.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    models: dict[str, str] = {}
    device: str = "cpu"
    eye_device: str = "cpu"
    keys: str = ""
    fetch: list[str] = []
    webhooks: list[str] = []
    consent: str = ""
    deny: str = ""
    near: PositiveFloat = 0.6
    seal: str = ""
    audit: str = ""
    jobs: str = Field(default_factory=lambda: os.environ.get("RIGFACE_JOBS", ""))
    edit_s: PositiveFloat = 120.0
    body_mb: PositiveInt = 32
    clip_mb: PositiveInt = 64
    clip_s: PositiveFloat = 120.0
    clip_frames: PositiveInt = 7200
    job_s: PositiveFloat = 7200.0
    keep_h: PositiveFloat = 168.0
    jobs_waiting: PositiveInt = 64
    jobs_each: PositiveInt = 16
    jobs_at_once: PositiveInt = 2
    edits_at_once: PositiveInt = 4
    links_s: NonNegativeFloat = 0.0
    most_rows: PositiveInt = 16
    most_loaded: PositiveInt = 2
    cache_mb: PositiveInt = 384
    traces: Literal["", "otlp", "console"] = ""

    def seal_folder(self) -> Path:
        """Where the signing key is; all replicas must see the same."""
        return Path(self.seal) if self.seal else Path.home() / ".local" / "share" / "rigface" / "seal"

    def limits(self) -> Limits:
        """How much is let in."""
        named = {f.name: getattr(self, f.name) for f in fields(Limits) if f.name in Args.model_fields}
        megabytes = {"body_bytes": self.body_mb * 2**20, "clip_bytes": self.clip_mb * 2**20}
        return Limits(keep_s=self.keep_h * 3600, **megabytes, **named)

    def policy(self) -> Policy:
        """Whose faces may be edited."""
        return Policy(self.consent, self.deny, near=self.near)

    def places(self) -> dict[str, str]:
        """Name -> checkpoint."""
        own = {self.model.rstrip("/").rpartition("/")[2]: self.model} if self.model else {}
        return {**own, **self.models}


@serve.deployment(
    max_ongoing_requests=64,
    max_queued_requests=128,
    autoscaling_config={**GROWING, "target_ongoing_requests": 12},
    ray_actor_options={"num_cpus": 1},
    health_check_timeout_s=60,
    graceful_shutdown_timeout_s=130,
)
class EyeDeployment:
    """`serve.inference.face_worker.FaceWorker` on one device, and an easel beside it. An edit is under way here while it is painted over there."""

    def __init__(self, args: Args, diffusion_worker: DeploymentHandle) -> None:
        from serve.inference.edit_pipeline import EditPipeline
        from serve.inference.face_worker import FaceWorker
        from serve.provenance.signer import C2paSigner

        traces.start(args.traces, "eye")
        write_logs()
        signer, policy = C2paSigner(args.seal_folder()), args.policy()
        self._face_worker = FaceWorker.load(args.eye_device, cache_mb=args.cache_mb, signer=signer, policy=policy)
        self._easel = EditPipeline(self._face_worker, RemoteDiffusionWorker(diffusion_worker, args.places()))

    async def call(self, name: str, *args: Any, trace: traces.Carried = None, request: str = "") -> Any:
        """One of the eye's coroutines."""
        if name not in ("ready", "reconstruct", "mesh", "preview", "edit_without_model", "verify"):
            raise ValueError(f"an eye does not {name}")
        with traces.under(trace, f"eye.{name}"):
            return await _said(getattr(self._face_worker, name)(*args), f"eye.{name}", request)

    async def edit(self, *args: Any, trace: traces.Carried = None, request: str = "") -> AsyncGenerator[Any, None]:
        """The easel's events; cancelling the stream ends the edit."""
        traces.working_on(request)
        with _line("eye.edit", request) as said:
            try:
                async with aclosing(traces.drawn(trace, "eye.edit", self._easel.edit(*args))) as events:
                    async for event in events:
                        yield event
            except EXPECTED as error:
                yield _problem(error, said)

    async def check_health(self) -> None:
        """A thread that hangs is a reason to replace the replica."""
        await self._face_worker.ready()


@serve.deployment(
    max_ongoing_requests=64,
    max_queued_requests=128,
    autoscaling_config={**GROWING, "target_ongoing_requests": 8},
    ray_actor_options={"num_cpus": 1},
    health_check_timeout_s=60,
    graceful_shutdown_timeout_s=120,
)
class PainterDeployment:
    """`serve.inference.diffusion_worker.DiffusionWorker` on one device. A checkpoint that cannot be read stops the deployment, not a request.

    Where there are several models, Ray Serve is told which of them a replica holds, and sends an edit to one that has its model.
    """

    def __init__(self, args: Args) -> None:
        from serve.inference.diffusion_worker import DiffusionWorker

        traces.start(args.traces, "painter")
        write_logs()
        options = {"most_rows": args.most_rows, "most_loaded": args.most_loaded}
        self._models = list(args.places()) if len(args.places()) > 1 else []
        self._diffusion_worker = DiffusionWorker.of(args.places(), args.device, **options)
        self._told = False
        self._hold = serve.multiplexed(_held, max_num_models_per_replica=args.most_loaded)

    async def call(self, name: str, *args: Any, trace: traces.Carried = None, request: str = "") -> Any:
        """`models`, `canvas` or `ready` of the studio."""
        if name not in ("models", "input_spec", "ready"):
            raise ValueError(f"a painter does not {name}")
        return await _said(getattr(self._diffusion_worker, name)(*args), f"painter.{name}", request)

    async def paint(
        self, model: str, conditions: Any, options: Any, previews: int | None, timeout_s: float,
        trace: traces.Carried = None, request: str = "",
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        """The studio's events; cancelling the stream takes the request out of the batch.

        Steps are sent where somebody asks for them: each costs both sides a few milliseconds.
        """
        span = traces.loose(trace, "painter.paint")
        with _line("painter.paint", request, model=model) as said:
            try:
                if model in self._models:
                    await self._hold(model)
                async with aclosing(
                    self._diffusion_worker.paint(model, conditions, options, previews, timeout_s)
                ) as events:
                    async for event in events:
                        _tell(span, said, event)
                        if previews is not None or hasattr(event, "painted_s"):
                            yield event
            except EXPECTED as error:
                yield _problem(error, said)
            finally:
                span.end()

    async def check_health(self) -> None:
        """A device that failed is a reason to replace the replica. The first check comes before the first request."""
        await self._diffusion_worker.ready()
        if self._models and not self._told:
            self._told = True
            await self._hold(self._models[0])  # which the studio has from the start

    def __del__(self) -> None:
        self._diffusion_worker.close()


@serve.deployment(ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=64, graceful_shutdown_timeout_s=60)
class JobsDeployment:
    """`serve.jobs.queue.Jobs`: one replica, because one process works on a folder at a time."""

    def __init__(self, args: Args, face_worker: DeploymentHandle, diffusion_worker: DeploymentHandle) -> None:
        from serve.jobs.queue import Jobs
        from serve.jobs.webhook import Webhooks
        from serve.provenance.signer import C2paSigner
        from serve.security.audit_log import Audit
        from serve.security.url_allowlist import UrlAllowlist

        write_logs()
        traces.start(args.traces, "jobs")
        self._jobs = Jobs(
            args.jobs, RemoteFaceWorker(face_worker), RemoteDiffusionWorker(diffusion_worker, args.places()), args.limits(),
            audit_log=Audit(args.audit) if args.audit else None, signer=C2paSigner(args.seal_folder()),
            webhooks=Webhooks(UrlAllowlist(args.webhooks)), policy=args.policy(),
        )  # fmt: skip

    async def call(self, name: str, *args: Any, trace: traces.Carried = None, request: str = "") -> Any:
        """One of the coroutines of `Jobs`."""
        if name not in ("submit", "status", "mine", "cancel", "remove", "result", "ready"):
            raise ValueError(f"jobs do not {name}")
        with traces.under(trace, f"jobs.{name}"):
            return await _said(getattr(self._jobs, name)(*args), f"jobs.{name}", request)

    async def check_health(self) -> None:
        """Also what takes up, at the start, the jobs of an earlier life."""
        await self._jobs.ready()

    async def __del__(self) -> None:
        await self._jobs.close()


async def _held(model: str) -> str:
    """A model that a replica has from now on: the studio reads it, and drops its oldest, as Ray Serve counts here."""
    return model


def _tell(span: Any, said: dict[str, Any], event: Any) -> None:
    """An event of a painter in its span: a step, or how long it waited and was painted, and with how many; the end in its line, too."""
    if hasattr(event, "image"):
        span.set_attributes({"waited_s": event.waited_s, "painted_s": event.painted_s, "crowd": event.crowd})
        said["seconds"] = {"wait": event.waited_s, "paint": event.painted_s}
    else:
        span.add_event("step", {"step": event.step, "steps": event.steps})


async def _said(work: Awaitable[Any], stage: str, request: str) -> Any:
    """The result, or the trouble as a value: what a caller did wrong is one word in a replica's log."""
    with _line(stage, request) as said:
        try:
            return await work
        except EXPECTED as error:
            return _problem(error, said)


@contextmanager
def _line(stage: str, request: str, **more: Any) -> Iterator[dict[str, Any]]:
    """A log line for what a part does for a request or a job, which may add to it; none where the caller leaves before the end."""
    began, said = time.monotonic(), {"request_id": request, "stage": stage, **more}
    try:
        yield said
    except Exception:
        LOG.exception("broken", extra=log_fields(**said))
        raise
    if request:
        LOG.info("part", extra=log_fields(**{"seconds": time.monotonic() - began, **said}))


def _problem(error: Exception, said: dict[str, Any]) -> ApiError:
    trouble = problem_of(error)
    said["problem"] = trouble.slug
    return trouble


@serve.deployment(
    max_ongoing_requests=128,
    autoscaling_config={**GROWING, "target_ongoing_requests": 64},
    ray_actor_options={"num_cpus": 0.5},
    graceful_shutdown_timeout_s=130,
)
@serve.ingress()
class Gateway:
    """`serve.api.routes` in front of the two."""

    def __init__(
        self,
        args: Args,
        face_worker: DeploymentHandle,
        diffusion_worker: DeploymentHandle,
        jobs: DeploymentHandle | None = None,
    ) -> None:
        from serve.api.routes import Services
        from serve.security.api_keys import KeyRing
        from serve.security.audit_log import Audit
        from serve.security.url_allowlist import UrlAllowlist

        self._traces = args.traces
        self._services = Services(
            RemoteFaceWorker(face_worker),
            RemoteDiffusionWorker(diffusion_worker, args.places()),
            KeyRing(args.keys),
            args.limits(),
            UrlAllowlist(args.fetch),
            Audit(args.audit) if args.audit else None,
            RemoteDeployment(jobs) if jobs is not None else None,
        )

    async def drain(self) -> bool:
        """Take nothing new, and wait for what is under way; whether all of it ended in time."""
        return await self._services.gate.drain(self._services.limits.edit_s)

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve serves."""
        from serve.api.routes import make_api

        write_logs()
        traces.start(self._traces, "door")
        return make_api(self._services)


def build(args: Args) -> serve.Application:
    """The whole service; Ray Serve's entry point."""
    eye_of, painter_of, jobs_of, door_of = cast(Any, (EyeDeployment, PainterDeployment, JobsDeployment, Gateway))
    diffusion_worker = painter_of.bind(args)
    face_worker = eye_of.bind(args, diffusion_worker)
    return door_of.bind(
        args, face_worker, diffusion_worker, jobs_of.bind(args, face_worker, diffusion_worker) if args.jobs else None
    )
