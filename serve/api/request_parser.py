"""A request's bytes -> a typed request and its pictures, by content hash, and nothing larger than allowed.

Path: HTTP body (multipart or JSON) -> `read` -> `EditInput`, or `read_job` -> `JobSubmission`.

Multipart is for people and scripts (files as parts, the rest as JSON in the part `request`), JSON for programs. A picture
that was sent once can be named by its hash for as long as this door remembers it. Addresses (pre-signed ones of an object
store) are fetched only from places that the operator has listed; see `places.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from rigface.edits import EditSpec, Trait
from serve.content_cache import LruCache, picture_id
from serve.limits import MAX_PART_FILES
from serve.messages import EditInput, JobSubmission
from serve.problems import ApiError
from serve.schemas import BatchJob, ClipRef, JobRequest, PictureRef, PictureRequest, PreviewRequest
from serve.security.url_allowlist import UrlAllowlist

Asked = TypeVar("Asked", bound=PictureRequest)
TRAITS = get_args(Trait)
PARTS = ("picture", "target", *(f"target.{trait}" for trait in TRAITS))
FILES = ("picture", "clip", "target", "targets")
JOB: TypeAdapter[Any] = TypeAdapter(JobRequest)
FETCH_S, CLIP_S = 10.0, 60.0  # until a file has come from an object store


@dataclass(frozen=True)
class PictureStore:
    """Where pictures come from: this door's memory, and the addresses it may fetch.

    Args:
        kept: (owner, hash) -> bytes.
        places: where it may fetch from.
    """

    kept: LruCache
    url_allowlist: UrlAllowlist


async def read(
    request: Request, kind: type[Asked], picture_store: PictureStore, owner: str, most: int
) -> tuple[Asked, EditInput]:
    """The request and what it wishes.

    Raises:
        Trouble: `bad-request`, `unsupported-type`, `too-large`, `unknown-picture`.
    """
    known = PARTS if issubclass(kind, PreviewRequest) else PARTS[:1]
    asked, found = await _read(request, TypeAdapter(kind), picture_store, owner, most, known)
    return asked, _wish(asked, found)


async def read_job(request: Request, picture_store: PictureStore, owner: str, most: int) -> JobSubmission:
    """A job and its files; raises as `read`."""
    asked, found = await _read(request, JOB, picture_store, owner, most, (*PARTS, "clip"))
    for name in ("picture", "clip"):
        wants = name in type(asked).model_fields
        if wants != (name in found):
            raise ApiError(
                "bad-request", f"{name}: a {asked.kind} needs one" if wants else f"{name}: a {asked.kind} has none"
            )
    edits = asked.edits if isinstance(asked, BatchJob) else [asked.edit]
    own = {trait for trait in TRAITS if f"target.{trait}" in found}
    named = _givers(
        found, frozenset(own.union(*(e.take for e in edits))), "edits.take" if len(edits) > 1 else "edit.take"
    )
    edits = [replace(e, take=e.take | own) for e in edits]
    bare: dict[str, Any] = {
        name: {} if name == "targets" else None for name in FILES if name in type(asked).model_fields
    }
    bare |= {"edits": edits} if isinstance(asked, BatchJob) else {"edit": edits[0]}
    picture, clip = (found.get(name, ("", b""))[0] for name in ("picture", "clip"))
    used = {picture, clip, *named.values()} - {""}
    files = {key: data for key, data in found.values() if key in used}
    return JobSubmission(asked.model_copy(update=bare), files, picture, clip, named)


async def _read(
    request: Request, kind: TypeAdapter, picture_store: PictureStore, owner: str, most: int, known: Sequence[str]
) -> tuple[Any, dict[str, tuple[str, bytes]]]:
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    try:
        if media == "multipart/form-data":
            body, parts = await _multipart(request, known)
        elif media == "application/json":
            body, parts = await request.body(), {}
        else:
            raise ApiError("unsupported-type", f"want multipart/form-data or application/json, got {media[:60]!r}")
    except ClientDisconnect:
        raise ApiError("bad-request", "the request ended early") from None
    asked = _parse(kind, body or b"{}")
    refs: dict[str, Any] = {name: getattr(asked, name, None) for name in ("picture", "clip", "target")}
    refs |= {f"target.{trait}": ref for trait, ref in getattr(asked, "targets", {}).items()}
    found: dict[str, tuple[str, bytes]] = {}
    for name, ref in refs.items():
        if name in parts and ref is not None:
            raise ApiError("bad-request", f"{name}: given twice, as a part and in the request")
        if ref is not None:
            found[name] = await _fetched(ref, name, picture_store, owner, most)
    for name, data in parts.items():
        found[name] = picture_id(data), data
    for name, (key, data) in found.items():
        if name != "clip":
            picture_store.kept.put((owner, key), data)
    return asked, found


def _wish(asked: PictureRequest, found: dict[str, tuple[str, bytes]]) -> EditInput:
    if "picture" not in found:
        raise ApiError("bad-request", "picture: a source is needed, as the part `picture` or in the request")
    if not isinstance(asked, PreviewRequest):
        name, data = found["picture"]
        return EditInput(name, EditSpec(), {name: data}, face=asked.face)
    taken = asked.edit.take | {trait for trait in TRAITS if f"target.{trait}" in found}
    named = _givers(found, taken, "edit.take")
    used = {found["picture"][0], *named.values()}
    pictures: dict[str, bytes | None] = {key: data for key, data in found.values() if key in used}
    edit = replace(asked.edit, take=frozenset(taken))
    return EditInput(found["picture"][0], edit, pictures, named, asked.face, asked.max_side)


def _givers(found: dict[str, tuple[str, bytes]], taken: frozenset[Trait], where: str) -> dict[str, str]:
    """Trait -> the picture it is copied from."""
    named = {trait: found[f"target.{trait}"][0] for trait in TRAITS if f"target.{trait}" in found}
    if missing := sorted(taken - set(named)):
        if "target" not in found:
            raise ApiError("bad-request", f"{where}: {', '.join(missing)} must be copied from somebody: give a target")
        named |= {trait: found["target"][0] for trait in missing}
    return named


async def _multipart(request: Request, known: Sequence[str]) -> tuple[bytes, dict[str, bytes]]:
    body, parts = b"", {}
    try:
        form = await request.form(max_files=MAX_PART_FILES, max_fields=8, max_part_size=2**20)
    except HTTPException as error:  # what Starlette makes of a broken form
        raise ApiError("bad-request", str(error.detail)) from None
    async with _closing(form):
        for name, value in form.multi_items():
            data = await value.read() if isinstance(value, UploadFile) else value.encode()
            if name == "request":
                body = data
            elif name not in known:
                raise ApiError("bad-request", f"{name[:60]!r}: want one of {', '.join(('request', *known))}")
            elif name in parts:
                raise ApiError("bad-request", f"{name}: given twice")
            else:
                parts[name] = data
    return body, parts


class _closing:
    def __init__(self, form: Any) -> None:
        self._form = form

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: Any) -> None:
        await self._form.close()


def _parse(kind: TypeAdapter, body: bytes) -> Any:
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError("bad-request", "the request is not JSON") from None
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        wrong = [
            {"at": ".".join(map(str, e["loc"])), "reason": e["msg"].removeprefix("Value error, ")}
            for e in error.errors(include_url=False, include_input=False, include_context=False)[:20]
        ]
        first = f"{wrong[0]['at']}: {wrong[0]['reason']}" if wrong[0]["at"] else wrong[0]["reason"]
        raise ApiError("bad-request", first, more={"errors": wrong}) from None
    except RecursionError:
        raise ApiError("bad-request", "the request is nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


async def _fetched(
    ref: PictureRef | ClipRef, name: str, picture_store: PictureStore, owner: str, most: int
) -> tuple[str, bytes]:
    given = [field for field in type(ref).model_fields if getattr(ref, field) is not None]
    if len(given) != 1:
        raise ApiError("bad-request", f"{name}: give one of {', '.join(type(ref).model_fields)}")
    if isinstance(ref, PictureRef) and ref.id is not None:
        data = picture_store.kept.get((owner, ref.id))
        if data is None:
            raise ApiError("unknown-picture", more={"picture": ref.id})
        return ref.id, data
    if ref.base64 is not None:
        try:
            data = base64.b64decode(ref.base64, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError("bad-request", f"{name}.base64: not base64") from None
        return picture_id(data), data
    limit_s = CLIP_S if isinstance(ref, ClipRef) else FETCH_S
    data = await picture_store.url_allowlist.get(str(ref.url), f"{name}.url", most, limit_s)
    return picture_id(data), data
