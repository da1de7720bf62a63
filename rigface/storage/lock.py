"""One writer per output, and one keeper per queue of jobs.

* Disk: `flock` on OUT/.rigface/lock. The kernel drops it with the process, SIGKILL included, so it never goes stale.
* S3: a lease object, OUT/.rigface/lease.json, made with `If-None-Match: *` and renewed with `If-Match` every 10 s. One
  that was not renewed for 60 s is over, **by the storage's clock**: the age of the object when it was asked for. No
  machine's own clock is looked at, so it may be wrong by days. After a killed run the next one says how long to wait,
  and waits for nothing if the owner was a process of this machine that is gone.

A put whose answer was lost may have been done: when a condition fails, who is in the lease decides, not the answer. A
storage that is away for longer than a lease lasts takes it from nobody: `check()` renews first, and stops only where
another has taken over. Units of work are deterministic and published whole, so the overlap that is left does no harm.
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
from typing import Any

from rigface.errors import OutputBusy, StorageGone
from rigface.storage import objects, s3_client
from rigface.storage.store import INTERNAL, Store

RENEW_S = 10.0
EXPIRE_S = 60.0


def _me() -> dict[str, str | int]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "since": started,
        "id": uuid.uuid4().hex,
    }


def _machine() -> str:
    """This boot of this machine and what its process numbers mean: two containers may share a name, and have a process
    7 each.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _named(owner: dict[str, Any]) -> str:
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
                f"{store.uri} is being written by another run ({_named(owner)}). Wait for it, stop it, or choose "
                "another OUT."
            ) from None
        f.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
            os.write(f.fileno(), json.dumps(_me()).encode())
        try:
            yield lambda: None
        finally:
            f.truncate(0)


def held(store: Store) -> str:
    """Who is writing this output now, as words; empty if nobody."""
    if store.is_s3:
        lease = _Lease(store)
        return _named(lease.owner_now) if lease.look() and not lease.is_over() else ""
    try:
        with open(store.at(f"{INTERNAL}/lock")) as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        text = Path(store.at(f"{INTERNAL}/lock")).read_text()
        return _named(json.loads(text) if text else {})
    return ""


def lease_of(store: Store) -> str:
    """The id in the lease, for other processes of the run that holds it; empty on a disk, where there is none."""
    if not store.is_s3:
        return ""
    lease = _Lease(store)
    return str(lease.owner_now["id"]) if lease.look() else ""


def must_be(store: Store, owner: str) -> None:
    """What `check()` is to the process that holds the output, for the others of its run; one request.

    Args:
        owner: from `lease_of`, when the run began.

    Raises:
        OutputBusy: another run has taken over.
    """
    lease = _Lease(store)
    if not lease.look() or lease.owner_now.get("id") != owner:
        raise OutputBusy(_taken(store))


def _taken(store: Store) -> str:
    return f"{store.uri}: this run was cut off for so long that another has taken over. Run it again when that is done."


class _Lease:
    """The lease object: who we are, and who was in it when it was last looked at."""

    def __init__(self, store: Store) -> None:
        self.where = store.bucket_and_key(f"{INTERNAL}/lease.json")
        self.owner = _me()
        self.tag = ""  # of the object, as we last knew it
        self.owner_now: dict[str, Any] = {}
        self.age_s = 0.0

    def look(self) -> bool:
        """Read who owns it now; False where there is no lease."""
        try:
            data, about = objects.get(*self.where, patience=EXPIRE_S)
        except FileNotFoundError:
            return False
        self.owner_now, self.tag, self.age_s = json.loads(data), about.etag, about.age_s
        return True

    def is_ours(self) -> bool:
        return self.owner_now.get("id") == self.owner["id"]

    def is_over(self) -> bool:
        """Whether its owner, as last looked at, has let it run out or is known to be gone."""
        gone = self.owner_now.get("machine") == self.owner["machine"] != "" and not _alive(self.owner_now["pid"])
        return gone or self.age_s > EXPIRE_S

    def left_s(self) -> float:
        return max(EXPIRE_S - self.age_s, 0.0)

    def take(self) -> bool:
        """Become its owner where there is none, or where the one there is over; False where another is."""
        for _ in range(2):  # a second time where it vanished, or where an earlier try of ours had got through
            if self._put(if_none=True):
                return True
            if self.look():
                return self.is_ours() or (self.is_over() and self.renew(EXPIRE_S))
        return False

    def renew(self, patience: float) -> bool:
        """Write ourselves over what we last knew; False where another has taken over."""
        if self._put(if_match=self.tag, patience=patience):
            return True
        return self.look() and self.is_ours()

    def _put(self, if_none: bool = False, if_match: str = "", patience: float = EXPIRE_S) -> bool:
        body = json.dumps(
            {**self.owner, "renewed": uuid.uuid4().hex}
        ).encode()  # a content of its own, so a tag of its own
        try:
            self.tag = objects.put(*self.where, body, if_none=if_none, if_match=if_match, patience=patience)
        except (FileExistsError, FileNotFoundError):
            return False
        return True


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
    if not lease.take():
        raise OutputBusy(
            f"{store.uri} is being written by another run ({_named(lease.owner_now)}). Wait for it or choose another "
            "OUT. "
            f"If that run was killed, its lease ends in {lease.left_s():.0f} s."
        )
    stop, lost, one_at_a_time = threading.Event(), threading.Event(), threading.Lock()
    renewed = time.monotonic()

    def renew(patience: float) -> None:
        nonlocal renewed
        with one_at_a_time:
            if lost.is_set():
                return
            if lease.renew(patience):
                renewed = time.monotonic()
            else:
                lost.set()

    def keep() -> None:
        while not stop.wait(RENEW_S):
            with contextlib.suppress(StorageGone, OSError):  # the network; tried again soon
                renew(RENEW_S)

    def check() -> None:
        if time.monotonic() - renewed > EXPIRE_S:
            renew(s3_client.patience_s())
        if lost.is_set():
            raise OutputBusy(_taken(store))

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()
        if not lost.is_set():
            with contextlib.suppress(StorageGone, OSError):  # it runs out by itself
                if lease.look() and lease.is_ours():
                    objects.delete(lease.where[0], [lease.where[1]])
