"""The model at work for many at once: requests join and leave its batch between two denoising steps.

Path: `Conditions`, `SamplingOptions` -> `DiffusionWorker.paint` -> events: a step was taken, a preview, the picture.

One thread owns the networks. Between two steps it lets waiting requests in, in the order they came, drops those whose
caller has gone or whose time is up, and hands out what is finished. A lone request waits for nobody. Each has its own
scheduler, seed, steps and guidance (`rigface.model.sampling.SamplingState`), and no row changes another. What the denoiser has to
remember of a person is kept by the content of their picture. Knows nothing of HTTP or Ray.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rigface.types import Conditions
from serve.content_cache import LruCache
from serve.messages import ModelInputSpec, SamplingOptions
from serve.problems import ApiError
from serve.schemas import PREVIEW, ModelInfo
from serve.telemetry import metrics

Load = Callable[[str], Any]
"""A checkpoint's place to a `RigFacePipeline`."""

ABOUT_PREVIEW = "The instant preview moves and lights the photograph itself; no network paints."
NO_MODEL = "No trained model is loaded here; start the service with --checkpoint FOLDER for one."


@dataclass(frozen=True, eq=False)
class Step:
    """`step` of `steps` are done; `preview` (S, S, 3) uint8 is what the picture would be now, where it was asked for."""

    step: int
    steps: int
    preview: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class SampledImage:
    """The picture, (S, S, 3) uint8; how long it waited and how long it was painted."""

    image: np.ndarray
    waited_s: float
    painted_s: float
    crowd: int
    """The largest number of rows it shared a step with, its own included."""


@dataclass(eq=False)
class QueuedRequest:
    model: str
    conditions: Conditions
    options: SamplingOptions
    previews: int | None
    deadline: float
    tell: Callable[[Any], None]
    came: float = field(default_factory=time.monotonic)
    began: float = 0.0
    walk: Any = None
    gone: bool = False
    crowd: int = 0


@dataclass(eq=False)
class LoadedModel:
    """A loaded model, its crowd, and who is in it."""

    pipeline: Any
    crowd: Any
    tickets: list[QueuedRequest] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(t.walk.rows for t in self.tickets)


