"""Connections to the database: SQLite by default, PostgreSQL for several machines; one implementation over both."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, BigInteger, Connection, Dialect, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.util import await_only

from stratmaster_router.limits.store import StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

_DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_LOCK_WITHIN = 2.0  # seconds that SQLite waits for another process's transaction
_CONNECT_WITHIN = 2.0
_COMMAND_WITHIN = 5.0
_REPORT_WITHIN = 300.0  # for who reads a whole ledger
_MEMORY = ":memory:"

# Of PostgreSQL's classes of errors those that say nothing about the statement: no connection, no permission, no such
# database, the transaction lost against another, no resources, a lock not had, shut down, the server's own trouble.
_NOT_ANSWERED = ("08", "28", "3D", "40", "53", "55", "57", "58", "25006")


class DatabaseUrlInvalid(Exception):
    """The setting names no database that could be used; the message does not repeat it, as it may hold a password."""


def database_url(text: str) -> URL:
    """The address in `text`, with the driver that is used. Raises `DatabaseUrlInvalid`."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    driver = None if url is None else _DRIVERS.get(url.drivername)
    if url is None or driver is None or not url.database or url.database == _MEMORY:
        raise DatabaseUrlInvalid(
            "not an address of a database; write sqlite:///FILE (an absolute path has four slashes) "
            "or postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    return url.set(drivername=driver)


class Database:
    """The database at `url`; connects when first used.

    `read_only`: nothing is created or changed, writers are not kept waiting, and a query may take minutes.

    SQLite's driver blocks, so a transaction is a visit of one thread that does nothing else. Awaiting each statement
    from there cost two switches of threads a statement, 0.3 s an exchange in a busy process (decision 0011).
    """

    def __init__(self, url: URL, *, read_only: bool = False) -> None:
        self._server: AsyncEngine | None = None
        if url.drivername == "sqlite":
            if read_only:
                # As a file that must be there: SQLite would make it.
                url = url.set(database=f"file:{quote(url.database or '')}", query={"uri": "true", "mode": "rw"})
            self._file = create_engine(url, connect_args={"timeout": _LOCK_WITHIN})
            event.listen(self._file, "connect", partial(_on_sqlite_connect, read_only))
            event.listen(self._file, "begin", partial(_on_sqlite_begin, read_only))
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
            self.dialect: Dialect = self._file.dialect
        else:
            self._server = _postgresql(url, read_only=read_only)
            self.dialect = self._server.dialect

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, which runs in one transaction: all of it is kept, or nothing where it raises.

        Whoever gives up waiting does not know which. Raises `StoreUnavailable` where the database cannot be reached or
        does not answer in time.
        """
        try:
            if self._server is None:
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
            async with self._server.begin() as connection:
                return await connection.run_sync(work)
        except Exception as error:
            if not _unavailable(error):
                raise
            # From None: what the libraries say may hold the statement with its values.
            raise StoreUnavailable(_reason(error)) from None

    def _run(self, work: Callable[[Connection], T]) -> T:
        with self._file.begin() as connection:
            return work(connection)

    async def close(self) -> None:
        """Close the connections, once what runs has come to its end."""
        if self._server is not None:
            await self._server.dispose()
            return
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.dispose)
        self._thread.shutdown(wait=False)


def _postgresql(url: URL, *, read_only: bool) -> "AsyncEngine":
    # Loaded only where it is the database: 8 MB.
    from sqlalchemy.ext.asyncio import create_async_engine

    # The driver reads the address itself: it knows all that libpq does, `sslmode` and `sslrootcert` among them.
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = {"application_name": "stratmaster-router"}
    if read_only:
        settings["default_transaction_read_only"] = "on"

    async def connect(**_: Any) -> Any:
        import asyncpg

        return await asyncpg.connect(
            address,
            timeout=_CONNECT_WITHIN,
            command_timeout=_REPORT_WITHIN if read_only else _COMMAND_WITHIN,
            server_settings=settings,
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        # Rows are locked before they are changed, so nothing stricter is needed, whatever the server's default is.
        isolation_level="READ COMMITTED",
        pool_size=2,
        max_overflow=2,
        pool_timeout=_CONNECT_WITHIN,
    )


def copy_rows(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert `rows` into PostgreSQL by COPY, in the transaction of `connection`.

    It costs the server a third and this process half of what as many INSERTs do. Raises the driver's own errors.
    """
    driver: Any = connection.connection.driver_connection
    if not driver.is_in_transaction():
        # SQLAlchemy begins it with the first statement that goes through it.
        connection.exec_driver_sql("SELECT 1")
    await_only(driver.copy_records_to_table(table, columns=columns, records=rows))


def _on_sqlite_connect(read_only: bool, connection: Any, _: Any) -> None:
    try:
        _set_up_sqlite(connection, read_only=read_only)
    except BaseException:
        # The pool does not have it yet, so nobody else would, and its thread would stay.
        connection.close()
        raise


def _set_up_sqlite(connection: Any, *, read_only: bool) -> None:
    # Transactions are begun below, not by the driver, which would begin them too late and only to read.
    connection.isolation_level = None
    cursor = connection.cursor()
    if read_only:
        cursor.execute("PRAGMA query_only = ON")
    else:
        cursor.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing in this mode; a machine that loses its power may lose the last commits.
        cursor.execute("PRAGMA synchronous = NORMAL")
        # KiB of pages that are kept, of 2 MB: an exchange touches few, and appends rows.
        cursor.execute("PRAGMA cache_size = -256")
    cursor.close()


def _on_sqlite_begin(read_only: bool, connection: Any) -> None:
    # Every transaction of the router writes what it has read: one that began as a reader could not go on as a writer
    # once another has written.
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


class database_now(FunctionElement[int]):  # noqa: N801  # an SQL function
    """The database's clock in microseconds since 1970; SQLite's has milliseconds."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: Any, _compiler: Any, **_: Any) -> str:
    # Within one statement 'now' is one moment. %f is SS.SSS.
    seconds, milliseconds = "strftime('%s', 'now')", "substr(strftime('%f', 'now'), 4)"
    return f"(CAST({seconds} AS INTEGER) * 1000000 + CAST({milliseconds} AS INTEGER) * 1000)"


@compiles(database_now, "postgresql")
def _postgresql_now(_element: Any, _compiler: Any, **_: Any) -> str:
    # Not now(), which is when the transaction began: it may have waited for a lock since.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


def _unavailable(error: Exception) -> bool:
    """Whether `error` says that the database could not be asked, rather than that it was asked something wrong."""
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError | OSError | sqlite3.OperationalError):
        return True  # OSError has TimeoutError among its kinds
    # What is no database, or a damaged one, gets just this class.
    if type(error) in (DatabaseError, sqlite3.DatabaseError):
        return True
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        return error.connection_invalidated or state.startswith(_NOT_ANSWERED)
    if not type(error).__module__.startswith("asyncpg."):
        return False
    # Of `copy_rows`. What has no state is the driver's own: there is no connection, or a value that fits no column.
    state = getattr(error, "sqlstate", None)
    return not isinstance(error, ValueError) if state is None else state.startswith(_NOT_ANSWERED)


def _reason(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(cause).__name__}: {cause}"
