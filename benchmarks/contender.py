"""A process that measures for a benchmark, and how it is asked: one JSON line there, one JSON line back.

Each side of a comparison runs in processes of its own, which are started, warmed up and then asked in turns.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

END_TIMEOUT_S = 5.0


class ContenderFailed(Exception):
    """It ended, took too long, or answered with an error; the message has the end of its log."""


class Contender:
    """The parent's side. One question at a time."""

    def __init__(self, module: str, *, arguments: Sequence[str] = (), env: Mapping[str, str], log: Path, stack: ExitStack) -> None:
        """Starts `python -m module`, ended with the stack. Secrets go in the environment, never in `arguments`."""
        self._module, self._log = module, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(env),
                cwd=log.parent,
                text=True,
                start_new_session=True,  # Ctrl-C is for the parent, which ends this one in order
            )
        stack.callback(self.close)
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, *, timeout_s: float, **arguments: Any) -> Any:
        """What its handler `do` returns. Raises ContenderFailed."""
        self.tell(do, **arguments)
        return self.answer(timeout_s=timeout_s)

    def tell(self, do: str, **arguments: Any) -> None:
        """Ask without waiting; `answer` must follow. Raises ContenderFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("ended") from None

    def answer(self, *, timeout_s: float) -> Any:
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise self._failed(f"did not answer within {timeout_s:g} s") from None
        if not line:
            raise self._failed("ended")
        found = json.loads(line)
        if "error" in found:
            raise self._failed(f"failed: {found['error']}")
        return found["ok"]

    def close(self) -> None:
        """Let it end by itself, as the end of its input asks it to; after a while kill it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._process.poll() is None:
            try:
                self._process.stdin.close()
                self._process.wait(END_TIMEOUT_S)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _failed(self, what: str) -> ContenderFailed:
        try:
            tail = self._log.read_bytes()[-3_000:].decode("utf-8", "replace")
        except OSError as error:
            tail = f"(no log: {error})"
        return ContenderFailed(f"{self._module} {what}. Its log ends with:\n{tail}")
