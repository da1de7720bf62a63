"""Run one edit from its request to its result, and record it.

Path: `EditRequest`, `EditInput` -> `EditRunner` -> `EditService.edit` of a face worker -> `CompletedEdit`, a line of
the audit log. Without a model, the face worker's preview is the edit.
"""

import asyncio
import base64
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote

from rigface.edits import PREVIEW, EditWarning
from rigface.telemetry.json_logging import log_fields
from serve.content_cache import picture_id
from serve.limits import Limits
from serve.messages import EditedImage, EditInput, ModelEdit, OutputOptions, Preview, SamplingOptions
from serve.problems import ApiError
from serve.protocols import REFINER, DiffusionService, FaceService, chosen_model
from serve.schemas import EditProgress, EditRequest, EditResult, Sampling, Warned, without_files
from serve.security.api_keys import Key
from serve.telemetry import metrics, tracing

MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
PREVIEW_QUALITY = 82
_HEADER_SAFE = " !#$&'()*+,/:;<=>?@[]^`{|}"
TYPES = ("image/png", "image/jpeg", "image/webp", "application/json", "text/event-stream")
LOG = logging.getLogger("rigface.serve")
Answer = TypeVar("Answer")
AuditSink = Callable[[dict[str, Any]], None]


@dataclass
class EditServices:
    """Services and settings that edits need. `audit_log` is called after each edit."""

    face_worker: FaceService
    diffusion_worker: DiffusionService
    limits: Limits = field(default_factory=Limits)
    audit_log: AuditSink | None = None


@dataclass(frozen=True, eq=False)
class EditPlan:
    """A validated edit."""

    asked: EditRequest
    edit_input: EditInput
    output_options: OutputOptions
    key: Key
    request_id: str


