"""One writer per output.

* Disk: `flock` on OUT/.rigface/lock. The kernel drops it with the process, SIGKILL included, so it never goes stale.
* S3: a lease object, OUT/.rigface/lease.json, made with `If-None-Match: *` and renewed with `If-Match` every 10 s. A killed
  run's lease runs out after 60 s; the next run says so, and waits for nothing if the owner was a process of this machine
  that is gone.

Whoever loses a lease notices at the next `check()` and stops. Units of work are deterministic and published whole, so the
overlap that is left does no harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rigface.errors import OutputBusy
from rigface.storage import INTERNAL, Store, s3_client

RENEW_S = 10.0
EXPIRE_S = 60.0


def _me() -> dict[str, str | int]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": started, "id": uuid.uuid4().hex}


def _named(owner: dict) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('since', '?')}"


@contextlib.contextmanager
def hold(store: Store) -> Iterator[Callable[[], None]]:
    """Be the only writer of this output while inside.

    Yields:
        `check()`, to be called now and then: it raises once the lock has been lost.

    Raises:
        OutputBusy: another run holds it; the message says who.
    """
    with _leased(store) if store.is_s3 else _flocked(store) as check:
        yield check


@contextlib.contextmanager
def _flocked(store: Store) -> Iterator[Callable[[], None]]:
    path = Path(store.at(f"{INTERNAL}/lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            text = f.read()
            owner = json.loads(text) if text else {}
            raise OutputBusy(
                f"{store.uri} is being written by another run ({_named(owner)}). Wait for it, stop it, or choose another OUT."
            ) from None
        f.truncate(0)
        f.write(json.dumps(_me()))
        f.flush()
        try:
            yield lambda: None
        finally:
            f.truncate(0)


def held(store: Store) -> str:
    """Who is writing this output now, as words; empty if nobody."""
    if store.is_s3:
        try:
            lease = json.loads(store.read(f"{INTERNAL}/lease.json"))
        except FileNotFoundError:
            return ""
        return "" if _over(lease) else _named(lease)
    try:
        with open(store.at(f"{INTERNAL}/lock")) as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        text = Path(store.at(f"{INTERNAL}/lock")).read_text()
        return _named(json.loads(text) if text else {})
    return ""


class _Lease:
    """The lease object of one owner and its entity tag."""

    def __init__(self, store: Store) -> None:
        bucket, _, prefix = store.root.partition("/")
        self.where = {"Bucket": bucket, "Key": f"{prefix}/{INTERNAL}/lease.json".lstrip("/")}
        self.owner = _me()
        self.tag = ""

    def put(self, **condition: str) -> bool:
        """Write ourselves as owner, if the condition holds."""
        from botocore.exceptions import ClientError

        body = json.dumps({**self.owner, "expires": time.time() + EXPIRE_S}).encode()
        try:
            self.tag = s3_client().put_object(**self.where, Body=body, **condition)["ETag"]
        except ClientError as e:
            if e.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "404"):
                return False
            raise
        return True

    def read(self) -> tuple[dict, str]:
        """Who owns it now, and the tag of that state."""
        answer = s3_client().get_object(**self.where)
        return json.loads(answer["Body"].read()), answer["ETag"]


def _over(lease: dict) -> bool:
    return lease["expires"] < time.time() or (lease["host"] == socket.gethostname() and not _alive(lease["pid"]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _leased(store: Store) -> Iterator[Callable[[], None]]:
    lease = _Lease(store)
    if not lease.put(IfNoneMatch="*"):
        other, tag = lease.read()
        if not _over(other) or not lease.put(IfMatch=tag):
            left = max(other["expires"] - time.time(), 0)
            raise OutputBusy(
                f"{store.uri} is being written by another run ({_named(other)}). Wait for it or choose another OUT. "
                f"If that run was killed, its lease ends in {left:.0f} s."
            )
    stop, lost = threading.Event(), threading.Event()
    renewed = time.monotonic()

    def renew() -> None:
        nonlocal renewed
        while not stop.wait(RENEW_S):
            try:
                if not lease.put(IfMatch=lease.tag):
                    lost.set()
                    return
                renewed = time.monotonic()
            except OSError:  # the network; `check` gives up when the lease has run out
                continue

    def check() -> None:
        if lost.is_set() or time.monotonic() - renewed > EXPIRE_S:
            raise OutputBusy(
                f"{store.uri}: this run was cut off for so long that another may have taken over. Run it again."
            )

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()
        if not lost.is_set():
            store.delete(f"{INTERNAL}/lease.json")
