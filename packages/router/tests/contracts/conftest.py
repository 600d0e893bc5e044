"""Fixtures: a database of each kind, migrated and empty, for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from stratmaster_router.storage.database import Database, database_url
from stratmaster_router.storage.schema import prepare
from support.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/router.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.empty_database()


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    """`database`, which has its tables."""
    opened = Database(database_url(database))
    await prepare(opened)
    yield opened
    await opened.close()
