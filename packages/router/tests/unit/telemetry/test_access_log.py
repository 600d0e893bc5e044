"""The access log: whole lines, from several writers, through a sink that fails; never content, never a stopped loop."""

import asyncio
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from stratmaster_router.telemetry.access_log import AccessLine, AccessLog
from structlog.testing import capture_logs

PATIENCE = 10.0  # seconds
TIME = datetime(2026, 11, 24, 4, 31, 0, 123456, tzinfo=UTC)
SHORTEST = AccessLine(TIME, "req_1", "GET", "/v1/models", 200, 0.25)
SHORTEST_TEXT = (
    '{"event":"access","time":"2026-11-24T04:31:00.123456Z","request_id":"req_1","method":"GET",'
    '"path":"/v1/models","status":200,"ms":0.25}\n'
)
LONGEST = AccessLine(
    time=TIME,
    request_id="req_2",
    method="POST",
    path="/v1/chat/completions",
    status=200,
    ms=1234.5,
    tenant="acme",
    task="reasoning",
    provider="openai",
    model="gpt-4.1",
    stream=True,
    code="upstream_stream_truncated",
    attempts=2,
    overhead_ms=0.125,
    first_event_ms=250.0,
    input_tokens=7,
    output_tokens=3,
    policy="0123456789ab",
)
LONGEST_TEXT = (
    '{"event":"access","time":"2026-11-24T04:31:00.123456Z","request_id":"req_2","method":"POST",'
    '"path":"/v1/chat/completions","status":200,"ms":1234.5,"tenant":"acme","task":"reasoning","provider":"openai",'
    '"model":"gpt-4.1","stream":true,"code":"upstream_stream_truncated","attempts":2,"overhead_ms":0.125,'
    '"first_event_ms":250.0,"input_tokens":7,"output_tokens":3,"policy":"0123456789ab"}\n'
)


async def until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for a real condition."""
    ends = monotonic() + patience
    while not condition():
        assert monotonic() < ends
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(("line", "text"), [(SHORTEST, SHORTEST_TEXT), (LONGEST, LONGEST_TEXT)], ids=["short", "long"])
async def test_line_is_one_json_object(tmp_path: Path, line: AccessLine, text: str) -> None:
    """Each line holds what is known and leaves out what is not, in a fixed order."""
    log = AccessLog(str(tmp_path / "access.log"))

    log.write(line)
    await log.close()

    assert (tmp_path / "access.log").read_text() == text


async def test_lines_are_written_while_the_router_runs(tmp_path: Path) -> None:
    """Without a close or another line, what was written reaches the file, in order."""
    file = tmp_path / "access.log"
    log = AccessLog(str(file))
    log.start()

    log.write(SHORTEST)
    log.write(LONGEST)
    await until(lambda: file.read_text() == SHORTEST_TEXT + LONGEST_TEXT)

    log.write(SHORTEST)
    await until(lambda: file.read_text() == SHORTEST_TEXT + LONGEST_TEXT + SHORTEST_TEXT)
    await log.close()
    assert file.read_text() == SHORTEST_TEXT + LONGEST_TEXT + SHORTEST_TEXT


async def test_close_writes_what_is_left(tmp_path: Path) -> None:
    """A clean stop loses no line, though the last interval has not passed, and closing an idle log adds nothing."""
    file = tmp_path / "access.log"
    log = AccessLog(str(file))
    log.start()
    for _ in range(100):
        log.write(SHORTEST)

    await log.close()

    assert file.read_text() == SHORTEST_TEXT * 100
    assert log.dropped == 0


async def test_file_is_appended_to_and_not_open_to_everybody(tmp_path: Path) -> None:
    """A restart keeps what the last process wrote; the file is not for other users to read."""
    file = tmp_path / "access.log"
    for _ in range(2):
        log = AccessLog(str(file))
        log.write(SHORTEST)
        await log.close()

    assert file.read_text() == SHORTEST_TEXT * 2
    assert file.stat().st_mode & 0o007 == 0


def test_off_writes_nothing(tmp_path: Path) -> None:
    """`off` is no file of that name, in no folder, and says so to who would make lines."""
    process = writer("off", "a", 3, tmp_path)

    assert process.communicate("go\n", timeout=30) == ("", "ready\n")
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert AccessLog("off").enabled is False


def test_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    """A wrong setting stops the router, and does not lose lines silently."""
    with pytest.raises(FileNotFoundError):
        AccessLog(str(tmp_path / "nowhere" / "access.log"))


WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from stratmaster_router.telemetry.access_log import AccessLine, AccessLog

async def main(target, writer, count):
    log = AccessLog(target)
    log.start()
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.readline()
    for number in range(count):
        tenant = "t" * (number % 700)
        log.write(AccessLine(datetime.now(UTC), f"{writer}-{number}", "GET", "/v1/models", 200, 1.0, tenant))
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    await log.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def writer(target: str, name: str, count: int, folder: Path | None = None) -> subprocess.Popen[str]:
    """A process, in `folder`, that waits for a line and then writes `count` lines to `target`."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WRITER, target, name, str(count)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=folder)


