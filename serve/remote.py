"""The services of `serve.protocols` behind Ray Serve handles, with retries after a lost replica.

Path: `serve.api`, `serve.jobs` -> here -> a replica of FaceWorker, DiffusionWorker or JobQueue (`serve/app.py`).

Face and diffusion workers are deterministic, so a call whose replica died is repeated on another replica, within the
caller's time limit. A job is submitted once only: the lost replica may have stored it, so the caller is asked to
check and try again.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RpcError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from serve.problems import ApiError
from serve.protocols import DiffusionService, EditService, FaceService, JobService, Service
from serve.telemetry import tracing

Params = ParamSpec("Params")
Result = TypeVar("Result")
Event = TypeVar("Event")
LOST = (
    RayActorError, ReplicaUnavailableError, NodeDiedError, LocalRayletDiedError, WorkerCrashedError, OutOfMemoryError,
    ObjectLostError,
)  # fmt: skip
MAX_TRIES, RETRY_S = 4, 0.5
MODELS_TTL_S = 5.0


def remote(
    method: Callable[Concatenate[Any, Params], Coroutine[Any, Any, Result]], max_tries: int = MAX_TRIES
) -> Callable[Concatenate[Any, Params], Coroutine[Any, Any, Result]]:
    """A protocol's method as a call of the handle's method of that name, repeated after a lost replica."""

    @functools.wraps(method)
    async def call(self: RemoteDeployment, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        handle_method = getattr(self._handle, method.__name__)
        for tries_left in reversed(range(max_tries)):
            try:
                result = await handle_method.remote(*args, context=tracing.current_context(), **kwargs)
            except Exception as error:
                await _wait_or_raise(error, tries_left)
                continue
            if isinstance(result, ApiError):
                raise result
            return result
        raise AssertionError  # the last try returns or raises

    return call


def remote_stream(
    method: Callable[Concatenate[Any, Params], AsyncGenerator[Event, None]],
) -> Callable[Concatenate[Any, Params], AsyncGenerator[Event, None]]:
    """A protocol's generator as the handle's of that name; after a lost replica the events start again."""

    @functools.wraps(method)
    async def stream(
        self: RemoteDeployment, *args: Params.args, **kwargs: Params.kwargs
    ) -> AsyncGenerator[Event, None]:
        handle_method = getattr(self._handle.options(stream=True, **self._routing(args[0])), method.__name__)
        for tries_left in reversed(range(MAX_TRIES)):
            events = handle_method.remote(*args, context=tracing.current_context(), **kwargs)
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

    return stream


def cached(
    method: Callable[Concatenate[Any, Params], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[Any, Params], Coroutine[Any, Any, Result]]:
    """A remote method whose results are kept for `MODELS_TTL_S`."""

    @functools.wraps(method)
    async def call(self: RemoteDeployment, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        key = method.__name__, *args
        cached_at, result = self._cache.get(key, (-MODELS_TTL_S, None))
        if time.monotonic() > cached_at + MODELS_TTL_S:
            result = await method(self, *args, **kwargs)
            self._cache[key] = time.monotonic(), result
        return result

    return call


class RemoteDeployment:
    """Calls to the replicas of one deployment; of several `models`, a request prefers a replica that has its own."""

    def __init__(self, handle: DeploymentHandle, models: Collection[str] = ()) -> None:
        self._handle, self._models = handle, frozenset(models)
        self._cache: dict[tuple[object, ...], tuple[float, Any]] = {}

    ready = remote(Service.ready)

    def _routing(self, request: Any) -> dict[str, Any]:
        several = len(self._models) > 1 and request.model in self._models
        return {"multiplexed_model_id": request.model} if several else {}


class RemoteDiffusionWorker(RemoteDeployment, DiffusionService):
    """A `DiffusionService` behind a handle."""

    models = cached(remote(DiffusionService.models))
    input_spec = cached(remote(DiffusionService.input_spec))
    sample = remote_stream(DiffusionService.sample)


class RemoteFaceWorker(RemoteDeployment, FaceService, EditService):
    """A `FaceService` behind a handle; its replicas run whole edits, so it is an `EditService` too."""

    reconstruct = remote(FaceService.reconstruct)
    mesh = remote(FaceService.mesh)
    preview = remote(FaceService.preview)
    edit_without_diffusion = remote(FaceService.edit_without_diffusion)
    verify = remote(FaceService.verify)
    edit = remote_stream(EditService.edit)

    def edit_service(self, diffusion_worker: DiffusionService) -> EditService:
        """This handle: each replica has its own handle of the diffusion workers."""
        return self


class RemoteJobQueue(RemoteDeployment, JobService):
    """A `JobService` behind a handle."""

    submit = remote(JobService.submit, max_tries=1)
    status = remote(JobService.status)
    jobs_of = remote(JobService.jobs_of)
    cancel = remote(JobService.cancel)
    remove = remote(JobService.remove)
    result = remote(JobService.result)


async def _wait_or_raise(error: Exception, tries_left: int) -> None:
    """Wait before the next try after a lost replica, or raise the replica's own error.

    It is `busy` for an overloaded or missing deployment, or when no tries are left.
    """
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, BackPressureError):
        raise ApiError("busy", "too many requests are waiting", 2) from None
    if isinstance(error, (DeploymentUnavailableError, OutOfDiskError, RpcError)):
        raise ApiError("busy", "a part of the service is down", 5) from None
    if not isinstance(error, LOST):
        raise error from None
    if not tries_left:
        raise ApiError("busy", "a part of the service was lost while it worked on this", 2) from None
    await asyncio.sleep(RETRY_S)
