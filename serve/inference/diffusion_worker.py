"""Continuous batching of diffusion sampling: requests join and leave the batch between two denoising steps.

Path: `Conditions`, `SamplingOptions` -> `DiffusionWorker.sample` -> events: `Step` (with a preview on request),
`SampledImage`.

One thread owns the networks. Between two steps it admits waiting requests in order of arrival, drops those whose
caller has left or whose time is up, and emits finished images. A single request never waits for others. Each has its
own scheduler, seed, steps and guidance (`rigface.model.sampling.SamplingState`), and no row changes another.
Reference tokens are cached by the content of the reference image. Independent of HTTP and Ray.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from rigface.profile import ConditionSpec
from serve.content_cache import LruCache
from serve.inference.model_pool import LoadedModel, LoadPipeline, ModelPool, QueuedRequest
from serve.messages import SampledImage, SampleRequest, Step
from serve.problems import ApiError
from serve.protocols import DiffusionService
from serve.schemas import ModelInfo
from serve.telemetry import metrics

if TYPE_CHECKING:
    from rigface.model.attention import ReferenceTokens
    from rigface.model.clip_guidance import ClipGuidance
    from rigface.model.pipeline import RigFacePipeline
    from rigface.model.sampling import SamplingState


class DiffusionWorker(DiffusionService):
    """A `DiffusionService` in this process: a pool of models and the thread that samples.

    A batch has `max_rows`; a request with more is sampled alone. Beyond `max_waiting`, requests are refused as `busy`.
    `cache_mb` is of reference tokens. `clip` guides those requests that ask for it: its gradient goes through the
    decoder in this thread, at each of their steps.
    """

    def __init__(
        self, models: Mapping[str, str], load_pipeline: LoadPipeline, *,
        max_loaded: int = 2, max_rows: int = 16, max_waiting: int = 64, cache_mb: int = 512,
        clip: ClipGuidance | None = None,
    ) -> None:  # fmt: skip
        self.pool = ModelPool(models, load_pipeline, max_loaded)
        self._clip = clip
        self._max_rows, self._max_waiting = max_rows, max_waiting
        self._reference_tokens = LruCache(cache_mb * 2**20, _size_of, "reference-tokens")
        self._waiting: deque[QueuedRequest] = deque()
        self._wake = threading.Condition()
        self._open = True
        self._device_error = ""
        self.steps_taken = self.rows_sampled = 0
        self._thread = threading.Thread(target=self._run, name="diffusion", daemon=True)
        if self.pool.diffusion:
            self.pool.get(self.pool.diffusion[0])  # an unreadable checkpoint stops the deployment, not a request
            self._thread.start()

    @classmethod
    def load(
        cls, models: Mapping[str, str], device: str = "cpu", *, max_loaded: int = 2, max_rows: int = 16, clip: str = ""
    ) -> DiffusionWorker:
        """A worker with checkpoints and a folder of a CLIP model for guidance; MissingAsset if that is none."""

        def load_pipeline(checkpoint: str) -> RigFacePipeline:
            # These take seconds, of those who have a model.
            from rigface.face.head.heads import load_head
            from rigface.model.pipeline import RigFacePipeline
            from rigface.model_editor import check_head

            pipeline = RigFacePipeline.from_pretrained(checkpoint, device, autocast="auto")
            check_head(pipeline, load_head(pipeline.model_config.profile.head).spec)
            return pipeline

        guidance = None
        if clip:
            from rigface.model.clip_guidance import ClipGuidance  # imports diffusers

            guidance = ClipGuidance.load(clip, device)
        return cls(models, load_pipeline, max_loaded=max_loaded, max_rows=max_rows, clip=guidance)

    async def models(self) -> list[ModelInfo]:
        return self.pool.infos()

    async def input_spec(self, model: str) -> ConditionSpec:
        self.pool.check(model)
        return await asyncio.to_thread(self.pool.input_spec, model)

    async def ready(self) -> bool:
        """True; raises RuntimeError after the device has failed."""
        if self._device_error:
            raise RuntimeError(self._device_error)
        return True

    async def sample(self, request: SampleRequest) -> AsyncGenerator[Step | SampledImage, None]:
        """Sample one image, or raise ApiError or ValueError; closed, the request leaves the batch."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Step | SampledImage | BaseException]()

        def emit(event: Step | SampledImage | BaseException) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        queued = QueuedRequest(request, time.monotonic() + request.timeout_s, emit)
        self._enqueue(queued)
        try:
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, SampledImage):
                    return
        finally:
            queued.abandoned = True

    def close(self) -> None:
        """Refuse new requests; finish the others and end the thread."""
        with self._wake:
            self._open = False
            self._wake.notify()

    def _enqueue(self, queued: QueuedRequest) -> None:
        self.pool.check(queued.request.model)
        with self._wake:
            if not self._open:
                raise ApiError("draining", retry_after_s=5)
            if len(self._waiting) >= self._max_waiting:
                raise ApiError("busy", f"{len(self._waiting)} edits are waiting", retry_after_s=2)
            self._waiting.append(queued)
            metrics.record(metrics.DIFFUSION_WAITING, len(self._waiting))
            self._wake.notify()

    # The methods below run in the sampling thread only.

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._open and not self._waiting and self.pool.is_idle:
                    self._wake.wait()
                if not self._open and not self._waiting and self.pool.is_idle:
                    return
            self._admit()
            for model in list(self.pool.loaded.values()):
                if model.active:
                    self._step(model)

    def _admit(self) -> None:
        """Start waiting requests in order of arrival, as long as the next one fits."""
        while True:
            with self._wake:
                if not self._waiting:
                    return
                queued = self._waiting[0]
                o = queued.request.options
                rows = 1 + sum(scale != 1 for scale in (o.identity_scale, o.attribute_scale, o.text_scale))
                rows += len(queued.request.regions)
                model = self.pool.loaded.get(queued.request.model)
                if model is not None and model.active and model.rows + rows > self._max_rows:
                    return
                self._waiting.popleft()
                metrics.record(metrics.DIFFUSION_WAITING, len(self._waiting))
            if queued.abandoned or self._expired(queued):
                continue
            try:
                self._start(queued)
            except Exception as error:  # of this request alone
                queued.emit(error)

    def _start(self, queued: QueuedRequest) -> None:
        queued.started_at = time.monotonic()
        request, conditions = queued.request, queued.request.conditions
        model = self.pool.get(request.model)
        key = request.model, hashlib.sha256(conditions.reference.tobytes()).digest()
        tokens = self._reference_tokens.get(key)
        if tokens is None:
            tokens = model.pipeline.encode_reference(conditions.reference, conditions.identity)
            self._reference_tokens.put(key, tokens)
        state = model.pipeline.begin(
            None, conditions.background, conditions.render, conditions.expression_code,
            reference_tokens=tokens, **self._texts(model, request),
        )  # fmt: skip
        model.batch.join(state)
        model.active.append((queued, state))

    def _texts(self, model: LoadedModel, request: SampleRequest) -> dict[str, Any]:
        """Options of `begin`, with the guide of CLIP if the request wants one; ApiError if there is no CLIP."""
        options = asdict(request.options)
        scale, has_text = options.pop("clip_scale"), bool(options["prompt"] or request.regions)
        if not (has_text and scale):
            return {**options, "regions": request.regions}
        if self._clip is None:
            raise ApiError(
                "bad-request",
                "guidance.clip: this service has no CLIP model; its operator starts it with --clip FOLDER",
            )
        from rigface.model.latents import decode  # imports diffusers

        pipeline, render = model.pipeline, request.conditions.render
        options["guide"] = self._clip.guide(
            options["prompt"] or "", request.regions, render, partial(decode, pipeline.vae), scale
        )
        if not pipeline.has_text_encoder:
            return options | {"prompt": None}
        return {**options, "regions": request.regions}

    def _step(self, model: LoadedModel) -> None:
        for queued, state in list(model.active):
            if queued.abandoned or self._expired(queued):
                model.batch.leave(state)
                model.active.remove((queued, state))
        if not model.active:
            return
        rows = model.rows
        for queued, _ in model.active:
            queued.batch_rows = max(queued.batch_rows, rows)
        began = time.perf_counter()
        try:
            model.batch.step()
        except Exception as error:  # of the device or the network, so the whole batch fails
            self._device_error = f"{type(error).__name__}: {error}" if "CUDA" in str(error) else ""
            for queued, state in model.active:
                model.batch.leave(state)
                queued.emit(error)
            model.active.clear()
            return
        self.steps_taken += 1
        self.rows_sampled += rows
        metrics.record_step(rows, time.perf_counter() - began)
        for queued, state in list(model.active):
            if self._emit_step(model, queued, state):
                model.active.remove((queued, state))

    def _emit_step(self, model: LoadedModel, queued: QueuedRequest, state: SamplingState) -> bool:
        """Emit the events of a step; True if the request has ended."""
        with_preview = queued.request.previews and not state.done and state.index % queued.request.previews == 0
        try:
            if state.failed is not None:
                raise state.failed
            preview = model.pipeline.pictures(state.preview(), state.detail)[0] if with_preview else None
            queued.emit(Step(state.index, state.steps, preview))
            if state.done:
                image = model.pipeline.pictures(state.latents, state.detail)[0]
                queue_s, sampling_s = queued.started_at - queued.queued_at, time.monotonic() - queued.started_at
                queued.emit(SampledImage(image, queue_s, sampling_s, queued.batch_rows))
            return state.done
        except Exception as error:
            queued.emit(error)
            model.batch.leave(state)
            return True

    def _expired(self, queued: QueuedRequest) -> bool:
        if time.monotonic() < queued.deadline:
            return False
        queued.emit(ApiError("timeout", "the edit exceeded its time limit", retry_after_s=5))
        return True


def _size_of(tokens: ReferenceTokens) -> int:
    return sum(t.numel() * t.element_size() for pair in tokens.blocks.values() for t in pair)
