"""The application as a Ray Serve deployment: replicas that are equal, hold nothing, and may die at any time.

Serve's traps, all checked on Ray 2.60 (design 12): `max_ongoing_requests` is 5 unless said otherwise, so five open event
streams would block a replica; a replica asks for a CPU unless said otherwise, and waits for it silently; with HAProxy the
frontend and the replicas bind all interfaces unless the host is given; HAProxy's flags are read where Serve's controller
starts, so `agentflow up` sets them before Ray starts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions

from agentflow.actors.remote import start_actors, supervisor_link
from agentflow.actors.wiring import NAMESPACE
from agentflow.adapters.postgres import PostgresStore
from agentflow.errors import ClusterDown
from agentflow.serve.app import build_app
from agentflow.serve.code import PinnedCode
from agentflow.serve.loopback import keep_grpc_on_loopback
from agentflow.serve.services import ApiValues, Services
from agentflow.settings import Settings
from agentflow.telemetry.logs import log_as_json

logger = logging.getLogger(__name__)

APPLICATION = "agentflow"
DEPLOYMENT = "api"
ONGOING_LIMIT = 2_000
"""Requests in a replica at once, event streams and waits included."""
HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 15.0
GRACE_S = 3.0
"""A replica that is told to stop waits this long for its requests; event streams resume at another one."""


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What a replica needs; travels as a constructor argument, never in a runtime_env, which Ray shows to everybody."""

    database_url: str = field(repr=False)
    app_dir: str
    values: ApiValues
    log_level: str = "INFO"


@serve.deployment(name=DEPLOYMENT)
@serve.ingress()
class Replica:
    """One process of the API. Its constructor touches nothing that can fail: connections are made when they are needed."""

    def __init__(self, config: ReplicaConfig) -> None:
        keep_grpc_on_loopback()
        replica = serve.get_replica_context().replica_tag
        log_as_json(config.log_level, process=f"api-{replica}")
        self._config = replace(config, values=replace(config.values, replica=replica))
        self._app: FastAPI | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        store = PostgresStore(self._config.database_url)
        services = Services(
            supervisor=supervisor_link(),
            executions=store.executions,
            workflows=store.workflows,
            catalogue=store.catalogue,
            idempotency=store.idempotency,
            api_keys=store.api_keys,
            sessions=store.sessions,
            values=self._config.values,
            code_hash=PinnedCode(Path(self._config.app_dir)),
        )
        self._app = build_app(services, holding=store)
        return self._app

    async def check_health(self) -> None:
        """Serve replaces a replica that raises here. What lies behind it (store, supervisor) is not its health: /ready says that."""
        if self._app is None:
            raise RuntimeError("the application was not built")


def values_of(settings: Settings) -> ApiValues:
    """The part of the settings that replicas have."""
    return ApiValues(
        payload_limit_bytes=settings.payload_limit_bytes,
        mount_roots=tuple(str(root) for root in settings.mount_roots),
        metrics_open=settings.metrics_open,
        echo_request_id=False,
    )


def deploy(settings: Settings, app_dir: Path, *, database_url: str | None = None) -> None:
    """Start the actors and the API's replicas in the running Ray cluster (RAY_ADDRESS); returns when they take requests.

    The database is migrated already; `settings.port` is a real port, and without `database_url` the settings (or the embedded
    PostgreSQL) say where it is. Called again it replaces the replicas one by one and leaves living actors alone. Raises ClusterDown.
    """
    connect_to_ray()
    actors = start_actors(settings, app_dir, database_url=database_url)
    config = ReplicaConfig(actors.database_url, actors.app_dir, values_of(settings), settings.log_level)
    serve.start(http_options=HTTPOptions(host=settings.host, port=settings.port), logging_config=_logging(settings))
    application: Any = Replica.options(  # type: ignore[attr-defined]
        num_replicas=settings.http_replicas,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=ONGOING_LIMIT,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=GRACE_S,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=_logging(settings),
    ).bind(config)
    try:
        serve.run(application, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise ClusterDown(f"Ray Serve could not start the API: {error}") from error


def connect_to_ray() -> None:
    """Become a driver of the cluster that RAY_ADDRESS names, unless this process is one. Raises ClusterDown."""
    if ray.is_initialized():
        return
    try:
        ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterDown(f"Ray cannot be reached: {error}") from error


def _logging(settings: Settings) -> dict[str, Any]:
    """Serve's own logs. Its access log is off: requests are counted in metrics, and paths hold names of users' things."""
    return {"encoding": "JSON", "log_level": settings.log_level, "enable_access_log": False}
