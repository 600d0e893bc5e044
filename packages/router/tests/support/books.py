"""What a router has booked: the rows of its ledger, and what is used of its accounts."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from support.calls import eventually, samples
from support.servers import RunningRouter


def rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """The ledger's rows once there are `count`, without their times and ids."""

    def look() -> list[dict[str, Any]]:
        with closing(sqlite3.connect(folder / "router.db")) as database:
            database.row_factory = sqlite3.Row
            found = [dict(row) for row in database.execute("SELECT * FROM ledger ORDER BY id")]
        return [{name: value for name, value in row.items() if name not in ("id", "time")} for row in found]

    found = eventually(look, lambda seen: len(seen) >= count)
    assert len(found) == count
    return found


def used(router: RunningRouter, scope: str = "") -> dict[str, float]:
    """What is used of each account of acme, by metric; `scope` is a provider's name."""
    prefix = "litellm_account_used{"
    found = {}
    for name, value in samples(router, prefix).items():
        if f'provider="{scope}",tenant="acme"' in name:
            found[name.removeprefix(prefix).split('"')[1]] = value
    return found
