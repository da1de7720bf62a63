"""The parts of the service behind Ray Serve's handles: their methods, their errors, and again where a replica was lost.

Path: `door.py`, `jobs.py` -> here -> a replica of Eye, Painter or Jobs (`app.py`).

What is asked of an eye or a painter gives the same answer twice, so a call whose replica died under it is made again, of another
replica or of the one that comes up instead; the caller's own time limit holds. Only a job is not submitted twice: whether the
lost replica had taken it is not known, so the caller is told to look and to come again.
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

from serve.problems import ApiError
from serve.telemetry import tracing

LOST = (RayActorError, ReplicaUnavailableError)
TRIES, PAUSE_S = 4, 0.5
NOT_TWICE = ("submit",)
KEPT_S = 5.0


class RemoteDeployment:
    """What is behind a handle, with its own methods and errors."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args: self._ask(name, args)

    async def _ask(self, name: str, args: tuple[Any, ...]) -> Any:
        left = 1 if name in NOT_TWICE else TRIES
        while True:
            left -= 1
            try:
                said = await self._handle.call.remote(name, *args, **tracing.carried())
            except Exception as error:
                await _again(error, left)
                continue
            if isinstance(said, ApiError):
                raise said
            return said

    async def _stream(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """The events of a generator over there."""
        handle, left = self._handle.options(stream=True, **options), TRIES
        while True:
            left -= 1
            events: Any = getattr(handle, name).remote(*args, **tracing.carried())
            try:
                async for event in events:
                    if isinstance(event, ApiError):
                        raise event
                    yield event
                return
            except Exception as error:
                await _again(error, left)
            finally:
                with suppress(*LOST):
                    events.cancel()


class RemoteDiffusionWorker(RemoteDeployment):
    """A painter behind a handle. What an edit has to know of it before it begins is asked anew after `KEPT_S` only.

    Args:
        models: that can be asked for. Where there are several, an edit goes to a replica that holds its model, if any does and
            has room.
    """

    def __init__(self, handle: DeploymentHandle, models: Collection[str] = ()) -> None:
        super().__init__(handle)
        self._models = frozenset(models) if len(models) > 1 else frozenset()
        self._kept: dict[tuple[Any, ...], tuple[float, Any]] = {}

    async def models(self) -> Any:
        """As `Studio.models`."""
        return await self._known("models")

    async def input_spec(self, model: str) -> Any:
        """As `Studio.canvas`."""
        return await self._known("input_spec", model)

    async def _known(self, *words: Any) -> Any:
        asked, said = self._kept.get(words, (-KEPT_S, None))
        if time.monotonic() > asked + KEPT_S:
            said = await self._ask(words[0], words[1:])
            self._kept[words] = time.monotonic(), said
        return said

    async def paint(self, model: str, *args: Any) -> AsyncGenerator[Any, None]:
        """As `Studio.paint`; where the replica is lost, the steps begin anew."""
        there: dict[str, Any] = {"multiplexed_model_id": model} if model in self._models else {}
        async with aclosing(self._stream("paint", (model, *args), there)) as events:
            async for event in events:
                yield event


class RemoteFaceWorker(RemoteDeployment):
    """An eye behind a handle, which has an easel of its own."""

    @property
    def easel(self) -> RemoteFaceWorker:
        """The one over there, through the same handle."""
        return self

    async def edit(self, *args: Any) -> AsyncGenerator[Any, None]:
        """As `Easel.edit`; where the replica is lost, it begins anew."""
        async with aclosing(self._stream("edit", args, {})) as events:
            async for event in events:
                yield event


async def _again(error: Exception, left: int) -> None:
    """Return where the call should be made once more.

    Raises:
        Exception: what happened over there, as it would have been raised here.
    """
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, BackPressureError):
        raise ApiError("busy", "too many requests are waiting", 2) from None
    if isinstance(error, DeploymentUnavailableError):
        raise ApiError("busy", "a part of the service is down", 5) from None
    if not isinstance(error, LOST):
        raise error from None
    if not left:
        raise ApiError("busy", "a part of the service was lost while it was at work on this", 2) from None
    await asyncio.sleep(PAUSE_S)
