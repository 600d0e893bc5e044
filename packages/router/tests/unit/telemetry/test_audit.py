"""The audit log's writing: one chain, whatever becomes of processes, files and disks; and never a stopped loop."""

import asyncio
import fcntl
import hashlib
import json
import os
import resource
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from stratmaster_router.domain.routing import Considered, Refusal
from stratmaster_router.telemetry.audit import AuditLog
from stratmaster_router.telemetry.audit_file import AuditFile
from stratmaster_router.telemetry.audit_records import AdminRecord, PolicyRecord, Record, RequestRecord
from stratmaster_router.telemetry.chain import Seal, read
from stratmaster_router.upstream.attempts import Attempt
from structlog.testing import capture_logs
from support.audits import findings, records

PATIENCE = 10.0  # seconds
KEY = bytes(range(32))
TIME = datetime(2026, 11, 24, 4, 31, 0, 123456, tzinfo=UTC)
WRITTEN = "2026-11-24T04:31:00.123456Z"

SHORTEST = RequestRecord(TIME, "req_1", "GET", "unknown", 401, 0.25)
SHORTEST_MEMBERS: dict[str, Any] = {
    "event": "request",
    "time": WRITTEN,
    "request_id": "req_1",
    "method": "GET",
    "path": "unknown",
    "status": 401,
    "ms": 0.25,
}
LONGEST = RequestRecord(
    TIME,
    "req_2",
    "POST",
    "/v1/chat/completions",
    200,
    1234.5,
    tenant="acme",
    credential="key:ab12",
    task="reasoning",
    model_asked="gpt-4.1",
    stream=True,
    code="upstream_stream_truncated",
    policy="0123456789ab",
    refusal=Refusal.RAW_DOCS_FORBIDDEN,
    raw_docs="the header X-Data-Class says raw-docs",
    limit="tenant:acme tokens minute",
    trace=(Considered("openai", "gpt-4.1", True, "default of the task"),),
    attempts=(Attempt("openai", "gpt-4.1", 503, "upstream_error", 12.5, 1.0), Attempt("b", "c", 200, None, 0.5, hop=1)),
    provider="openai",
    model="gpt-4.1",
    input_tokens=7,
    cached_input_tokens=5,
    output_tokens=3,
    cost_nanousd=2_000_000_123,
    estimated=True,
    prompt="hello [email]",
    prompt_fingerprint="ab",
)
LONGEST_MEMBERS: dict[str, Any] = {
    "event": "request",
    "time": WRITTEN,
    "request_id": "req_2",
    "method": "POST",
    "path": "/v1/chat/completions",
    "status": 200,
    "ms": 1234.5,
    "tenant": "acme",
    "credential": "key:ab12",
    "task": "reasoning",
    "model_asked": "gpt-4.1",
    "stream": True,
    "code": "upstream_stream_truncated",
    "policy": "0123456789ab",
    "refusal": "raw_docs_forbidden",
    "raw_docs": "the header X-Data-Class says raw-docs",
    "limit": "tenant:acme tokens minute",
    "trace": [{"provider": "openai", "model": "gpt-4.1", "kept": True, "reason": "default of the task"}],
    "attempts": [
        {
            "provider": "openai",
            "model": "gpt-4.1",
            "status": 503,
            "code": "upstream_error",
            "ms": 12.5,
            "retry_after": 1.0,
        },
        {"provider": "b", "model": "c", "status": 200, "code": None, "ms": 0.5, "hop": 1},
    ],
    "provider": "openai",
    "model": "gpt-4.1",
    "input_tokens": 7,
    "cached_input_tokens": 5,
    "output_tokens": 3,
    "cost_nanousd": 2_000_000_123,
    "estimated": True,
    "prompt": "hello [email]",
    "prompt_fingerprint": "ab",
}
POLICY = PolicyRecord(TIME, "host-1-ab", "changed", "0123456789ab", ("tenant acme changed",), ("policy.yaml",))
POLICY_MEMBERS: dict[str, Any] = {
    "event": "policy",
    "time": WRITTEN,
    "process": "host-1-ab",
    "act": "changed",
    "policy": "0123456789ab",
    "changes": ["tenant acme changed"],
    "files": ["policy.yaml"],
}


