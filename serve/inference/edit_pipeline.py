"""One edit by a model, from the analysis of its source to the measured result.

Path: `serve.inference.edit_service` -> `EditPipeline.edit` -> face_worker.compose -> diffusion_worker.sample (each
face a request of its own, so that they share steps) -> face_worker.finish -> `EditedImage`.

It runs in the process of the face worker (`serve/app.py`): conditions and crops bypass the gateway, the worker that
read the source also finishes the edit, and the worker has a request under way while diffusion runs, so Ray Serve
waits before it stops a replica.
"""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

import numpy as np

from rigface.profile import ConditionSpec
from serve.messages import (
    ComposedEdit,
    EditedImage,
    EditInput,
    FinishedEdit,
    ModelEdit,
    OutputOptions,
    SampledImage,
    SampleRequest,
    Step,
)
from serve.protocols import DiffusionService, EditService
from serve.schemas import EditProgress
from serve.telemetry import tracing

PREVIEW_QUALITY = 80


class FaceComposer(Protocol):
    """The part of `serve.inference.face_worker.FaceWorker` that an edit by a model needs."""

    async def compose(self, edit_input: EditInput, input_spec: ConditionSpec) -> ComposedEdit:
        """The model's conditions, per face."""

    async def encode_progress(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """An image between two sampling steps, signed."""

    async def finish(
        self, edit_input: EditInput, input_spec: ConditionSpec, crops: list[np.ndarray], output_options: OutputOptions
    ) -> FinishedEdit:
        """The sampled crops composited into the image; measured and signed."""


class EditPipeline(EditService):
    """An `EditService` of a face worker in this process and any diffusion worker."""

    def __init__(self, face_worker: FaceComposer, diffusion_worker: DiffusionService) -> None:
        self._face_worker, self._diffusion_worker = face_worker, diffusion_worker

    async def edit(self, edit: ModelEdit) -> AsyncGenerator[EditProgress | EditedImage, None]:
        """Progress events, then `EditedImage`, or an expected error; closed, all faces leave the batch."""
        began = time.monotonic()
        input_spec = await self._diffusion_worker.input_spec(edit.model)
        with tracing.span("edit.compose"):
            composed = await self._face_worker.compose(edit.edit_input, input_spec)
        seconds = {"look": time.monotonic() - began}
        faces = len(composed.conditions)
        sampled: dict[int, SampledImage] = {}
        async with aclosing(self._sample_faces(edit, composed)) as events:
            async for face, event in events:
                if isinstance(event, SampledImage):
                    sampled[face] = event
                elif edit.previews is not None:
                    yield await self._progress(edit, face, faces, event)
        seconds["wait"] = max(s.queue_s for s in sampled.values())
        seconds["paint"] = max(s.sampling_s for s in sampled.values())
        finish_began = time.monotonic()
        with tracing.span("edit.finish"):
            crops = [sampled[face].image for face in range(faces)]
            finished = await self._face_worker.finish(edit.edit_input, input_spec, crops, edit.output_options)
        yield EditedImage(finished, seconds | {"finish": time.monotonic() - finish_began})

    async def _progress(self, edit: ModelEdit, face: int, faces: int, step: Step) -> EditProgress:
        progress = EditProgress(phase="paint", step=step.step, steps=step.steps, face=face, faces=faces)
        if step.preview is None:
            return progress
        record = {**edit.output_options.record, "step": step.step, "steps": step.steps}
        jpeg = OutputOptions("jpeg", record, PREVIEW_QUALITY)
        data = await self._face_worker.encode_progress(step.preview, edit.edit_input, jpeg)
        return progress.model_copy(update={"preview": base64.b64encode(data).decode()})

    async def _sample_faces(
        self, edit: ModelEdit, composed: ComposedEdit
    ) -> AsyncGenerator[tuple[int, Step | SampledImage], None]:
        """All faces at once; events as (face, event)."""
        queue: asyncio.Queue[tuple[int, Step | SampledImage] | Exception | None] = asyncio.Queue()

        async def sample_face(face: int) -> None:
            try:
                with tracing.span("edit.sample", {tracing.FACE: face, tracing.MODEL: edit.model}):
                    seed, prompt = (edit.options.seed + face) % 2**63, composed.prompts[face] or None
                    options = replace(edit.options, seed=seed, prompt=prompt)
                    conditions = composed.conditions[face]
                    regions = composed.regions[face]
                    request = SampleRequest(edit.model, conditions, options, edit.previews, edit.timeout_s, regions)
                    async with aclosing(self._diffusion_worker.sample(request)) as events:
                        async for event in events:
                            queue.put_nowait((face, event))
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.ensure_future(sample_face(face)) for face in range(len(composed.conditions))]
        try:
            running = len(tasks)
            while running:
                event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    running -= 1
                else:
                    yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
