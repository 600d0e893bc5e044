"""Statements of a test's own on a database of the router's, and a transaction that another holds open."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
from sqlalchemy import Connection, Executable, make_url
from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.storage.books import Books
from stratmaster_router.storage.database import Database


async def execute(database: Database, statement: Executable, parameters: Any = None) -> Sequence[Any]:
    """The rows of one statement, which is a transaction of its own; none where it returns none."""

    def work(connection: Connection) -> Sequence[Any]:
        result = connection.execute(statement, parameters)
        return result.all() if result.returns_rows else []

    return await database.run(work)


async def write(database: Database, time: int, *rows: LedgerRow) -> None:
    """Add rows of one moment to the ledger."""
    await database.run(lambda connection: Books(database.dialect).record(connection, rows, time))


@contextlib.asynccontextmanager
async def held(url: str, statement: str) -> AsyncIterator[None]:
    """While this lasts, another connection to `url` has executed `statement` and not committed it."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(make_url(url).database or "", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(statement)
            yield
            connection.execute("COMMIT")
        return
    other = await asyncpg.connect(url)
    try:
        async with other.transaction():
            await other.execute(statement)
            yield
    finally:
        await other.close()
