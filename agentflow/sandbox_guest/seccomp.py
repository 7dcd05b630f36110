"""A seccomp filter for the guest kernel that denies user namespaces.

Inside a user namespace of its own a tool would escape the guest's limit on processes (sandbox.md, section 4: 300 of 300
forks). unshare and setns fail with EPERM, clone with CLONE_NEWUSER too; clone3, whose flags a filter cannot read, says
ENOSYS, and then the C library uses clone. Threads and subprocesses go on working.
"""

from __future__ import annotations

import ctypes
import os
import struct

_CALLS = {
    # machine: (audit architecture, clone, unshare, setns); clone3 is 435 everywhere
    "x86_64": (0xC000003E, 56, 272, 308),
    "aarch64": (0xC00000B7, 220, 97, 268),
}
_CLONE3 = 435
_FOREIGN_ABI = 0x40000000
_CLONE_NEWUSER = 0x10000000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38


def program(machine: str) -> bytes:
    """The filter as BPF. Jump offsets count the instructions to skip. Raises OSError on a machine it does not know."""
    if machine not in _CALLS:
        raise OSError(f"no seccomp filter for machine {machine}")
    architecture, clone, unshare, setns = _CALLS[machine]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 8, 0, _FOREIGN_ABI),  # -> ENOSYS
        (_JUMP_EQUAL, 7, 0, _CLONE3),  # -> ENOSYS
        (_JUMP_EQUAL, 5, 0, unshare),  # -> EPERM
        (_JUMP_EQUAL, 4, 0, setns),  # -> EPERM
        (_JUMP_EQUAL, 0, 2, clone),  # others -> allow
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_SET, 1, 0, _CLONE_NEWUSER),  # -> EPERM
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def deny_user_namespaces() -> None:
    """For this process and all that it starts. Raises OSError when the kernel refuses the filter."""
    code = program(os.uname().machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(head, len(head)), 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
