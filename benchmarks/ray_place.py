"""A Ray head node in a benchmark's place, as `agentflow up` starts it, without the HTTP front."""

from __future__ import annotations

from agentflow.cluster import ports, ray_head, state
from benchmarks.place import Place

START_TIMEOUT_S = 120.0


def start_ray(place: Place) -> dict[str, str]:
    """Start it; the environment for its drivers. Its processes end with the place. Raises ClusterDown."""
    settings = place.settings()
    state.prepare_home(settings)
    chosen = ports.choose(settings)
    folder = state.make_run_folder(settings)
    token_file = place.home / "ray-token"
    state.secret_of(token_file)
    env = ray_head.environment(settings, chosen, folder=folder, token_file=token_file) | place.environment()
    env = {name: value for name, value in env.items() if not name.startswith("RAY_SERVE_")}
    log = settings.logs / "ray-start.log"
    starting = ray_head.start(settings, chosen, folder=folder, env=env, log=log)
    ray_head.wait_started(starting, log=log, timeout_s=START_TIMEOUT_S)
    return env
