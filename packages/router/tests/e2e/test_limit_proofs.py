"""Caps hold: counted at the upstream, over several processes, both databases and `kill -9`.

`make prove-limits` does the same for longer.
"""

import asyncio
from pathlib import Path

from support.postgres import Postgres
from support.storm import outage, spend_in_turn, storm


def test_a_storm_is_billed_within_the_caps_and_recorded_exactly(database: str, tmp_path: Path) -> None:
    """G1 and G3: four processes, 256 clients, one budget and one bucket."""
    report = asyncio.run(storm(tmp_path, database, seed=1, seconds=10))
    assert report.problems() == []
    assert report.presumed == 0
    assert report.statuses["200"] == report.rows


def test_killed_processes_neither_overspend_nor_lose_what_was_spent(database: str, tmp_path: Path) -> None:
    """G1 and G2: every two seconds a process dies by SIGKILL; what it held is presumed spent, and visible."""
    report = asyncio.run(storm(tmp_path, database, seed=2, seconds=10, kill_every=2))
    assert report.problems() == []
    assert report.kills >= 2
    assert report.presumed > 0


def test_nobody_is_refused_while_the_cap_has_room(database: str, tmp_path: Path) -> None:
    """One client spends a budget through four processes in turn: what is refused needed more than was left."""
    turn = asyncio.run(spend_in_turn(tmp_path, database, seed=3))
    assert turn.problems() == []


def test_a_database_outage_is_no_free_use_and_heals(postgres: Postgres, tmp_path: Path) -> None:
    """Ten seconds without a database: no 401, no 500, nothing lost, and back within two seconds."""
    report = asyncio.run(outage(tmp_path, postgres.database(), postgres.stop, postgres.start))
    assert report.problems() == []
    assert report.statuses["503 limit_store_unavailable"] > 0
