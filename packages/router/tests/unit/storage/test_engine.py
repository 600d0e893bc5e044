import asyncio
import socket
from pathlib import Path

import pytest
from sqlalchemy import select, text
from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.storage.engine import DatabaseUrlInvalid, database_now, database_url, make_engine, transaction


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("sqlite:///router.db", "sqlite+aiosqlite:///router.db"),
        ("sqlite:////var/lib/router.db", "sqlite+aiosqlite:////var/lib/router.db"),
        ("sqlite+aiosqlite:///router.db", "sqlite+aiosqlite:///router.db"),
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


def test_an_engine_does_not_show_its_password() -> None:
    """Not even where it is printed for debugging."""
    assert "secret" not in repr(make_engine(database_url("postgresql://router:secret@host/name")))


async def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    """Write-ahead log, synchronous NORMAL, two seconds of patience."""
    engine = make_engine(database_url(f"sqlite:///{tmp_path}/router.db"))
    async with transaction(engine) as connection:
        found = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    await engine.dispose()
    assert found == ["wal", 1, 2_000]


async def test_sqlite_transactions_write_what_they_have_read(tmp_path: Path) -> None:
    """Two that read first and then write follow each other: none fails, none is lost."""
    engine = make_engine(database_url(f"sqlite:///{tmp_path}/router.db"))
    async with transaction(engine) as connection:
        await connection.execute(text("CREATE TABLE counter (value INTEGER)"))
        await connection.execute(text("INSERT INTO counter VALUES (0)"))

    async def count() -> None:
        async with transaction(engine) as connection:
            value = (await connection.execute(text("SELECT value FROM counter"))).scalar_one()
            await asyncio.sleep(0.001)
            await connection.execute(text("UPDATE counter SET value = :value"), {"value": value + 1})

    await asyncio.gather(*[count() for _ in range(20)])
    async with transaction(engine) as connection:
        assert (await connection.execute(text("SELECT value FROM counter"))).scalar_one() == 20
    await engine.dispose()


async def test_a_reader_waits_for_no_writer_and_changes_nothing(tmp_path: Path) -> None:
    """While another holds the lock, it sees what was there before."""
    path = tmp_path / "a strange?name%.db"
    url = database_url("sqlite:///router.db").set(database=str(path))
    writer, reader = make_engine(url), make_engine(url, read_only=True)
    async with transaction(writer) as connection:
        await connection.execute(text("CREATE TABLE t (value INTEGER)"))
    async with transaction(writer) as connection:
        await connection.execute(text("INSERT INTO t VALUES (1)"))
        async with transaction(reader) as other:
            assert (await other.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0
    with pytest.raises(StoreUnavailable):
        async with transaction(reader) as connection:
            await connection.execute(text("DELETE FROM t"))
    await writer.dispose()
    await reader.dispose()


def names_in(folder: Path) -> list[str]:
    """What is in `folder`."""
    return sorted(path.name for path in folder.iterdir())


async def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    """A database that is not there stays so."""
    engine = make_engine(database_url(f"sqlite:///{tmp_path}/router.db"), read_only=True)
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        async with transaction(engine):
            pass
    await engine.dispose()
    # A thread of aiosqlite that could not open its file ends by itself, and wants its loop for that.
    await asyncio.sleep(0.05)
    assert names_in(tmp_path) == []


async def test_sqlites_clock_counts_milliseconds(tmp_path: Path) -> None:
    """In microseconds since 1970, exactly."""
    engine = make_engine(database_url(f"sqlite:///{tmp_path}/router.db"))
    async with transaction(engine) as connection:
        now = (await connection.execute(select(database_now()))).scalar_one()
        same = (
            await connection.execute(text(f"SELECT strftime('%Y-%m-%d', {now} / 1000000, 'unixepoch')"))
        ).scalar_one()
        today = (await connection.execute(text("SELECT strftime('%Y-%m-%d', 'now')"))).scalar_one()
    await engine.dispose()
    assert (now % 1_000, same) == (0, today)


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """With the driver's words for it."""
    (tmp_path / "router.db").write_bytes(b"certainly no database" * 100)
    engine = make_engine(database_url(f"sqlite:///{tmp_path}/router.db"))
    with pytest.raises(StoreUnavailable, match=r"^DatabaseError: file is not a database$"):
        async with transaction(engine):
            pass
    await engine.dispose()


async def test_a_mistake_of_ours_is_no_outage(tmp_path: Path) -> None:
    """It comes through as it is, and nothing of its transaction stays."""
    engine = make_engine(database_url(f"sqlite:///{tmp_path}/router.db"))

    async def fail() -> None:
        async with transaction(engine) as connection:
            await connection.execute(text("CREATE TABLE t (value INTEGER)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with transaction(engine) as connection:
        assert (await connection.execute(text("SELECT name FROM sqlite_master"))).all() == []
    await engine.dispose()


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    """Its machine takes the connection, and nobody says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        engine = make_engine(database_url(f"postgresql://router:secret@127.0.0.1:{port}/router"))
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(4), transaction(engine):
                pass
        await engine.dispose()
