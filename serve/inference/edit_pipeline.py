"""One edit by a model, from the look at its source to the picture that was measured: by one eye, with any painter.

Path: `edits.py` -> `EditPipeline.edit` -> eye.compose -> painter.paint (each face a request of its own, so that they share steps) ->
eye.finish -> `EditedImage`.

It stands beside the eye, in its process (`app.py`): what the model is given goes to the painter and its picture comes back without
the door between them; whoever finishes an edit is the one that read its source; and while a picture is painted, the eye has a
request under way, for which Ray Serve waits before it stops a replica.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from serve.messages import EditInput, OutputOptions, SamplingOptions
from serve.telemetry import tracing

QUALITY = 80  # of a picture on the way


@dataclass(frozen=True, eq=False)
class EditedImage:
    """The end of an edit: as `serve.inference.face_worker.Finished`, and the seconds of each phase."""

    finished: Any
    seconds: dict[str, float]


class EditPipeline:
    """An eye and a painter at work on edits.

    Args:
        eye: as `serve.inference.face_worker.FaceWorker`. painter: as `serve.inference.diffusion_worker.DiffusionWorker`.
    """

    def __init__(self, face_worker: Any, diffusion_worker: Any) -> None:
        self._face_worker, self._diffusion_worker = face_worker, diffusion_worker

    async def edit(
        self,
        edit_input: EditInput,
        output_options: OutputOptions,
        model: str,
        options: SamplingOptions,
        previews: int | None,
        limit_s: float,
    ) -> AsyncGenerator[dict[str, Any] | EditedImage, None]:
        """The edit's steps, as a stream of events tells them, and at last `EditedImage`. Leaving it takes all faces out of the batch.

        Args:
            options: of the first face; each further one has the next seed.
            previews: a picture after each so many steps; 0 for none. None: no steps are told.

        Raises:
            Trouble, BadInput, BadEdit: it cannot be done.
        """
        began = time.monotonic()
        input_spec = await self._diffusion_worker.input_spec(model)
        with tracing.span("edit.compose"):
            composed = await self._face_worker.compose(edit_input, input_spec)
        seconds = {"look": time.monotonic() - began}
        painted: list[Any] = [None] * len(composed.conditions)
        async with aclosing(self._paint(model, composed.conditions, options, previews, limit_s)) as events:
            async for face, event in events:
                if hasattr(event, "painted_s"):
                    painted[face] = event
                elif previews is not None:
                    yield await self._progress(face, len(painted), event, edit_input, output_options)
        seconds |= {"wait": max(p.waited_s for p in painted), "paint": max(p.painted_s for p in painted)}
        pasting = time.monotonic()
        with tracing.span("edit.finish"):
            finished = await self._face_worker.finish(
                edit_input, input_spec, [p.image for p in painted], output_options
            )
        yield EditedImage(finished, seconds | {"finish": time.monotonic() - pasting})

    async def _progress(
        self, face: int, faces: int, step: Any, edit_input: EditInput, output_options: OutputOptions
    ) -> dict[str, Any]:
        out = {"phase": "paint", "step": step.step, "steps": step.steps, "face": face, "faces": faces}
        if step.preview is not None:
            record = {**output_options.record, "step": step.step, "steps": step.steps}
            data = await self._face_worker.on_the_way(step.preview, edit_input, OutputOptions("jpeg", record, QUALITY))
            out["preview"] = base64.b64encode(data).decode()
        return out

    async def _paint(
        self, model: str, conditions: list[Any], options: SamplingOptions, previews: int | None, limit_s: float
    ) -> AsyncGenerator[Any, None]:
        """All faces at once; events as (face, event)."""
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def one(face: int) -> None:
            try:
                with tracing.span("edit.paint", face=face, model=model):
                    own = replace(options, seed=(options.seed + face) % 2**63)
                    stream = self._diffusion_worker.paint(model, conditions[face], own, previews, limit_s)
                    async with aclosing(stream) as events:
                        async for event in events:
                            queue.put_nowait((face, event))
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.ensure_future(one(face)) for face in range(len(conditions))]
        try:
            left = len(tasks)
            while left:
                event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    left -= 1
                else:
                    yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def easel_of(face_worker: Any, diffusion_worker: Any) -> Any:
    """Who makes edits with these two: the easel that stands beside a far eye, or one in this process."""
    return getattr(face_worker, "easel", None) or EditPipeline(face_worker, diffusion_worker)