def numbered(count: int, first: int = 0) -> list[Record]:
    """`count` records that can be told apart by their `key`."""
    return [AdminRecord(TIME, "who", "created", "acme", str(number)) for number in range(first, first + count)]


def lines(file: Path) -> list[bytes]:
    """The lines of a file, without their ends."""
    return file.read_bytes().splitlines()


def keys(found: list[dict[str, Any]]) -> list[str]:
    """The `key` of each record that has one."""
    return [record["key"] for record in found if "key" in record]


async def until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for a real condition."""
    ends = monotonic() + patience
    while not condition():
        assert monotonic() < ends
        await asyncio.sleep(0.005)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the log is to be."""
    return tmp_path / "audit.log"


@pytest.mark.parametrize("key", [b"", KEY], ids=["no key", "key"])
async def test_records_are_written_whole_in_one_chain(file: Path, key: bytes) -> None:
    """Each with what is known and without what is not; a process that starts again goes on with the chain."""
    for _ in range(2):
        log = AuditLog(str(file), key, "host-1-ab")
        log.start()
        log.add(SHORTEST)
        log.add(LONGEST)
        log.add(POLICY)
        before = datetime.now(UTC)
        log.act("root", "rotated", "acme", "ab12")
        after = datetime.now(UTC)
        await log.close()

        found = records(file, key=key)[-4:]
        assert before <= datetime.fromisoformat(found[3].pop("time")) <= after
        assert found == [
            SHORTEST_MEMBERS,
            LONGEST_MEMBERS,
            POLICY_MEMBERS,
            {"event": "admin", "administrator": "root", "act": "rotated", "tenant": "acme", "key": "ab12"},
        ]
    assert len(records(file, key=key)) == 8
    assert log.lost == 0


def test_the_file_is_not_open_to_everybody(file: Path) -> None:
    """Nor is what stands beside it."""
    AuditFile(file, Seal(KEY)).append(numbered(1))

    assert [entry.stat().st_mode & 0o007 for entry in file.parent.iterdir()] == [0, 0]


def test_a_text_that_is_no_text_stops_nothing(file: Path) -> None:
    """As the name of a file may be one; the record has it with escapes, and those behind it are written."""
    odd: list[Record] = [PolicyRecord(TIME, "p", "changed", "0123456789ab", files=("policy-\udcff.yaml",)), SHORTEST]
    AuditFile(file, Seal(KEY)).append(odd)

    first, second = records(file, key=KEY)
    assert (first["time"], first["files"]) == (WRITTEN, ["policy-\udcff.yaml"])
    assert second == SHORTEST_MEMBERS


async def test_records_are_written_while_the_router_runs(file: Path) -> None:
    """Without a close or another record; and the last link is told, as the file has it."""
    log = AuditLog(str(file), KEY, "p")
    log.start()
    log.add(SHORTEST)
    await until(lambda: len(lines(file)) == 1)
    log.add(LONGEST)
    await until(lambda: len(lines(file)) == 2)
    await until(lambda: log.last is not None and log.last.seq == 2)

    entry = read(lines(file)[1])
    assert entry is not None
    assert log.last == entry.link
    await log.close()
    assert records(file, key=KEY) == [SHORTEST_MEMBERS, LONGEST_MEMBERS]


