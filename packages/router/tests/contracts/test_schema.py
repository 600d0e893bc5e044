"""Migrations, on both databases."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.storage.engine import database_url, make_engine, transaction
from stratmaster_router.storage.schema import HEAD, SchemaTooNew, prepare, revision
from stratmaster_router.storage.tables import metadata


async def test_an_empty_database_gets_the_tables(empty_database: str) -> None:
    """Migrated, it is just as `tables` says; preparing it again changes nothing."""
    engine = make_engine(database_url(empty_database))
    assert await revision(engine) is None
    await prepare(engine)
    await prepare(engine)
    assert await revision(engine) == HEAD

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with transaction(engine) as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_several_migrate_at_once(empty_database: str) -> None:
    """Processes that start together: one migrates, the others wait for it."""
    engines = [make_engine(database_url(empty_database)) for _ in range(4)]
    await asyncio.gather(*[prepare(engine) for engine in engines])
    assert await asyncio.gather(*[revision(engine) for engine in engines]) == [HEAD] * 4
    for engine in engines:
        await engine.dispose()


async def test_a_newer_schema_is_refused(empty_database: str) -> None:
    """And left as it is."""
    engine = make_engine(database_url(empty_database))
    await prepare(engine)
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew) as raised:
        await prepare(engine)
    assert str(raised.value) == (
        "the database is at revision 9999, which this version does not know: upgrade the router, or restore a copy "
        "of the database from before that (this version's is 0001)"
    )
    assert await revision(engine) == "9999"
    await engine.dispose()


async def test_a_migration_that_fails_leaves_nothing(empty_database: str) -> None:
    """Some table is in the way: those before it are not left behind."""
    engine = make_engine(database_url(empty_database))
    async with transaction(engine) as connection:
        await connection.execute(text("CREATE TABLE ledger (id INTEGER)"))
    with pytest.raises(Exception, match="already exists"):
        await prepare(engine)

    def names(connection: Connection) -> list[str]:
        return inspect(connection).get_table_names()

    async with transaction(engine) as connection:
        assert await connection.run_sync(names) == ["ledger"]
    await engine.dispose()


async def test_a_database_that_cannot_be_reached_is_not_migrated() -> None:
    """It may be reached later."""
    engine = make_engine(database_url("postgresql://router:secret@127.0.0.1:1/router"))
    with pytest.raises(StoreUnavailable):
        await prepare(engine)
    await engine.dispose()
