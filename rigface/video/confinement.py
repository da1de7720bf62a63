"""System calls that a process gives up before it reads a stranger's file: network, programs, other processes.

Path: `sandbox.py` -> confine_process, once, in the child.
Source: seccomp (Linux, `man 2 seccomp`), a filter of the kernel that no code in the process can lift again, whatever a
hostile file makes the decoder do. Files stay readable as for its user.
"""

import ctypes
import errno
import platform
import struct
import sys

# The refused calls of each architecture, after the number that the kernel has for it: socket, connect, bind, listen,
# accept, accept4, execve, execveat, ptrace, process_vm_readv, process_vm_writev, open_by_handle_at, bpf,
# io_uring_setup, unshare, setns, mount, keyctl, perf_event_open, userfaultfd.
_NUMBERS = {
    "x86_64": (
        0xC000003E, (41, 42, 49, 50, 43, 288, 59, 322, 101, 310, 311, 304, 321, 425, 272, 308, 165, 250, 298, 323),
    ),
    "aarch64": (
        0xC00000B7, (198, 203, 200, 201, 202, 242, 221, 281, 117, 270, 271, 265, 280, 425, 97, 268, 40, 219, 241, 282),
    ),
}  # fmt: skip
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # of prctl
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _RETURN = 0x20, 0x15, 0x35, 0x06  # of the filter's machine
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def confine_process() -> bool:
    """Refuse this process, for good, the calls named above; False if the system has no such filter."""
    if sys.platform != "linux" or platform.machine() not in _NUMBERS:
        return False
    audit, numbers = _NUMBERS[platform.machine()]
    left = len(numbers)  # steps are jumped over, to the last, which refuses
    steps = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 0, left + 3, audit), (_LOAD, 0, 0, 0)]
    steps += [(_JUMP_ABOVE, left + 1, 0, 0x40000000)]  # the numbers of a second set of calls on x86-64
    steps += [(_JUMP_EQUAL, left - k, 0, number) for k, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HL", len(steps), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return bool(prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and prctl(_SECCOMP, _FILTER, program, 0, 0) == 0)