async def test_without_a_target_nothing_is_written() -> None:
    """And nothing is kept, lost or told."""
    log = AuditLog(None, KEY, "p")
    log.start()
    for record in (SHORTEST, LONGEST):
        log.add(record)
    await log.close()

    assert (log.enabled, log.last, log.lost) == (False, None, 0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nowhere/audit.log", "No such file or directory"), ("other.txt", "its end is not that of an audit log")],
)
def test_a_wrong_target_is_told_at_the_start(tmp_path: Path, name: str, reason: str) -> None:
    """A file that is something else altogether is not written to."""
    (tmp_path / "other.txt").write_bytes(b"another thing\n" * 100_000)
    with pytest.raises(OSError, match=reason) as raised:
        AuditLog(str(tmp_path / name), KEY, "p")

    assert str(raised.value.filename) == str(tmp_path / name)
    assert (tmp_path / "other.txt").stat().st_size == 1_400_000


WRITER = """
import asyncio, sys, time
from datetime import UTC, datetime
from stratmaster_router.telemetry.audit import AuditLog
from stratmaster_router.telemetry.audit_records import AdminRecord

async def main(target, name, count):
    log = AuditLog(target, bytes(range(32)), name)
    log.start()
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.readline()
    for number in range(count):
        log.add(AdminRecord(datetime.now(UTC), name, "created", "t" * (number % 700), f"{name}-{number}"))
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    await log.close()
    print(log.lost)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


class Writer:
    """A process that writes `count` records to `target`, named by `name` and their number, once it is told to go."""

    def __init__(self, target: Path | str, name: str, count: int) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", WRITER, str(target), name, str(count)]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stderr is not None
        assert self.process.stderr.readline() == "ready\n"

    def go(self) -> None:
        """Begin to write."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Wait for the end; what it printed."""
        out, err = self.process.communicate(timeout=60)
        assert (self.process.returncode, err) == (0, "")
        return str(out)

    def kill(self) -> None:
        """Kill it as the kernel does."""
        self.process.kill()
        self.process.communicate(timeout=60)


def test_several_processes_make_one_chain(file: Path) -> None:
    """Every record of each is in it once, and in its own order."""
    writers = [Writer(file, name, 2000) for name in "abc"]
    for writer in writers:
        writer.go()
    assert [writer.finish() for writer in writers] == ["0\n"] * 3

    found = keys(records(file, key=KEY))
    assert len(found) == 6000
    for name in "abc":
        assert [key for key in found if key.startswith(name)] == [f"{name}-{number}" for number in range(2000)]


def test_rotation_does_not_break_the_chain(file: Path) -> None:
    """The log is renamed again and again while several processes write: all files together are one chain."""
    writers = [Writer(file, name, 3000) for name in "abc"]
    for writer in writers:
        writer.go()
    rotated: list[Path] = []
    while any(writer.process.poll() is None for writer in writers):
        if file.exists() and file.stat().st_size:
            rotated.append(file.rename(file.with_name(f"audit.log.{len(rotated)}")))
        select.select([], [], [], 0.05)
    assert [writer.finish() for writer in writers] == ["0\n"] * 3
    files = [*rotated, *([file] if file.exists() else [])]

    found = keys(records(*files, key=KEY))
    assert len(files) > 2
    assert sorted(found) == sorted(f"{name}-{number}" for name in "abc" for number in range(3000))


def test_a_new_process_goes_on_after_a_rotation(file: Path) -> None:
    """Though it has seen nothing of the former file, and nobody has written to the new one."""
    AuditFile(file, Seal(KEY)).append(numbered(3))
    old = file.rename(file.with_name("audit.log.1"))
    AuditFile(file, Seal(KEY)).append(numbered(2, 3))

    assert keys(records(old, file, key=KEY)) == ["0", "1", "2", "3", "4"]


def test_killed_processes_leave_a_chain(file: Path) -> None:
    """At whatever moment: what they had not written is missing, nothing else is, and the others go on."""
    survivor = Writer(file, "survivor", 4000)
    survivor.go()
    for round_ in range(6):
        writer = Writer(file, f"killed{round_}", 100_000)
        writer.go()
        select.select([], [], [], 0.05 + 0.07 * round_)
        writer.kill()
    assert survivor.finish() == "0\n"

    assert [finding for finding in findings(file, key=KEY) if finding.broken] == []
    found = [json.loads(line)["key"] for line in file.read_bytes().splitlines() if b'"event":"admin"' in line]
    for name in ["survivor", *(f"killed{round_}" for round_ in range(6))]:
        ours = [key for key in found if key.startswith(f"{name}-")]
        assert ours == [f"{name}-{number}" for number in range(len(ours))]
    assert found.count("survivor-3999") == 1