class DiffusionWorker:
    """Checkpoints by name, the latest used ones loaded, and the thread that paints.

    Args:
        models: name -> checkpoint folder, or what `RigFacePipeline.from_pretrained` takes; the first is the default.
        load: makes a pipeline of a place.
        most_loaded: models in memory at a time; one with requests under way is never dropped.
        most_rows: rows in the network's batch. A request that is larger than that is painted alone.
        most_waiting: requests that wait to get in; beyond it callers are told to come again.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        load: Load,
        *,
        most_loaded: int = 2,
        most_rows: int = 16,
        most_waiting: int = 64,
        memory_mb: int = 512,
    ) -> None:
        self._places, self._load = dict(models), load
        self._most_loaded, self._most_rows, self._most_waiting = most_loaded, most_rows, most_waiting
        self._rooms: OrderedDict[str, LoadedModel] = OrderedDict()
        self._infos: dict[str, ModelInfo] = {}
        self._canvases: dict[str, ModelInputSpec] = {}
        self._memories = LruCache(memory_mb * 2**20, _bytes, "remembered")
        self._waiting: deque[QueuedRequest] = deque()
        self._wake = threading.Condition()
        self._open = True
        self._broken = ""
        self.steps_taken = self.rows_painted = 0
        self._thread = threading.Thread(target=self._run, name="studio", daemon=True)
        if self._places:
            self._room(next(iter(self._places)))  # a folder that is no checkpoint stops the deployment, not a request
            self._thread.start()

    @classmethod
    def of(cls, models: Mapping[str, str], device: str = "cpu", **options: Any) -> DiffusionWorker:
        """With checkpoints from disk."""

        def load(place: str) -> Any:
            from rigface.face.head.open_head import OpenHead
            from rigface.model.checkpoint import config_of
            from rigface.model.pipeline import RigFacePipeline
            from rigface.model_editor import check_codes, check_head

            check_codes(config_of(place))
            pipeline = RigFacePipeline.from_pretrained(place, device, autocast="auto")
            check_head(pipeline, OpenHead.load().head().spec)
            return pipeline

        return cls(models, load, **options)

    async def models(self) -> list[ModelInfo]:
        """What can be asked for; the preview comes last, or alone."""
        out = []
        for i, name in enumerate(self._places):
            info = self._infos.get(name) or ModelInfo(name=name, kind="", size=0, steps=0, default=False, loaded=False)
            out.append(info.model_copy(update={"default": i == 0, "loaded": name in self._rooms}))
        about = ABOUT_PREVIEW if out else f"{NO_MODEL} {ABOUT_PREVIEW}"
        preview = ModelInfo(name=PREVIEW, kind=PREVIEW, size=0, steps=0, default=not out, loaded=True, about=about)
        return [*out, preview]

    async def input_spec(self, model: str) -> ModelInputSpec:
        """The style and size to compose for.

        Raises:
            Trouble: `unknown-model`.
        """
        if model not in self._places:
            raise ApiError("unknown-model", f"{model!r}; there are {', '.join([*self._places, PREVIEW])}")
        if model not in self._canvases:
            await asyncio.to_thread(self._describe, model)
        return self._canvases[model]

    async def ready(self) -> bool:
        """Whether it can paint."""
        if self._broken:
            raise RuntimeError(self._broken)
        return True

    async def paint(
        self,
        model: str,
        conditions: Conditions,
        options: SamplingOptions,
        previews: int | None = 0,
        timeout_s: float = 120.0,
    ) -> AsyncGenerator[Step | SampledImage, None]:
        """Paint one picture. Leaving the iterator takes the request out of the batch.

        Args:
            previews: a picture after each so many steps; 0 for none. None: nobody asks for steps at all, and whoever sends
                events on may leave them out.

        Raises:
            Trouble: `busy`, `draining`, `timeout`, `unknown-model`, or `bad-request` for options that do not fit the model.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def tell(event: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        ticket = QueuedRequest(model, conditions, options, previews, time.monotonic() + timeout_s, tell)
        self._enter(ticket)
        try:
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, SampledImage):
                    return
        finally:
            ticket.gone = True

    async def one(self, *args: Any, **options: Any) -> SampledImage:
        """`paint` without the steps."""
        async with aclosing(self.paint(*args, **options)) as events:
            async for event in events:
                if isinstance(event, SampledImage):
                    return event
        raise RuntimeError("Studio.paint ended without a picture")

    def close(self) -> None:
        """Take nobody in any more; finish what is under way and end the thread."""
        with self._wake:
            self._open = False
            self._wake.notify()

    def _enter(self, ticket: QueuedRequest) -> None:
        if ticket.model not in self._places:
            raise ApiError("unknown-model", f"{ticket.model!r}; there are {', '.join([*self._places, PREVIEW])}")
        with self._wake:
            if not self._open:
                raise ApiError("draining", retry_after_s=5)
            if len(self._waiting) >= self._most_waiting:
                raise ApiError("busy", f"{len(self._waiting)} edits are waiting", retry_after_s=2)
            self._waiting.append(ticket)
            metrics.tell(metrics.PAINTER_WAITING, len(self._waiting))
            self._wake.notify()

    # Below: the studio's thread, and nobody else.

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._open and not self._waiting and not any(r.tickets for r in self._rooms.values()):
                    self._wake.wait()
                if not self._open and not self._waiting and not any(r.tickets for r in self._rooms.values()):
                    return
            self._admit()
            for room in list(self._rooms.values()):
                if room.tickets:
                    self._step(room)

    def _admit(self) -> None:
        """Let in who is next, in the order of arrival, as long as there is room for the next one."""
        while True:
            with self._wake:
                if not self._waiting:
                    return
                ticket = self._waiting[0]
                rows = 1 + sum(s != 1 for s in _scales(ticket.options))
                room = self._rooms.get(ticket.model)
                if room is not None and room.tickets and room.rows + rows > self._most_rows:
                    return
                self._waiting.popleft()
                metrics.tell(metrics.PAINTER_WAITING, len(self._waiting))
            if ticket.gone or self._late(ticket):
                continue
            try:
                self._begin(ticket)
            except Exception as error:  # this request's trouble; the others go on
                ticket.tell(error)

    def _begin(self, ticket: QueuedRequest) -> None:
        ticket.began = time.monotonic()
        room = self._room(ticket.model)
        c = ticket.conditions
        key = ticket.model, hashlib.sha256(c.reference.tobytes()).digest()
        memory = self._memories.get(key)
        if memory is None:
            memory = room.pipeline.remember(c.reference)
            self._memories.put(key, memory)
        ticket.walk = room.pipeline.begin(
            None, c.background, c.render, c.expression_code, memory=memory, **asdict(ticket.options)
        )
        room.crowd.join(ticket.walk)
        room.tickets.append(ticket)

    def _step(self, room: LoadedModel) -> None:
        for ticket in [t for t in room.tickets if t.gone or self._late(t)]:
            room.crowd.leave(ticket.walk)
            room.tickets.remove(ticket)
        if not room.tickets:
            return
        rows = room.rows
        for ticket in room.tickets:
            ticket.crowd = max(ticket.crowd, rows)
        clock = time.perf_counter()
        try:
            room.crowd.step()
        except Exception as error:  # the device or the network; nobody in this batch can go on
            self._broken = f"{type(error).__name__}: {error}" if "CUDA" in str(error) else ""
            for ticket in room.tickets:
                room.crowd.leave(ticket.walk)
                ticket.tell(error)
            room.tickets.clear()
            return
        self.steps_taken += 1
        self.rows_painted += rows
        metrics.stepped(rows, time.perf_counter() - clock)
        for ticket in list(room.tickets):
            self._tell(room, ticket)

    def _tell(self, room: LoadedModel, ticket: QueuedRequest) -> None:
        walk = ticket.walk
        wants = ticket.previews and not walk.done and walk.index % ticket.previews == 0
        try:
            if walk.failed is not None:
                raise walk.failed
            shown = room.pipeline.pictures(walk.preview(), walk.detail)[0] if wants else None
            ticket.tell(Step(walk.index, walk.steps, shown))
            if walk.done:
                image = room.pipeline.pictures(walk.latents, walk.detail)[0]
                now = time.monotonic()
                ticket.tell(SampledImage(image, ticket.began - ticket.came, now - ticket.began, ticket.crowd))
        except Exception as error:
            ticket.tell(error)
            room.crowd.leave(walk)
            ticket.gone = True
        if walk.done or ticket.gone:
            room.tickets.remove(ticket)

    def _late(self, ticket: QueuedRequest) -> bool:
        if time.monotonic() < ticket.deadline:
            return False
        ticket.tell(ApiError("timeout", "the edit was given up", retry_after_s=5))
        return True

    def _room(self, name: str) -> LoadedModel:
        if name in self._rooms:
            self._rooms.move_to_end(name)
            return self._rooms[name]
        pipeline = self._load(self._places[name])
        config = pipeline.config
        self._canvases[name] = _canvas(config)
        self._infos[name] = ModelInfo(
            name=name,
            kind=config.process.kind,
            size=config.size,
            steps=config.process.steps,
            default=False,
            loaded=True,
        )
        room = self._rooms[name] = LoadedModel(pipeline, pipeline.crowd())
        idle = [n for n, r in self._rooms.items() if not r.tickets and n != name]
        while len(self._rooms) > self._most_loaded and idle:
            del self._rooms[idle.pop(0)]
        return room

    def _describe(self, name: str) -> None:
        """Read what a checkpoint is without loading its weights."""
        from rigface.model.checkpoint import ModelConfig, folder_of
        from rigface.model.weights import read_json

        path = folder_of(self._places[name]) / "config.json"
        config = ModelConfig.from_json(read_json(path)) if path.is_file() else self._load(self._places[name]).config
        self._canvases[name] = _canvas(config)


def _canvas(config: Any) -> ModelInputSpec:
    return ModelInputSpec(config.render_style, config.size, config.expression_field, config.detail)


def _scales(options: SamplingOptions) -> tuple[float, float, float]:
    return options.identity_scale, options.attribute_scale, options.text_scale


def _bytes(memory: Any) -> int:
    return sum(t.numel() * t.element_size() for pair in memory.blocks.values() for t in pair)
