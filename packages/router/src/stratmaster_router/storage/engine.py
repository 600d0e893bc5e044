"""Connections to the database: SQLite by default, PostgreSQL for several machines; one implementation over both."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import URL, BigInteger, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from stratmaster_router.limits.store import StoreUnavailable

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_LOCK_WITHIN = 5_000  # milliseconds that SQLite waits for another process's transaction
_CONNECT_WITHIN = 2.0
_COMMAND_WITHIN = 5.0


class DatabaseUrlInvalid(Exception):
    """The setting names no database that could be used."""


def database_url(text: str) -> URL:
    """The address in `text`, with the driver that is used. Raises `DatabaseUrlInvalid`, without the password."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise DatabaseUrlInvalid("write sqlite:///FILE or postgresql://user:password@host/name") from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None or not url.database:
        raise DatabaseUrlInvalid("write sqlite:///FILE or postgresql://user:password@host/name")
    return url.set(drivername=driver)


def make_engine(url: URL) -> AsyncEngine:
    """An engine for `url`; connects when first used."""
    if url.drivername.startswith("sqlite"):
        engine = create_async_engine(url, connect_args={"timeout": _LOCK_WITHIN / 1000})
        event.listen(engine.sync_engine, "connect", _on_sqlite_connect)
        event.listen(engine.sync_engine, "begin", _on_sqlite_begin)
        return engine
    return create_async_engine(
        url,
        pool_size=2,
        max_overflow=2,
        pool_timeout=_CONNECT_WITHIN,
        connect_args={"timeout": _CONNECT_WITHIN, "command_timeout": _COMMAND_WITHIN},
    )


def _on_sqlite_connect(connection: Any, _: Any) -> None:
    # Transactions are begun below, not by the driver, which would begin them too late and only to read.
    connection.isolation_level = None
    cursor = connection.cursor()
    # A killed process loses nothing in this mode; a machine that loses its power may lose the last commits.
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"busy_timeout = {_LOCK_WITHIN}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: Any) -> None:
    # Every transaction here writes what it has read: one that began as a reader could not go on as a writer.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class database_now(FunctionElement[int]):  # noqa: N801  # an SQL function
    """The database's clock in microseconds since 1970."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: Any, _compiler: Any, **_: Any) -> str:
    # A day of 1970 is number 2440587.5; older versions have no unixepoch('subsec').
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"


@compiles(database_now, "postgresql")
def _postgresql_now(_element: Any, _compiler: Any, **_: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@contextlib.asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction. Raises `StoreUnavailable` where the database cannot be reached or does not answer in time."""
    try:
        async with engine.begin() as connection:
            yield connection
    except (OperationalError, InterfaceError, OSError, TimeoutError, sqlite3.OperationalError):
        raise StoreUnavailable from None
    except DBAPIError as error:
        if error.connection_invalidated:
            raise StoreUnavailable from None
        raise
