import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stratmaster_router.auth.credentials import new_key, visible_id
from stratmaster_router.cli.main import app
from stratmaster_router.settings import Settings
from stratmaster_router.storage.database import Database, database_url
from stratmaster_router.storage.schema import prepare
from support.audits import records
from support.keys import OTHER_PEPPER, PEPPER
from typer.testing import CliRunner

Run = Callable[..., Any]
NOW = datetime.now(UTC)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database that a router has prepared; the environment names it, and a pepper."""
    path = tmp_path / "router.db"

    async def make() -> None:
        opened = Database(database_url(f"sqlite:///{path}"))
        await prepare(opened)
        await opened.close()

    asyncio.run(make())
    monkeypatch.setenv("ROUTER_DATABASE_URL", f"sqlite:///{path}")
    monkeypatch.setenv("ROUTER_KEY_PEPPER", PEPPER)
    return path


@pytest.fixture
def run() -> Run:
    """Run the command; its result."""
    return lambda *words: CliRunner().invoke(app, ["keys", *words])


def listed(run: Run, *words: str) -> list[dict[str, Any]]:
    """The keys that there are."""
    result = run("list", "--format", "json", *words)
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def about(text: str, moment: datetime) -> bool:
    """Whether a written time is within a few minutes of `moment`."""
    return abs(datetime.fromisoformat(text) - moment) < timedelta(minutes=10)


@pytest.mark.usefixtures("database")
def test_created_key_is_printed_alone(run: Run) -> None:
    """On standard output, so that it can be piped; what is known of it is on standard error, without the key."""
    result = run("create", "--tenant", "acme", "--note", "batch jobs")

    assert result.exit_code == 0
    key = result.stdout.removesuffix("\n")
    key_id = visible_id(key.encode())
    assert key_id is not None
    found = re.fullmatch(
        rf"The key {key_id} of tenant acme, which expires (\S+)\. It is shown this once; only its hash is kept\.\n",
        result.stderr,
    )
    assert found
    assert about(found[1], NOW + timedelta(days=90))
    (listing,) = listed(run)
    assert about(listing.pop("created_at"), NOW)
    assert listing == {
        "id": key_id,
        "tenant": "acme",
        "note": "batch jobs",
        "state": "live",
        "expires_at": found[1],
        "revoked_at": None,
        "rotated_from": None,
        "last_used_at": None,
    }


@pytest.mark.usefixtures("database")
def test_list_is_a_table_for_people(run: Run) -> None:
    """Of all tenants or of one; nothing of a key but its id."""
    key_id = visible_id(run("create", "--tenant", "acme", "--note", "a [b] c").stdout.strip().encode())
    run("create", "--tenant", "globex")

    result = run("list", "--tenant", "acme")
    assert result.exit_code == 0
    heading, row = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    assert heading == ["id", "tenant", "state", "created", "expires", "last used", "in place of", "note"]
    assert (row[:3], row[5:]) == ([key_id, "acme", "live"], ["–", "–", "a [b] c"])
    assert len(run("list").stdout.splitlines()) == 3
    assert "smr_" not in run("list").stdout


@pytest.mark.usefixtures("database")
def test_rotated_key_is_followed_by_another(run: Run) -> None:
    """Printed as a new one is; the old one lives for its grace."""
    old = str(visible_id(run("create", "--tenant", "acme").stdout.strip().encode()))
    result = run("rotate", old, "--grace", "2h", "--expires-in", "30d")

    assert result.exit_code == 0
    new = visible_id(result.stdout.strip().encode())
    first, second = listed(run)
    assert (first["id"], second["id"], second["rotated_from"]) == (old, new, old)
    assert about(first["expires_at"], NOW + timedelta(hours=2))
    assert about(second["expires_at"], NOW + timedelta(days=30))
    again = run("rotate", old)
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == f"The key {old} was rotated already: {new} came in its place. Rotate that one.\n"


@pytest.mark.usefixtures("database")
def test_grace_is_a_day(run: Run) -> None:
    """Where nothing else is said."""
    old = str(visible_id(run("create", "--tenant", "acme").stdout.strip().encode()))
    run("rotate", old)

    first, second = listed(run)
    assert about(first["expires_at"], NOW + timedelta(days=1))
    assert about(second["expires_at"], NOW + timedelta(days=90))


@pytest.mark.usefixtures("database")
def test_leaked_key_is_revoked_by_itself(run: Run) -> None:
    """Whoever finds a key need not take it apart; a visible id does as well."""
    for whole in (True, False):
        key = run("create", "--tenant", "acme").stdout.strip()
        key_id = visible_id(key.encode())
        result = run("revoke", key if whole else str(key_id))
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == f"The key {key_id} of tenant acme is revoked.\n"
    assert {each["state"] for each in listed(run)} == {"revoked"}


@pytest.mark.parametrize("command", ["revoke", "rotate", "expire"])
@pytest.mark.usefixtures("database")
def test_mistyped_key_is_told_from_an_unknown_one(run: Run, command: str) -> None:
    """The message does not repeat it."""
    _, key = new_key()
    mistyped = run(command, key[:-1] + ("0" if key[-1] != "0" else "1"))
    unknown = run(command, key)

    assert mistyped.exit_code == 2
    assert "cut off or mistyped" in mistyped.stderr
    assert key[17:-1] not in mistyped.stderr
    assert (unknown.exit_code, unknown.stderr) == (1, f"There is no key {visible_id(key.encode())}.\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], timedelta(0)),
        (["--in", "3d"], timedelta(days=3)),
        (["--in", "0s"], timedelta(0)),
        (["--at", "2026-01-01"], timedelta(0)),
        (["--at", (NOW + timedelta(days=5)).isoformat()], timedelta(days=5)),
        (["--at", f"{NOW + timedelta(days=5):%Y-%m-%d %H:%M:%S}"], timedelta(days=5)),
    ],
)
@pytest.mark.usefixtures("database")
def test_expiry_is_moved(run: Run, options: list[str], expected: timedelta) -> None:
    """To a time or so long from now; without an option, or to a time that is past, it is now."""
    key_id = str(visible_id(run("create", "--tenant", "acme").stdout.strip().encode()))
    result = run("expire", key_id, *options)

    (key,) = listed(run)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"The key {key_id} of tenant acme expires {key['expires_at']}.\n"
    assert about(key["expires_at"], NOW + expected)
    assert key["state"] == ("live" if expected else "expired")


WRONG = [
    (["create", "--tenant", "a b"], "not a name that a tenant of the policy can have"),
    (["create", "--tenant", ""], "not a name that a tenant of the policy can have"),
    (["create", "--tenant", "acme", "--note", "two\nlines"], "write one line of 200 characters at most"),
    (["create", "--tenant", "acme", "--note", "x" * 201], "write one line of 200 characters at most"),
    (["create", "--tenant", "acme", "--expires-in", "90"], "write a whole number with its unit"),
    (["create", "--tenant", "acme", "--expires-in", "1.5d"], "write a whole number with its unit"),
    (["create", "--tenant", "acme", "--expires-in", "3651d"], "write a whole number with its unit"),
    (["rotate", "0123456789ab", "--grace", "soon"], "write a whole number with its unit"),
    (["expire", "0123456789ab", "--at", "tomorrow"], "write a date or a time"),
    (["expire", "0123456789ab", "--at", "9999-12-31"], "write a date or a time"),
    (["expire", "0123456789ab", "--at", "2027-01-01", "--in", "1d"], "give --at or --in, not both"),
    (["create"], "Missing option '--tenant'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
@pytest.mark.usefixtures("database")
def test_wrong_words_are_refused(run: Run, words: list[str], message: str) -> None:
    """With what would be right, and exit code 2; nothing is made."""
    result = run(*words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert listed(run) == []


@pytest.mark.usefixtures("database")
def test_pepper_is_needed_to_make_keys_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is missing, wrong or another, the message says so, and keys can still be ended."""
    key_id = str(visible_id(run("create", "--tenant", "acme").stdout.strip().encode()))
    for pepper, message in (
        ("", "Self-service keys are off. Set ROUTER_KEY_PEPPER or ROUTER_KEY_PEPPER_FILE."),
        ("short", "ROUTER_KEY_PEPPER: a pepper has at least 32 bytes; `openssl rand -hex 32` makes one"),
        (
            OTHER_PEPPER,
            "The pepper is not the one that the keys of this database were made with. Set ROUTER_KEY_PEPPER to that "
            "one; if it is lost, revoke every key, and the new one comes into force.",
        ),
    ):
        monkeypatch.setenv("ROUTER_KEY_PEPPER", pepper)
        for words in (["create", "--tenant", "acme"], ["rotate", key_id]):
            result = run(*words)
            assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"{message}\n")
        assert run("expire", key_id, "--in", "1h").exit_code == 0
        assert [key["id"] for key in listed(run)] == [key_id]
    assert run("revoke", key_id).exit_code == 0


