"""Migrations, on both databases."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.storage.database import Database, database_url
from stratmaster_router.storage.schema import HEAD, SchemaTooNew, prepare, revision
from stratmaster_router.storage.tables import metadata
from support.database import execute


async def test_an_empty_database_gets_the_tables(empty_database: str) -> None:
    """Migrated, it is just as `tables` says; preparing it again changes nothing."""
    opened = Database(database_url(empty_database))
    assert await revision(opened) is None
    await prepare(opened)
    await prepare(opened)
    assert await revision(opened) == HEAD

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await opened.run(differences) == []
    await opened.close()


async def test_several_migrate_at_once(empty_database: str) -> None:
    """Processes that start together: one migrates, the others wait for it."""
    several = [Database(database_url(empty_database)) for _ in range(4)]
    await asyncio.gather(*[prepare(opened) for opened in several])
    assert await asyncio.gather(*[revision(opened) for opened in several]) == [HEAD] * 4
    for opened in several:
        await opened.close()


async def test_a_newer_schema_is_refused(empty_database: str) -> None:
    """And left as it is."""
    opened = Database(database_url(empty_database))
    await prepare(opened)
    await execute(opened, text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew) as raised:
        await prepare(opened)
    assert str(raised.value) == (
        "the database is at revision 9999, which this version does not know: upgrade the router, or restore a copy "
        f"of the database from before that (this version's is {HEAD})"
    )
    assert await revision(opened) == "9999"
    await opened.close()


async def test_a_migration_that_fails_leaves_nothing(empty_database: str) -> None:
    """Some table is in the way: those before it are not left behind."""
    opened = Database(database_url(empty_database))
    await execute(opened, text("CREATE TABLE ledger (id INTEGER)"))
    with pytest.raises(Exception, match="already exists"):
        await prepare(opened)

    def names(connection: Connection) -> list[str]:
        return inspect(connection).get_table_names()

    assert await opened.run(names) == ["ledger"]
    await opened.close()


async def test_a_database_that_cannot_be_reached_is_not_migrated() -> None:
    """It may be reached later."""
    opened = Database(database_url("postgresql://router:secret@127.0.0.1:1/router"))
    with pytest.raises(StoreUnavailable):
        await prepare(opened)
    await opened.close()
