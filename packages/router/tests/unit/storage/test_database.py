import asyncio
import socket
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text
from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.storage.database import Database, DatabaseUrlInvalid, database_now, database_url
from support.database import execute, held


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("sqlite:///router.db", "sqlite:///router.db"),
        ("sqlite:////var/lib/router.db", "sqlite:////var/lib/router.db"),
        ("postgres://u:p%40@h:5433/n", "postgresql+asyncpg://u:p%40@h:5433/n"),
        ("postgresql://h/n?sslmode=require", "postgresql+asyncpg://h/n?sslmode=require"),
        ("postgresql+asyncpg://h/n", "postgresql+asyncpg://h/n"),
    ],
)
def test_both_databases_have_several_spellings(given: str, understood: str) -> None:
    """All mean the one driver that is used."""
    assert database_url(given).render_as_string(hide_password=False) == understood


@pytest.mark.parametrize(
    "given",
    [
        "",
        "router.db",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://router:secret@host",
        "postgresql://router:secret@host:port/name",
        "postgresql+psycopg://router:secret@host/name",
        "mysql://router:secret@host/name",
    ],
)
def test_other_addresses_are_refused_without_being_repeated(given: str) -> None:
    """The message says what is right; a password is in neither it nor its causes."""
    with pytest.raises(DatabaseUrlInvalid) as raised:
        database_url(given)
    assert str(raised.value) == (
        "not an address of a database; write sqlite:///FILE (an absolute path has four slashes) "
        "or postgresql://USER:PASSWORD@HOST/NAME"
    )
    assert (raised.value.__cause__, raised.value.__suppress_context__) == (None, True)


def test_a_database_does_not_show_its_password() -> None:
    """Not even where its parts are printed for debugging."""
    assert "secret" not in str(vars(Database(database_url("postgresql://router:secret@host/name"))))


async def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    """Write-ahead log, synchronous NORMAL, two seconds of patience."""
    database = Database(database_url(f"sqlite:///{tmp_path}/router.db"))
    names = ("journal_mode", "synchronous", "busy_timeout")
    found = [await execute(database, text(f"PRAGMA {name}")) for name in names]
    await database.close()
    assert found == [[("wal",)], [(1,)], [(2_000,)]]


async def test_sqlite_transactions_write_what_they_have_read(tmp_path: Path) -> None:
    """Two that read first and then write follow each other: none fails, none is lost."""
    several = [Database(database_url(f"sqlite:///{tmp_path}/router.db")) for _ in range(4)]
    await execute(several[0], text("CREATE TABLE counter (value INTEGER)"))
    await execute(several[0], text("INSERT INTO counter VALUES (0)"))

    def count(connection: Connection) -> None:
        value = connection.execute(text("SELECT value FROM counter")).scalar_one()
        time.sleep(0.001)
        connection.execute(text("UPDATE counter SET value = :value"), {"value": value + 1})

    await asyncio.gather(*[database.run(count) for database in several * 5])
    assert await execute(several[0], text("SELECT value FROM counter")) == [(20,)]
    for database in several:
        await database.close()


async def test_a_reader_waits_for_no_writer_and_changes_nothing(tmp_path: Path) -> None:
    """While another holds the lock, it sees what was there before."""
    path = tmp_path / "a strange?name%.db"
    url = database_url("sqlite:///router.db").set(database=str(path))
    writer, reader = Database(url), Database(url, read_only=True)
    await execute(writer, text("CREATE TABLE t (value INTEGER)"))
    async with held(url.render_as_string(), "INSERT INTO t VALUES (1)"):
        assert await execute(reader, text("SELECT count(*) FROM t")) == [(0,)]
    with pytest.raises(StoreUnavailable):
        await execute(reader, text("DELETE FROM t"))
    await writer.close()
    await reader.close()


def names_in(folder: Path) -> list[str]:
    """What is in `folder`."""
    return sorted(path.name for path in folder.iterdir())


async def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    """A database that is not there stays so."""
    database = Database(database_url(f"sqlite:///{tmp_path}/router.db"), read_only=True)
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        await execute(database, text("SELECT 1"))
    await database.close()
    assert names_in(tmp_path) == []


async def test_sqlites_clock_counts_milliseconds(tmp_path: Path) -> None:
    """In microseconds since 1970, exactly."""
    database = Database(database_url(f"sqlite:///{tmp_path}/router.db"))
    ((now,),) = await execute(database, select(database_now()))
    days = f"SELECT strftime('%Y-%m-%d', {now} / 1000000, 'unixepoch'), strftime('%Y-%m-%d', 'now')"
    ((same, today),) = await execute(database, text(days))
    await database.close()
    assert (now % 1_000, same) == (0, today)


async def test_what_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """With the driver's words for it."""
    (tmp_path / "router.db").write_bytes(b"certainly no database" * 100)
    database = Database(database_url(f"sqlite:///{tmp_path}/router.db"))
    with pytest.raises(StoreUnavailable, match=r"^DatabaseError: file is not a database$"):
        await execute(database, text("SELECT 1"))
    await database.close()


async def test_a_mistake_of_ours_is_no_outage(tmp_path: Path) -> None:
    """It comes through as it is, and nothing of its transaction stays."""
    database = Database(database_url(f"sqlite:///{tmp_path}/router.db"))

    def fail(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE t (value INTEGER)"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.run(fail)
    assert await execute(database, text("SELECT name FROM sqlite_master")) == []
    await database.close()


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    """Its machine takes the connection, and nobody says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        database = Database(database_url(f"postgresql://router:secret@127.0.0.1:{port}/router"))
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(4):
                await execute(database, text("SELECT 1"))
        await database.close()
