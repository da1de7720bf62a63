"""Ray Serve deployments of the service: Gateway, FaceWorker, DiffusionWorker and JobQueue, each with its own replicas.

    python -m serve                                  on a laptop
    serve run serve.app:build model=weights/mini     the same, by Ray's own command
    serve deploy infra/serve.yaml                    on a cluster, with replicas and devices per deployment

`ServiceConfig` says what to compute; the YAML says where it runs (replicas, autoscaling, devices) and overrides the
decorators here. Gateway has no torch; the workers import it in their constructors, so the head node needs none.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve.api.dependencies import Services
from serve.api.routes import make_api
from serve.config import ServiceConfig
from serve.jobs.queue import JobQueue
from serve.jobs.webhook import Webhooks
from serve.messages import EditedImage, ModelEdit, SampledImage, SampleRequest, Step
from serve.problems import EXPECTED, ApiError
from serve.protocols import DiffusionService, FaceService, JobService
from serve.provenance.signer import ResultSigner
from serve.remote import RemoteDiffusionWorker, RemoteFaceWorker, RemoteJobQueue
from serve.replica import delegate, stage_log, start_replica
from serve.schemas import EditProgress
from serve.security.api_keys import KeyRing
from serve.security.url_allowlist import UrlAllowlist
from serve.telemetry import tracing
from serve.telemetry.tracing import NO_CONTEXT, CallContext

HEALTH_CHECK_S = 2.0  # interval, so the time until a lost replica is replaced; Ray Serve's default is 10
AUTOSCALING = {"min_replicas": 1, "max_replicas": 4, "upscale_delay_s": 10, "downscale_delay_s": 120}


@serve.deployment(
    name="FaceWorker",
    max_ongoing_requests=64,
    max_queued_requests=128,
    autoscaling_config={**AUTOSCALING, "target_ongoing_requests": 12},
    ray_actor_options={"num_cpus": 1},
    health_check_period_s=HEALTH_CHECK_S,
    health_check_timeout_s=60,
    graceful_shutdown_timeout_s=130,
)
@delegate("face_worker", FaceService)
class FaceWorkerDeployment:
    """`FaceWorker` on one device with an `EditPipeline`: an edit is one of its requests until the edit ends."""

    def __init__(self, config: ServiceConfig, diffusion_worker: DeploymentHandle) -> None:
        start_replica(config.traces, "face-worker")
        from serve.inference.edit_pipeline import EditPipeline
        from serve.inference.face_worker import FaceWorker

        signer, policy = ResultSigner(config.signing_path()), config.policy()
        self._worker = FaceWorker.load(
            config.checkpoints(), load_analyzer=config.load_analyzer,
            cache_mb=config.face_cache_mb, signer=signer, policy=policy,
        )  # fmt: skip
        self._edits = EditPipeline(self._worker, RemoteDiffusionWorker(diffusion_worker, config.checkpoints()))

    async def edit(
        self, edit: ModelEdit, context: CallContext = NO_CONTEXT
    ) -> AsyncGenerator[EditProgress | EditedImage | ApiError, None]:
        """As `EditService.edit`; cancelling the stream ends the edit."""
        tracing.set_request_id(context.request_id)
        stream = self._edits.edit(edit)
        with stage_log("face_worker.edit", context.request_id) as log:
            try:
                async with aclosing(tracing.traced_events(context, "face_worker.edit", stream)) as events:
                    async for event in events:
                        yield event
            except EXPECTED as error:
                yield log.problem(error)

    async def check_health(self) -> None:
        """Fail if a thread hangs, so that Ray Serve replaces the replica."""
        await self._worker.ready()


@serve.deployment(
    name="DiffusionWorker",
    max_ongoing_requests=64,
    max_queued_requests=128,
    autoscaling_config={**AUTOSCALING, "target_ongoing_requests": 8},
    ray_actor_options={"num_cpus": 1},
    health_check_period_s=HEALTH_CHECK_S,
    health_check_timeout_s=60,
    graceful_shutdown_timeout_s=120,
)
@delegate("diffusion_worker", DiffusionService)
class DiffusionWorkerDeployment:
    """`DiffusionWorker` on one device. An unreadable checkpoint stops the deployment, not a request.

    With several models, Ray Serve routes a request to a replica that has loaded its model.
    """

    def __init__(self, config: ServiceConfig) -> None:
        start_replica(config.traces, "diffusion-worker")
        from serve.inference.diffusion_worker import DiffusionWorker

        self._worker = DiffusionWorker.load(
            config.checkpoints(), config.device, max_rows=config.max_batch_rows, max_loaded=config.max_loaded_models,
            clip=config.clip,
        )  # fmt: skip
        names = self._worker.pool.diffusion
        self._multiplexed = names if len(names) > 1 else []
        self._announced = False
        self._announce = serve.multiplexed(_loaded_model, max_num_models_per_replica=config.max_loaded_models)

    async def sample(
        self, request: SampleRequest, context: CallContext = NO_CONTEXT
    ) -> AsyncGenerator[Step | SampledImage | ApiError, None]:
        """As `DiffusionService.sample`; cancelling the stream takes the request out of the batch.

        Steps are sent only if `previews` is not None: each costs both sides a few milliseconds.
        """
        attributes: dict[str, tracing.Attribute] = {tracing.MODEL: request.model, tracing.SEED: request.options.seed}
        span = tracing.detached_span(context, "diffusion_worker.sample", attributes)
        with stage_log("diffusion_worker.sample", context.request_id, request.model) as log:
            try:
                if request.model in self._multiplexed:
                    await self._announce(request.model)
                async with aclosing(self._worker.sample(request)) as events:
                    async for event in events:
                        if isinstance(event, SampledImage):
                            log.fields["seconds"] = {"queue": event.queue_s, "sampling": event.sampling_s}
                            times = {tracing.QUEUE_S: event.queue_s, tracing.SAMPLING_S: event.sampling_s}
                            span.set_attributes({**times, tracing.BATCH_ROWS: event.batch_rows})
                        else:
                            span.add_event("step", {tracing.STEP: event.step, tracing.STEPS: event.steps})
                        if request.previews is not None or isinstance(event, SampledImage):
                            yield event
            except EXPECTED as error:
                problem = log.problem(error)
                span.set_attributes({tracing.ERROR_TYPE: problem.slug})
                yield problem
            finally:
                span.end()

    async def check_health(self) -> None:
        """Fail if the device failed, so that Ray Serve replaces the replica. The first check precedes all requests."""
        await self._worker.ready()
        if self._multiplexed and not self._announced:
            self._announced = True
            await self._announce(self._multiplexed[0])  # which is loaded from the start

    def __del__(self) -> None:
        self._worker.close()


async def _loaded_model(model: str) -> str:
    """Loader for Ray Serve's multiplexing, which only counts: the worker itself loads models and drops its oldest."""
    return model


