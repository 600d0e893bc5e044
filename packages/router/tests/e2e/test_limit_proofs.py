"""Caps hold: counted at the upstream, over several processes, both databases and `kill -9`.

`make prove-limits` does the same for longer.
"""

import asyncio
from pathlib import Path

import pytest
from support.postgres import Postgres, postgres  # noqa: F401  # a fixture
from support.storm import outage, spend_in_turn, storm


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/router.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


def test_a_storm_is_billed_within_the_caps_and_recorded_exactly(database: str, tmp_path: Path) -> None:
    """G1 and G3: four processes, 256 clients, one budget and one bucket."""
    report = asyncio.run(storm(tmp_path, database, seed=1, seconds=10))
    assert report.problems() == []
    assert report.presumed == 0
    assert report.statuses["200"] == report.rows


def test_killed_processes_neither_overspend_nor_lose_what_was_spent(database: str, tmp_path: Path) -> None:
    """G1 and G2: every two seconds a process dies by SIGKILL; what it held is presumed spent, and visible."""
    report = asyncio.run(storm(tmp_path, database, seed=2, seconds=12, kill_every=2))
    assert report.problems() == []
    assert report.kills >= 1  # a busy machine takes long to start the next one
    assert report.presumed > 0


def test_nobody_is_refused_while_the_cap_has_room(database: str, tmp_path: Path) -> None:
    """One client spends a budget through four processes in turn: what is refused needed more than was left."""
    turn = asyncio.run(spend_in_turn(tmp_path, database, seed=3))
    assert turn.problems() == []


def test_a_database_outage_is_no_free_use_and_heals(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Ten seconds without a database: no 401, no 500, nothing lost, and back within two seconds."""
    server: Postgres = request.getfixturevalue("postgres")
    report = asyncio.run(outage(tmp_path, server.database(), server.stop, server.start))
    assert report.problems() == []
    assert report.statuses["503 limit_store_unavailable"] > 0
