"""The database's schema: brought to this version's, or refused where it is newer."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from stratmaster_router.storage.engine import transaction

HEAD = "0001"
"""The revision that this version works with: the last one in `migrations/versions` (a test says so)."""

_MIGRATIONS = Path(__file__).with_name("migrations")
# Any number that nothing else in the database locks by.
_LOCK = 7_243_118_006


class SchemaTooNew(Exception):
    """The database was migrated by a newer version of the router."""


async def prepare(engine: AsyncEngine) -> None:
    """Bring the database to `HEAD`. Raises `SchemaTooNew`, `StoreUnavailable`; cheap where there is nothing to do."""
    if await revision(engine) == HEAD:
        return
    async with transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            # SQLite's transactions exclude each other anyway.
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.run_sync(_upgrade)


async def revision(engine: AsyncEngine) -> str | None:
    """The revision of the database's schema; None where it is empty. Raises `StoreUnavailable`."""
    async with transaction(engine) as connection:
        return await _revision(connection)


async def _revision(connection: AsyncConnection) -> str | None:
    try:
        async with connection.begin_nested():
            found = await connection.execute(text("SELECT version_num FROM alembic_version"))
            return found.scalar_one_or_none()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return None  # there is no such table


def _upgrade(connection: Connection) -> None:
    # Only here: a database that is up to date costs no import.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        if "Can't locate revision" not in str(error):
            raise
        raise SchemaTooNew(
            "the database was migrated by a newer version of the router; run that version, or restore the database"
        ) from None
