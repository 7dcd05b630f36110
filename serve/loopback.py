"""Closes the port that Ray Serve opens to everybody: each replica's gRPC server unpickles what it receives, and asks nobody's name.

Ray 2.60 binds it to `[::]` in a line without a setting (serve/_private/replica.py, `_on_initialized`). It is for calls between
deployments, of which we have one.
"""

from __future__ import annotations

import importlib
from typing import Any

import ray

EVERYWHERE = "[::]:"


def keep_grpc_on_loopback() -> None:
    """Call it in a replica's constructor, before Serve opens the port. Idempotent; the port is then bound to the node's own
    address, which in a local cluster is the loopback."""
    serve_replica: Any = importlib.import_module("ray.serve._private.replica")
    bind = serve_replica.add_port_to_grpc_server
    if getattr(bind, "node_only", False):
        return
    node_address: Any = ray.util.get_node_ip_address
    address = node_address()

    def bind_here(server: Any, where: str) -> int:
        return int(bind(server, where.replace(EVERYWHERE, f"{address}:", 1)))

    bind_here.node_only = True  # type: ignore[attr-defined]
    serve_replica.add_port_to_grpc_server = bind_here
