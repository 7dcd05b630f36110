"""The only file with `ray.remote`: every Ray option of every actor, in view.

All our actors are detached (when an actor is killed, every non-detached one it created dies too), reserve no CPU unless an
agent asks for it (a third actor with one CPU would wait for ever on two cores), and are never retried by Ray: we know better
what may run again. Control calls and calls that wait have concurrency groups of their own, so that 1,000 deliveries do not
stand before a cancellation.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agentflow.actors.agent import AgentActor
from agentflow.actors.home import Home
from agentflow.actors.links import RaySupervisorLink, supervisor_name
from agentflow.actors.pool import RayWorkerPool
from agentflow.actors.supervisor import SupervisorActor
from agentflow.actors.tool import ToolActor
from agentflow.actors.wiring import NAMESPACE, ActorConfig
from agentflow.ports import SupervisorLink
from agentflow.settings import Settings

logger = logging.getLogger(__name__)

GROUPS = {"control": 64, "wait": 2_000}
STEPS_AT_ONCE = 1_000
"""Calls in the default group at a time: deliveries and reports, each a batch."""
START_TIMEOUT_S, START_RETRY_S = 10.0, 0.1


def _actor(cls: type[Any], **options: Any) -> Any:
    """A Ray actor class whose instances call their own `start` when they are made, and again when Ray restarts them."""

    def __init__(self: Any, *arguments: Any) -> None:
        cls.__init__(self, *arguments)
        handle = ray.get_runtime_context().current_actor
        threading.Thread(target=_call_start, args=(handle, self._home), daemon=True, name="start").start()

    started = type(cls.__name__, (cls,), {"__init__": __init__, "__module__": __name__, "__doc__": cls.__doc__})
    fixed = {"lifetime": "detached", "namespace": NAMESPACE, "max_task_retries": 0, "max_concurrency": STEPS_AT_ONCE}
    decorate: Any = ray.remote(concurrency_groups=GROUPS, num_cpus=0)  # type: ignore[call-overload]  # Ray's stubs do not know the groups
    return decorate(started).options(**fixed, **options)


def _call_start(handle: Any, home: Home) -> None:
    """Have an actor's own `start` run in its default loop.

    Not in the constructor: in a process that Ray has restarted, a call to itself is lost when it comes before the cluster knows
    that the actor lives again (seen: the supervisor was there and did nothing).
    """
    while not home.settled:
        try:
            ray.get(handle.start.remote(), timeout=START_TIMEOUT_S)
        except RayError as error:
            logger.info("the actor cannot call itself yet: %s", type(error).__name__)
            time.sleep(START_RETRY_S)


def create_supervisor(config: ActorConfig, name: str) -> Any:
    """Get or make a supervisor. It is restarted by Ray for ever; `os._exit(1)` counts as a death, `exit_actor` would be final."""
    actor = _actor(SupervisorActor, name=supervisor_name(name), get_if_exists=True, max_restarts=-1)
    return actor.remote(config.as_mapping(), name, make_pool)


def make_pool(config: ActorConfig, supervisor: str) -> RayWorkerPool:
    """The pool of a supervisor's workers."""
    return RayWorkerPool(config, supervisor, create_agent=create_agent, create_tool=create_tool)


def create_agent(config: ActorConfig, name: str, supervisor: str, *, cpu: float, memory_bytes: int) -> Any:
    """A generic agent actor that reserves what its agent asks for. Its supervisor replaces a dead one."""
    actor = _actor(AgentActor, name=name, max_restarts=0, num_cpus=cpu, memory=memory_bytes)
    return actor.remote(config.as_mapping(), name, supervisor)


def create_tool(config: ActorConfig, name: str, supervisor: str, *, node_id: str) -> Any:
    """The tool actor of a node."""
    here = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    actor = _actor(ToolActor, name=name, max_restarts=0, scheduling_strategy=here)
    return actor.remote(config.as_mapping(), name, supervisor)


def create_database_keeper(home: Path) -> Any:
    """Get or make the actor on this node that starts the embedded PostgreSQL again when it dies."""
    from agentflow.actors.database import DatabaseKeeper

    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    actor = _actor(DatabaseKeeper, name=f"{NAMESPACE}:database", get_if_exists=True, max_restarts=-1, scheduling_strategy=here)
    return actor.remote(str(home))


def start_actors(settings: Settings, app_dir: Path, *, database_url: str | None = None) -> ActorConfig:
    """Make what runs always: the supervisor, which makes the rest. Idempotent; needs a connected driver. Returns at once."""
    config = ActorConfig.of(settings, app_dir, database_url=database_url)
    create_supervisor(config, "0")
    return config


def supervisor_link() -> SupervisorLink:
    """The link to the one supervisor (M = 1)."""
    return RaySupervisorLink("0")


def our_actors() -> list[str]:
    """Names of all actors of AgentFlow in this Ray cluster."""
    return [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE]


def stop_actors() -> int:
    """End all of them, supervisors first, so that nobody replaces what is ended; how many there were."""
    names = sorted(our_actors(), key=lambda name: not name.startswith(f"{NAMESPACE}:supervisor:"))
    for name in names:
        try:
            ray.kill(ray.get_actor(name, NAMESPACE), no_restart=True)
        except ValueError:
            logger.info("actor %s had ended", name)
    return len(names)
