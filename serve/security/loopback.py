"""Access to a service without API keys: from this machine, by a loopback name, and from no other site's page.

Path: a request of an open service -> `check`. Without the check of `Host`, a site could read results by DNS rebinding;
without that of `Origin`, any page in the user's browser could post edits and jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from serve.problems import ApiError

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def check(request: HTTPConnection, names: frozenset[str] = LOOPBACK) -> None:
    """Refuse, as `forbidden`, a request from or to a host that is none of `names`, or from another site's page."""
    host = request.headers.get("host", "").lower()
    if (request.client and request.client.host not in names) or _hostname(host) not in names:
        reason = (
            "a service without API keys answers only on this machine, at 127.0.0.1 or localhost; start it with --keys"
        )
        raise ApiError("forbidden", reason)
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    if (origin is not None and origin.rpartition("://")[2] != host) or site not in ("none", "same-origin"):
        raise ApiError("forbidden", "a service without API keys takes no requests from pages of other sites")


def _hostname(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None