@pytest.mark.parametrize("cut", [1, 5, 60, 200, -1])
def test_a_torn_line_is_told_of_by_the_next_record(file: Path, cut: int) -> None:
    """What a killed process left of a line stays as it is; the chain goes on from the last whole record."""
    seal = Seal(KEY)
    AuditFile(file, seal).append(numbered(2))
    head = file.with_name("audit.log.head").read_bytes()
    whole = file.read_bytes()
    AuditFile(file, seal).append(numbered(1, 2))
    last = file.read_bytes()[len(whole) :]
    torn = last[:cut] if cut > 0 else last[: len(last) + cut - 1]
    file.write_bytes(whole + torn)
    file.with_name("audit.log.head").write_bytes(head)

    assert [(finding.line, finding.broken) for finding in findings(file, key=KEY)] == [(3, False)]
    AuditFile(file, seal).append(numbered(2, 2))

    (found,) = findings(file, key=KEY)
    assert (found.line, found.seq, found.broken) == (4, 3, False)
    written = lines(file)
    assert written[2] == torn
    marked = json.loads(written[3])
    assert (marked["event"], marked["size"]) == ("torn", len(torn))
    assert marked["sha256"] == hashlib.sha256(torn).hexdigest()
    assert [json.loads(line)["key"] for line in (*written[:2], *written[4:])] == ["0", "1", "2", "3"]

    # It can be changed no more than a record.
    file.write_bytes(b"\n".join([*written[:2], torn[:-1] + b"~", *written[3:], b""]))
    assert [(finding.line, finding.broken) for finding in findings(file, key=KEY)] == [(3, True)]


def test_a_whole_line_without_its_end_counts(file: Path) -> None:
    """The next record begins a line of its own."""
    seal = Seal(KEY)
    AuditFile(file, seal).append(numbered(2))
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    AuditFile(file, seal).append(numbered(1, 2))

    assert keys(records(file, key=KEY)) == ["0", "1", "2"]


def test_a_head_that_is_behind_or_lost_does_no_harm(file: Path) -> None:
    """A process may be killed between its record and the head; the log's own end counts then."""
    seal = Seal(KEY)
    head = file.with_name("audit.log.head")
    AuditFile(file, seal).append(numbered(1))
    behind = head.read_bytes()
    AuditFile(file, seal).append(numbered(2, 1))
    head.write_bytes(behind)
    AuditFile(file, seal).append(numbered(1, 3))
    for broken in (b"", b"nonsense"):
        head.write_bytes(broken)
        AuditFile(file, seal).append(numbered(1, 4))
    head.unlink()
    AuditFile(file, seal).append(numbered(1, 5))

    assert keys(records(file, key=KEY)) == ["0", "1", "2", "3", "4", "4", "5"]


def test_a_cut_end_shows_after_the_next_record(file: Path) -> None:
    """The chain goes on from the head, so what was taken away is missing."""
    seal = Seal(KEY)
    AuditFile(file, seal).append(numbered(5))
    file.write_bytes(b"\n".join([*lines(file)[:3], b""]))
    AuditFile(file, seal).append(numbered(1, 5))

    (found,) = findings(file, key=KEY)
    assert (found.line, found.seq, found.broken) == (4, 6, True)
    assert found.text == "follows record 3: 2 records are missing"


