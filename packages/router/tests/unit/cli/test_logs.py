"""`stratmaster-router logs …`: what it prints, where, and its exit codes."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from stratmaster_router.cli.main import app
from stratmaster_router.settings import Settings
from stratmaster_router.telemetry.audit_file import AuditFile
from stratmaster_router.telemetry.audit_records import AdminRecord, GapRecord, Record
from stratmaster_router.telemetry.chain import Seal
from typer.testing import CliRunner

PEPPER = "0123456789abcdef0123456789abcdef"
KEY = Settings.model_validate({"key_pepper": PEPPER}).audit_key()
TIME = datetime(2026, 11, 24, tzinfo=UTC)


def run(*words: object, pepper: str = PEPPER) -> tuple[int, list[str], list[str]]:
    """Exit code, and the lines of stdout and stderr."""
    result = CliRunner(env={"ROUTER_KEY_PEPPER": pepper}).invoke(app, ["logs", *map(str, words)])
    return result.exit_code, result.stdout.splitlines(), result.stderr.splitlines()


def append(file: Path, count: int, key: bytes = KEY) -> None:
    """Let a router that starts anew write `count` records."""
    records: list[Record] = [AdminRecord(TIME, "root", "key.create", "acme", str(number)) for number in range(count)]
    written = AuditFile(file, Seal(key))
    written.append(records)
    written.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """An audit log of five records, and its head."""
    file = tmp_path / "audit.log"
    append(file, 5)
    return file


def hashes(file: Path) -> list[str]:
    """The hashes of its records."""
    return [json.loads(line)["hash"] for line in file.read_text().splitlines()]


def chain(file: Path) -> str:
    """The name of its chain."""
    return str(json.loads(file.read_text().splitlines()[0])["chain"])


def test_an_untouched_log_is_summed_up(log: Path) -> None:
    """Exit code 0."""
    assert run("verify", log) == (
        0,
        [f"chain {chain(log)}: records 1 to 5, the last {hashes(log)[-1]}", "nothing is broken"],
        [],
    )


def test_every_break_is_told_with_its_place(log: Path) -> None:
    """On standard error, with exit code 1; here a record is altered and another one taken out."""
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], lines[1].replace("root", "toor"), lines[2], lines[4]]))

    assert run("verify", log) == (
        1,
        [f"chain {chain(log)}: records 1 to 5, the last {hashes(log)[-1]}"],
        [
            f"{log}:2: record 2 was altered: its hash is not that of its content",
            f"{log}:4: record 5 follows record 3: 1 record is missing",
            "2 broken",
        ],
    )


def test_several_files_are_one_log(log: Path) -> None:
    """In the order of time; the later one alone says what is not there."""
    old = log.rename(log.with_name("audit.log.1"))
    append(log, 2)
    name, last = chain(old), hashes(log)[-1]

    assert run("verify", old, log) == (
        0,
        [f"chain {name}: records 1 to 7, the last {last}", "nothing is broken"],
        [],
    )
    assert run("verify", log) == (
        0,
        [
            f"chain {name}: records 6 to 7, the last {last}; what came before record 6 is not in these files",
            "nothing is broken",
        ],
        [],
    )
    code, _, told = run("verify", log, old)
    assert code == 1
    assert told[0] == f"{old}:1: record 1 stands behind record 7: moved or repeated"


def test_a_cut_end_is_seen_by_the_head(log: Path) -> None:
    """And, where the head was cut as well, by a hash that was kept elsewhere."""
    known = hashes(log)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    shown = f"chain {chain(log)}: records 1 to 3, the last {known[2]}"
    head = log.with_name("audit.log.head")

    assert run("verify", log) == (
        1,
        [shown],
        [
            f"{log}: record 5 of chain {chain(log)}, which {head} names, is in none of these files: "
            "records are missing at their end",
            "1 broken",
        ],
    )
    head.unlink()
    assert run("verify", log) == (0, [shown, "nothing is broken"], [])
    assert run("verify", log, "--expect", known[1], "--expect", known[3]) == (
        1,
        [shown],
        [
            f"{log}: a record that --expect names, is in none of these files: records are missing at their end",
            "1 broken",
        ],
    )
    assert run("verify", log, "--expect", "xyz")[0] == 2


def test_another_key_is_asked_after(log: Path) -> None:
    """Where no record is right at all."""
    for pepper in ("", "another pepper, which is long enough"):
        code, _, told = run("verify", log, pepper=pepper)
        assert code == 1
        assert len(told) == 5 + 1 + 2
        assert told[-2] == "no record is right: was the log written with another ROUTER_KEY_PEPPER, or without one?"


def test_a_log_without_a_key_is_said_to_be_one(tmp_path: Path) -> None:
    """Who reads the verdict knows what it is worth."""
    file = tmp_path / "audit.log"
    append(file, 1, b"")

    assert run("verify", file, pepper="") == (
        0,
        [
            f"chain {chain(file)}: records 1 to 1, the last {hashes(file)[0]}",
            "checked without a key: who can write the file can also make a chain; see ROUTER_KEY_PEPPER",
            "nothing is broken",
        ],
        [],
    )


def test_what_nobody_did_is_a_note(log: Path) -> None:
    """A record that a killed process left half, and records that could not be written."""
    with log.open("ab") as file:
        file.write(b'{"chain":"0123')
    written = AuditFile(log, Seal(KEY))
    gap: list[Record] = [GapRecord(TIME, "p", 3)]
    written.append(gap)
    written.close()

    code, told, _ = run("verify", log)
    assert code == 0
    assert told[:2] == [
        f"{log}:7: note: record 6 tells of the 14 bytes before it, which a process was killed in the middle of",
        f"{log}:8: note: record 7 tells of 3 records before it that could not be written",
    ]


def test_nothing_to_check_is_said(tmp_path: Path) -> None:
    """A file that has no record; a file that is not there."""
    (tmp_path / "empty").touch()

    assert run("verify", tmp_path / "empty") == (0, ["no record in these files", "nothing is broken"], [])
    assert run("verify", tmp_path / "none") == (1, [], [f"{tmp_path}/none cannot be read: No such file or directory"])
    assert run("verify")[0] == 2


def test_scan_tells_places_and_never_values(tmp_path: Path) -> None:
    """File, line, column, field and kind; exit code 1."""
    first, second = tmp_path / "a.log", tmp_path / "b.txt"
    first.write_text('{"event":"access"}\n{"prompt":"mail jo@example.com","n":1}\n')
    second.write_text("card 4111 1111 1111 1111 of jo@example.com")

    assert run("scan", first, second) == (
        1,
        [
            f"{first}:2:17: prompt: email",
            f"{second}:1:6: text: card",
            f"{second}:1:29: text: email",
        ],
        ["3 lines: 3 found"],
    )


def test_scan_of_our_own_logs_finds_nothing(log: Path, tmp_path: Path) -> None:
    """Neither hashes nor times nor numbers are taken for what they are not."""
    access = tmp_path / "access.log"
    access.write_text(
        '{"event":"access","time":"2026-11-24T06:08:07.031630Z","request_id":"req_ceee72fcb6ff131700000001",'
        '"method":"POST","path":"/v1/chat/completions","status":200,"ms":2.23,"tenant":"acme","task":"reasoning",'
        '"provider":"openai","model":"gpt-4.1","stream":true,"attempts":1,"overhead_ms":0.153,'
        '"first_event_ms":1.316,"input_tokens":2,"output_tokens":3,"policy":"22b1c921ca0c"}\n'
    )

    append(log, 2_000)
    assert run("scan", log, access) == (0, ["2006 lines: nothing found"], [])
    assert run("scan", tmp_path / "none")[0] == 1
