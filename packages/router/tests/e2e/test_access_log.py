import os
import resource
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.processes import Line, serving, wait_until

CHAT: dict[str, Any] = {"model": "reasoning", "messages": [{"role": "user", "content": "one two"}]}


def ask(port: int, count: int) -> list[str]:
    """Send `count` chats; the ids of the answers."""
    line = Line(port)
    answers = [line.post("/v1/chat/completions", CHAT) for _ in range(count)]
    line.close()
    assert {answer.status for answer in answers} == {200}
    return [answer.headers["x-request-id"] for answer in answers]


def ids(text: str) -> list[str]:
    """The request ids of a log; fails where a line is not whole."""
    assert text == "" or text.endswith("\n")
    return [msgspec.json.decode(line)["request_id"] for line in text.splitlines()]


@pytest.mark.parametrize("target", ["stdout", "file", "off"])
def test_access_log_goes_where_it_should_and_nowhere_else(target: str, policy: str, tmp_path: Path) -> None:
    """Standard output has the access log and nothing but it, where that is wanted; a file likewise; `off` is off."""
    file = tmp_path / "elsewhere.log"
    environ = {"ROUTER_ACCESS_LOG": str(file) if target == "file" else target}
    with serving(tmp_path, policy, environ=environ) as served:
        asked = ask(served.port, 7)
        served.terminate()
        assert ids(served.stdout()) == (asked if target == "stdout" else [])
        assert (ids(file.read_text()) if file.exists() else []) == (asked if target == "file" else [])
        assert '"event":"access"' not in served.stderr()


def test_access_log_line_appears_while_the_router_runs(policy: str, tmp_path: Path) -> None:
    """A line is not kept until the end: it can be read soon after its request."""
    with serving(tmp_path, policy) as served:
        asked = ask(served.port, 1)
        wait_until(lambda: ids(served.access_log()) == asked, "the line is there", 5)


def test_access_log_file_is_appended_to(policy: str, tmp_path: Path) -> None:
    """A router that starts again leaves the lines of the one before."""
    asked = []
    for _ in range(2):
        with serving(tmp_path, policy) as served:
            asked += ask(served.port, 2)
            served.terminate()
            assert ids(served.access_log()) == asked
    assert (tmp_path / "access.log").stat().st_mode & 0o007 == 0


def test_access_log_goes_on_when_the_disk_has_room_again(policy: str, tmp_path: Path) -> None:
    """A disk that is full stops no request, and no line is lost or halved once there is room."""
    with serving(tmp_path, policy) as served:
        asked = ask(served.port, 3)
        wait_until(lambda: len(served.access_log().splitlines()) == 3, "the first lines are there")
        # A limit of the size of files is what a full disk is to the process; 100 bytes more are half a line.
        soft, hard = resource.prlimit(served.pid, resource.RLIMIT_FSIZE)
        full = len(served.access_log()) + 100
        resource.prlimit(served.pid, resource.RLIMIT_FSIZE, (full, hard))
        asked += ask(served.port, 3)
        wait_until(lambda: len(served.access_log()) == full, "the disk is full")
        asked += ask(served.port, 3)

        resource.prlimit(served.pid, resource.RLIMIT_FSIZE, (soft, hard))
        asked += ask(served.port, 3)
        wait_until(lambda: len(served.access_log().splitlines()) == 12, "all lines are there", 5)
        assert ids(served.access_log()) == asked
        assert served.terminate() == 0


@pytest.mark.parametrize("sink", ["full", "closed"])
def test_access_log_that_cannot_be_written_stops_nothing(sink: str, policy: str, tmp_path: Path) -> None:
    """Without anywhere to write the access log to requests are answered, the operator is told, and the end is clean."""
    reader, writer = os.pipe()
    os.close(reader)
    environ = {"ROUTER_ACCESS_LOG": "/dev/full" if sink == "full" else "stdout"}
    try:
        with serving(tmp_path, policy, environ=environ, stdout=writer) as served:
            ask(served.port, 3)
            wait_until(lambda: "access log" in served.stderr(), "the operator is told", 5)
            ask(served.port, 3)
            served.signal(signal.SIGTERM)
            assert served.wait() == 0
            assert "Traceback" not in served.stderr()
    finally:
        os.close(writer)


def test_access_log_lines_of_two_workers_do_not_mix_in_a_full_pipe(policy: str, tmp_path: Path) -> None:
    """A pipe that nobody reads stops no request; read at last, it has every line of both workers, each whole."""
    reader, writer = os.pipe()
    try:
        with serving(tmp_path, policy, workers=2, environ={"ROUTER_ACCESS_LOG": "stdout"}, stdout=writer) as served:
            with served.lines(2) as found:
                asked = []
                for _ in range(75):  # 75 x 8 lines of 300 bytes are more than twice what a pipe holds
                    lines = [line for lines in found.values() for line in lines]
                    for line in lines:
                        line.send("POST", "/v1/chat/completions", CHAT)
                    asked += [line.receive() for line in lines]
            assert {answer.status for answer in asked} == {200}
            os.close(writer)
            served.signal(signal.SIGTERM)
            with os.fdopen(os.dup(reader)) as pipe:
                logged = pipe.read()
            assert served.wait() == 0
            assert sorted(ids(logged)) == sorted(answer.headers["x-request-id"] for answer in asked)
    finally:
        os.close(reader)