def test_a_full_disk_loses_nothing(file: Path) -> None:
    """A limit of the size of files is what a full disk is to the process: no half line stays, and all comes later."""
    writer = Writer(file, "a", 20_000)  # for four seconds
    soft, hard = resource.prlimit(writer.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(writer.process.pid, resource.RLIMIT_FSIZE, (100_001, hard))
    writer.go()
    ends = monotonic() + PATIENCE
    while file.stat().st_size == 0 and monotonic() < ends:
        select.select([], [], [], 0.01)
    select.select([], [], [], 1.0)  # it tries again meanwhile, and again in vain
    resource.prlimit(writer.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
    *told, lost = writer.finish().splitlines()

    assert lost == "0"
    assert [line for line in told if "audit log not written" not in line] == []
    assert len(told) >= 1
    assert keys(records(file, key=KEY)) == [f"a-{number}" for number in range(20_000)]


async def test_records_past_the_most_are_counted_and_told(file: Path) -> None:
    """Where nothing can be written the memory stays bounded; once it can, the log itself says what it lacks."""
    log = AuditLog(str(file), KEY, "host-1-ab")
    for number in range(50_003):
        log.act("who", "created", "acme", str(number))
    assert log.lost == 3
    await log.close()

    (note,) = findings(file, key=KEY)
    assert (note.line, note.broken) == (50_001, False)
    assert note.text == "tells of 3 records before it that could not be written"
    written = lines(file)
    last = json.loads(written[-1])
    assert (len(written), last["event"], last["process"], last["lost"]) == (50_001, "gap", "host-1-ab", 3)
    assert json.loads(written[-2])["key"] == "49999"


async def test_a_lock_that_is_not_let_go_stops_nothing(file: Path) -> None:
    """The operator is told, the loop runs on, and the records come once it is free."""
    log = AuditLog(str(file), KEY, "p")
    with file.with_name("audit.log.head").open("rb") as held, capture_logs() as told:
        fcntl.flock(held, fcntl.LOCK_EX)
        log.start()
        log.add(SHORTEST)
        await until(lambda: len(told) == 1)
        assert lines(file) == []
        fcntl.flock(held, fcntl.LOCK_UN)
        log.add(LONGEST)
        await until(lambda: len(lines(file)) == 2)
    await log.close()

    assert records(file, key=KEY) == [SHORTEST_MEMBERS, LONGEST_MEMBERS]
    assert [(line["event"], line["reason"]) for line in told] == [
        ("audit log not written; its records are kept and tried again", "another process holds it")
    ]


def test_standard_output_is_a_chain_of_each_process() -> None:
    """With a file's lines in it or a pipe's, and the same key."""
    writer = Writer("stdout", "a", 300)
    writer.go()
    *printed, lost = writer.finish().splitlines()

    assert lost == "0"
    entries = [read(line.encode()) for line in printed]
    assert [entry.link.seq for entry in entries if entry is not None] == list(range(1, 301))
    assert len({entry.link.chain for entry in entries if entry is not None}) == 1
    assert all(Seal(KEY).holds(line.encode()) for line in printed)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe, and its reading end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


async def test_a_full_pipe_does_not_stop_the_loop(pipe: tuple[Path, int]) -> None:
    """While nobody reads, the loop runs on; once somebody does, the chain is whole."""
    path, reader = pipe
    log = AuditLog(str(path), KEY, "p")
    log.start()
    for record in numbered(3000):  # more than a pipe holds
        log.add(record)
    await until(lambda: bool(select.select([reader], [], [], 0)[0]))
    text = b""
    ends = monotonic() + PATIENCE
    while text.count(b"\n") < 3000 and monotonic() < ends:
        await asyncio.sleep(0.001)
        while select.select([reader], [], [], 0)[0] and (data := os.read(reader, 1 << 16)):
            text += data
    await log.close()

    (path.parent / "copy").write_bytes(text)
    assert keys(records(path.parent / "copy", key=KEY)) == [str(number) for number in range(3000)]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["copy", "pipe"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device of a full disk is Linux's")
async def test_what_cannot_be_written_at_the_end_is_counted() -> None:
    """The router still stops in order, and tells how much."""
    log = AuditLog("/dev/full", KEY, "p")
    log.start()
    log.add(SHORTEST)
    log.add(LONGEST)
    await log.close()

    assert log.lost == 2
