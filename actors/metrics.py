"""A supervisor's metrics: functions of committed events, so that a replay counts nothing twice."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agentflow.domain import event as ev
from agentflow.domain.command import SupervisorStatus
from agentflow.domain.state import ExecutionState, split_key
from agentflow.engine.decide import Decision, Rules
from agentflow.telemetry import names
from agentflow.telemetry.names import MetricName


class SupervisorMetrics:
    """Its own registry; `/metrics` sums the supervisors' snapshots (no multiprocess mode, design 13)."""

    def __init__(self, supervisor: str) -> None:
        self.registry = CollectorRegistry()
        self._executions = self._counter(names.WORKFLOW_EXECUTIONS)
        self._execution_s = self._histogram(names.WORKFLOW_EXECUTION_DURATION)
        self._attempts = self._counter(names.AGENT_EXECUTIONS)
        self._attempt_s = self._histogram(names.AGENT_EXECUTION_DURATION)
        self._steps = self._counter(names.STEPS)
        self._commits = self._counter(names.COMMITS)
        self._events = self._counter(names.EVENTS_COMMITTED)
        self._in_flight = self._gauge(names.STEPS_IN_FLIGHT)
        self._loaded = self._gauge(names.EXECUTIONS_LOADED)

    def _counter(self, name: MetricName) -> Counter:
        return Counter(name.name, name.help, name.labels, registry=self.registry)

    def _gauge(self, name: MetricName) -> Gauge:
        return Gauge(name.name, name.help, name.labels, registry=self.registry)

    def _histogram(self, name: MetricName) -> Histogram:
        return Histogram(name.name, name.help, name.labels, registry=self.registry, buckets=name.buckets)

    def gauge(self, status: SupervisorStatus) -> None:
        """Bring what is counted at the moment of asking up to date."""
        self._in_flight.set(status.steps_in_flight)
        self._loaded.set(status.executions_loaded)

    def observe(self, state: ExecutionState, rules: Rules, decision: Decision, at: datetime) -> None:
        """Count one committed decision. Cheap: it runs after every commit."""
        self._commits.inc()
        self._events.inc(len(decision.events))
        workflow = state.workflow
        for event in decision.events:
            if isinstance(event, ev.StepCompleted):
                self._steps.labels(workflow, "completed").inc()
                uses = uses_of(rules, event.step)
                self._attempts.labels(uses, "completed").inc()
                self._attempt_s.labels(uses).observe(max(0.0, (at - event.started_at).total_seconds()))
            elif isinstance(event, ev.StepFailed):
                self._attempts.labels(uses_of(rules, event.step), "failed").inc()
                if event.retry_at is None:
                    self._steps.labels(workflow, "failed").inc()
            elif isinstance(event, ev.StepCrashed):
                self._attempts.labels(uses_of(rules, event.step), "crashed").inc()
            elif isinstance(event, ev.StepSkipped):
                self._steps.labels(workflow, "skipped").inc()
            elif isinstance(event, ev.ExecutionStarted):
                self._executions.labels(workflow, "running").inc()
            elif isinstance(event, ev.ENDING):
                self._ended(state, at)

    def _ended(self, state: ExecutionState, at: datetime) -> None:
        self._executions.labels(state.workflow, state.status.value).inc()
        if state.started_at is not None:
            self._execution_s.labels(state.workflow, state.status.value).observe(max(0.0, (at - state.started_at).total_seconds()))


def uses_of(rules: Rules, key: str) -> str:
    """The import path behind a step: a label with few values, which a step's key with its item would not be."""
    definition = rules.workflow.step(split_key(key)[0])
    if definition.tool is not None:
        return definition.tool
    return rules.workflow.agent(definition.agent or "").uses
