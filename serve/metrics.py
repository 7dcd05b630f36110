"""What one replica counts about itself, and the sum of supervisors' snapshots that /metrics shows with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from agentflow.telemetry import names


class ReplicaMetrics:
    """The replica's own registry; nothing process-wide, so that tests may have many."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._registry = CollectorRegistry()
        self._requests = Counter(names.HTTP_REQUESTS.name, names.HTTP_REQUESTS.help, names.HTTP_REQUESTS.labels, registry=self._registry)
        duration = names.HTTP_REQUEST_DURATION
        self._duration = Histogram(duration.name, duration.help, duration.labels, buckets=duration.buckets, registry=self._registry)
        self._streams = self._gauge(names.HTTP_STREAMS_OPEN)
        self._queued = self._gauge(names.HTTP_COMMANDS_QUEUED)
        self.streams_open = 0

    def answered(self, scope: Scope, status: int, duration_s: float) -> None:
        """A request is over. Streams are counted but not timed: theirs is the length of the execution."""
        method, route = _known_method(scope["method"]), route_of(scope)
        self._requests.labels(self._replica, method, route, str(status)).inc()
        if not scope.get("agentflow.stream"):
            self._duration.labels(self._replica, method, route).observe(duration_s)

    def stream_opened(self) -> None:
        self.streams_open += 1
        self._streams.set(self.streams_open)

    def stream_closed(self) -> None:
        self.streams_open -= 1
        self._streams.set(self.streams_open)

    def exposition(self, *, commands_queued: int, snapshots: Sequence[bytes]) -> bytes:
        """Prometheus text: the snapshots' sum, then the replica's own families."""
        self._queued.set(commands_queued)
        return summed(snapshots) + generate_latest(self._registry)

    def _gauge(self, metric: names.MetricName) -> Any:
        return Gauge(metric.name, metric.help, metric.labels, registry=self._registry).labels(self._replica)


def route_of(scope: Scope) -> str:
    """The route's template, so that ids in paths do not become labels."""
    return str(getattr(scope.get("route"), "path_format", "unmatched"))


def summed(snapshots: Sequence[bytes]) -> bytes:
    """Several Prometheus texts as one: samples of equal name and labels are added, the order of first sight is kept.

    One snapshot, which is what one supervisor gives, passes unchanged.
    """
    if len(snapshots) == 1:
        body = snapshots[0]
        return body if not body or body.endswith(b"\n") else body + b"\n"
    comments: dict[str, None] = {}
    families: dict[str, dict[str, float]] = {}
    heads: dict[str, list[str]] = {}
    family = ""
    for text in [snapshot.decode("utf-8") for snapshot in snapshots]:
        for line in text.splitlines():
            if line.startswith("#"):
                parts = line.split(None, 3)
                if len(parts) >= 3 and parts[1] in ("HELP", "TYPE"):
                    family = parts[2]
                    families.setdefault(family, {})
                    if line not in comments:
                        comments[line] = None
                        heads.setdefault(family, []).append(line)
            elif line.strip():
                series, _, number = line.rpartition(" ")
                samples = families.setdefault(family, {})
                samples[series] = samples.get(series, 0.0) + float(number)
    lines: list[str] = []
    for name, samples in families.items():
        lines += heads.get(name, [])
        lines += [f"{series} {_number(value)}" for series, value in samples.items()]
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _known_method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH") else "other"