def test_no_database_is_made(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in a database that no router reads would open nothing."""
    monkeypatch.setenv("ROUTER_KEY_PEPPER", PEPPER)
    for url, message in (
        (f"sqlite:///{tmp_path}/x.db", f"there is no database at {tmp_path}/x.db: set ROUTER_DATABASE_URL to the"),
        ("postgresql://router:secret@127.0.0.1:1/router", "the database of ROUTER_DATABASE_URL cannot be read: Conn"),
        ("mysql://router:secret@host/name", "ROUTER_DATABASE_URL: not an address of a database; write sqlite:///"),
    ):
        monkeypatch.setenv("ROUTER_DATABASE_URL", url)
        for words in (["create", "--tenant", "acme"], ["list"], ["revoke", "0123456789ab"]):
            result = run(*words)
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_every_act_is_in_the_audit_log(
    database: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whom, to which key, in the chain of the router's own records; looking is no act."""
    log = tmp_path / "audit.log"
    monkeypatch.setenv("ROUTER_AUDIT_LOG", str(log))
    monkeypatch.setenv("LOGNAME", "alice")
    first = visible_id(run("create", "--tenant", "acme").stdout.strip().encode())
    second = visible_id(run("rotate", first).stdout.strip().encode())
    for words in (["expire", second, "--in", "30d"], ["revoke", second], ["revoke", "0" * 12], ["list"]):
        run(*words)

    found = records(log, key=Settings.model_validate({"key_pepper": PEPPER}).audit_key())
    assert [(record["administrator"], record["act"], record["tenant"], record["key"]) for record in found] == [
        ("command line: alice", "key.create", "acme", first),
        ("command line: alice", "key.rotate", "acme", first),
        ("command line: alice", "key.expire", "acme", second),
        ("command line: alice", "key.revoke", "acme", second),
    ]
    assert database.exists()


@pytest.mark.usefixtures("database")
def test_what_the_audit_log_cannot_take_is_not_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file. A router's standard output is not this command's, which says so."""
    monkeypatch.setenv("ROUTER_AUDIT_LOG", "/nowhere/audit.log")
    result = run("create", "--tenant", "acme")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "ROUTER_AUDIT_LOG: /nowhere/audit.log cannot be used: No such file or directory\n",
    )
    assert listed(run) == []

    monkeypatch.setenv("ROUTER_AUDIT_LOG", "stdout")
    result = run("create", "--tenant", "acme")
    assert result.exit_code == 0
    assert result.stderr.startswith("This is not in the audit log: ")
    assert visible_id(result.stdout.strip().encode()) == listed(run)[0]["id"]
