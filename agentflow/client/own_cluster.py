"""A cluster that a client starts for itself. The starter is loaded by name: the client knows no Ray (design 2)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from agentflow.client.address import Address

STARTER = "agentflow.cluster.local"
"""The module with `start_own(*, home, app_dir)`; it returns (url, key, stop)."""


@dataclass(frozen=True, slots=True)
class OwnCluster:
    """`stop` ends every process of it."""

    address: Address
    stop: Callable[[], None]


def start(*, home: str | os.PathLike[str] | None, app_dir: str | os.PathLike[str] | None) -> OwnCluster:
    """Start a cluster and wait until it is ready; takes half a minute. Raises ClusterDown when it does not become ready."""
    starter = importlib.import_module(STARTER)
    url, key, stop = starter.start_own(home=home, app_dir=app_dir)
    return OwnCluster(Address(url.rstrip("/"), key, True), stop)
