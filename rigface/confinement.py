"""Rights that a process gives up before it reads a stranger's file: network, programs, other processes, other files.

Path: `video/sandbox.py`, and the children of `extract` -> confine_process, once, in the child.
Source: seccomp and Landlock (Linux, `man 2 seccomp`, `man 7 landlock`), which no code in the process can lift again,
whatever a hostile file makes the decoder do. seccomp binds all threads; Landlock the calling thread and those that it
starts from then on. A kernel that lacks one of them leaves that part out, and `warn_of_missing` says so.
"""

import contextlib
import ctypes
import errno
import logging
import os
import platform
import resource
import stat
import struct
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# The refused calls of each architecture, after the number that the kernel has for it. Of every process: ptrace,
# process_vm_readv, process_vm_writev, open_by_handle_at, bpf, io_uring_setup, unshare, setns, mount, keyctl,
# perf_event_open, userfaultfd, bind, listen, accept, accept4. Without network also: socket, connect, execve, execveat.
_NUMBERS = {
    "x86_64": (
        0xC000003E,
        (101, 310, 311, 304, 321, 425, 272, 308, 165, 250, 298, 323, 49, 50, 43, 288), (41, 42, 59, 322), 317,
    ),
    "aarch64": (
        0xC00000B7,
        (117, 270, 271, 265, 280, 425, 97, 268, 40, 219, 241, 282, 200, 201, 202, 242), (198, 203, 221, 281), 277,
    ),
}  # fmt: skip
_NO_NEW_PRIVILEGES, _GET_SECCOMP = 38, 21  # of prctl
_FILTER, _ALL_THREADS = 1, 1  # of seccomp
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _RETURN = 0x20, 0x15, 0x35, 0x06  # of the filter's machine
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM

_CREATE_RULESET, _ADD_RULE, _RESTRICT = 444, 445, 446  # calls of Landlock
_READ = 1 << 2 | 1 << 3  # files, folders
_OF_FILES = 1 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # rights that a rule for a single file may name
_RIGHTS = (13, 14, 15, 15, 16)  # numbers of rights on files in versions 1 to 5
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/opt", "/nix", "/gnu", "/sys", "/dev")
_OWN = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys")  # not those of other processes

log = logging.getLogger(__name__)


def confine_process(
    readable: Iterable[str | os.PathLike[str]] = (),
    writable: Iterable[str | os.PathLike[str]] = (),
    network: bool = False,
) -> None:
    """Give up, for good, all that decoding does not need.

    Files that are open stay open. Python, its packages and the system's libraries stay readable.

    Args:
        readable: other files and folders that may be read.
        writable: those that may be written, too.
        network: the process reads from a storage: it may connect, start programs (which look up credentials), and open
            files as its user may.
    """
    if platform.machine() not in _NUMBERS or sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if not network:
        _limit_files(libc, [*_python(), *readable], writable)
    _limit_calls(libc, network)


def limit_memory(megabytes: int) -> None:
    """Let this process take so much memory beyond what it has now, and leave no core file."""
    with contextlib.suppress(OSError):  # without such a file, memory has no limit
        has = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (has + megabytes * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@cache
def warn_of_missing() -> None:
    """Log once if this system cannot confine the processes that decode files."""
    if missing := missing_parts():
        log.warning(
            "this system has no %s: a hostile file that takes over its decoder can do more", " and no ".join(missing)
        )


def missing_parts() -> list[str]:
    """`seccomp` and `Landlock`, if this system lacks them."""
    if platform.machine() not in _NUMBERS or sys.platform != "linux":
        return ["seccomp", "Landlock"]
    libc = ctypes.CDLL(None, use_errno=True)
    has = {"seccomp": libc.prctl(_GET_SECCOMP, 0, 0, 0, 0) >= 0, "Landlock": _landlock_version(libc) > 0}
    return [name for name, is_there in has.items() if not is_there]


def _limit_calls(libc: ctypes.CDLL, network: bool) -> None:
    audit, always, offline, seccomp = _NUMBERS[platform.machine()]
    numbers = always if network else always + offline
    left = len(numbers)  # steps are jumped over, to the last, which refuses
    steps = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 0, left + 3, audit), (_LOAD, 0, 0, 0)]
    steps += [(_JUMP_ABOVE, left + 1, 0, 0x40000000)]  # the numbers of a second set of calls on x86-64
    steps += [(_JUMP_EQUAL, left - k, 0, number) for k, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HL", len(steps), ctypes.addressof(code)))
    if libc.syscall(seccomp, _FILTER, _ALL_THREADS, program) != 0:
        libc.syscall(seccomp, _FILTER, 0, program)


def _limit_files(
    libc: ctypes.CDLL,
    readable: Iterable[str | os.PathLike[str]],
    writable: Iterable[str | os.PathLike[str]],
) -> None:
    """Refuse files outside of these, connections, and signals to other processes."""
    version = _landlock_version(libc)
    if version <= 0:
        return
    every = (1 << _RIGHTS[min(version, len(_RIGHTS)) - 1]) - 1
    attributes = struct.pack("QQQ", every, 0b11, 0b11)  # files, TCP, signals and abstract sockets
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return
    for paths, rights in ((readable, _READ), (("/dev/null",), _READ | 2), (writable, every)):
        for path in paths:
            _allow(libc, ruleset, path, rights & every)
    libc.syscall(_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str | os.PathLike[str], rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it does not exist
        return
    if not stat.S_ISDIR(os.fstat(place).st_mode):
        rights &= _OF_FILES
    libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, place), 0)
    os.close(place)


def _landlock_version(libc: ctypes.CDLL) -> int:
    return int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def _python() -> list[str]:
    """Places of Python, its packages and libraries; not the user's home, if a script that lies there was started."""
    home, libraries = Path(os.path.expanduser("~")), os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    packages = [path for path in filter(None, [*sys.path, *libraries]) if not home.is_relative_to(path)]
    return [*_SYSTEM, *_OWN, *packages, sys.prefix, sys.base_prefix]
