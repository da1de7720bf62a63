"""JSON logging: one object a line, explained keys, and no large values."""

import io
import json
import logging

import pytest

from rigface.telemetry.json_logging import KEYS, JsonLines, install_json_logging, log_fields
from tests.conftest import ROOT


@pytest.fixture
def log(request):
    """A logger that writes lines, and what it wrote."""
    text = io.StringIO()
    made = logging.getLogger(f"rigface.test.{request.node.name}")
    install_json_logging(made, text)
    yield made, lambda: [json.loads(line) for line in text.getvalue().splitlines()]
    made.handlers.clear()


def test_line_has_its_fields_and_no_empty_ones(log):
    logger, lines = log
    logger.warning(
        "unit", extra=log_fields(job="run-1", unit="u", video="s3://b/ü.mp4", status="error", reason=None, stage="")
    )
    (line,) = lines()
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning", "event": "unit", "job": "run-1", "unit": "u", "video": "s3://b/ü.mp4", "status": "error",
    }  # fmt: skip


def test_traceback_stays_in_one_line(log):
    logger, lines = log
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        logger.exception("broken", extra=log_fields(request_id="r1"))
    (line,) = lines()
    assert (line["event"], line["request_id"], line["level"]) == ("broken", "r1", "error")
    assert "RuntimeError: two\nlines" in line["error"]


def test_record_of_a_library_is_the_event_message():
    record = logging.LogRecord("urllib3", logging.WARNING, __file__, 1, 'retry %s {"a": 1}', ("x",), None)
    line = json.loads(JsonLines().format(record))
    assert (line["event"], line["message"]) == ("message", 'retry x {"a": 1}')


@pytest.mark.parametrize(
    "value", [b"\xff\xd8\xff" * 1000, bytearray(10), [1] * 10_000, object(), "x" * 100_000], ids=type
)
def test_large_values_are_replaced_by_their_size(log, value):
    logger, lines = log
    logger.info("unit", extra=log_fields(reason=value, numbers={"inner": value}))
    (line,) = lines()
    assert len(json.dumps(line)) < 5000
    assert type(value).__name__ in line["reason"] or "100000 characters" in line["reason"]


def test_unexplained_key_is_refused():
    with pytest.raises(ValueError, match=r"\['embedding'\]: explain them"):
        log_fields(embedding=[0.1])


def test_docs_explain_every_key():
    manual = (ROOT / "docs" / "operations.md").read_text()
    assert all(f"| `{name}` |" in manual for name in KEYS)
