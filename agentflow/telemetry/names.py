"""The name, help text, labels and buckets of every metric that AgentFlow exports; nobody spells one anywhere else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetricName:
    """One metric family. `buckets` (upper bounds, in the metric's unit) are set for histograms only."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SECONDS_OF_WORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
SECONDS_OF_HTTP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Counted by supervisors after the commit: functions of events, so that a replay counts nothing twice.
WORKFLOW_EXECUTIONS = MetricName(
    "agentflow_workflow_executions_total",
    "Executions by the status they reached: running when accepted, then completed, failed or cancelled.",
    ("workflow", "status"),
)
WORKFLOW_EXECUTION_DURATION = MetricName(
    "agentflow_workflow_execution_duration_seconds",
    "From the start of an execution to its end, waiting included.",
    ("workflow", "status"),
    SECONDS_OF_WORK,
)
AGENT_EXECUTIONS = MetricName(
    "agentflow_agent_executions_total",
    "Ended attempts of steps, by what ran them (import path) and how they ended: completed, failed or crashed.",
    ("agent", "status"),
)
AGENT_EXECUTION_DURATION = MetricName(
    "agentflow_agent_execution_duration_seconds",
    "From the start of a completed attempt to its commit.",
    ("agent",),
    SECONDS_OF_WORK,
)
STEPS = MetricName(
    "agentflow_steps_total",
    "Steps by the status they settled in: completed, failed or skipped.",
    ("workflow", "status"),
)
STEPS_IN_FLIGHT = MetricName("agentflow_steps_in_flight", "Steps that are dispatched and have not ended.")
EXECUTIONS_LOADED = MetricName("agentflow_executions_loaded", "Executions that a supervisor holds in memory.")
COMMITS = MetricName("agentflow_journal_commits_total", "Group commits of the journal.")
EVENTS_COMMITTED = MetricName("agentflow_journal_events_total", "Events committed to the journal.")

# Counted by each Serve replica; the label `replica` keeps the series of two replicas apart behind one address.
HTTP_REQUESTS = MetricName(
    "agentflow_http_requests_total", "Answered HTTP requests, by route template.", ("replica", "method", "route", "status")
)
HTTP_REQUEST_DURATION = MetricName(
    "agentflow_http_request_duration_seconds",
    "From the request's arrival to the end of its answer; streams are not in it.",
    ("replica", "method", "route"),
    SECONDS_OF_HTTP,
)
HTTP_STREAMS_OPEN = MetricName("agentflow_http_streams_open", "Event streams that are open now.", ("replica",))
HTTP_COMMANDS_QUEUED = MetricName("agentflow_http_commands_queued", "Commands that wait for the supervisor.", ("replica",))

ALL: tuple[MetricName, ...] = (
    WORKFLOW_EXECUTIONS,
    WORKFLOW_EXECUTION_DURATION,
    AGENT_EXECUTIONS,
    AGENT_EXECUTION_DURATION,
    STEPS,
    STEPS_IN_FLIGHT,
    EXECUTIONS_LOADED,
    COMMITS,
    EVENTS_COMMITTED,
    HTTP_REQUESTS,
    HTTP_REQUEST_DURATION,
    HTTP_STREAMS_OPEN,
    HTTP_COMMANDS_QUEUED,
)
