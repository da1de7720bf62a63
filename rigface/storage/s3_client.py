"""How S3 is spoken to: one client, and one place that decides what is tried again.

Path: `objects` -> `call` -> boto3 -> S3, or whatever answers like it.

* **Tried again**: no connection, a connection cut, an answer that ends early, is silent for 20 s (RIGFACE_S3_SILENT_S)
  or slower than `objects.SLOW_BYTES_S`; 500, 502, 503, 504, 429; SlowDown and its kin; a conflict of two conditional
  writes (409).
* **Not**: what no second try would change: not there (404), not allowed (403), a condition that does not hold (412).
* **How long**: until `patience_s()` is over, 300 s unless RIGFACE_S3_PATIENCE_S says otherwise. Pauses double from 0.1
  s to 10 s, each a random share of that ("full jitter"; AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
* **Budget**: all threads of a process together try again `BUDGET_PER_S` times a second at most, after a burst of
  `BUDGET_BURST`, so that many waiters do not keep down a storage that is getting up.

Then it is `StorageGone`, which ends a job: a storage that is away makes no bad videos.

Told by the environment, as every AWS tool is: AWS_ENDPOINT_URL (or AWS_ENDPOINT_URL_S3), AWS_REGION, AWS_PROFILE, keys,
web identity, the instance's role. With an endpoint of one's own, buckets stand in the path;
RIGFACE_S3_ADDRESSING=virtual puts them into the host's name.
"""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from rigface.errors import PlanError, StorageGone
from rigface.telemetry.instruments import Metric

T = TypeVar("T")

PATIENCE_S = 300.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
BUDGET_PER_S, BUDGET_BURST = 5.0, 50
CONNECT_S = 5.0
SILENT_S = 20.0  # RIGFACE_S3_SILENT_S

_AGAIN = frozenset(
    [
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestTimeoutException",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "OperationAborted",
    ]
)
_OURS = frozenset(
    [
        "RequestTimeTooSkewed",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
    ]
)

counts: Counter[str] = Counter()  # of this process: requests, retries, gone
sign_of_life: Callable[[], None] = lambda: None  # called before each pause; a child that is watched sets it  # noqa: E731

RETRIES = Metric(
    "rigface_storage_retries",
    "counter",
    "requests to S3 that were tried again, by request and reason",
    ("operation", "reason"),
)
tell: Callable[..., None] = lambda measure, value=1.0, **labels: None  # set by those who export metrics  # noqa: E731
_asking = threading.local()  # `operation`: what this thread asked last


class Budget:
    """How often a process may try again.

    Args:
        per_s: in the long run. burst: at once, after a quiet time.
        clock: for tests.
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap, self._span, self._clock = 1 / per_s, burst / per_s, clock
        self._next = float("-inf")
        self._lock = threading.Lock()

    def take(self) -> float:
        """Reserve one try; returns the seconds to wait for it."""
        with self._lock:
            now = self._clock()
            self._next = max(self._next, now - self._span) + self._gap
            return max(self._next - now, 0.0)


budget = Budget(BUDGET_PER_S, BUDGET_BURST)


def patience_s() -> float:
    """How long one call is tried."""
    return float(os.environ.get("RIGFACE_S3_PATIENCE_S") or PATIENCE_S)


def silent_s() -> float:
    """How long the storage may say nothing in the middle of an answer."""
    return float(os.environ.get("RIGFACE_S3_SILENT_S") or SILENT_S)


def endpoint() -> str:
    """The address of a storage that is not AWS's own; empty for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def region() -> str:
    """The region, where one is told or none is needed; else empty."""
    told = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    return told or ("us-east-1" if endpoint() else "")


def addressing() -> str:
    """`path` or `virtual`: whether buckets stand in the path of an address or in the host's name; `auto`: as AWS has
    it.
    """
    return os.environ.get("RIGFACE_S3_ADDRESSING") or ("path" if endpoint() else "auto")


def client() -> Any:
    """boto3's client for the storage that the environment tells of now.

    It is thread-safe, and does not retry: `call` does.
    """
    return _client(tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(("AWS_", "RIGFACE_S3_")))))


@functools.lru_cache(maxsize=8)
def _client(told: tuple[tuple[str, str], ...]) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_S,
        read_timeout=silent_s(),
        max_pool_connections=64,
        tcp_keepalive=True,
        signature_version="s3v4",
        s3={"addressing_style": addressing()},
    )
    made = boto3.session.Session().client("s3", region_name=region() or None, config=config)
    made.meta.events.register("before-call.s3", lambda model, **_: setattr(_asking, "operation", model.name))
    return made


