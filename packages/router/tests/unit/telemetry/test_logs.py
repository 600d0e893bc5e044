"""Operational logs: one JSON object a line on standard error, and no secret in any of them, tracebacks included."""

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import logging, sys
import structlog
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.redact import redact
from stratmaster_router.telemetry.logs import configure_logs

configure_logs(sys.argv[1], lambda text: redact(Detector(), text))
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

class Odd:
    def __repr__(self):
        return "Odd(jane@example.com)"

def leak(prompt):
    raise ValueError(f"cannot serve {prompt}")

CANARIES = "jane@example.com 4111111111111111"
ours.error("six " + CANARIES, mail=CANARIES, deep={"a": [1, (CANARIES, None)]}, odd=Odd(), count=1.5, ok=True)
theirs.error("seven %s", CANARIES)
for logger in (ours, theirs):
    try:
        try:
            leak(CANARIES)
        except ValueError as error:
            raise RuntimeError("password=hunter2hunter2") from error
    except RuntimeError as error:
        logger.error("eight", exc_info=error)
"""

LAST = ["six [email] [card]", "seven [email] [card]", "eight", "eight"]


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
        ("debug", [*["one", "two", "three", "four"] * 2, "five", *LAST]),
        ("info", [*["two", "three", "four"] * 2, "five", *LAST]),
        ("warning", [*["three", "four"] * 2, *LAST]),
        ("error", [*["four"] * 2, *LAST]),
    ],
)
def test_level_decides_for_our_loggers_and_for_those_of_libraries(level: str, events: list[str]) -> None:
    """Every line is one JSON object on standard error, from the level on that was asked for."""
    assert [line["event"] for line in lines(level)] == events


def test_line_says_who_and_how_bad_and_what_more() -> None:
    """A line has its level, its logger, its time in UTC, and the fields that it was given."""
    last = lines("info")[-1 - len(LAST)]

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


def test_nothing_personal_is_in_any_line() -> None:
    """Messages, fields however deep, objects, and the messages of exceptions and their causes are redacted."""
    last = lines("error")[-len(LAST) :]
    text = json.dumps(last)

    assert "jane" not in text
    assert "4111" not in text
    assert "hunter2" not in text
    assert text.count("cannot serve [email] [card]") == 2
    assert text.count("password=[secret]") == 2
    six = last[0]
    assert (six["mail"], six["deep"]) == ("[email] [card]", {"a": [1, ["[email] [card]", None]]})
    assert (six["odd"], six["count"], six["ok"]) == ("Odd([email])", 1.5, True)
