"""The tree of errors: drawn as it is, and each of it survives the way between processes."""

from __future__ import annotations

import pickle
import re

import pytest

import agentflow.errors
from agentflow.errors import AgentFlowError, NotFound, StepFailed, from_code


def tree():
    """Every class of ours, parents first."""
    found = [AgentFlowError]
    for kind in found:
        found.extend(sub for sub in kind.__subclasses__() if sub.__module__ == "agentflow.errors")
    return found


def drawn():
    """(depth, class name, code) of every line of the docstring's tree."""
    lines = []
    for line in (agentflow.errors.__doc__ or "").splitlines():
        if found := re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(?: +(\w+))?", line):
            lines.append((len(found[1]) // 4, found[2], found[3]))
    return lines


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_with_all_it_says(kind):
    error = kind("it broke; mend it", limit_bytes=4, where=["a", None], error={"code": "zero", "message": "m"})
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is kind
    assert (again.message, str(again), again.facts) == (error.message, "it broke; mend it", error.facts)
    assert (again.code, again.retryable, again.http_status) == (error.code, error.retryable, error.http_status)


def test_a_failed_steps_own_code_survives_pickle():
    error = StepFailed("m", error={"code": "sandbox_oom"})

    assert pickle.loads(pickle.dumps(error)).code == error.code == "sandbox_oom"
    assert StepFailed("m").code == "step_failed"


def test_the_docstring_draws_every_class_with_its_code_below_its_parent():
    parents: list[str] = []
    seen = set()
    for depth, name, code in drawn():
        kind = getattr(agentflow.errors, name)
        seen.add(kind)
        parents[depth:] = [name]
        if depth:
            assert code == kind.code, name
            assert kind.__bases__[0].__name__ == parents[depth - 1], name
    assert seen == set(tree())


def test_codes_are_all_different():
    codes = [kind.__dict__.get("code") for kind in tree()]

    assert None not in codes
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_a_code_finds_its_class_again(kind):
    error = from_code(kind.code, "m", a=1)

    assert (type(error), error.message, error.facts) == (kind, "m", {"a": 1})


def test_a_code_of_a_newer_version_is_kept_on_the_root():
    error = from_code("from_the_future", "m")

    assert (type(error), error.code) == (AgentFlowError, "from_the_future")
    assert from_code("not_found", "m", workflow="w").facts == NotFound("m", workflow="w").facts


def test_an_unknown_code_survives_pickle():
    assert pickle.loads(pickle.dumps(from_code("from_the_future", "m"))).code == "from_the_future"