@serve.deployment(
    name="JobQueue",
    max_ongoing_requests=64,
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=HEALTH_CHECK_S,
    graceful_shutdown_timeout_s=60,
)
@delegate("job_queue", JobService)
class JobQueueDeployment:
    """`serve.jobs.queue.JobQueue`. One replica, because one process at a time works on a folder of jobs."""

    def __init__(
        self, config: ServiceConfig, face_worker: DeploymentHandle, diffusion_worker: DeploymentHandle
    ) -> None:
        start_replica(config.traces, "job-queue")
        self._worker = JobQueue(
            config.jobs, RemoteFaceWorker(face_worker), RemoteDiffusionWorker(diffusion_worker, config.checkpoints()),
            config.limits(), audit_log=config.open_audit_log(), load_analyzer=config.load_analyzer,
            signer=ResultSigner(config.signing_path()), webhooks=Webhooks(UrlAllowlist(config.webhook_urls)),
            policy=config.policy(), checkpoints=config.checkpoints(),
        )  # fmt: skip

    async def check_health(self) -> None:
        """Fail if a video hangs; the first check also resumes the jobs of the process before."""
        await self._worker.ready()

    async def __del__(self) -> None:
        await self._worker.close()


@serve.deployment(
    max_ongoing_requests=128,
    autoscaling_config={**AUTOSCALING, "target_ongoing_requests": 64},
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=HEALTH_CHECK_S,
    graceful_shutdown_timeout_s=130,
)
@serve.ingress()
class Gateway:
    """The HTTP API of `serve.api.routes`."""

    def __init__(
        self, config: ServiceConfig, face_worker: DeploymentHandle, diffusion_worker: DeploymentHandle,
        jobs: DeploymentHandle | None = None,
    ) -> None:  # fmt: skip
        self._traces = config.traces
        self._services = Services(
            RemoteFaceWorker(face_worker), RemoteDiffusionWorker(diffusion_worker, config.checkpoints()),
            config.limits(), config.open_audit_log(), KeyRing(config.keys), UrlAllowlist(config.fetch_urls),
            RemoteJobQueue(jobs) if jobs is not None else None,
        )  # fmt: skip

    async def drain(self) -> bool:
        """Refuse new requests and wait for those under way; False if some did not end in time."""
        return await self._services.gate.drain(self._services.limits.edit_timeout_s)

    def __serve_build_asgi_app__(self) -> Any:
        """The ASGI application that Ray Serve runs."""
        start_replica(self._traces, "gateway")
        return make_api(self._services)


def build(config: ServiceConfig) -> serve.Application:
    """The whole application; Ray Serve's entry point."""
    face_worker_of, diffusion_worker_of, jobs_of, gateway_of = cast(
        Any, (FaceWorkerDeployment, DiffusionWorkerDeployment, JobQueueDeployment, Gateway)
    )
    diffusion_worker = diffusion_worker_of.bind(config)
    face_worker = face_worker_of.bind(config, diffusion_worker)
    jobs = jobs_of.bind(config, face_worker, diffusion_worker) if config.jobs else None
    return gateway_of.bind(config, face_worker, diffusion_worker, jobs)
