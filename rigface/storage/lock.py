"""One writer per output: a file lock on a disk, a lease on S3.

* Disk: `flock` on OUT/.rigface/lock, which the kernel releases with the process, SIGKILL included. A network file
  system may release it before or after that; so the file names its holder, and `check()` reads the name.
* S3: a lease object, OUT/.rigface/lease.json, made with `If-None-Match: *` and renewed with `If-Match` every 10 s. One
  that was not renewed for 60 s has expired, **by the storage's clock**: the object's age in its own answers. The holder
  counts the same 60 s by a clock that goes on while the machine sleeps, so wall clocks may be wrong by days. The lease
  of a process of this machine that is gone is taken at once; another killed run's is waited for, and the message says
  how long.

The writer may be several runs, each of which holds a part, such as `2-of-4`, with a lock or lease of that name. A run
takes its own first, and then looks for those it does not go with: the whole output goes with no part, and a part only
with others of as many. Of two runs that start at once, at least one sees the other.

A put whose answer was lost may have been done: when a condition fails, the owner in the lease decides, not the answer.
A storage that is away for longer than a lease lasts takes it from nobody: `check()` renews first, and raises only if
another run has taken over. Every publication of the holder and of its workers (`follow`) is checked just before it. One
that is under way
while its machine sleeps may still land later: units of work are deterministic and published whole, so it does no harm.
"""

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
from rigface.storage import objects
from rigface.storage.store import INTERNAL, Store

RENEW_S = 10.0
EXPIRE_S = 60.0
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # CLOCK_MONOTONIC stands still while a machine sleeps


def now_s() -> float:
    """Seconds by a clock that goes on while the machine sleeps, if the system has one."""
    return time.clock_gettime(_CLOCK)


@contextlib.contextmanager
def hold(store: Store, part: str = "") -> Iterator[Callable[[], None]]:
    """Be the only writer of this output, or of one part of it, inside; each publication through `store` is checked.

    Yields `check()`, which raises once the lock has been lost. OutputBusy names the run that holds it.
    """
    with _hold_lease(store, part) if store.is_s3 else _hold_file(store, part) as check:
        for other in _parts(store):
            if not _go_together(part, other) and (writer := _writer(store, other)):
                raise OutputBusy(_busy(store, writer))
        store.before_publish = check
        try:
            yield check
        finally:
            store.before_publish = None


def held(store: Store) -> str:
    """Description of the runs that are writing this output now; empty if there is none."""
    return " and ".join(filter(None, (_writer(store, part) for part in sorted(_parts(store)))))


def holder(store: Store, part: str = "") -> str:
    """Id of the run that holds the output, for the other processes of that run; empty if there is none."""
    return str(_owner_of(store, part).get("id", ""))


def check_holder(store: Store, run: str, part: str = "") -> None:
    """`check()` for the processes of a run that do not hold its lock themselves; one small read.

    `run` is from `holder`, when the run began; empty: nothing is checked. OutputBusy if another run has taken over.
    """
    if run and holder(store, part) != run:
        raise OutputBusy(_taken(store))


def follow(store: Store, part: str = "") -> Store:
    """Let each publication through `store` check that the run which holds the output now still does; for workers."""
    run = holder(store, part)
    store.before_publish = lambda: check_holder(store, run, part)
    return store


def _go_together(part: str, other: str) -> bool:
    """True if two parts may be held at once: both are one of as many, or they are the same one."""
    return part == other or ("" not in (part, other) and part.rpartition("-")[2] == other.rpartition("-")[2])


def _parts(store: Store) -> set[str]:
    """The parts that are held, or were at some time."""
    if store.is_s3:
        bucket, key = store.bucket_and_key(f"{INTERNAL}/lease")
        names = {found.removeprefix(key).removesuffix(".json") for found in objects.keys_unordered(bucket, key)}
    else:
        names = {path.name.removeprefix("lock") for path in Path(store.at(INTERNAL)).glob("lock*")}
    return {name.removeprefix("-") for name in names}


def _writer(store: Store, part: str) -> str:
    """Description of the run that holds a part now; empty if there is none."""
    if store.is_s3:
        lease = _Lease(store, part)
        return _describe(lease.owner) if lease.read() and not lease.is_over() else ""
    try:
        with open(_lock_file(store, part)) as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        return _describe(_owner_of(store, part))
    return ""


def _busy(store: Store, writer: str) -> str:
    return f"{store.uri} is being written by another run ({writer}). Wait for it, stop it, or choose another OUT."


def _taken(store: Store) -> str:
    return f"{store.uri}: this run was cut off for so long that another has taken over. Run it again when that is done."