def test_several_writers_share_one_file(tmp_path: Path) -> None:
    """The lines of several workers never overwrite or tear each other, and each writer's are in order."""
    file = tmp_path / "access.log"
    writers = [writer(str(file), name, 1000) for name in "abc"]
    for process in writers:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in writers:
        assert process.communicate(timeout=30) == ("", "")

    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]

    assert len(lines) == 3000
    for name in "abc":
        ours = [line for line in lines if line["request_id"].startswith(name)]
        assert [line["request_id"] for line in ours] == [f"{name}-{number}" for number in range(1000)]
        assert all(len(line.get("tenant", "")) == number % 700 for number, line in enumerate(ours))


def test_stdout_is_a_target() -> None:
    """`stdout` writes to the process's standard output, and nothing else stands there."""
    process = writer("stdout", "a", 3)

    out, _ = process.communicate("go\n", timeout=30)

    assert process.returncode == 0
    assert [json.loads(line)["request_id"] for line in out.splitlines()] == ["a-0", "a-1", "a-2"]


async def test_lines_past_the_most_are_dropped_and_counted(tmp_path: Path) -> None:
    """When nothing can be written the memory stays bounded; the lines that came first are kept."""
    file = tmp_path / "access.log"
    log = AccessLog(str(file))
    for _ in range(50_000):
        log.write(SHORTEST)
    for _ in range(3):
        log.write(LONGEST)

    assert log.dropped == 3
    await log.close()
    assert file.read_text() == SHORTEST_TEXT * 50_000


class Pipe:
    """A named pipe, and its reading end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pipe"
        os.mkfifo(self.path)
        self.open()

    def open(self) -> None:
        """Open the reading end."""
        self._reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.text = ""

    def close(self) -> None:
        """Close the reading end: from now on each write fails with EPIPE."""
        os.close(self._reader)

    def filled(self) -> bool:
        """Whether something stands in the pipe."""
        return bool(select.select([self._reader], [], [], 0)[0])

    def drain(self) -> str:
        """All that was read since the opening, with what can be read now."""
        while self.filled() and (data := os.read(self._reader, 1 << 16)):
            self.text += data.decode()
        return self.text


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    """A pipe as a sink."""
    pipe = Pipe(tmp_path)
    yield pipe
    pipe.close()


async def test_full_pipe_does_not_stop_the_loop(pipe: Pipe) -> None:
    """While nobody reads the pipe the loop runs on; once somebody reads, every line comes."""
    log = AccessLog(str(pipe.path))
    log.start()
    for _ in range(3000):  # more than a pipe holds
        log.write(LONGEST)

    await until(pipe.filled)  # this runs on, while the writing stands still
    log.write(SHORTEST)

    await until(lambda: pipe.drain() == LONGEST_TEXT * 3000 + SHORTEST_TEXT)
    await log.close()


async def test_close_does_not_overtake_lines_under_way(pipe: Pipe) -> None:
    """Lines that a slow sink has only half taken come first and whole; those of the close follow."""
    log = AccessLog(str(pipe.path))
    log.start()
    for _ in range(3000):
        log.write(LONGEST)
    await until(pipe.filled)
    log.write(SHORTEST)

    expected = LONGEST_TEXT * 3000 + SHORTEST_TEXT
    ends = monotonic() + PATIENCE

    def read() -> None:
        while len(pipe.drain()) < len(expected) and monotonic() < ends:
            select.select([], [], [], 0.001)

    reading = asyncio.create_task(asyncio.to_thread(read))
    await log.close()
    await reading

    assert pipe.text == expected


async def test_sink_that_failed_for_a_moment_is_written_to_again(pipe: Pipe) -> None:
    """A write that fails is told once and keeps its lines, which come before the later ones when the sink is back."""
    log = AccessLog(str(pipe.path))
    log.start()
    log.write(SHORTEST)
    await until(lambda: pipe.drain() == SHORTEST_TEXT)

    with capture_logs() as told:
        pipe.close()
        log.write(SHORTEST)
        try:
            await until(lambda: len(told) == 1, patience=3.0)
        finally:
            pipe.open()
        log.write(LONGEST)
        await until(lambda: pipe.drain() == SHORTEST_TEXT + LONGEST_TEXT, patience=3.0)
        await log.close()

    assert (len(told), log.dropped) == (1, 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device of a full disk is Linux's")
async def test_full_disk_does_not_break_the_shutdown() -> None:
    """Lines that cannot be written at the end are lost and counted; the router still stops in order."""
    log = AccessLog("/dev/full")
    log.start()
    log.write(SHORTEST)

    await log.close()

    assert log.dropped == 1
