"""Frames on the two pipes to the host: 4 bytes big-endian length, then that many bytes of JSON."""

from __future__ import annotations

import os
import struct


class HostGone(BaseException):
    """The host closed its end: there is nobody left to work for."""


def read_frame(fd: int) -> bytes:
    """The next frame. Raises HostGone at end of file."""
    (length,) = struct.unpack(">I", _read(fd, 4))
    return _read(fd, length)


def write_frame(fd: int, body: bytes) -> None:
    rest = memoryview(struct.pack(">I", len(body)) + body)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read(fd: int, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        chunk = os.read(fd, min(count - len(got), 1 << 20))
        if not chunk:
            raise HostGone
        got += chunk
    return bytes(got)