def _new_owner() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    identity = {"machine": _machine(), "since": since, "id": uuid.uuid4().hex}
    return {"host": socket.gethostname(), "pid": os.getpid(), **identity}


def _machine() -> str:
    """Boot and process namespace: two containers may share a name, and have a process 7 each."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _describe(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('since', '?')}"


def _owner_of(store: Store, part: str) -> dict[str, Any]:
    if store.is_s3:
        lease = _Lease(store, part)
        return lease.owner if lease.read() else {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # not there, or without a name: the disk was full
        owner: dict[str, Any] = json.loads(_lock_file(store, part).read_text())
        return owner
    return {}


def _lock_file(store: Store, part: str) -> Path:
    return Path(store.at(f"{INTERNAL}/lock{part and '-' + part}"))


@contextlib.contextmanager
def _hold_file(store: Store, part: str) -> Iterator[Callable[[], None]]:
    path, me = _lock_file(store, part), _new_owner()
    path.parent.mkdir(parents=True, exist_ok=True)

    def is_ours() -> bool:
        return bool(_owner_of(store, part).get("id", me["id"]) == me["id"])

    def check() -> None:
        if not is_ours():
            raise OutputBusy(_taken(store))

    with open(path, "a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputBusy(_busy(store, _describe(_owner_of(store, part)))) from None
        f.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
            os.write(f.fileno(), json.dumps(me).encode())
        try:
            yield check
        finally:
            if is_ours():
                f.truncate(0)


class _Lease:
    """The lease object: the owner that this process would be, and the owner at the last read.

    `patience` of its methods is the seconds for which a request is tried, as in `s3_client.call`.
    """

    def __init__(self, store: Store, part: str) -> None:
        self.where = store.bucket_and_key(f"{INTERNAL}/lease{part and '-' + part}.json")
        self.me = _new_owner()
        self.owner: dict[str, Any] = {}
        self.tag = ""  # entity tag at the last read or write
        self.age_s = 0.0

    def read(self, patience: float | None = None) -> bool:
        """Read the present owner; False if there is no lease."""
        try:
            data, about = objects.get(*self.where, patience=patience)
        except FileNotFoundError:
            return False
        self.owner, self.tag, self.age_s = json.loads(data), about.etag, about.age_s
        return True

    def is_ours(self) -> bool:
        return self.owner.get("id") == self.me["id"]

    def is_over(self) -> bool:
        """True if the owner at the last read has let it expire, or is a process of this machine that is gone."""
        gone = self.owner.get("machine") == self.me["machine"] != "" and not _alive(self.owner["pid"])
        return gone or self.age_s > EXPIRE_S

    def take(self) -> bool:
        """Become the owner if there is no lease or an expired one; False if another run is."""
        for _ in range(2):  # again if it vanished, or if an earlier try had got through
            if self._put(if_none=True):
                return True
            if self.read():
                return self.is_ours() or (self.is_over() and self.renew())
        return False

    def renew(self, patience: float | None = None) -> bool:
        """Replace the lease as last known; False if another run has taken over."""
        return self._put(if_match=self.tag, patience=patience) or (self.read(patience) and self.is_ours())

    def _put(self, if_none: bool = False, if_match: str = "", patience: float | None = None) -> bool:
        body = json.dumps({**self.me, "renewed": uuid.uuid4().hex}).encode()  # new content has a new tag
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
        pass
    return True


@contextlib.contextmanager
def _hold_lease(store: Store, part: str) -> Iterator[Callable[[], None]]:
    lease = _Lease(store, part)
    renewed = now_s()  # before the request: the storage dates the lease later
    if not lease.take():
        raise OutputBusy(
            f"{store.uri} is being written by another run ({_describe(lease.owner)}). Wait for it or "
            f"choose another OUT. If that run was killed, its lease ends in {max(EXPIRE_S - lease.age_s, 0):.0f} s."
        )
    stop, lost, one_at_a_time = threading.Event(), threading.Event(), threading.Lock()

    def renew(patience: float | None = None) -> None:
        nonlocal renewed
        with one_at_a_time:
            if lost.is_set():
                return
            began = now_s()
            if lease.renew(patience):
                renewed = began
            else:
                lost.set()

    def keep() -> None:
        while not stop.wait(RENEW_S):
            with contextlib.suppress(StorageGone, OSError):  # the network; tried again soon
                renew(RENEW_S)

    def check() -> None:
        if now_s() - renewed > EXPIRE_S / 2:  # so that what follows has half a lease to be done in
            renew()
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
            with contextlib.suppress(StorageGone, OSError):  # it expires by itself
                if lease.read(EXPIRE_S) and lease.is_ours():
                    objects.delete(lease.where[0], [lease.where[1]])
