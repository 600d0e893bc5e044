"""The database's schema: brought to this version's, or refused where it is newer."""

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from stratmaster_router.storage.database import Database

HEAD = "0002"
"""The revision that this version works with: the last one in `migrations/versions` (a test says so)."""

_MIGRATIONS = Path(__file__).with_name("migrations")
# Any number that nothing else in the database locks by.
_LOCK = 7_243_118_006


class SchemaTooNew(Exception):
    """The database was migrated by a newer version of the router."""


async def prepare(database: Database) -> None:
    """Bring the database to `HEAD`. Raises `SchemaTooNew`, `StoreUnavailable`; cheap where there is nothing to do."""
    if await revision(database) != HEAD:
        # One transaction: a process that dies in the middle leaves the old schema, and others wait for the outcome.
        await database.run(_upgrade)


async def revision(database: Database) -> str | None:
    """The revision of the database's schema; None where it is empty. Raises `StoreUnavailable`."""
    return await database.run(_revision)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # SQLite's transactions exclude each other anyway.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    # Its reports of its own plugins are no news to an operator.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Only here: a database that is up to date costs no import of it, which takes 0.2 s and 13 MB.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    found = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise SchemaTooNew(
            f"the database is at revision {found}, which this version does not know: upgrade the router, "
            f"or restore a copy of the database from before that (this version's is {HEAD})"
        )
    command.upgrade(config, "head")
