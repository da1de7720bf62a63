"""Errors for callers: problem details (RFC 9457) with stable types.

Path: an exception anywhere in the service -> `problem_of` -> `application/problem+json`, or the `error` event of a
stream.

Only the errors in `EXPECTED` are described to callers. Any other, a `ValueError` of a library included, is an internal
error: 500, logged with its traceback, and without a detail, because its text may contain anything.

`type` is `urn:rigface:problem:<slug>`: a name, not an address. Slugs never change; texts may. A document never has a
file's path, a traceback or a picture.
"""

import errno
from dataclasses import dataclass, field
from typing import Any

from rigface.errors import BadEdit, BadInput, BadVideo, NoFace, StorageGone
from rigface.terminal import is_out_of_memory

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
PREFIX = "urn:rigface:problem:"
KNOWN = {  # slug -> status, title
    "bad-request": (422, "The request is not valid"),
    "bad-image": (422, "The picture cannot be used"),
    "bad-clip": (422, "The video cannot be used"),
    "no-face": (422, "No such face in the picture"),
    "unknown-picture": (404, "Unknown picture; send its bytes"),
    "unknown-model": (404, "Unknown model"),
    "unknown-job": (404, "Unknown job"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "not-acceptable": (406, "None of the accepted media types is available"),
    "too-slow": (408, "The request body arrived too slowly"),
    "too-large": (413, "The request is too large"),
    "bad-range": (416, "No such range in the result"),
    "unsupported-type": (415, "The content type is not supported"),
    "unauthorized": (401, "A valid API key is required"),
    "forbidden": (403, "The API key lacks permission"),
    "no-consent": (403, "Only enrolled people may be edited"),
    "refused": (403, "The policy of this service refuses the edit"),
    "conflict": (409, "The request conflicts with an earlier one"),
    "rate-limited": (429, "Too many requests"),
    "busy": (503, "The service is at its capacity"),
    "draining": (503, "The service is shutting down"),
    "timeout": (504, "The time limit was exceeded"),
    "internal": (500, "Internal error"),
}


@dataclass
class ApiError(Exception):
    """An error with a stable name."""

    slug: str  # a key of `KNOWN`
    detail: str = ""  # one sentence about this occurrence
    retry_after_s: float | None = None  # becomes the header `Retry-After`
    more: dict[str, Any] = field(default_factory=dict)  # further members of the document

    def __post_init__(self) -> None:
        super().__init__(self.slug, self.detail, self.retry_after_s, self.more)

    @property
    def status(self) -> int:
        return KNOWN[self.slug][0]

    @property
    def headers(self) -> dict[str, str]:
        out = {"Cache-Control": "no-store"}
        if self.retry_after_s is not None:
            out["Retry-After"] = str(max(1, round(self.retry_after_s)))
        if self.slug == "unauthorized":
            out["WWW-Authenticate"] = "Bearer"
        return out

    def document(self, request_id: str = "") -> dict[str, Any]:
        status, title = KNOWN[self.slug]
        out: dict[str, Any] = {"type": PREFIX + self.slug, "title": title, "status": status}
        if self.detail:
            out["detail"] = self.detail
        if request_id:
            out["instance"] = f"urn:request:{request_id}"
        return out | self.more


EXPECTED = (ApiError, BadInput, BadEdit, StorageGone)
"""Errors whose reason is given to the caller."""


def problem_of(error: BaseException) -> ApiError:
    """The error for the caller; an unexpected exception is `internal`, without a detail."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BadInput):
        slug = "no-face" if isinstance(error, NoFace) else "bad-clip" if isinstance(error, BadVideo) else "bad-image"
        return ApiError(slug, error.reason)
    if isinstance(error, BadEdit):
        return ApiError("bad-request", str(error))
    if isinstance(error, StorageGone) or getattr(error, "errno", None) in DISK_ERRORS:
        return ApiError("busy", "the job storage is unavailable or full", 15)
    if is_out_of_memory(error):
        return ApiError("busy", "there is not enough memory for this request now", 15)
    if isinstance(error, TimeoutError):
        return ApiError("timeout", retry_after_s=5)
    if type(error).__module__.startswith("av."):  # of FFmpeg, about the file
        return ApiError("bad-clip", "it cannot be decoded or encoded")
    return ApiError("internal")
