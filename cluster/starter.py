"""The process that puts AgentFlow into a fresh Ray: imports everything while Ray is still starting, then waits for the word.

It is a process of its own so that whoever calls `up` gets no Ray, no changed environment and no foreign log lines. It reads
one JSON line from stdin when Ray is there ({"settings": …, "app_dir": …, "database_url": …}),
and writes one to stdout: {} or {"code", "message"}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentflow.cluster import ray_head
from agentflow.errors import AgentFlowError, ClusterDown
from agentflow.settings import Settings

KEEPER_TIMEOUT_S = 60.0


class Starter:
    """The parent's side. `close` ends the process if it still runs."""

    def __init__(self, *, env: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "agentflow.cluster.starter"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                cwd="/",
                start_new_session=True,
            )

    def deploy(self, settings: Settings, *, app_dir: Path, database_url: str, timeout_s: float) -> None:
        """Start the actors and the HTTP application. Raises ClusterDown with what went wrong and the log's path.

        `settings.port` is the real one; `settings.database_url` None says that the one in `database_url` is embedded.
        """
        order = json.dumps({"settings": _revealed(settings), "app_dir": str(app_dir), "database_url": database_url}).encode() + b"\n"
        try:
            answer, _ = self._process.communicate(order, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ClusterDown(f"AgentFlow did not start within {timeout_s:.0f} s. {self._shown()}") from None
        try:
            failure = json.loads(answer)
        except ValueError:
            raise ClusterDown(f"The start of AgentFlow broke off (exit code {self._process.returncode}). {self._shown()}") from None
        if failure:
            raise ClusterDown(f"AgentFlow could not start: {failure['message']} (log: {self._log})", cause=failure["code"])

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _shown(self) -> str:
        return f"Its log {self._log} ends with:\n{ray_head.tail(self._log)}"


def _revealed(settings: Settings) -> dict[str, Any]:
    """With the database's password: this goes through a pipe, and is neither an argument nor in the environment."""
    fields = settings.model_dump(mode="json")
    if settings.database_url:
        fields["database_url"] = settings.database_url.get_secret_value()
    return fields


def main() -> int:
    began = time.monotonic()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints goes to the log; the answer alone goes to the pipe
    import ray

    from agentflow.actors import remote
    from agentflow.actors.wiring import NAMESPACE
    from agentflow.serve.deploy import deploy

    print(f"imported in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        return 1  # the parent gave up
    order = json.loads(line)
    failure: dict[str, str] = {}
    try:
        settings, app_dir, database_url = Settings(**order["settings"]), Path(order["app_dir"]), order["database_url"]
        ray.init(namespace=NAMESPACE, log_to_driver=False)  # the address and the token are in the environment
        keeper = remote.create_database_keeper(settings.home) if settings.database_url is None else None
        remote.start_actors(settings, app_dir, database_url=database_url)
        deploy(settings, app_dir, database_url=database_url)
        if keeper is not None:  # one that cannot start would be noticed only when PostgreSQL dies
            ray.get(keeper.restart_count.remote(), timeout=KEEPER_TIMEOUT_S)
    except AgentFlowError as error:
        failure = {"code": error.code, "message": error.message}
    except Exception as error:  # noqa: BLE001  the top of this process: the parent shows it
        import traceback

        traceback.print_exc()
        failure = {"code": "internal", "message": f"{type(error).__name__}: {error}"}
    out.write(json.dumps(failure) + "\n")
    out.flush()
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
