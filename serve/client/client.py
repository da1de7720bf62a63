"""Python client of the service, over httpx.

    with Client("http://127.0.0.1:8000", key="rf_...") as client:
        found = client.reconstruct(open("her.jpg", "rb").read())
        result = client.edit(found.picture, {"yaw_deg": 15, "expression": {"smile": 0.6}})
        open("out.png", "wb").write(result.image)

        job = client.edit_video(open("clip.mp4", "rb").read(), {"yaw_deg": 15, "relative": True})
        open("out.mp4", "wb").write(client.results(client.wait(job.id))[0])

Retries broken connections, and requests refused for their rate or for lack of capacity. Edits and jobs carry an
Idempotency-Key, so a request that is sent twice is done once. A picture that was sent through this client may be named
by its hash afterwards; the client sends it again if the service does not have it any more.

Responses are the models of `serve/schemas.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rigface.extras import extra
from rigface.host_environment import is_loopback
from serve.schemas import (
    EditProgress,
    EditResult,
    JobList,
    JobState,
    ModelInfo,
    Models,
    Reconstruction,
    Verified,
    Warned,
)

with extra("client"):
    import httpx

RETRIED = (429, 502, 503)
PROBLEM = "application/problem+json"
ENDED = ("done", "failed", "cancelled")
FILES = ("picture", "clip", "target", "mask", "targets")
Picture = bytes | str
"""Bytes of a picture, the hash ("sha256:...") of one sent before, or a pre-signed address that is allowed."""
Clip = bytes | str
"""Bytes of a video, or a pre-signed address that is allowed."""


class Refused(Exception):
    """The service refused a request: `slug` is the last part of the problem's type, `document` the whole problem."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(document.get("detail") or document.get("title") or "refused")
        self.document = dict(document)
        self.slug = str(document.get("type", "")).rpartition(":")[2]
        self.status = document.get("status")


@dataclass(frozen=True)
class ClientResult:
    """An edited picture: its bytes, and one row of numbers per face."""

    image: bytes
    media_type: str
    asked: list[dict[str, float]]
    achieved: list[dict[str, float] | None]
    model: str
    seed: int
    warnings: list[list[Warned]] = field(default_factory=list)  # per edited face, what may look wrong


