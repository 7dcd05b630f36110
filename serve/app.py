"""The HTTP application, made from its services and nothing else, so that it runs under Ray Serve and under a test alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from fastapi import FastAPI

from agentflow.serve import problems
from agentflow.serve.api import Api
from agentflow.serve.auth import Authenticator
from agentflow.serve.boundary import BodyLimit, Boundary
from agentflow.serve.commands import CommandQueue
from agentflow.serve.definitions import Definitions
from agentflow.serve.description import described
from agentflow.serve.feed import ChangeFeed
from agentflow.serve.intake import Intake
from agentflow.serve.metrics import ReplicaMetrics
from agentflow.serve.readiness import Readiness
from agentflow.serve.routes import agents, events, executions, operations, sessions, workflows
from agentflow.serve.services import Services

logger = logging.getLogger(__name__)

API_VERSION = "1"


def build_app(services: Services, *, holding: AbstractAsyncContextManager[object] | None = None) -> FastAPI:
    """The application. Its lifespan runs the change feed and the command queue; a server or a test must run it.

    `holding`: what has connections, opened before the first request and closed after the last.
    """
    values = services.values
    definitions = Definitions(services.workflows)
    api = Api(
        services=services,
        authenticator=Authenticator(services.api_keys, believe_s=values.key_cache_s),
        commands=CommandQueue(services.supervisor, limit=values.submit_queue_limit, deadline_s=values.submit_deadline_s),
        feed=ChangeFeed(services.supervisor),
        definitions=definitions,
        intake=Intake(services, definitions),
        metrics=ReplicaMetrics(values.replica),
        readiness=Readiness(services.workflows, services.supervisor),
    )
    app = FastAPI(
        title="AgentFlow",
        version=API_VERSION,
        description="Teams of AI agents as durable, distributed executions. Errors are RFC 9457 problem documents with a stable code.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=_running(api, holding),
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours, under our names
    )
    app.state.api = api
    for resource in (workflows, executions, events, agents, sessions, operations):
        app.include_router(resource.router)
    problems.install(app)
    app.add_middleware(BodyLimit, limit_bytes=values.payload_limit_bytes)
    app.add_middleware(Boundary, metrics=api.metrics, echo_request_id=values.echo_request_id)  # added last, so it is the outermost
    described(app)
    return app


def _running(api: Api, holding: AbstractAsyncContextManager[object] | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with holding or nullcontext(), _loops(api):
            yield

    return lifespan


@asynccontextmanager
async def _loops(api: Api) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(_forever("the change feed", api.feed.run)),
        asyncio.create_task(_forever("the command queue", api.commands.run)),
    ]
    try:
        yield
    finally:
        # Again and again: in Python 3.11 `asyncio.wait_for`, which a link may use, drops a cancellation that comes with its result.
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.5)


async def _forever(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a loop that must not end; if a bug ends it, log it and start it again."""
    while True:
        try:
            await run()
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("%s ended; it is started again", name)
            await asyncio.sleep(1.0)
