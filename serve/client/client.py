"""The service as Python functions, over httpx alone: no torch, no Ray, no pictures but bytes.

    with Client("http://127.0.0.1:8000", key="rf_...") as faces:
        seen = faces.reconstruct(open("her.jpg", "rb").read())
        made = faces.edit(seen["picture"], {"yaw_deg": 15, "expression": {"smile": 0.6}})
        open("out.png", "wb").write(made.image)

        job = faces.edit_video(open("clip.mp4", "rb").read(), {"yaw_deg": 15, "relative": True})
        open("out.mp4", "wb").write(faces.results(faces.wait(job["id"]))[0])

Retries where it is safe: what was refused for its rate or for want of room, and connections that broke. An edit carries an
Idempotency-Key, and so does a job, so that one which is sent twice is done once. A picture that was sent through this client may be
named afterwards; where the service has forgotten it, or another door of it never saw it, the client sends it again.

Answers are dicts, as the service's JSON has them, with the types of `answers.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rigface.extras import extra
from serve.client.types import FacesAnswer, Job, Model, Progress, Verdict

with extra("client"):
    import httpx

AGAIN = (429, 502, 503)
PROBLEM = "application/problem+json"
ENDED = ("done", "failed", "cancelled")
Picture = bytes | str
"""The bytes of a picture, the name ("sha256:...") of one that was sent before, or a pre-signed address that the service allows."""
Clip = bytes | str
"""The bytes of a video, or a pre-signed address that the service allows."""


class Refused(Exception):
    """The service said no; `slug` is the last part of the problem's type, `document` all of it."""

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