class Client:
    """Connection to one service; close it, or use it in a `with`.

    A request is tried `tries` times. `keep_mb` of pictures are kept, to send them again if the service has lost them.
    """

    def __init__(
        self, url: str, key: str = "", *, timeout_s: float = 150.0, tries: int = 4, keep_mb: int = 64,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        by_proxy = not is_loopback(httpx.URL(url).host)  # as the environment says
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport, trust_env=by_proxy
        )
        self._tries, self._keep = tries, keep_mb * 2**20
        self._sent: OrderedDict[str, bytes] = OrderedDict()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def models(self) -> list[ModelInfo]:
        """The models that an edit may ask for."""
        return Models.model_validate_json(self._request("GET", "/v1/models").content).models

    def reconstruct(self, picture: Picture) -> Reconstruction:
        """Faces from left to right, and the hash of the picture for later calls."""
        return Reconstruction.model_validate_json(self._send("/v1/reconstruct", {"picture": picture}).content)

    def preview(self, picture: Picture, edit: Mapping[str, Any], **options: Any) -> bytes:
        """Instant preview of an edit, a JPEG. Options: the other fields of the request, such as `face`, `max_side`."""
        return self._send("/v1/preview", {"picture": picture, "edit": edit, **options}).content

    def edit(self, picture: Picture, edit: Mapping[str, Any], **options: Any) -> ClientResult:
        """Edit a picture, or raise Refused. Options: `target`, `targets`, `mask` (pictures), `model`, `seed` ...

        Several faces: an empty edit, and `faces`, a list of dicts with `face`, `edit`, `target`, `targets`, `mask`.
        """
        headers = {"Accept": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        return _result(self._send("/v1/edits", {"picture": picture, "edit": edit, **options}, headers).content)

    def stream(
        self, picture: Picture, edit: Mapping[str, Any], **options: Any
    ) -> Iterator[EditProgress | ClientResult]:
        """Edit a picture: its progress, then the result. Retried only if a picture has to be sent again."""
        fields = {"picture": picture, "edit": edit, **options}
        try:
            yield from self._streamed(self._form(fields))
        except Refused as refused:  # an unknown picture is refused before the first event
            if not self._has(refused):
                raise
            yield from self._streamed(self._form(fields, whole=True))

    def _streamed(self, form: dict[str, Any]) -> Iterator[EditProgress | ClientResult]:
        with self._http.stream("POST", "/v1/edits", files=form, headers={"Accept": "text/event-stream"}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _refused(answer)
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    if name == "error":
                        raise Refused(json.loads(data))
                    yield _result(data) if name == "result" else EditProgress.model_validate_json(data)

    def verify(self, picture: bytes) -> Verified:
        """Check if the service made this picture."""
        return Verified.model_validate_json(self._send("/v1/verify", {"picture": picture}).content)

    def edit_many(self, picture: Picture, edits: Sequence[Mapping[str, Any]], **options: Any) -> JobState:
        """Queue many edits of one picture; result n is that of edit n. Options as of `edit`, and `webhook`."""
        return self._submit({"kind": "batch", "picture": picture, "edits": list(edits), **options})

    def edit_video(self, clip: Clip, edit: Mapping[str, Any], **options: Any) -> JobState:
        """Queue the same edit for every frame of a video. Options also: `container`, `silent`."""
        return self._submit({"kind": "video", "clip": clip, "edit": edit, **options})

    def animate(self, picture: Picture, clip: Clip, edit: Mapping[str, Any] | None = None, **options: Any) -> JobState:
        """Queue a video of the picture that moves as the clip does. Options also: `take`, `absolute`, `neutral`."""
        return self._submit({"kind": "animation", "picture": picture, "clip": clip, "edit": edit or {}, **options})

    def job(self, name: str) -> JobState:
        """Progress of a job."""
        return _job(self._request("GET", f"/v1/jobs/{name}"))

    def jobs(self) -> list[JobState]:
        """Jobs of this key, the newest first."""
        return JobList.model_validate_json(self._request("GET", "/v1/jobs").content).jobs

    def wait(
        self, name: str, *, every_s: float = 1.0, limit_s: float = 7200.0,
        on_progress: Callable[[JobState], None] | None = None,
    ) -> JobState:  # fmt: skip
        """Wait until a job is done; `on_progress` is called with each state before.

        Refused if the job failed, with its problem, or was cancelled; TimeoutError if it has not ended within `limit_s`
        and continues.
        """
        end = time.monotonic() + limit_s
        while (job := self.job(name)).state not in ENDED:
            if on_progress is not None:
                on_progress(job)
            if time.monotonic() > end:
                raise TimeoutError(f"job {name} is {job.state}, {job.finished} of {job.total}")
            time.sleep(every_s)
        if job.state != "done":
            raise Refused(job.error.model_dump() if job.error else {"title": "the job was cancelled"})
        return job

    def result(self, name: str, number: int = 0) -> bytes:
        """An image of a batch, or the video of a job."""
        return self._request("GET", f"/v1/jobs/{name}/results/{number}", follow_redirects=True).content

    def results(self, job: JobState) -> list[bytes]:
        """All results that a job has, in order."""
        return [self.result(job.id, number) for number in job.results]

    def cancel(self, name: str) -> JobState:
        """Stop a job; results so far stay."""
        return _job(self._request("POST", f"/v1/jobs/{name}/cancel"))

    def remove(self, name: str) -> None:
        """Stop a job and remove it with its files."""
        self._request("DELETE", f"/v1/jobs/{name}")

    def _submit(self, fields: Mapping[str, Any]) -> JobState:
        return _job(self._send("/v1/jobs", fields, {"Idempotency-Key": uuid.uuid4().hex}))

    def _send(self, path: str, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> httpx.Response:
        """POST with pictures by hash; if the service does not have one of them, again with their bytes."""
        try:
            return self._request("POST", path, headers=headers, files=self._form(fields))
        except Refused as refused:
            if not self._has(refused):
                raise
        return self._request("POST", path, headers=headers, files=self._form(fields, whole=True))

    def _has(self, refused: Refused) -> bool:
        """True if the service lacks a picture that this client has."""
        return refused.slug == "unknown-picture" and refused.document.get("picture") in self._sent

    def _form(self, fields: Mapping[str, Any], whole: bool = False) -> dict[str, Any]:
        """A form: bytes as parts, the rest as JSON; `whole`: pictures that were sent before as parts too."""
        rest, parts = {name: value for name, value in fields.items() if name not in FILES}, {}
        files = {name: fields[name] for name in FILES[:-1] if name in fields}
        files |= {f"target.{trait}": picture for trait, picture in fields.get("targets", {}).items()}
        if faces := fields.get("faces", []):
            rest["faces"] = [{name: value for name, value in one.items() if name not in FILES} for one in faces]
        for n, one in enumerate(faces):
            own = {f"target.{trait}": picture for trait, picture in one.get("targets", {}).items()}
            own |= {name: one[name] for name in ("target", "mask") if name in one}
            files |= {f"faces.{n}.{name}": picture for name, picture in own.items()}
        for name, file in files.items():
            data = self._sent.get(file) if whole and isinstance(file, str) else file
            if isinstance(data, bytes):
                parts[name] = (name, data)
                if name != "clip":
                    self._remember(data)
                continue
            place: dict[str, Any]
            ref, place, last = {"id" if file.startswith("sha256:") else "url": file}, rest, name
            if name.startswith("faces."):
                _, number, last = name.split(".", 2)
                place = rest["faces"][int(number)]
            if last.startswith("target."):
                place.setdefault("targets", {})[last.removeprefix("target.")] = ref
            else:
                place[last] = ref
        return {**parts, "request": (None, json.dumps(rest))}

    def _remember(self, data: bytes) -> None:
        name = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._sent[name] = data
        self._sent.move_to_end(name)
        while sum(map(len, self._sent.values())) > self._keep:
            self._sent.popitem(last=False)

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        for left in range(self._tries - 1, -1, -1):
            try:
                answer = self._http.request(method, path, **options)
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
                if not left:
                    raise
                wait = 0.5
            else:
                if answer.is_success:
                    return answer
                if not (answer.status_code in RETRIED or _lost(answer)) or not left:
                    raise _refused(answer)
                wait = float(answer.headers.get("retry-after", 1))
            time.sleep(min(wait, 30.0) * random.uniform(0.8, 1.3))
        raise AssertionError("unreachable")


def _lost(answer: httpx.Response) -> bool:
    """True for an error of a proxy in front of the service, which lost its gateway during the request."""
    return answer.status_code >= 500 and not answer.headers.get("content-type", "").startswith(PROBLEM)


def _job(answer: httpx.Response) -> JobState:
    return JobState.model_validate_json(answer.content)


def _result(content: str | bytes) -> ClientResult:
    found = EditResult.model_validate_json(content)
    image = base64.b64decode(found.image)
    return ClientResult(image, found.media_type, found.asked, found.achieved, found.model, found.seed, found.warnings)


def _refused(answer: httpx.Response) -> Refused:
    try:
        return Refused(answer.json())
    except ValueError:
        return Refused({"title": f"the service answered {answer.status_code}", "status": answer.status_code})
