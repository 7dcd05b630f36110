"""Every error that AgentFlow raises, as one tree.

::

    AgentFlowError
    ├── InvalidRequest            invalid_request     the request is wrong; nothing was done
    │   ├── WorkflowInvalid       workflow_invalid    a definition has errors; carries all of them, located
    │   ├── InputInvalid          input_invalid       an input does not match its schema
    │   └── NotYet                not_yet             a documented feature that this version does not have
    ├── PayloadTooLarge           payload_too_large   a body is over its limit
    ├── Unauthenticated           unauthenticated     no key, or an unknown one
    ├── Forbidden                 forbidden           the principal may not do this
    │   └── MountForbidden        mount_forbidden     the folder is outside `mount_roots`
    ├── NotFound                  not_found           no such workflow, version, execution, agent or tool
    ├── Conflict                  conflict            the thing exists and differs
    │   └── IdempotencyConflict   idempotency_conflict  same key, another body
    ├── Busy                      busy                a bounded queue is full; try again after `retry_after_s`
    ├── Unavailable               unavailable         a needed part cannot be reached now
    │   └── StoreUnavailable      store_unavailable   PostgreSQL cannot be reached; nothing was written
    ├── CommitUnknown             commit_unknown      the connection was lost during COMMIT
    ├── Fenced                    fenced              this supervisor no longer holds the shard
    ├── StepFailed                step_failed         a step ended in error; `code` is the step's own
    ├── NonDeterminism            non_determinism     a replay asked for another effect than the journal holds
    ├── SandboxRefused            sandbox_refused     the isolation that was asked for is not there
    ├── ClusterDown               cluster_down        no AgentFlow runs where one was expected
    └── ExecutionFailed           execution_failed    raised by `result()` of an execution that failed or was cancelled

`code` is stable and public; `retryable` says whether the same call may succeed later; `facts` are the JSON-able
attributes that a problem document shows. Every class survives pickle, since Ray ships exceptions by it.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AgentFlowError(Exception):
    """Root of the tree. `str(error)` says what happened and what to do about it."""

    code: str = "internal"
    retryable: bool = False
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, /, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts, self.code)


def _rebuild(kind: type[AgentFlowError], message: str, facts: dict[str, Any], code: str) -> AgentFlowError:
    error = kind(message, **facts)
    if error.code != code:  # one that only this error has, see `from_code`
        error.code = code
    return error


class InvalidRequest(AgentFlowError):
    code = "invalid_request"
    http_status = 400


class WorkflowInvalid(InvalidRequest):
    """A workflow definition has errors. `facts["errors"]` is a list of {file, line, column, code, message}, in file order."""

    code = "workflow_invalid"
    http_status = 422


class InputInvalid(InvalidRequest):
    """`facts["errors"]` is a list of {path, message}; path is a JSON pointer into the input."""

    code = "input_invalid"
    http_status = 422


class NotYet(InvalidRequest):
    code = "not_yet"
    http_status = 501


class PayloadTooLarge(AgentFlowError):
    """`facts`: size_bytes, limit_bytes, setting (the name of the limit)."""

    code = "payload_too_large"
    http_status = 413


class Unauthenticated(AgentFlowError):
    code = "unauthenticated"
    http_status = 401


class Forbidden(AgentFlowError):
    code = "forbidden"
    http_status = 403


class MountForbidden(Forbidden):
    code = "mount_forbidden"


class NotFound(AgentFlowError):
    code = "not_found"
    http_status = 404


class Conflict(AgentFlowError):
    code = "conflict"
    http_status = 409


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class Busy(AgentFlowError):
    """`facts["retry_after_s"]` is the advised wait."""

    code = "busy"
    retryable = True
    http_status = 429


class Unavailable(AgentFlowError):
    code = "unavailable"
    retryable = True
    http_status = 503


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class CommitUnknown(AgentFlowError):
    """The batch may or may not be in the journal: read back, decide again, never repeat it blindly."""

    code = "commit_unknown"
    retryable = True
    http_status = 503


class Fenced(AgentFlowError):
    code = "fenced"
    http_status = 503


class StepFailed(AgentFlowError):
    """Raised to agent code when a tool it called failed for good; `facts["error"]` is the recorded failure."""

    code = "step_failed"

    def __init__(self, message: str, /, **facts: Any) -> None:
        super().__init__(message, **facts)
        error = facts.get("error")
        if isinstance(error, dict) and error.get("code"):
            self.code = str(error["code"])


class NonDeterminism(AgentFlowError):
    code = "non_determinism"


class SandboxRefused(AgentFlowError):
    code = "sandbox_refused"
    http_status = 503


class ClusterDown(AgentFlowError):
    code = "cluster_down"
    retryable = True


class ExecutionFailed(AgentFlowError):
    """`facts`: execution_id, status, error {code, message, step?}."""

    code = "execution_failed"


def from_code(code: str, message: str, /, **facts: Any) -> AgentFlowError:
    """The error that `code` stands for, made from a problem document or a supervisor's reply; the root for a code we do not know."""
    kinds = [AgentFlowError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    for kind in kinds:
        if kind.__dict__.get("code") == code:
            return kind(message, **facts)
    error = AgentFlowError(message, **facts)
    error.code = code
    return error
