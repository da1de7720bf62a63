"""Tell a caller that their job has ended: a signed message to an address of theirs, again until it is taken.

Path: a job that has ended -> `Webhooks.tell` -> POST, with

    RigFace-Signature: t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>", hex>
    RigFace-Delivery: <the job's id>, the same for each attempt

The secret of the service is the environment's RIGFACE_WEBHOOK_SECRET; each API key signs with one of its own that is derived from
it (`rigface serve key secret NAME`), so that one caller cannot speak as the service to another. `client.check_webhook` is the
receiver's half. A message may come twice (the service was killed before it wrote down that it was taken): go by the delivery.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from typing import Any

from serve.problems import ApiError
from serve.schemas import JobState
from serve.security.url_allowlist import UrlAllowlist

VARIABLE = "RIGFACE_WEBHOOK_SECRET"
MOST_TRIES = 10
FIRST_S, LONGEST_S = 5.0, 3600.0
ANSWER_S = 10.0


def secret_of(key: str, master: str) -> str:
    """What messages about the jobs of an API key are signed with."""
    return hmac.new(master.encode(), key.encode(), hashlib.sha256).hexdigest()


def signature(body: bytes, secret: str, at: int) -> str:
    """The header."""
    code = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={code}"


def wait_s(tries: int) -> float:
    """Until the next attempt, after so many."""
    return min(FIRST_S * 2.0 ** (tries - 1), LONGEST_S)


class Webhooks:
    """Messages to the addresses that the operator allows.

    Args:
        places: of this purpose.
        master: None: the environment's.
    """

    def __init__(self, places: UrlAllowlist, master: str | None = None) -> None:
        self._places = places
        self._master = os.environ.get(VARIABLE, "") if master is None else master

    def check(self, address: str) -> None:
        """Refuse an address that will not be told.

        Raises:
            Trouble: `bad-request`.
        """
        if not self._master:
            raise ApiError("bad-request", f"webhook: this service has no secret to sign with ({VARIABLE})")
        self._places.check(address, "webhook")

    async def tell(self, address: str, key: str, job: JobState) -> bool:
        """Whether it was taken: answered with a status of 200 to 299."""
        content: dict[str, Any] = {"event": f"job.{job.state}", "job": job.model_dump(mode="json")}
        body = json.dumps(content).encode()
        headers = {
            "Content-Type": "application/json",
            "RigFace-Signature": signature(body, secret_of(key, self._master), int(time.time())),
            "RigFace-Delivery": job.id,
        }
        try:
            return 200 <= await self._places.post(address, "webhook", body, headers, ANSWER_S) < 300
        except ApiError:
            return False