def call(ask: Callable[[Any], T], what: str, patience: float | None = None) -> T:
    """Ask the storage something, again and again while it is only passing trouble that comes back.

    Args:
        ask: is given the client. What it does with it must come to the same when it is done twice; bodies are read
            inside, so that one that ends early is fetched again.
        what: `s3://bucket/key`, for messages.
        patience: seconds; None: `patience_s()`.

    Raises:
        FileNotFoundError, PermissionError: as their names say.
        FileExistsError: a condition does not hold (412).
        StorageGone: it never answered properly, or does not accept who we are.
        PlanError: nobody told us who we are.
        OSError: anything else it said.
    """
    limit = time.monotonic() + (patience_s() if patience is None else patience)
    pause = FIRST_PAUSE_S
    while True:
        counts["requests"] += 1
        try:
            return ask(client())
        except Exception as e:  # sorted below; what is not the storage's is raised as it is
            if not _passing(e):
                raise _said(e, what) from e
            trouble = e
        wait = random.uniform(0, pause) + budget.take()
        if time.monotonic() + wait > limit:
            counts["gone"] += 1
            raise StorageGone(
                f"{what}: the storage did not answer properly for {patience_s() if patience is None else patience:g} s "
                f"({trouble}). What is finished is kept; run the same command again when it is back."
            ) from trouble
        counts["retries"] += 1
        tell(RETRIES, operation=getattr(_asking, "operation", ""), reason=_reason(trouble))
        sign_of_life()
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _passing(error: Exception) -> bool:
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as NoConnection  # of another family than HTTPClientError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        return _code(error) in _AGAIN or _status(error) in (408, 429, 500, 502, 503, 504)
    if isinstance(error, HTTPClientError) and "CERTIFICATE" in str(error):
        return False
    passing = (HTTPClientError, NoConnection, IncompleteReadError, ResponseParserError, ConnectionError, TooSlow)
    return isinstance(error, passing)


def _reason(error: Exception) -> str:
    """Passing trouble as a label, of which there are few."""
    from botocore.exceptions import ClientError, ConnectTimeoutError, IncompleteReadError, ReadTimeoutError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        return code if (code := _code(error)) in _AGAIN else str(_status(error))
    kinds: dict[str, tuple[type[Exception], ...]] = {
        "slow": (TooSlow,),
        "silent": (ConnectTimeoutError, ReadTimeoutError),
        "torn": (IncompleteReadError, ResponseParserError),
    }
    return next((reason for reason, kind in kinds.items() if isinstance(error, kind)), "connection")


class TooSlow(Exception):
    """An answer that only drips; raised inside of `call`, which asks again."""


def _code(error: Any) -> str:
    result: str = error.response.get("Error", {}).get("Code", "")
    return result


def _status(error: Any) -> int:
    result: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return result


def _said(error: Exception, what: str) -> Exception:
    """The error as Python names such things; one that is not the storage's stays as it is."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError

    if isinstance(error, NoCredentialsError):
        return PlanError(
            f"{what}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give this "
            "machine a role"
        )
    if isinstance(error, ClientError):
        code, status = _code(error), _status(error)
        text = f"{what}: {error.response.get('Error', {}).get('Message') or code}"
        if code in _OURS:
            return StorageGone(f"{text} ({code}). That is about this machine's keys or clock, not about the object.")
        if status == 404 or code in ("NoSuchKey", "NoSuchBucket", "NoSuchUpload"):
            return FileNotFoundError(text)
        if status == 412:
            return FileExistsError(text)
        return PermissionError(text) if status in (401, 403) else OSError(f"{text} ({code})")
    if isinstance(error, ParamValidationError):
        return FileNotFoundError(f"{what}: not an address on S3: {error}")
    return OSError(f"{what}: {error}") if isinstance(error, BotoCoreError) else error


def arrow(bucket: str) -> Any:
    """pyarrow's file system for those who want one (Ray Train's checkpoints, scans of whole datasets): same place, same
    keys.

    It has its own client, whose retries (AWS's "standard" mode: jitter, a quota of 500 tokens) are set here.
    """
    return _arrow(endpoint(), region(), addressing(), bucket if not region() else "")


@functools.lru_cache(maxsize=8)
def _arrow(address: str, where: str, style: str, bucket: str) -> Any:
    import pyarrow.fs as pafs

    options: dict[str, Any] = {"retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=10)}
    if address:
        options["scheme"], options["endpoint_override"] = address.split("://", 1)
        options["force_virtual_addressing"] = style == "virtual"
    return pafs.S3FileSystem(
        region=where or pafs.resolve_s3_region(bucket), connect_timeout=CONNECT_S, request_timeout=silent_s(), **options
    )
