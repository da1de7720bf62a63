"""One edit from its request to its picture: looked at, composed, painted, pasted, measured.

Path: `EditRequest`, `EditInput` -> `Easel.edit`, beside an eye -> `CompletedEdit`. Where no model is asked for, or there is none, the eye's
preview is the edit.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rigface.telemetry.json_logging import log_fields
from serve.content_cache import picture_id
from serve.inference.edit_pipeline import EditedImage, easel_of
from serve.messages import EditInput, OutputOptions, SamplingOptions
from serve.problems import ApiError
from serve.schemas import PREVIEW, EditRequest, EditResult
from serve.security.api_keys import Key
from serve.telemetry import metrics, tracing

MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
PREVIEW_QUALITY = 82
TYPES = ("image/png", "image/jpeg", "image/webp", "application/json", "text/event-stream")
LOG = logging.getLogger("rigface.serve")
Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False)
class Plan:
    """An edit that may begin."""

    asked: EditRequest
    edit_input: EditInput
    output_options: OutputOptions
    key: Key
    request_id: str


@dataclass(eq=False)
class CompletedEdit:
    """A finished edit.

    Args:
        data: the encoded picture.
        seconds: by phase.
    """

    plan: Plan
    model: str
    data: bytes = b""
    asked: list[dict[str, float]] = field(default_factory=list)
    achieved: list[dict[str, float] | None] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def media_type(self) -> str:
        """Of `data`."""
        return MEDIA[self.plan.output_options.format]

    def result(self) -> EditResult:
        """As JSON has it."""
        return EditResult(
            image=base64.b64encode(self.data).decode(), media_type=self.media_type, picture=self.plan.edit_input.picture,
            model=self.model, seed=self.plan.asked.seed, asked=_rounded(self.asked), achieved=_rounded(self.achieved),
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
        )  # fmt: skip

    def headers(self) -> dict[str, str]:
        """As a picture's headers have it."""
        return {
            "RigFace-Asked": json.dumps(_rounded(self.asked)),
            "RigFace-Achieved": json.dumps(_rounded(self.achieved)),
            "RigFace-Seed": str(self.plan.asked.seed),
            "RigFace-Model": self.model,
            "RigFace-Picture": self.plan.edit_input.picture,
            "Server-Timing": server_timing(self.seconds),
            "Cache-Control": "no-store",
        }


