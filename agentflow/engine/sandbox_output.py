"""Keeps the beginning of what a sandbox prints and throws the rest away, so that no flood reaches memory or the loop."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import threading

_CHUNK_BYTES = 64 << 10
_DRAIN_BYTES = 1 << 20


class Output:
    """Reads a pipe as it fills. Up to `limit` bytes on the event loop; the rest is drained by a thread of its own, without
    looking at it: a tool that prints as fast as it can must neither block (it would time out) nor take the loop's time.

    Owns the reading end. Not for use from several tasks.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept = bytearray()
        self._loop = asyncio.get_running_loop()
        self._reading, self.writing = os.pipe()
        """`writing` is for the child process; close it with `started()` once it has it."""
        os.set_blocking(self._reading, False)
        self._thread: threading.Thread | None = None
        self.truncated = False

    def started(self) -> None:
        """The child has its copy of the writing end; begin to read."""
        os.close(self.writing)
        self._loop.add_reader(self._reading, self._read)

    def restart(self, limit_bytes: int) -> bytes:
        """Forget what was kept so far, which is returned, and keep up to `limit_bytes` from now on."""
        self._take()
        before, self._kept = bytes(self._kept), bytearray()
        if self._thread is None:
            self._limit, self.truncated = limit_bytes, False
        return before

    def text(self) -> str:
        """All that was printed so far, as far as it was kept; bytes that are not UTF-8 are replaced."""
        self._take()
        return self._kept.decode("utf-8", "replace")

    def close(self) -> None:
        """Stop reading. Call when the writers have ended; idempotent."""
        if self._reading < 0:
            return
        if self._thread is None:
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
        self._reading = -1  # a draining thread closes it when the last writer ends

    def _take(self) -> None:
        """What lies in the pipe right now: it was written before the answer that we hold."""
        if self._reading >= 0 and self._thread is None:
            for _ in range(4 + self._limit // _CHUNK_BYTES):
                if not self._read():
                    return

    def _read(self) -> bool:
        """Take one chunk; False when there is none now."""
        if self._reading < 0 or self._thread is not None:
            return False
        try:
            chunk = os.read(self._reading, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._reading)
            return False
        room = self._limit - len(self._kept)
        self._kept += chunk[:room]
        if len(chunk) > room:
            self.truncated = True
            self._loop.remove_reader(self._reading)
            self._thread = threading.Thread(target=self._drain, args=(self._reading,), name="sandbox-output", daemon=True)
            self._thread.start()
            return False
        return True

    @staticmethod
    def _drain(fd: int) -> None:
        os.set_blocking(fd, True)
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            if sys.platform == "linux":
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _DRAIN_BYTES)
                while os.splice(fd, sink, _DRAIN_BYTES):
                    pass
            else:
                while os.read(fd, _CHUNK_BYTES):
                    pass
        finally:
            os.close(sink)
            os.close(fd)
