"""What can go wrong for a caller, as problem details (RFC 9457) with stable types.

Path: an exception anywhere in the service -> `problem_of` -> `application/problem+json`, or the `error` event of a stream.

A caller is told what is wrong with a request by our own errors only, `EXPECTED`. Any other, a `ValueError` of some library
included, is a mistake of ours: 500, logged where it is met (`noted`), and nothing of it is said, as its text may name anything.

`type` is `urn:rigface:problem:<slug>`: a name, which no client has to resolve. Slugs never change; texts may. A document
never holds a file's path, a stack or a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rigface.errors import BadEdit, BadInput, BadVideo, NoFace, StorageGone

PREFIX = "urn:rigface:problem:"
KNOWN = {  # slug -> status, title
    "bad-request": (422, "The request does not fit its description"),
    "bad-image": (422, "A picture cannot be used"),
    "bad-clip": (422, "A clip cannot be used"),
    "no-face": (422, "No such face in the picture"),
    "unknown-picture": (404, "The picture is not known here; send its bytes"),
    "unknown-model": (404, "There is no such model"),
    "unknown-job": (404, "There is no such job"),
    "not-found": (404, "There is nothing at this address"),
    "method-not-allowed": (405, "This address does not take that method"),
    "not-acceptable": (406, "None of the accepted types can be made"),
    "too-slow": (408, "The request came too slowly"),
    "too-large": (413, "The request is too large"),
    "unsupported-type": (415, "The content type cannot be read"),
    "unauthorized": (401, "A valid API key is needed"),
    "forbidden": (403, "This key may not do that"),
    "no-consent": (403, "This service edits only people who have enrolled"),
    "refused": (403, "The policy of this service refuses this edit"),
    "conflict": (409, "The request contradicts an earlier one"),
    "rate-limited": (429, "Too many requests"),
    "busy": (503, "The service is at its capacity"),
    "draining": (503, "The service is about to stop"),
    "timeout": (504, "The work did not end within its time"),
    "internal": (500, "Something broke on our side"),
}


@dataclass
class ApiError(Exception):
    """A refusal with a stable name.

    Args:
        slug: a key of `KNOWN`.
        detail: one sentence about this occurrence.
        retry_after_s: when to come again; becomes `Retry-After`.
        more: further members of the document.
    """

    slug: str
    detail: str = ""
    retry_after_s: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.slug, self.detail, self.retry_after_s, self.more)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KNOWN[self.slug][0]

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        out = {"Cache-Control": "no-store"}
        if self.retry_after_s is not None:
            out["Retry-After"] = str(max(1, round(self.retry_after_s)))
        if self.slug == "unauthorized":
            out["WWW-Authenticate"] = "Bearer"
        return out

    def document(self, request_id: str = "") -> dict[str, Any]:
        """The problem document."""
        status, title = KNOWN[self.slug]
        out: dict[str, Any] = {"type": PREFIX + self.slug, "title": title, "status": status}
        if self.detail:
            out["detail"] = self.detail
        if request_id:
            out["instance"] = f"urn:request:{request_id}"
        return out | self.more


EXPECTED = (ApiError, BadInput, BadEdit, StorageGone)
"""What callers are told of in so many words."""


def problem_of(error: BaseException) -> ApiError:
    """The trouble that an exception means to a caller; what nobody foresaw is `internal`, and says nothing of itself."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NoFace):
        return ApiError("no-face", error.reason)
    if isinstance(error, BadVideo):
        return ApiError("bad-clip", error.reason)
    if isinstance(error, BadInput):
        return ApiError("bad-image", error.reason)
    if isinstance(error, BadEdit):
        return ApiError("bad-request", str(error))
    if isinstance(error, StorageGone):
        return ApiError("busy", "where jobs are kept is away or full", 15)
    if isinstance(error, TimeoutError):
        return ApiError("timeout", retry_after_s=5)
    return ApiError("internal")