class Client:
    """A connection to one service; close it, or use it in a `with`.

    Args:
        tries: of each request, the first included.
        keep_mb: of pictures that were sent, kept here so that they can be sent again after the service has forgotten them.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        timeout_s: float = 150.0,
        tries: int = 4,
        keep_mb: int = 64,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)
        self._tries, self._keep = tries, keep_mb * 2**20
        self._sent: OrderedDict[str, bytes] = OrderedDict()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def models(self) -> list[Model]:
        """What an edit may ask for."""
        return self._ask("GET", "/v1/models").json()["models"]

    def reconstruct(self, picture: Picture) -> FacesAnswer:
        """Faces from left to right, and the name of the picture for later calls."""
        return self._send("/v1/reconstruct", picture, {}).json()

    def preview(self, picture: Picture, edit: Mapping[str, Any], **options: Any) -> bytes:
        """A JPEG of the edit without a model. Options: the other fields of the request, such as `face`, `max_side`."""
        return self._send("/v1/preview", picture, {"edit": edit, **options}).content

    def edit(self, picture: Picture, edit: Mapping[str, Any], **options: Any) -> ClientResult:
        """An edit. Options: `target` and `targets` (pictures), `model`, `seed`, `steps`, `format` and so on.

        Raises:
            Refused: the service said no.
        """
        headers = {"Accept": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        return _made(self._send("/v1/edits", picture, {"edit": edit, **options}, headers).json())

    def stream(self, picture: Picture, edit: Mapping[str, Any], **options: Any) -> Iterator[Progress | ClientResult]:
        """The same with its progress, and at last what was made. Not retried, but where a picture has to be sent again."""
        rest = {"edit": edit, **options}
        try:
            yield from self._streamed(self._body(picture, rest))
        except Refused as refused:  # for an unknown picture: before anything came
            if not self._has(refused):
                raise
            yield from self._streamed(self._body(picture, rest, whole=True))

    def _streamed(self, body: dict[str, Any]) -> Iterator[Progress | ClientResult]:
        with self._http.stream("POST", "/v1/edits", json=body, headers={"Accept": "text/event-stream"}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _refused(answer)
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    if name == "error":
                        raise Refused(data)
                    yield _made(data) if name == "result" else data

    def verify(self, picture: bytes) -> Verdict:
        """Whether the service made this picture."""
        return self._send("/v1/verify", picture, {}).json()

    def edit_many(self, picture: Picture, edits: Sequence[Mapping[str, Any]], **options: Any) -> Job:
        """Queue many edits of one picture; result n is that of edit n. Options as of `edit`, and `webhook`.

        Returns:
            The job, as `job` gives it.
        """
        return self._submit({"kind": "batch", "edits": list(edits), **options}, picture=picture)

    def edit_video(self, clip: Clip, edit: Mapping[str, Any], **options: Any) -> Job:
        """Queue the same edit for every frame of a video. Options also: `container`, `silent`."""
        return self._submit({"kind": "video", "edit": edit, **options}, clip=clip)

    def animate(self, picture: Picture, clip: Clip, edit: Mapping[str, Any] | None = None, **options: Any) -> Job:
        """Queue a video of the picture whose face moves as the clip's does. Options also: `take`, `absolute`, `neutral`."""
        return self._submit({"kind": "animation", "edit": edit or {}, **options}, picture=picture, clip=clip)

    def job(self, name: str) -> Job:
        """How far a job is: `state`, `finished`, `total`, `results` and so on."""
        return self._ask("GET", f"/v1/jobs/{name}").json()

    def jobs(self) -> list[Job]:
        """This key's jobs, the newest first."""
        return self._ask("GET", "/v1/jobs").json()["jobs"]

    def wait(
        self, name: str, *, every_s: float = 1.0, limit_s: float = 7200.0,
        told: Callable[[Job], None] | None = None,
    ) -> Job:  # fmt: skip
        """The job once it is done; `told` is called with how far it is.

        Raises:
            Refused: it failed, and why; or it was cancelled.
            TimeoutError: it has not ended within `limit_s`; it goes on.
        """
        end = time.monotonic() + limit_s
        while (job := self.job(name))["state"] not in ENDED:
            if told is not None:
                told(job)
            if time.monotonic() > end:
                raise TimeoutError(f"job {name} is {job['state']}, {job['finished']} of {job['total']}")
            time.sleep(every_s)
        if job["state"] != "done":
            raise Refused(job["error"] or {"title": "the job was cancelled"})
        return job

    def result(self, name: str, number: int = 0) -> bytes:
        """A picture of a batch, or a job's video."""
        return self._ask("GET", f"/v1/jobs/{name}/results/{number}", follow_redirects=True).content

    def results(self, job: Job) -> list[bytes]:
        """All that are there, in order."""
        return [self.result(job["id"], number) for number in job["results"]]

    def cancel(self, name: str) -> Job:
        """Stop a job; results so far stay."""
        return self._ask("POST", f"/v1/jobs/{name}/cancel").json()

    def remove(self, name: str) -> None:
        """Stop a job and remove it with its files."""
        self._ask("DELETE", f"/v1/jobs/{name}")

    def _submit(self, rest: Mapping[str, Any], **files: bytes | str) -> Job:
        """Bytes go as parts, which is a third less than base64; the rest as JSON."""

        def options(whole: bool) -> dict[str, Any]:
            given = {
                name: self._sent.get(file, file) if whole and isinstance(file, str) else file
                for name, file in files.items()
            }
            parts: dict[str, Any] = {name: (name, data) for name, data in given.items() if isinstance(data, bytes)}
            named = {name: self._ref(place) for name, place in given.items() if isinstance(place, str)}
            return {"files": {**parts, "request": (None, json.dumps({**named, **self._refs(rest, whole)}))}}

        return self._known("/v1/jobs", options, {"Idempotency-Key": uuid.uuid4().hex}).json()

    def _send(
        self, path: str, picture: Picture, rest: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return self._known(path, lambda whole: {"json": self._body(picture, rest, whole)}, headers)

    def _known(
        self, path: str, options: Callable[[bool], dict[str, Any]], headers: Mapping[str, str] | None
    ) -> httpx.Response:
        """With pictures by name where they have one; where the service does not know one of them, with the pictures themselves."""
        try:
            return self._ask("POST", path, headers=headers, **options(False))
        except Refused as refused:
            if not self._has(refused):
                raise
        return self._ask("POST", path, headers=headers, **options(True))

    def _has(self, refused: Refused) -> bool:
        """Whether this was refused for want of a picture that is here."""
        return refused.slug == "unknown-picture" and refused.document.get("picture") in self._sent

    def _body(self, picture: Picture, rest: Mapping[str, Any], whole: bool = False) -> dict[str, Any]:
        return {"picture": self._ref(picture, whole), **self._refs(rest, whole)}

    def _refs(self, options: Mapping[str, Any], whole: bool) -> dict[str, Any]:
        out = dict(options)
        if "target" in out:
            out["target"] = self._ref(out["target"], whole)
        if "targets" in out:
            out["targets"] = {trait: self._ref(picture, whole) for trait, picture in out["targets"].items()}
        return out

    def _ref(self, picture: Picture, whole: bool = False) -> dict[str, str]:
        data = self._sent.get(picture) if whole and isinstance(picture, str) else picture
        if isinstance(data, bytes):
            self._remember(data)
            return {"base64": base64.b64encode(data).decode()}
        named = str(picture)
        return {"id": named} if named.startswith("sha256:") else {"url": named}

    def _remember(self, data: bytes) -> None:
        name = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._sent[name] = data
        self._sent.move_to_end(name)
        while sum(map(len, self._sent.values())) > self._keep:
            self._sent.popitem(last=False)

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
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
                if not (answer.status_code in AGAIN or _lost(answer)) or not left:
                    raise _refused(answer)
                wait = float(answer.headers.get("retry-after", 1))
            time.sleep(min(wait, 30.0) * random.uniform(0.8, 1.3))
        raise AssertionError("unreachable")


def check_webhook(
    body: bytes, header: str, secret: str, *, now: float | None = None, old_s: float = 300.0
) -> dict[str, Any]:
    """A webhook's content, if it is the service's and fresh.

    Args:
        header: `RigFace-Signature`.
        secret: of your API key; the operator gives it.
        old_s: a message that is older is refused, so that nobody can send a captured one again for ever.

    Raises:
        ValueError: it is not.
    """
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    at = parts.get("t", "")
    expected = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, parts.get("v1", "")):
        raise ValueError("the signature is not the service's")
    if abs((time.time() if now is None else now) - int(at)) > old_s:
        raise ValueError("the message is too old")
    return json.loads(body)


def _lost(answer: httpx.Response) -> bool:
    """Whether it comes from what stands before the service, whose door was lost while at work on this."""
    return answer.status_code >= 500 and not answer.headers.get("content-type", "").startswith(PROBLEM)


def _made(content: Mapping[str, Any]) -> ClientResult:
    names = ("media_type", "asked", "achieved", "model", "seed")
    return ClientResult(base64.b64decode(content["image"]), **{name: content[name] for name in names})


def _refused(answer: httpx.Response) -> Refused:
    try:
        return Refused(answer.json())
    except ValueError:
        return Refused({"title": f"the service answered {answer.status_code}", "status": answer.status_code})
