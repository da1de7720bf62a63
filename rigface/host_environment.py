"""Repairs of the environment variables of a process and its children, before libraries read them, and a faster start.

Path: the entry points of `rigface`, `pipelines/cluster/session.py`, `serve/local.py` -> `repair_environment`.
"""

import gc
import ipaddress
import os
import pwd
import tempfile
from pathlib import Path

MAX_SOCKET_FOLDER = 36  # bytes: Ray appends up to 71, and the path of a socket ends at 107
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
IMPORTED = 300_000  # objects that a command's imports make and keep


def repair_environment() -> None:
    """Set what this machine lacks: a user's name and home, a short folder for sockets, loopback without a proxy.

    A user without an entry in passwd (containers, OpenShift) has no name and often no home that it may write to.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", f"uid{os.getuid()}")
        if not os.access(os.environ.get("HOME", ""), os.W_OK):
            os.environ["HOME"] = str(_own_folder())
    if len(os.fsencode(tempfile.gettempdir())) > MAX_SOCKET_FOLDER and os.access("/tmp", os.W_OK):
        os.environ.setdefault("RAY_TMPDIR", "/tmp")
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        direct = [h for name in ("no_proxy", "NO_PROXY") for h in os.environ.get(name, "").split(",") if h.strip()]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys([*direct, *LOOPBACK]))


def spare_imports() -> None:
    """Let the garbage collector of this process begin after the imports, whose objects stay: a tenth of an edit's time.

    It begins once there are `IMPORTED` objects, passes over those from then on, and works as it did.
    """
    thresholds = gc.get_threshold()

    def begin(phase: str, _: dict[str, int]) -> None:
        if phase == "stop":
            gc.callbacks.remove(begin)
            gc.freeze()
            gc.set_threshold(*thresholds)

    gc.callbacks.append(begin)
    gc.set_threshold(IMPORTED, *thresholds[1:])


def is_loopback(host: str) -> bool:
    """True for this machine's own names and addresses."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _own_folder() -> Path:
    """A folder that only this user may read."""
    folder = Path(tempfile.gettempdir()) / f"rigface-home-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:  # another user made it first
        return Path(tempfile.mkdtemp(prefix="rigface-home-"))
    return folder