@dataclass(eq=False)
class CompletedEdit:
    """An edit with its result."""

    plan: EditPlan
    model: str
    data: bytes = b""  # the encoded image
    asked: list[dict[str, float]] = field(default_factory=list)
    achieved: list[dict[str, float] | None] = field(default_factory=list)
    warnings: list[list[EditWarning]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # by phase

    @property
    def media_type(self) -> str:
        return MEDIA[self.plan.output_options.format]

    def result(self) -> EditResult:
        """As a JSON response."""
        return EditResult(
            image=base64.b64encode(self.data).decode(), media_type=self.media_type,
            picture=self.plan.edit_input.picture, model=self.model, seed=self.plan.asked.seed,
            asked=_rounded(self.asked), achieved=_rounded(self.achieved),
            warnings=[[Warned(**asdict(warning)) for warning in found] for found in self.warnings],
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
        )  # fmt: skip

    def headers(self) -> dict[str, str]:
        """As the headers of an image response."""
        return {
            "RigFace-Asked": json.dumps(_rounded(self.asked)),
            "RigFace-Achieved": json.dumps(_rounded(self.achieved)),
            "RigFace-Warnings": warnings_header(self.warnings),
            "RigFace-Seed": str(self.plan.asked.seed),
            "RigFace-Model": quote(self.model, safe=_HEADER_SAFE),  # headers are Latin-1
            "RigFace-Picture": self.plan.edit_input.picture,
            "Server-Timing": server_timing(self.seconds),
            "Cache-Control": "no-store",
        }


class EditRunner:
    """Runs edits with services in this process or behind handles."""

    def __init__(self, services: EditServices, numbers: metrics.GatewayMetrics) -> None:
        self._services, self._numbers = services, numbers

    def plan(self, asked: EditRequest, edit_input: EditInput, media_type: str, key: Key, request_id: str) -> EditPlan:
        """An edit whose response has the media type."""
        form = {media: name for name, media in MEDIA.items()}.get(media_type) or asked.format or "png"
        record = {"seed": asked.seed, **_new_record(request_id)}
        bare = without_files(asked)  # the input has the images
        return EditPlan(bare, edit_input, OutputOptions(form, record), key, request_id)  # type: ignore[arg-type]

    async def preview(self, edit_input: EditInput, key: Key, request_id: str) -> Preview:
        """As `FaceService.preview`; signed and in the audit log as every edit."""
        record = {"model": PREVIEW, **_new_record(request_id), "max_side": edit_input.max_side}
        output_options = OutputOptions("jpeg", record, PREVIEW_QUALITY)
        preview = await self.by_hash(edit_input, lambda i: self._services.face_worker.preview(i, output_options))
        await self._audit(_entry(key, edit_input, preview.data, {"what": "preview", **record}))
        return preview

    async def by_hash(self, edit_input: EditInput, method: Callable[[EditInput], Awaitable[Answer]]) -> Answer:
        """Call a method without the images' bytes, and again with them if the worker has not cached them."""
        try:
            return await method(replace(edit_input, pictures={}))
        except ApiError as problem:
            if problem.slug != "unknown-picture":
                raise
            return await method(edit_input)

    async def run(self, plan: EditPlan) -> CompletedEdit:
        """The edit without progress events."""
        last = None
        async with aclosing(self._run(plan, previews=None)) as events:
            async for event in events:
                last = event
        if not isinstance(last, CompletedEdit):
            raise RuntimeError("an edit ended without a result")
        return last

    async def events(self, plan: EditPlan) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Server-sent events: `progress` any number of times, then `result`."""
        async with aclosing(self._run(plan, plan.asked.previews)) as events:
            async for event in events:
                if isinstance(event, CompletedEdit):
                    yield "result", event.result().model_dump()
                else:
                    yield "progress", event.model_dump(exclude_none=True)

    async def _run(self, plan: EditPlan, previews: int | None) -> AsyncGenerator[EditProgress | CompletedEdit, None]:
        face_worker, edit_input, asked = self._services.face_worker, plan.edit_input, plan.asked
        began = time.monotonic()
        chosen = await chosen_model(self._services.diffusion_worker, asked.model)
        model, refiner = chosen.name, chosen.name if chosen.kind == REFINER else ""
        output_options = replace(plan.output_options, record={**plan.output_options.record, "model": model})
        plan = replace(plan, output_options=output_options)
        # The completed edit may be cached, so it goes without the source's bytes.
        completed = CompletedEdit(replace(plan, edit_input=replace(edit_input, pictures={})), model)
        if (refiner or model == PREVIEW) and any(one.edit.has_prompt for one in edit_input.edits):
            raise ApiError("bad-request", f"edit.prompt: {model} has no text encoder; name a model that has one")
        if refiner or model == PREVIEW or edit_input.is_nothing:  # an empty edit is the source to the bit
            yield EditProgress(phase="preview", step=0, steps=1)
            with tracing.span("edit.preview"):
                finished = await self.by_hash(
                    edit_input, lambda i: face_worker.edit_without_diffusion(i, output_options, refiner)
                )
        else:
            yield EditProgress(phase="look", step=0, steps=asked.steps or 0)
            last_preview: EditProgress | None = None
            try:
                options = sampling_options(asked, asked.seed, None)
                limit_s = self._services.limits.edit_timeout_s
                edit = ModelEdit(edit_input, output_options, model, options, previews, limit_s)
                async with aclosing(self._by_model(edit)) as events:
                    async for event in events:
                        if isinstance(event, EditedImage):
                            finished, completed.seconds = event.finished, event.seconds
                        else:
                            last_preview = event if event.preview else last_preview
                            yield event
            except BaseException:  # also a caller who leaves, with a preview that no other line would record
                if last_preview is not None and last_preview.preview and self._services.audit_log is not None:
                    steps = {"step": last_preview.step, "steps": last_preview.steps}
                    record = {"what": "progress", **output_options.record, **steps}
                    data = base64.b64decode(last_preview.preview)
                    self._services.audit_log(_entry(plan.key, edit_input, data, record))
                raise
        completed.data, completed.asked, completed.achieved = finished.data, finished.asked, finished.achieved
        completed.warnings = finished.warnings
        completed.seconds["total"] = time.monotonic() - began
        self._count(completed)
        await self._audit(_entry(plan.key, edit_input, completed.data, output_options.record))
        yield completed

    async def _audit(self, entry: dict[str, Any]) -> None:
        if self._services.audit_log is not None:
            await asyncio.to_thread(self._services.audit_log, entry)

    def _count(self, completed: CompletedEdit) -> None:
        self._numbers(metrics.EDITS, model=completed.model)
        self._numbers(metrics.FACES_EDITED, len(completed.asked), model=completed.model)
        for phase, seconds in completed.seconds.items():
            self._numbers(metrics.EDIT_SECONDS, seconds, phase=phase)
        plan, numbers = completed.plan, {"faces": len(completed.asked), "seconds": completed.seconds}
        LOG.info(
            "edit", extra=log_fields(request_id=plan.request_id, key=plan.key.name, model=completed.model, **numbers)
        )

    async def _by_model(self, edit: ModelEdit) -> AsyncGenerator[EditProgress | EditedImage, None]:
        """As `EditService.edit`, without the images' bytes; again with them if the worker has not cached them."""
        service = self._services.face_worker.edit_service(self._services.diffusion_worker)
        for attempt in (replace(edit, edit_input=replace(edit.edit_input, pictures={})), edit):
            try:
                async with aclosing(service.edit(attempt)) as events:
                    async for event in events:
                        yield event
                return
            except ApiError as problem:
                if problem.slug != "unknown-picture" or attempt is edit:
                    raise


def sampling_options(asked: Sampling, seed: int, prompt: str | None) -> SamplingOptions:
    """Settings of the sampler from a request."""
    g = asked.guidance
    return SamplingOptions(
        seed, asked.steps, asked.scheduler, g.identity, g.attributes, g.text, asked.strength, prompt or None, g.clip
    )


def _new_record(request_id: str) -> dict[str, Any]:
    """Fields that link the image's mark, its manifest and the audit log."""
    return {"mark": secrets.token_hex(4), "request": request_id}


def _entry(key: Key, edit_input: EditInput, data: bytes, record: dict[str, Any]) -> dict[str, Any]:
    """A line of the audit log."""
    more = {("request_id" if name == "request" else name): value for name, value in record.items()}
    return {"key": key.id, "in": edit_input.picture, "out": picture_id(data), **edit_input.record(), **more}


def warnings_header(warnings: list[list[EditWarning]]) -> str:
    """Warnings per face as a RigFace-Warnings header."""
    return json.dumps([[asdict(warning) for warning in found] for found in warnings])


def server_timing(seconds: dict[str, float]) -> str:
    """Phases as a Server-Timing header."""
    return ", ".join(f"{name};dur={1e3 * value:.1f}" for name, value in seconds.items())


def sse(name: str, content: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


def wanted_type(accept: str) -> str:
    """The best of `TYPES` for an Accept header, PNG for any type; else ApiError `not-acceptable`."""
    best = ("", 0.0)
    for part in accept.split(","):
        media, *parameters = (p.strip().lower() for p in part.split(";"))
        quality = next((_quality(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
        main = media.removesuffix("/*")
        found = next((t for t in TYPES if media in ("*/*", "", t) or t.split("/")[0] == main), "")
        if found and quality > best[1]:
            best = (found, quality)
    if not best[0]:
        raise ApiError("not-acceptable", f"this makes {', '.join(TYPES)}")
    return best[0]


def _quality(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


def _rounded(rows: list[Any]) -> list[Any]:
    return [None if row is None else {name: round(value, 4) for name, value in row.items()} for row in rows]
