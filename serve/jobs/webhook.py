"""Webhooks about ended jobs, signed by the Standard Webhooks scheme (https://www.standardwebhooks.com).

Path: an ended job -> `Webhooks.send` -> POST with the headers `webhook-id` (the job's id, the same for each attempt),
`webhook-timestamp` and `webhook-signature`.

The service's secret is the environment's RIGFACE_WEBHOOK_SECRET; the secret of each API key is derived from it
(`rigface serve key secret NAME`), so a caller cannot sign as the service to another. A message may arrive twice, if
the service was killed before it recorded the delivery: receivers deduplicate by `webhook-id`.
"""

import base64
import datetime
import hashlib
import hmac
import json
import os

from standardwebhooks import Webhook

from serve.problems import ApiError
from serve.schemas import JobState
from serve.security.url_allowlist import UrlAllowlist

SECRET_VARIABLE = "RIGFACE_WEBHOOK_SECRET"
MAX_TRIES = 10
FIRST_RETRY_S, MAX_RETRY_S = 5.0, 3600.0
RESPONSE_S = 10.0


def secret_of(key: str, master: str) -> str:
    """The signing secret of an API key, `whsec_...`."""
    return "whsec_" + base64.b64encode(hmac.digest(master.encode(), key.encode(), hashlib.sha256)).decode()


def retry_s(tries: int) -> float:
    """Seconds until the next attempt after so many."""
    return min(FIRST_RETRY_S * 2.0 ** (tries - 1), MAX_RETRY_S)


class Webhooks:
    """Messages to the addresses that the operator allows; `master` is the service's secret, by default that of the
    environment.
    """

    def __init__(self, url_allowlist: UrlAllowlist, master: str | None = None) -> None:
        self._url_allowlist = url_allowlist
        self._master = os.environ.get(SECRET_VARIABLE, "") if master is None else master

    def check(self, address: str) -> None:
        """Refuse an address that would get no message, by an ApiError `bad-request`."""
        if not self._master:
            raise ApiError("bad-request", f"webhook: this service has no secret to sign with ({SECRET_VARIABLE})")
        self._url_allowlist.check(address, "webhook")

    async def send(self, address: str, key: str, job: JobState) -> bool:
        """Send a message; True if it is answered with a status of 200 to 299."""
        now = datetime.datetime.now(datetime.UTC)
        content = {"type": f"job.{job.state}", "timestamp": job.ended_at, "data": job.model_dump(mode="json")}
        body = json.dumps(content)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": job.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret_of(key, self._master)).sign(job.id, now, body),
        }
        try:
            status = await self._url_allowlist.post(address, "webhook", body.encode(), headers, RESPONSE_S)
        except ApiError:
            return False
        return 200 <= status < 300
