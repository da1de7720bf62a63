"""S3 client with retries: one boto3 client, and one place that decides what is tried again.

Path: `objects` -> `call` -> boto3 -> S3, or whatever answers like it.

* **Tried again**: no connection or a broken one; an answer that ends early, is silent for 20 s (RIGFACE_S3_SILENT_S) or
  slower than `objects.SLOW_BYTES_S`; 500, 502, 503, 504, 429; SlowDown and the like; a conflict of two conditional
  writes (409).
* **Not tried again**: a missing object (404), a missing permission (403), a condition that does not hold (412).
* **Patience**: 300 s (RIGFACE_S3_PATIENCE_S), then `StorageGone`, which ends a job and blames no input. Pauses double
  from 0.1 s to 10 s, each a random share of that ("full jitter"; AWS Architecture Blog, "Exponential Backoff And
  Jitter", 2015).
* **Budget**: all threads of a process together try again `BUDGET_PER_S` times a second at most, after a burst of
  `BUDGET_BURST`, so that many waiters do not overload a storage that is starting again.

Configured by the environment like every AWS tool: AWS_ENDPOINT_URL (or AWS_ENDPOINT_URL_S3), AWS_REGION, AWS_PROFILE,
keys, web identity, the instance's role. With an endpoint, buckets stand in the path; RIGFACE_S3_ADDRESSING=virtual puts
them into the host's name.

boto3 and pyarrow are imported at the first request: every process of a job imports this module, and most read from
disks.
"""

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

_RETRIED_CODES = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException", "Throttling",
    "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded", "ConditionalRequestConflict",
    "OperationAborted",
}  # fmt: skip
_CREDENTIAL_CODES = {
    "RequestTimeTooSkewed", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "TokenRefreshRequired",
}  # fmt: skip

counts: Counter[str] = Counter()  # of this process: requests, retries, gone
sign_of_life: Callable[[], None] = lambda: None  # called before each pause; a watched child process sets it  # noqa: E731

RETRIES = Metric(
    "rigface_storage_retries",
    "counter",
    "requests to S3 that were tried again, by request and reason",
    ("operation", "reason"),
)
record_metric: Callable[..., None] = lambda metric, value=1.0, **labels: None  # set by exporters  # noqa: E731
_request = threading.local()  # `operation`: this thread's last request


class Budget:
    """Limit on the retries of a process: `per_s` in the long run, `burst` at once after a quiet time."""

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
    """Seconds for which one call is tried."""
    return float(os.environ.get("RIGFACE_S3_PATIENCE_S") or PATIENCE_S)


def silent_s() -> float:
    """Seconds for which the storage may send nothing in the middle of an answer."""
    return float(os.environ.get("RIGFACE_S3_SILENT_S") or SILENT_S)


def endpoint() -> str:
    """The address of a storage that is not AWS's own; empty for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def region() -> str:
    """The region, if one is set or none is needed; else empty."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint() else "")


def addressing() -> str:
    """Place of the bucket in an address: `path`, `virtual` (in the host's name), or `auto`, AWS's own choice."""
    return os.environ.get("RIGFACE_S3_ADDRESSING") or ("path" if endpoint() else "auto")


def client() -> Any:
    """boto3's client for the storage that the environment names now. Thread-safe; it does not retry, `call` does."""
    return _client(tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(("AWS_", "RIGFACE_S3_")))))


@functools.lru_cache(maxsize=8)
def _client(environment: tuple[tuple[str, str], ...]) -> Any:
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
    s3 = boto3.session.Session().client("s3", region_name=region() or None, config=config)
    s3.meta.events.register("before-call.s3", lambda model, **_: setattr(_request, "operation", model.name))
    return s3


