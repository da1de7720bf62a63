"""Parse request bodies (multipart or JSON) into typed requests with their pictures by content hash.

Path: HTTP body -> `RequestParser.read` -> `EditInput`, or `read_job` -> `JobSubmission`.

Multipart is for people and scripts (files as parts, the rest as JSON in the part `request`), JSON for programs. A
picture that was sent once can be named by its hash while this gateway has it in memory. Addresses are fetched only if
the operator allows them; see `serve/security/url_allowlist.py`.

The bodies are not parameters of the routes: FastAPI takes one media type a route, and reads a body before the
dependencies that check the key, so callers without a key could have it buffered.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from rigface.edits import EditSpec, FaceEdit, Trait
from serve.content_cache import LruCache, picture_id
from serve.limits import MAX_JSON_VALUES, MAX_PART_FILES, Limits
from serve.messages import EditInput, JobSubmission, stored_pictures
from serve.problems import ApiError
from serve.schemas import (
    BatchJob,
    ClipRef,
    FaceEdits,
    FaceRequest,
    JobRequest,
    OneFace,
    PictureRef,
    PictureRequest,
    PreviewRequest,
    SeveralFaces,
    VideoJob,
    without_files,
)
from serve.security.url_allowlist import UrlAllowlist

Asked = TypeVar("Asked", bound=PictureRequest)
TRAITS = get_args(Trait)
TARGET_PARTS = rf"(faces\.\d{{1,2}}\.)?(mask|target(\.({'|'.join(TRAITS)}))?)"
PICTURE_PART, EDIT_PARTS = re.compile("picture"), re.compile(f"picture|{TARGET_PARTS}")
JOB_PARTS = re.compile(f"picture|clip|{TARGET_PARTS}")
PARTS_OF = {PICTURE_PART: "picture", EDIT_PARTS: "picture, mask, target, target.<trait> or faces.<n>.target.<trait>"}
PARTS_OF[JOB_PARTS] = f"clip, {PARTS_OF[EDIT_PARTS]}"
JOB: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)
FETCH_S, CLIP_S = 10.0, 60.0  # until a file has come from an object store
Files = dict[str, tuple[str, bytes]]
"""By part name: content hash and bytes."""


class RequestParser:
    """Parses requests; keeps their pictures in memory, so that callers may name them by hash."""

    def __init__(self, limits: Limits, url_allowlist: UrlAllowlist) -> None:
        self.kept = LruCache(limits.picture_store_mb * 2**20, len, "pictures")  # (owner, hash) -> bytes
        self._limits, self._url_allowlist = limits, url_allowlist

    async def read(self, request: Request, kind: type[Asked], owner: str) -> tuple[Asked, EditInput]:
        """A request about one picture; ApiError `bad-request`, `unsupported-type`, `too-large`, `unknown-picture`."""
        parts = EDIT_PARTS if issubclass(kind, PreviewRequest) else PICTURE_PART
        asked, files = await self._read(request, kind.model_validate_json, owner, self._limits.max_body_bytes, parts)
        if "picture" not in files:
            raise ApiError("bad-request", "picture: missing; send it as the part `picture` or in the request")
        name, data = files["picture"]
        edit_input = EditInput(name, (FaceEdit(asked.face),), {name: data})
        if isinstance(asked, PreviewRequest):
            edits = _face_edits(asked, files)
            used = {name, *(one.mask for one in edits)}.union(*(one.targets.values() for one in edits))
            pictures = {key: data for key, data in files.values() if key in used}
            edit_input = EditInput(name, edits, dict(pictures), asked.max_side)
        return asked, edit_input

    async def read_job(self, request: Request, owner: str) -> JobSubmission:
        """Parse a job with its files; raises as `read`."""
        asked, files = await self._read(request, JOB.validate_json, owner, self._limits.max_clip_bytes, JOB_PARTS)
        fields = type(asked).model_fields
        for name in ("picture", "clip"):
            if (name in fields) != (name in files):
                needed = "needs a" if name in fields else "takes no"
                raise ApiError("bad-request", f"{name}: a job of kind {asked.kind} {needed} {name}")
        change: dict[str, Any]
        if isinstance(asked, VideoJob) and asked.faces:
            faces = _face_edits(asked, files)
            bare = [{"face": one.face, "edit": one.edit} for one in faces]
            change = {"faces": [FaceRequest.model_validate(one) for one in bare]}
            traits = stored_pictures(faces)
        else:
            own = _own_traits(files)
            edits = [_copying(one, own) for one in (asked.edits if isinstance(asked, BatchJob) else [asked.edit])]
            takes = [edit.take for one in edits for edit in _edits_of(one)]
            taken = _traits(files, frozenset().union(*takes), "edits.take" if len(edits) > 1 else "edit.take")
            traits = {str(trait): name for trait, name in taken.items()}
            traits |= {"mask": files["mask"][0]} if "mask" in files else {}
            change = {"edits": edits} if isinstance(asked, BatchJob) else {"edit": edits[0]}
        picture, clip = (files.get(name, ("", b""))[0] for name in ("picture", "clip"))
        data = {key: data for key, data in files.values() if key in {picture, clip, *traits.values()}}
        return JobSubmission(without_files(asked).model_copy(update=change), data, picture, clip, traits)

    async def _read(
        self, request: Request, parse: Callable[[bytes], Any], owner: str, max_bytes: int, known: re.Pattern[str]
    ) -> tuple[Any, Files]:
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
        if (
            len(body) > self._limits.max_body_bytes or body.count(b",") > MAX_JSON_VALUES
        ):  # parsing blocks the event loop
            limits = f"{self._limits.max_body_bytes} bytes and {MAX_JSON_VALUES} values"
            raise ApiError("too-large", f"the limit of JSON is {limits}; send files as parts of a form")
        asked = _parsed(parse, body or b"{}")
        refs: dict[str, Any] = {name: getattr(asked, name, None) for name in ("picture", "clip")}
        for start, one in [("", asked), *((f"faces.{n}.", one) for n, one in enumerate(getattr(asked, "faces", ())))]:
            refs |= {f"{start}target.{trait}": ref for trait, ref in getattr(one, "targets", {}).items()}
            refs |= {f"{start}{name}": getattr(one, name, None) for name in ("target", "mask")}
        files: Files = {name: (await asyncio.to_thread(picture_id, data), data) for name, data in parts.items()}
        for name, ref in refs.items():
            if name in parts and ref is not None:
                raise ApiError("bad-request", f"{name}: given twice, as a part and in the request")
            if ref is not None:
                files[name] = await self._fetched(ref, name, owner, max_bytes)
        for name, (key, data) in files.items():
            if name != "clip":
                self.kept.put((owner, key), data)
        return asked, files

    async def _fetched(self, ref: ClipRef, name: str, owner: str, max_bytes: int) -> tuple[str, bytes]:
        if isinstance(ref, PictureRef) and ref.id is not None:
            data = self.kept.get((owner, ref.id))
            if data is None:
                raise ApiError("unknown-picture", more={"picture": ref.id})
            return ref.id, data
        if ref.base64 is not None:
            try:
                data = base64.b64decode(ref.base64, validate=True)
            except (binascii.Error, ValueError):
                raise ApiError("bad-request", f"{name}.base64: not base64") from None
        else:
            limit_s = FETCH_S if isinstance(ref, PictureRef) else CLIP_S
            data = await self._url_allowlist.get(str(ref.url), f"{name}.url", max_bytes, limit_s)
        return await asyncio.to_thread(picture_id, data), data


def _face_edits(asked: FaceEdits, files: Files) -> tuple[FaceEdit[str], ...]:
    """The edits of a request; of several faces only those that change something, or the first."""
    shared = {name: file for name, file in files.items() if not name.startswith("faces.")}
    for name in files.keys() - shared.keys():
        if int(name.split(".")[1]) >= len(asked.faces):
            raise ApiError("bad-request", f"{name}: the request has {len(asked.faces)} faces, counted from 0")
    out = []
    ones: list[FaceRequest | FaceEdits] = [*asked.faces] or [asked]
    for n, one in enumerate(ones):
        start = f"faces.{n}."
        own = {name.removeprefix(start): file for name, file in files.items() if name.startswith(start)}
        edit = replace(one.edit, take=one.edit.take | _own_traits(shared | own))
        where = f"{start * bool(asked.faces)}edit.take"
        mask = (shared | own).get("mask", (None,))[0]
        out.append(FaceEdit(one.face, edit, _traits(shared | own, edit.take, where), mask))
    return tuple([one for one in out if not one.edit.is_nothing] or out[:1])


def _edits_of(one: EditSpec | SeveralFaces) -> list[EditSpec]:
    return [one] if isinstance(one, EditSpec) else [each.edit for each in one.faces]


def _copying(one: EditSpec | SeveralFaces, traits: frozenset[Trait]) -> EditSpec | SeveralFaces:
    """An item of a batch whose edits also take these traits."""
    if isinstance(one, EditSpec):
        return replace(one, take=one.take | traits)
    faces = [OneFace(face=each.face, edit=replace(each.edit, take=each.edit.take | traits)) for each in one.faces]
    return SeveralFaces(faces=faces)


def _own_traits(files: Files) -> frozenset[Trait]:
    """Traits with a picture of their own."""
    return frozenset(trait for trait in TRAITS if f"target.{trait}" in files)


def _traits(files: Files, taken: frozenset[Trait], where: str) -> dict[Trait, str]:
    """Trait -> hash of the picture that it is copied from."""
    traits: dict[Trait, str] = {trait: files[f"target.{trait}"][0] for trait in _own_traits(files)}
    if missing := sorted(taken - set(traits)):
        if "target" not in files:
            raise ApiError("bad-request", f"{where}: {', '.join(missing)} needs a target picture to copy from")
        traits |= {trait: files["target"][0] for trait in missing}
    return traits


async def _multipart(request: Request, known: re.Pattern[str]) -> tuple[bytes, dict[str, bytes]]:
    body, parts = b"", {}
    try:
        async with request.form(max_files=MAX_PART_FILES, max_fields=8, max_part_size=2**20) as form:
            for name, value in form.multi_items():
                data = await value.read() if isinstance(value, UploadFile) else value.encode()
                if name == "request":
                    body = data
                elif not known.fullmatch(name):
                    raise ApiError("bad-request", f"{name[:60]!r}: want request, {PARTS_OF[known]}")
                elif name in parts:
                    raise ApiError("bad-request", f"{name}: given twice")
                else:
                    parts[name] = data
    except HTTPException as error:  # Starlette's, for a broken form
        raise ApiError("bad-request", str(error.detail)) from None
    return body, parts


def _parsed(parse: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return parse(body)
    except ValidationError as error:
        errors = [
            {"at": ".".join(map(str, e["loc"])), "reason": e["msg"].removeprefix("Value error, ")}
            for e in error.errors(include_url=False, include_input=False, include_context=False)[:20]
        ]
        first = f"{errors[0]['at']}: {errors[0]['reason']}" if errors[0]["at"] else errors[0]["reason"]
        raise ApiError("bad-request", first, more={"errors": errors}) from None
