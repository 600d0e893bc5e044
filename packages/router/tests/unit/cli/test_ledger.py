import asyncio
import io
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from sqlalchemy import text
from stratmaster_router.cli.main import app
from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.storage.database import Database, database_url
from stratmaster_router.storage.schema import HEAD, prepare
from support.calls import chat, eventually
from support.database import execute, write
from support.policies import one_hop
from support.processes import COMMAND, clean_environ
from support.servers import running_mock, running_router
from typer.testing import CliRunner

NOON = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()) * 1_000_000
HEADER = (
    "time,request_id,tenant,task,provider,model,input_tokens,cached_input_tokens,output_tokens,cost_nanousd,"
    "status,attempts,policy,estimated,presumed"
)
FIRST = LedgerRow(
    "req-1", "acme", "chat", "first", 'odd "name", really', 100, 20, 30, 1_234_567_891, 200, 2, "0123abcd"
)
UNPRICED = LedgerRow("req-2", "globex", None, "first", "gpt-4.1", 7, 0, 1, None, 499, 1, "0123abcd", estimated=True)
PRESUMED = LedgerRow("presumed:p1", "acme", None, None, None, 0, 0, 0, -5, 0, 0, "", presumed=True)

Run = Callable[..., Any]


async def fill(path: Path) -> None:
    """A ledger of three rows, a microsecond apart."""
    opened = Database(database_url(f"sqlite:///{path}"))
    await prepare(opened)
    for number, row in enumerate((FIRST, UNPRICED, PRESUMED)):
        await write(opened, NOON + number, row)
    await opened.close()


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a small ledger, which the environment names."""
    path = tmp_path / "router.db"
    asyncio.run(fill(path))
    monkeypatch.setenv("ROUTER_DATABASE_URL", f"sqlite:///{path}")
    return path


@pytest.fixture
def run() -> Run:
    """Run the command; its result."""
    return lambda *words: CliRunner().invoke(app, ["ledger", *words])


def lines(output: str) -> list[str]:
    """The lines, without the spaces that a table pads them with."""
    return [" ".join(line.split()) for line in output.splitlines()]


@pytest.mark.usefixtures("database")
def test_csv_is_what_an_export_writes(run: Run) -> None:
    """A header, nothing for null, true and false, texts quoted where they must be."""
    result = run("export")
    assert result.exit_code == 0
    assert result.stdout_bytes.decode().split("\r\n") == [
        HEADER,
        '2026-11-24T12:00:00.000000Z,req-1,acme,chat,first,"odd ""name"", really",100,20,30,1234567891,200,2,0123abcd,'
        "false,false",
        "2026-11-24T12:00:00.000001Z,req-2,globex,,first,gpt-4.1,7,0,1,,499,1,0123abcd,true,false",
        "2026-11-24T12:00:00.000002Z,presumed:p1,acme,,,,0,0,0,-5,0,0,,false,true",
        "",
    ]


@pytest.mark.usefixtures("database")
def test_jsonl_has_an_object_a_line(run: Run) -> None:
    """In the same order of columns; numbers are whole."""
    result = run("export", "--format", "jsonl", "--tenant", "globex")
    assert result.stdout_bytes == (
        b'{"time":"2026-11-24T12:00:00.000001Z","request_id":"req-2","tenant":"globex","task":null,"provider":"first",'
        b'"model":"gpt-4.1","input_tokens":7,"cached_input_tokens":0,"output_tokens":1,"cost_nanousd":null,'
        b'"status":499,"attempts":1,"policy":"0123abcd","estimated":true,"presumed":false}\n'
    )


def read_parquet(data: bytes) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """The columns with their types, and the rows."""
    table = parquet.read_table(io.BytesIO(data))
    return [(field.name, str(field.type)) for field in table.schema], table.to_pylist()


@pytest.mark.usefixtures("database")
def test_parquet_is_typed(run: Run, tmp_path: Path) -> None:
    """Also in a file."""
    result = run("export", "--format", "parquet", "--output", str(tmp_path / "ledger.parquet"), "--tenant", "acme")
    assert (result.exit_code, result.stdout_bytes) == (0, b"")
    columns, found = read_parquet((tmp_path / "ledger.parquet").read_bytes())
    numbers = {
        "input_tokens",
        "cached_input_tokens",
        "output_tokens",
        "cost_nanousd",
        "status",
        "attempts",
    }
    kinds = {
        "time": "timestamp[us, tz=UTC]",
        "estimated": "bool",
        "presumed": "bool",
        **dict.fromkeys(numbers, "int64"),
    }
    assert columns == [(name, kinds.get(name, "string")) for name in HEADER.split(",")]
    assert found[0] == {
        "time": datetime(2026, 11, 24, 12, tzinfo=UTC),
        "request_id": "req-1",
        "tenant": "acme",
        "task": "chat",
        "provider": "first",
        "model": 'odd "name", really',
        "input_tokens": 100,
        "cached_input_tokens": 20,
        "output_tokens": 30,
        "cost_nanousd": 1_234_567_891,
        "status": 200,
        "attempts": 2,
        "policy": "0123abcd",
        "estimated": False,
        "presumed": False,
    }
    assert [row["request_id"] for row in found] == ["req-1", "presumed:p1"]


@pytest.mark.parametrize(("format_", "empty"), [("csv", f"{HEADER}\r\n".encode()), ("jsonl", b"")])
@pytest.mark.usefixtures("database")
def test_an_export_of_nothing_is_whole(run: Run, format_: str, empty: bytes) -> None:
    """A tenant without rows."""
    result = run("export", "--format", format_, "--tenant", "nobody")
    assert (result.exit_code, result.stdout_bytes) == (0, empty)


def test_parquet_goes_through_a_pipe(database: Path) -> None:
    """From the real command, whose output cannot be rewound; also where it has no rows."""
    environ = clean_environ(ROUTER_DATABASE_URL=f"sqlite:///{database}")
    for tenant, count in (("acme", 2), ("nobody", 0)):
        words = [COMMAND, "ledger", "export", "--format", "parquet", "--tenant", tenant]
        found = subprocess.run(words, env=environ, capture_output=True, check=True)
        assert len(read_parquet(found.stdout)[1]) == count


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        (["--since", "2026-11-24"], ["req-1", "req-2", "presumed:p1"]),
        (["--since", "2026-11-24T12:00:00.000001Z"], ["req-2", "presumed:p1"]),
        (["--until", "2026-11-24T13:00:00.000001+01:00"], ["req-1"]),
        (["--since", "2026-11-24T12:00:00.000001", "--until", "2026-11-24 12:00:00.000002"], ["req-2"]),
        (["--until", "2026-11-24"], []),
    ],
)
@pytest.mark.usefixtures("database")
def test_times_are_utc_unless_they_say_else(run: Run, options: list[str], requests: list[str]) -> None:
    """`--since` is included, `--until` is not."""
    result = run("export", "--format", "jsonl", *options)
    assert [json.loads(line)["request_id"] for line in result.stdout.splitlines()] == requests


@pytest.mark.parametrize("option", ["--since", "--until"])
@pytest.mark.parametrize("time", ["yesterday", "2026-13-01", "1763985600"])
def test_other_times_are_refused(run: Run, option: str, time: str) -> None:
    """With what is right, and exit code 2."""
    result = run("summary", option, time)
    assert result.exit_code == 2
    assert "write a date or a time, such as" in result.stderr


@pytest.mark.usefixtures("database")
def test_a_summary_shows_dollars_to_the_nano_dollar(run: Run) -> None:
    """And a total; a presumed row is no request."""
    result = run("summary")
    assert result.exit_code == 0
    assert lines(result.stdout) == [
        "tenant provider model requests input cached output US dollars presumed estimated unpriced",
        "acme – – 0 0 0 0 -0.000000005 -0.000000005 0 0",
        'acme first odd "name", really 1 100 20 30 1.234567891 0.000000000 0 0',
        "globex first gpt-4.1 1 7 0 1 0.000000000 0.000000000 1 1",
        "total 2 107 20 31 1.234567886 -0.000000005 1 1",
    ]


@pytest.mark.usefixtures("database")
def test_a_summary_as_json_has_whole_nano_dollars(run: Run) -> None:
    """For programs."""
    result = run("summary", "--format", "json", "--tenant", "globex")
    assert json.loads(result.stdout) == [
        {
            "tenant": "globex",
            "provider": "first",
            "model": "gpt-4.1",
            "requests": 1,
            "input_tokens": 7,
            "cached_input_tokens": 0,
            "output_tokens": 1,
            "cost_nanousd": 0,
            "presumed_nanousd": 0,
            "estimated": 1,
            "unpriced": 1,
        }
    ]


async def set_revision(path: Path, revision: str) -> None:
    """Let the database be of another version."""
    opened = Database(database_url(f"sqlite:///{path}"))
    await execute(opened, text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    await opened.close()


def test_a_database_of_another_version_is_not_read(run: Run, database: Path) -> None:
    """Nor migrated."""
    asyncio.run(set_revision(database, "0000"))
    for _ in range(2):
        result = run("summary")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            f"the database is at revision 0000, and this version reads {HEAD}: use the version that serves from it (an "
            "older database is brought up to date by `serve`)\n"
        )


def test_no_database_is_made(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, or one without a ledger, or none that answers, the message says so."""
    missing, empty = tmp_path / "missing.db", tmp_path / "empty.db"
    empty.touch()
    for url, message in (
        (f"sqlite:///{missing}", f"there is no database at {missing}: set ROUTER_DATABASE_URL to the router's\n"),
        (f"sqlite:///{empty}", "the database of ROUTER_DATABASE_URL is empty: no router has used it yet\n"),
        (
            "postgresql://router:secret@127.0.0.1:1/router",
            "the database of ROUTER_DATABASE_URL cannot be read: ConnectionRefusedError: [Errno 111] Connect call "
            "failed ('127.0.0.1', 1)\n",
        ),
        (
            "mysql://router:secret@host/name",
            "ROUTER_DATABASE_URL: not an address of a database; write sqlite:///FILE (an absolute path has four "
            "slashes) or postgresql://USER:PASSWORD@HOST/NAME\n",
        ),
    ):
        monkeypatch.setenv("ROUTER_DATABASE_URL", url)
        result = run("export")
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("empty.db", 0)]