def call(ask: Callable[[Any], T], what: str, patience: float | None = None) -> T:
    """Make a request, and repeat it as long as it fails for a reason that may pass.

    Args:
        ask: is given the client; idempotent. It reads bodies, so that one that ends early is fetched again.
        what: `s3://bucket/key`, for messages.
        patience: seconds; None: `patience_s()`.

    Raises:
        FileNotFoundError, PermissionError: as their names say.
        FileExistsError: a condition does not hold (412).
        StorageGone: it never answered properly, or rejects the credentials or the clock.
        PlanError: there are no credentials.
        OSError: any other error it reports.
    """
    patience = patience_s() if patience is None else patience
    limit = time.monotonic() + patience
    pause = FIRST_PAUSE_S
    while True:
        counts["requests"] += 1
        try:
            return ask(client())
        except Exception as e:
            if not _is_transient(e):
                raise _translated(e, what) from e
            error = e
        wait = random.uniform(0, pause) + budget.take()
        if time.monotonic() + wait > limit:
            counts["gone"] += 1
            raise StorageGone(
                f"{what}: the storage did not answer properly for {patience:g} s "
                f"({error}). What is finished is kept; run the same command again when it is back."
            ) from error
        counts["retries"] += 1
        record_metric(RETRIES, operation=getattr(_request, "operation", ""), reason=_reason(error))
        sign_of_life()
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _is_transient(error: Exception) -> bool:
    import botocore.exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.ClientError):
        return _code(error) in _RETRIED_CODES or _status(error) in (408, 429, 500, 502, 503, 504)
    if isinstance(error, boto.HTTPClientError) and "CERTIFICATE" in str(error):
        return False
    passing = boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, ResponseParserError
    return isinstance(error, (*passing, ConnectionError, TooSlow))


def _reason(error: Exception) -> str:
    """A transient error as a label, of which there are few."""
    import botocore.exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.ClientError):
        return code if (code := _code(error)) in _RETRIED_CODES else str(_status(error))
    kinds: dict[str, tuple[type[Exception], ...]] = {
        "slow": (TooSlow,),
        "silent": (boto.ConnectTimeoutError, boto.ReadTimeoutError),
        "torn": (boto.IncompleteReadError, ResponseParserError),
    }
    return next((reason for reason, kind in kinds.items() if isinstance(error, kind)), "connection")


class TooSlow(Exception):
    """An answer below `objects.SLOW_BYTES_S`; raised inside `call`, which asks again."""


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _translated(error: Exception, what: str) -> Exception:
    """The error as one of Python's own or of this project; one that is not botocore's stays as it is."""
    import botocore.exceptions as boto

    if isinstance(error, boto.NoCredentialsError):
        return PlanError(
            f"{what}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this "
            "machine a role"
        )
    if isinstance(error, boto.ClientError):
        code, status = _code(error), _status(error)
        text = f"{what}: {error.response.get('Error', {}).get('Message') or code}"
        if code in _CREDENTIAL_CODES:
            return StorageGone(f"{text} ({code}). That is about this machine's keys or clock, not about the object.")
        if status == 404 or code in ("NoSuchKey", "NoSuchBucket", "NoSuchUpload"):
            return FileNotFoundError(text)
        if status == 412:
            return FileExistsError(text)
        return PermissionError(text) if status in (401, 403) else OSError(f"{text} ({code})")
    if isinstance(error, boto.ParamValidationError):
        return FileNotFoundError(f"{what}: not an address on S3: {error}")
    return OSError(f"{what}: {error}") if isinstance(error, boto.BotoCoreError) else error


def arrow(bucket: str) -> Any:
    """pyarrow's file system of the same storage, for Ray Train's checkpoints and scans of whole datasets.

    It has its own client with its own retries (AWS's "standard" mode: jitter, a quota of 500 tokens).
    """
    return _arrow(endpoint(), region(), addressing(), bucket if not region() else "")


@functools.lru_cache(maxsize=8)
def _arrow(address: str, region: str, style: str, bucket: str) -> Any:
    import pyarrow.fs as pafs

    options: dict[str, Any] = {"retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=10)}
    if address:
        options["scheme"], options["endpoint_override"] = address.split("://", 1)
        options["force_virtual_addressing"] = style == "virtual"
    return pafs.S3FileSystem(
        region=region or pafs.resolve_s3_region(bucket),
        connect_timeout=CONNECT_S,
        request_timeout=silent_s(),
        **options,
    )
