"""Reading and pruning the ledger, on both databases."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.storage import ledger
from stratmaster_router.storage.database import Database
from stratmaster_router.storage.ledger import Total, prune, rows, summary
from support.database import write

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
NOON_US = 1_795_521_600_000_000
# In nano-dollars more than a 32-bit number, and together more than a float is exact to.
LARGE = 9_007_199_254_740_993


def row(request_id: str, tenant: str = "acme", model: str | None = "gpt-4.1", cost: int | None = 5) -> LedgerRow:
    """A row of one request."""
    return LedgerRow(request_id, tenant, None, "first", model, 10, 2, 3, cost, 200, 1, "")


async def ids(opened: Database, **chosen: Any) -> list[str]:
    """Which requests are read, in their order."""
    return [row[1] async for page in rows(opened, **chosen) for row in page]


async def test_rows_are_chosen_by_tenant_and_time(opened: Database) -> None:
    """`since` is included, `until` is not; both to the microsecond."""
    await write(opened, NOON_US, row("b"), row("c", "globex"))
    await write(opened, NOON_US - 1, row("a"))
    await write(opened, NOON_US + 1, row("d"))
    assert await ids(opened) == ["a", "b", "c", "d"]
    assert await ids(opened, tenant="globex") == ["c"]
    assert await ids(opened, since=NOON) == ["b", "c", "d"]
    assert await ids(opened, until=NOON) == ["a"]
    assert await ids(opened, tenant="acme", since=NOON, until=NOON + timedelta(microseconds=1)) == ["b"]
    assert await ids(opened, tenant="nobody") == []


async def test_pages_have_every_row_once(opened: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where many have one time, and where it does not rise with their number."""
    monkeypatch.setattr(ledger, "_PAGE", 3)
    await write(opened, NOON_US, *[row(f"b{number}") for number in range(7)])
    await write(opened, NOON_US - 1, *[row(f"a{number}") for number in range(4)])
    await write(opened, NOON_US + 1, row("c0"))
    everything = [f"a{number}" for number in range(4)] + [f"b{number}" for number in range(7)] + ["c0"]
    assert await ids(opened) == everything
    assert [len(page) async for page in rows(opened)] == [3, 3, 3, 3]


async def test_sums_are_exact(opened: Database) -> None:
    """By tenant, provider and model; presumed rows are no requests, but money."""
    await write(
        opened,
        NOON_US,
        row("1", cost=LARGE),
        row("2", cost=LARGE),
        row("3", cost=None),
        row("4", model="gpt-4o"),
        LedgerRow("5", "acme", "chat", None, None, 0, 0, 0, 0, 499, 1, "", estimated=True),
        row("6", "globex"),
        LedgerRow("presumed:a", "acme", None, None, None, 0, 0, 0, 700, 0, 0, "", presumed=True),
        LedgerRow("presumed:a", "acme", None, None, None, 0, 0, 0, -200, 0, 0, "", presumed=True),
    )
    await write(opened, NOON_US + 1, row("7", "initech", cost=None))
    assert await summary(opened) == [
        Total("acme", None, None, 1, 0, 0, 0, 500, 500, 1, 0),
        Total("acme", "first", "gpt-4.1", 3, 30, 6, 9, 2 * LARGE, 0, 0, 1),
        Total("acme", "first", "gpt-4o", 1, 10, 2, 3, 5, 0, 0, 0),
        Total("globex", "first", "gpt-4.1", 1, 10, 2, 3, 5, 0, 0, 0),
        Total("initech", "first", "gpt-4.1", 1, 10, 2, 3, 0, 0, 0, 1),
    ]
    assert await summary(opened, "globex", NOON, NOON + timedelta(microseconds=1)) == [
        Total("globex", "first", "gpt-4.1", 1, 10, 2, 3, 5, 0, 0, 0)
    ]
    assert await summary(opened, since=NOON + timedelta(seconds=1)) == []


async def test_old_rows_are_deleted_in_parts(opened: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written at the given moment stays."""
    monkeypatch.setattr(ledger, "_PRUNED", 3)
    await write(opened, NOON_US - 1, *[row(f"a{number}") for number in range(7)])
    await write(opened, NOON_US, row("b"))
    assert await prune(opened, NOON_US) == 7
    assert await ids(opened) == ["b"]
    assert await prune(opened, NOON_US) == 0