@pytest.mark.usefixtures("database")
def test_an_output_that_cannot_be_written_is_named(run: Run) -> None:
    """With the reason."""
    result = run("export", "--output", "/nowhere/ledger.csv")
    assert (result.exit_code, result.stderr) == (
        1,
        "/nowhere/ledger.csv cannot be written: No such file or directory\n",
    )


def test_who_stops_reading_is_no_error(tmp_path: Path) -> None:
    """As with `| head -1`: more than a pipe holds is to be written, and nobody takes it."""
    path = tmp_path / "router.db"

    async def fill_more() -> None:
        opened = Database(database_url(f"sqlite:///{path}"))
        await prepare(opened)
        await write(opened, NOON, *[FIRST] * 20_000)
        await opened.close()

    asyncio.run(fill_more())
    words = [COMMAND, "ledger", "export"]
    environ = clean_environ(ROUTER_DATABASE_URL=f"sqlite:///{path}")
    with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().decode() == f"{HEADER}\r\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_the_ledger_of_a_router_that_runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls are there a moment later, and reading them disturbs nobody."""
    monkeypatch.setenv("ROUTER_DATABASE_URL", f"sqlite:///{tmp_path}/router.db")
    with running_mock() as mock, running_router(tmp_path, one_hop(mock.url, "gpt-4.1@prompt_tokens=9")) as router:
        answers = [chat(router) for _ in range(2)]
        exported = eventually(lambda: run("export", "--format", "jsonl"), lambda seen: seen.stdout.count("\n") == 2)
        total = json.loads(run("summary", "--format", "json").stdout)
        after = chat(router)

    written = [json.loads(line) for line in exported.stdout.splitlines()]
    assert [row["request_id"] for row in written] == [answer.headers["x-request-id"] for answer in answers]
    assert [row["policy"] for row in written] == [answer.headers["x-router-policy"] for answer in answers]
    for row in written:
        assert abs(datetime.now(UTC) - datetime.fromisoformat(row.pop("time"))).total_seconds() < 60
        del row["request_id"], row["policy"], row["cost_nanousd"]
        assert row == {
            "tenant": "acme",
            "task": "reasoning",
            "provider": "only",
            "model": "gpt-4.1@prompt_tokens=9",
            "input_tokens": 9,
            "cached_input_tokens": 0,
            "output_tokens": 2,
            "status": 200,
            "attempts": 1,
            "estimated": False,
            "presumed": False,
        }
    assert [(each["requests"], each["input_tokens"], each["output_tokens"]) for each in total] == [(2, 18, 4)]
    assert after.status == 200
