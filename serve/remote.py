"""The services of `serve.protocols` behind Ray Serve handles, with retries after a lost replica.

Path: `serve.api`, `serve.jobs` -> here -> a replica of FaceWorker, DiffusionWorker or JobQueue (`serve/app.py`).

Face and diffusion workers are deterministic, so a call whose replica died is repeated on another replica, within the caller's time
limit. A job is submitted once only: the lost replica may have stored it, so the caller is asked to check and try again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing, suppress
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from rigface.types import Conditions
from serve.messages import (
    EditedImage,
    EditInput,
    FinishedEdit,
    JobResult,
    JobSubmission,
    ModelInputSpec,
    OutputOptions,
    Preview,
    SampledImage,
    SamplingOptions,
    Step,
)
from serve.problems import ApiError
from serve.protocols import DiffusionService, EditService, FaceService, JobService, MeshFormat
from serve.schemas import EditProgress, JobState, ModelInfo, Reconstruction, Verified
from serve.telemetry import tracing

LOST = (RayActorError, ReplicaUnavailableError)
MAX_TRIES, RETRY_S = 4, 0.5
MODELS_TTL_S = 5.0


class RemoteDeployment:
    """Calls to the replicas of one deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def ready(self) -> bool:
        """As the replica's own."""
        return await self._call(self._handle.ready)

    async def _call(self, method: Any, *args: object, max_tries: int = MAX_TRIES) -> Any:
        """The result of a handle's method."""
        for tries_left in reversed(range(max_tries)):
            try:
                result = await method.remote(*args, context=tracing.current_context())
            except Exception as error:
                await _wait_or_raise(error, tries_left)
                continue
            if isinstance(result, ApiError):
                raise result
            return result

    async def _stream(self, method: Any, *args: object) -> AsyncGenerator[Any, None]:
        """The events of a handle's generator; after a lost replica they start again."""
        for tries_left in reversed(range(MAX_TRIES)):
            events = method.remote(*args, context=tracing.current_context())
            try:
                async for event in events:
                    if isinstance(event, ApiError):
                        raise event
                    yield event
                return
            except Exception as error:
                await _wait_or_raise(error, tries_left)
            finally:
                with suppress(*LOST):
                    events.cancel()


class RemoteDiffusionWorker(RemoteDeployment, DiffusionService):
    """A `DiffusionService` behind a handle. The models and their input specs are cached for `MODELS_TTL_S`.

    Args:
        models: names that can be asked for. If there are several, a request prefers a replica that has its model loaded.
    """

    def __init__(self, handle: DeploymentHandle, models: Collection[str] = ()) -> None:
        super().__init__(handle)
        self._multiplexed = frozenset(models) if len(models) > 1 else frozenset()
        self._cache: dict[tuple[str, ...], tuple[float, Any]] = {}

    async def models(self) -> list[ModelInfo]:
        """As `DiffusionService.models`."""
        return await self._cached("models")

    async def input_spec(self, model: str) -> ModelInputSpec:
        """As `DiffusionService.input_spec`."""
        return await self._cached("input_spec", model)

    async def _cached(self, method: str, *args: str) -> Any:
        cached_at, result = self._cache.get((method, *args), (-MODELS_TTL_S, None))
        if time.monotonic() > cached_at + MODELS_TTL_S:
            result = await self._call(getattr(self._handle, method), *args)
            self._cache[method, *args] = time.monotonic(), result
        return result

    async def sample(
        self, model: str, conditions: Conditions, options: SamplingOptions, previews: int | None, timeout_s: float
    ) -> AsyncGenerator[Step | SampledImage, None]:
        """As `DiffusionService.sample`."""
        routing: dict[str, Any] = {"multiplexed_model_id": model} if model in self._multiplexed else {}
        method = self._handle.options(stream=True, **routing).sample
        async with aclosing(self._stream(method, model, conditions, options, previews, timeout_s)) as events:
            async for event in events:
                yield event


class RemoteFaceWorker(RemoteDeployment, FaceService, EditService):
    """A `FaceService` behind a handle; its replicas run whole edits, so it is an `EditService` too."""

    async def reconstruct(self, edit_input: EditInput) -> Reconstruction:
        """As `FaceService.reconstruct`."""
        return await self._call(self._handle.reconstruct, edit_input)

    async def mesh(self, edit_input: EditInput, kind: MeshFormat) -> bytes:
        """As `FaceService.mesh`."""
        return await self._call(self._handle.mesh, edit_input, kind)

    async def preview(self, edit_input: EditInput, output_options: OutputOptions) -> Preview:
        """As `FaceService.preview`."""
        return await self._call(self._handle.preview, edit_input, output_options)

    async def edit_without_model(self, edit_input: EditInput, output_options: OutputOptions) -> FinishedEdit:
        """As `FaceService.edit_without_model`."""
        return await self._call(self._handle.edit_without_model, edit_input, output_options)

    async def verify(self, data: bytes) -> Verified:
        """As `FaceService.verify`."""
        return await self._call(self._handle.verify, data)

    def edit_service(self, diffusion_worker: DiffusionService) -> EditService:
        """This handle: each replica has its own handle of the diffusion workers."""
        return self

    async def edit(
        self,
        edit_input: EditInput,
        output_options: OutputOptions,
        model: str,
        options: SamplingOptions,
        previews: int | None,
        limit_s: float,
    ) -> AsyncGenerator[EditProgress | EditedImage, None]:
        """As `EditService.edit`."""
        method = self._handle.options(stream=True).edit
        stream = self._stream(method, edit_input, output_options, model, options, previews, limit_s)
        async with aclosing(stream) as events:
            async for event in events:
                yield event


class RemoteJobQueue(RemoteDeployment, JobService):
    """A `JobService` behind a handle."""

    async def submit(self, submission: JobSubmission, owner: str, idempotency_key: str = "") -> JobState:
        """As `JobService.submit`; not repeated after a lost replica."""
        return await self._call(self._handle.submit, submission, owner, idempotency_key, max_tries=1)

    async def status(self, job_id: str, owner: str) -> JobState:
        """As `JobService.status`."""
        return await self._call(self._handle.status, job_id, owner)

    async def jobs_of(self, owner: str) -> list[JobState]:
        """As `JobService.jobs_of`."""
        return await self._call(self._handle.jobs_of, owner)

    async def cancel(self, job_id: str, owner: str) -> JobState:
        """As `JobService.cancel`."""
        return await self._call(self._handle.cancel, job_id, owner)

    async def remove(self, job_id: str, owner: str) -> None:
        """As `JobService.remove`."""
        await self._call(self._handle.remove, job_id, owner)

    async def result(self, job_id: str, owner: str, number: int, through: bool = False) -> JobResult:
        """As `JobService.result`."""
        return await self._call(self._handle.result, job_id, owner, number, through)


async def _wait_or_raise(error: Exception, tries_left: int) -> None:
    """Wait before the next try after a lost replica.

    Raises:
        Exception: the replica's own error; `busy` for an overloaded or missing deployment, or when no tries are left.
    """
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, BackPressureError):
        raise ApiError("busy", "too many requests are waiting", 2) from None
    if isinstance(error, DeploymentUnavailableError):
        raise ApiError("busy", "a part of the service is down", 5) from None
    if not isinstance(error, LOST):
        raise error from None
    if not tries_left:
        raise ApiError("busy", "a part of the service was lost while it worked on this", 2) from None
    await asyncio.sleep(RETRY_S)
