"""Operational logs: one JSON object a line on standard error, and no secret in any of them, tracebacks included."""

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import logging, sys
import structlog
from stratmaster_router.telemetry.logs import configure_logs

configure_logs(sys.argv[1])
ours = structlog.stdlib.get_logger("stratmaster_router")
theirs = logging.getLogger("uvicorn.error")

def fail(authorization, body):
    headers = {b"authorization": authorization}
    raise ValueError("went wrong")

for logger in (ours, theirs):
    logger.debug("one")
    logger.info("two")
    logger.warning("three")
    try:
        fail(b"Bearer sk-client-secret", b"the prompt of a client")
    except ValueError as error:
        logger.error("four", exc_info=error)
ours.info("five", tenant="acme", policy="0123456789ab")
"""


def lines(level: str) -> list[dict[str, Any]]:
    """What the program above logs at `level`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, level], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["one", "two", "three", "four"] * 2 + ["five"]),
        ("info", ["two", "three", "four"] * 2 + ["five"]),
        ("warning", ["three", "four"] * 2),
        ("error", ["four"] * 2),
    ],
)
def test_level_decides_for_our_loggers_and_for_those_of_libraries(level: str, events: list[str]) -> None:
    """Every line is one JSON object on standard error, from the level on that was asked for."""
    assert [line["event"] for line in lines(level)] == events


def test_line_says_who_and_how_bad_and_what_more() -> None:
    """A line has its level, its logger, its time in UTC, and the fields that it was given."""
    last = lines("info")[-1]

    assert last.pop("timestamp").endswith("Z")
    assert last == {
        "event": "five",
        "level": "info",
        "logger": "stratmaster_router",
        "tenant": "acme",
        "policy": "0123456789ab",
    }


def test_traceback_shows_where_but_no_values() -> None:
    """Local variables hold keys and prompts: a logged exception has its place and its message, and none of them."""
    for line in (line for line in lines("error") if line["event"] == "four"):
        text = json.dumps(line)
        assert "ValueError" in text
        assert "went wrong" in text
        assert '"fail"' in text
        assert "sk-client-secret" not in text
        assert "the prompt of a client" not in text
