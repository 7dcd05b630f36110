"""The parts of one application, and the dependencies by which a route gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from agentflow.ports import Principal
from agentflow.serve.auth import Authenticator, must_write
from agentflow.serve.commands import CommandQueue
from agentflow.serve.definitions import Definitions
from agentflow.serve.feed import ChangeFeed
from agentflow.serve.intake import Intake
from agentflow.serve.metrics import ReplicaMetrics
from agentflow.serve.readiness import Readiness
from agentflow.serve.services import ApiValues, Services


@dataclass(frozen=True, slots=True)
class Api:
    """One a process; made by `serve.app.build_app`."""

    services: Services
    authenticator: Authenticator
    commands: CommandQueue
    feed: ChangeFeed
    definitions: Definitions
    intake: Intake
    metrics: ReplicaMetrics
    readiness: Readiness

    @property
    def values(self) -> ApiValues:
        return self.services.values


_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="The API key.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="header", description="The API key.")


def api_of(request: Request) -> Api:
    api: Api = request.app.state.api
    return api


async def reader(
    request: Request,
    _b: Annotated[object, Security(_bearer)] = None,
    _h: Annotated[object, Security(_header)] = None,
) -> Principal:
    """Any principal. Raises Unauthenticated."""
    headers = request.headers
    return await api_of(request).authenticator.principal(headers.get("authorization"), headers.get("x-api-key"))


async def writer(principal: Annotated[Principal, Depends(reader)]) -> Principal:
    """A principal that may change things. Raises Unauthenticated, Forbidden."""
    must_write(principal)
    return principal


TheApi = Annotated[Api, Depends(api_of)]
Reader = Annotated[Principal, Depends(reader)]
Writer = Annotated[Principal, Depends(writer)]
