"""Reading the ledger, and forgetting what is too old."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Select, case, delete, func, or_, select

from stratmaster_router.storage.database import Database
from stratmaster_router.storage.tables import ledger

_PAGE = 10_000
_PRUNED = 2_000  # rows in one transaction: some 10 ms
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

COLUMNS = tuple(column.name for column in ledger.columns if column.name != "id")
"""The ledger's columns, in the order of an export."""

Page = Sequence[Sequence[Any]]
"""Some rows, each with its values in the order of `COLUMNS`."""


class Total(Struct, frozen=True):
    """What a tenant has used of one model at one provider; money in nano-dollars.

    `cost_nanousd` has `presumed_nanousd` in it, which is what processes that died may have spent. Rows of those are no
    requests. `estimated` are the requests whose tokens were counted here, `unpriced` those whose price is not known.
    """

    tenant: str
    provider: str | None
    model: str | None
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_nanousd: int
    presumed_nanousd: int
    estimated: int
    unpriced: int


async def rows(
    database: Database, tenant: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> AsyncIterator[Page]:
    """The rows in the order of their time, page by page; `since` is included, `until` is not.

    A transaction for each page, so that no writer waits for a slow reader. Raises `StoreUnavailable`.
    """
    wanted = select(ledger).where(*_chosen(tenant, since, until)).order_by(ledger.c.time, ledger.c.id).limit(_PAGE)
    rest = wanted
    while True:
        found = await database.run(partial(_all, rest))
        if found:
            yield [row[1:] for row in found]
        if len(found) < _PAGE:
            return
        last, moment, *_ = found[-1]
        after = or_(ledger.c.time > moment, ledger.c.id > last)
        rest = wanted.where(ledger.c.time >= moment, after)


async def summary(
    database: Database, tenant: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> list[Total]:
    """Sums by tenant, provider and model; `since` is included, `until` is not. Raises `StoreUnavailable`."""
    group = (ledger.c.tenant, ledger.c.provider, ledger.c.model)
    query = (
        select(
            *group,
            _count(~ledger.c.presumed),
            func.sum(ledger.c.input_tokens),
            func.sum(ledger.c.cached_input_tokens),
            func.sum(ledger.c.output_tokens),
            func.coalesce(func.sum(ledger.c.cost_nanousd), 0),
            func.coalesce(func.sum(case((ledger.c.presumed, ledger.c.cost_nanousd))), 0),
            _count(ledger.c.estimated),
            _count(ledger.c.cost_nanousd.is_(None)),
        )
        .where(*_chosen(tenant, since, until))
        .group_by(*group)
        .order_by(*(column.nulls_first() for column in group))
    )
    found = await database.run(partial(_all, query))
    # PostgreSQL sums its 64-bit integers as decimals, which have no bound.
    return [Total(*row[:3], *map(int, row[3:])) for row in found]


async def prune(database: Database, before: int) -> int:
    """Delete the rows written before `before` (microseconds); how many. Raises `StoreUnavailable`.

    In small parts with as much time between them, so that no exchange waits for long.
    """
    old = select(ledger.c.id).where(ledger.c.time < before).order_by(ledger.c.time).limit(_PRUNED)
    oldest = delete(ledger).where(ledger.c.id.in_(old))
    total = 0
    while True:
        began = time.monotonic()
        deleted = await database.run(lambda connection: connection.execute(oldest).rowcount)
        total += deleted
        if deleted < _PRUNED:
            return total
        await asyncio.sleep(time.monotonic() - began)


def _all(query: Select[Any], connection: Connection) -> Sequence[Any]:
    return connection.execute(query).all()


def _chosen(tenant: str | None, since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    conditions = []
    if tenant is not None:
        conditions.append(ledger.c.tenant == tenant)
    if since is not None:
        conditions.append(ledger.c.time >= _microseconds(since))
    if until is not None:
        conditions.append(ledger.c.time < _microseconds(until))
    return conditions


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0))