class Editing:
    """Edits with an eye and a painter, wherever they live."""

    def __init__(self, services: Any, numbers: Any) -> None:
        self._services, self._numbers = services, numbers

    def plan(self, asked: EditRequest, edit_input: EditInput, kind: str, key: Key, request_id: str) -> Plan:
        """What will be done, once it is known how the caller wants it."""
        form = {media: name for name, media in MEDIA.items()}.get(kind) or asked.format or "png"
        record = {"seed": asked.seed, **_record(request_id)}
        bare = asked.model_copy(update={"picture": None, "target": None, "targets": {}})  # they are in the wish, once
        return Plan(bare, edit_input, OutputOptions(form, record), key, request_id)  # type: ignore[arg-type]

    async def preview(self, edit_input: EditInput, key: Key, request_id: str) -> Any:
        """As `Eye.preview`: marked, with a manifest, and in the audit log like every edit."""
        record = {"model": PREVIEW, **_record(request_id), "max_side": edit_input.max_side}
        output_options = OutputOptions("jpeg", record, PREVIEW_QUALITY)
        made = await self.ask(edit_input, lambda w: self._services.face_worker.preview(w, output_options))
        if self._services.audit_log is not None:
            await asyncio.to_thread(
                self._services.audit_log, _entry(key, edit_input, made.data, {"what": "preview", **record})
            )
        return made

    async def ask(self, edit_input: EditInput, method: Callable[[EditInput], Awaitable[Answer]]) -> Answer:
        """By hash first; where the eye has forgotten a picture, with all bytes."""
        try:
            return await method(replace(edit_input, pictures={}))
        except ApiError as trouble:
            if trouble.slug != "unknown-picture":
                raise
            return await method(edit_input)

    async def whole(self, plan: Plan) -> CompletedEdit:
        """The edit without its steps."""
        done = None
        async with aclosing(self._run(plan, previews=None)) as events:
            async for event in events:
                done = event
        if not isinstance(done, CompletedEdit):
            raise RuntimeError("an edit ended without a result")
        return done

    async def steps(self, plan: Plan) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Events of a stream: `progress` any number of times, then `result`."""
        async with aclosing(self._run(plan, plan.asked.previews)) as events:
            async for event in events:
                if isinstance(event, CompletedEdit):
                    yield "result", event.result().model_dump()
                else:
                    yield "progress", event

    async def _run(self, plan: Plan, previews: int | None) -> AsyncGenerator[Any, None]:
        face_worker, diffusion_worker, edit_input, asked = (
            self._services.face_worker,
            self._services.diffusion_worker,
            plan.edit_input,
            plan.asked,
        )
        began = time.monotonic()
        model = asked.model or next(m.name for m in await diffusion_worker.models() if m.default)
        output_options = replace(plan.output_options, record={**plan.output_options.record, "model": model})
        shown: dict[str, Any] = {}
        done = CompletedEdit(
            replace(plan, edit_input=replace(edit_input, pictures={})), model
        )  # it may be kept: without the source's bytes
        if model == PREVIEW and edit_input.edit.prompt:
            raise ApiError(
                "bad-request", "edit.prompt: the preview hears no words; ask for a model with a text encoder"
            )
        if model == PREVIEW or edit_input.edit.is_nothing:  # nothing asked is the source to the bit, as `Editor` has it
            yield {"phase": "preview", "step": 0, "steps": 1}
            with tracing.span("edit.preview"):
                finished = await self.ask(edit_input, lambda w: face_worker.edit_without_model(w, output_options))
        else:
            yield {"phase": "look", "step": 0, "steps": asked.steps or 0}
            try:
                async with aclosing(
                    self._by_model(replace(plan, output_options=output_options), model, previews)
                ) as events:
                    async for event in events:
                        if isinstance(event, EditedImage):
                            finished, done.seconds = event.finished, event.seconds
                        else:
                            shown = event if "preview" in event else shown
                            yield event
            except BaseException:  # also a caller who leaves: with a picture in hand that nothing else would tell of
                if shown and self._services.audit_log is not None:
                    record = {
                        "what": "on the way",
                        **output_options.record,
                        "step": shown["step"],
                        "steps": shown["steps"],
                    }
                    self._services.audit_log(_entry(plan.key, edit_input, base64.b64decode(shown["preview"]), record))
                raise
        done.data, done.asked, done.achieved = finished.data, finished.asked, finished.achieved
        done.seconds["total"] = time.monotonic() - began
        self._count(done)
        if self._services.audit_log is not None:
            await asyncio.to_thread(
                self._services.audit_log, _entry(plan.key, edit_input, done.data, output_options.record)
            )
        yield done

    def _count(self, done: CompletedEdit) -> None:
        self._numbers(metrics.EDITS, model=done.model)
        self._numbers(metrics.FACES_EDITED, len(done.asked), model=done.model)
        for phase, seconds in done.seconds.items():
            self._numbers(metrics.EDIT_SECONDS, seconds, phase=phase)
        said = {"model": done.model, "faces": len(done.asked), "seconds": done.seconds}
        LOG.info("edit", extra=log_fields(request_id=done.plan.request_id, key=done.plan.key.name, **said))

    async def _by_model(self, plan: Plan, model: str, previews: int | None) -> AsyncGenerator[Any, None]:
        """As `Easel.edit`: by hash first; where the eye has forgotten a picture, with all bytes."""
        services, edit_input, asked = self._services, plan.edit_input, plan.asked
        easel = easel_of(services.face_worker, services.diffusion_worker)
        for given in (replace(edit_input, pictures={}), edit_input):
            stream = easel.edit(given, plan.output_options, model, _options(asked), previews, services.limits.edit_s)
            try:
                async with aclosing(stream) as events:
                    async for event in events:
                        yield event
                return
            except ApiError as trouble:
                if trouble.slug != "unknown-picture" or given is edit_input:
                    raise


def _options(asked: EditRequest) -> SamplingOptions:
    g, words = asked.guidance, asked.edit.prompt or None
    return SamplingOptions(
        asked.seed, asked.steps, asked.scheduler, g.identity, g.attributes, g.text, asked.strength, words
    )


def _record(request_id: str) -> dict[str, Any]:
    """What picture, manifest and audit log all have, by which one leads to the others."""
    return {"mark": secrets.token_hex(4), "request": request_id}


def _entry(key: Key, edit_input: EditInput, data: bytes, record: dict[str, Any]) -> dict[str, Any]:
    """A line of the audit log."""
    more = {("request_id" if name == "request" else name): value for name, value in record.items()}
    hashes = {"in": edit_input.picture, "out": picture_id(data), "from": edit_input.traits}
    return {"key": key.name, **hashes, "edit": edit_input.edit.to_dict(), **more}


def server_timing(seconds: dict[str, float]) -> str:
    """Phases as the header of that name has them."""
    return ", ".join(f"{name};dur={1e3 * value:.1f}" for name, value in seconds.items())


def sse(name: str, content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


def wanted_type(accept: str) -> str:
    """The best of `TYPES` for an Accept header; PNG where anything goes.

    Raises:
        Trouble: `not-acceptable`.
    """
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
