"""The least that serves HTTP on Ray: `ray.init`, then `serve.run` of a hello-world. Runs until its input ends.

Arguments: the port, Ray's folder, the dashboard's port. HAProxy's settings are in the environment, as `agentflow up` has them.
"""

from __future__ import annotations

import sys

import ray
from ray import serve
from ray.serve.config import HTTPOptions


@serve.deployment
class Hello:
    async def __call__(self) -> str:
        return "hello"


def main(port: str, folder: str, dashboard_port: str) -> None:
    ray.init(_temp_dir=folder, dashboard_host="127.0.0.1", dashboard_port=int(dashboard_port), log_to_driver=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=int(port)))
    serve.run(Hello.bind(), name="hello", route_prefix="/")  # type: ignore[attr-defined]
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
