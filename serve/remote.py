"""The services of `serve.protocols` behind Ray Serve handles, with retries after a lost replica.

Path: `serve.api`, `serve.jobs` -> here -> a replica of FaceWorker, DiffusionWorker or JobQueue (`serve/app.py`).

Face and diffusion workers are deterministic, so a call whose replica died is repeated on another replica, within the
caller's time limit. A job is submitted once only: the lost replica may have stored it, so the caller is asked to check
and try again.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from rigface.types import Conditions
from serve.messages import (
    EditedImage,
    EditInput,
    ModelInputSpec,
    OutputOptions,
    SampledImage,
    SamplingOptions,
    Step,
)
from serve.problems import ApiError
from serve.protocols import DiffusionService, EditService, FaceService, JobService
from serve.schemas import EditProgress, ModelInfo
from serve.telemetry import tracing

Params = ParamSpec("Params")
Result = TypeVar("Result")
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

    async def _call(self, method: Any, *args: object, max_tries: int = MAX_TRIES, **kwargs: object) -> Any:
        """The result of a handle's method."""
        for tries_left in reversed(range(max_tries)):
            try:
                result = await method.remote(*args, context=tracing.current_context(), **kwargs)
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


def remote(
    method: Callable[Concatenate[Any, Params], Coroutine[Any, Any, Result]], max_tries: int = MAX_TRIES
) -> Callable[Concatenate[Any, Params], Coroutine[Any, Any, Result]]:
    """A protocol's method as a call of the handle's method of that name, repeated after a lost replica."""

    @functools.wraps(method)
    async def call(self: RemoteDeployment, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        handle_method = getattr(self._handle, method.__name__)
        return await self._call(handle_method, *args, max_tries=max_tries, **kwargs)

    return call


class RemoteDiffusionWorker(RemoteDeployment, DiffusionService):
    """A `DiffusionService` behind a handle. The models and their input specs are cached for `MODELS_TTL_S`.

    Args:
        models: names that can be asked for. If there are several, a request prefers a replica that has its model
            loaded.
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

    reconstruct = remote(FaceService.reconstruct)
    mesh = remote(FaceService.mesh)
    preview = remote(FaceService.preview)
    edit_without_model = remote(FaceService.edit_without_model)
    verify = remote(FaceService.verify)

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

    submit = remote(JobService.submit, max_tries=1)
    status = remote(JobService.status)
    jobs_of = remote(JobService.jobs_of)
    cancel = remote(JobService.cancel)
    remove = remote(JobService.remove)
    result = remote(JobService.result)


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
