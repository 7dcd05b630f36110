"""Names of metrics, and logs as JSON that let no payload through."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from agentflow.telemetry import names
from agentflow.telemetry.logs import log_as_json


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the `agentflow` loggers write, as JSON; the loggers are put back as they were."""
    logger = logging.getLogger("agentflow")
    before = logger.handlers[:], logger.level, logger.propagate
    stream = io.StringIO()
    log_as_json("info", process="test", stream=stream)
    yield stream
    logger.handlers[:], logger.level, logger.propagate = before


def test_every_metric_has_one_name_that_says_its_unit() -> None:
    assert len({metric.name for metric in names.ALL}) == len(names.ALL)
    for metric in names.ALL:
        assert re.fullmatch(r"agentflow_[a-z_]+", metric.name) and metric.help.endswith(".")
        assert (not metric.buckets) or (metric.name.endswith("_seconds") and list(metric.buckets) == sorted(set(metric.buckets)))


def test_a_line_is_one_json_object_with_known_fields_only(stream: io.StringIO) -> None:
    logging.getLogger("agentflow.x").info("two\nlines \ud800 %s", "ok", extra={"execution_id": "e", "step": "s", "payload": "secret"})
    (text,) = stream.getvalue().splitlines()
    line = json.loads(text)
    assert line["message"] == "two\nlines \ud800 ok" and line["level"] == "info" and line["logger"] == "agentflow.x"
    assert (line["execution_id"], line["step"], line["process"]) == ("e", "s", "test")
    assert "payload" not in line and line["at"].endswith("+00:00")


def test_a_traceback_stays_inside_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("agentflow").exception("failed")
    (text,) = stream.getvalue().splitlines()
    assert "ValueError: no" in json.loads(text)["traceback"]


def test_setting_up_twice_writes_once_and_the_level_holds(stream: io.StringIO) -> None:
    log_as_json("WARNING", stream=stream)
    logging.getLogger("agentflow").info("unseen")
    logging.getLogger("agentflow").warning("seen")
    assert len(stream.getvalue().splitlines()) == 1
