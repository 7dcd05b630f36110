"""Server-sent events from bytes, as the WHATWG describes them.

Lines end at CR, LF or CRLF and nowhere else: a parser that splits as Python's splitlines does would cut JSON text at U+2028.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Frame:
    """One dispatched event. `id` is the last id seen so far, as the standard has it."""

    id: str
    event: str
    data: bytes


class FrameReader:
    """Feed it bytes as they come; it gives back the frames that they complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._event = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        buffer = self._rest + chunk
        start = 0
        for match in _LINE_END.finditer(buffer):
            if match.group() == b"\r" and match.end() == len(buffer):
                break  # its LF may be in the next chunk
            frame = self._line(buffer[start : match.start()])
            start = match.end()
            if frame is not None:
                yield frame
        self._rest = buffer[start:]

    def _line(self, line: bytes) -> Frame | None:
        if not line:
            frame = Frame(self._id, self._event or "message", b"\n".join(self._data)) if self._data else None
            self._event, self._data = "", []
            return frame
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        return None
