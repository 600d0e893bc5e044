"""Reading the ledger, and forgetting what is too old."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, case, delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from stratmaster_router.storage.engine import transaction
from stratmaster_router.storage.tables import ledger

_PAGE = 10_000
COLUMNS = tuple(column.name for column in ledger.columns if column.name != "id")
"""The ledger's columns, in the order of an export."""


def _chosen(query: Select[Any], tenant: str | None, since: datetime | None, until: datetime | None) -> Select[Any]:
    if tenant is not None:
        query = query.where(ledger.c.tenant == tenant)
    if since is not None:
        query = query.where(ledger.c.time >= _microseconds(since))
    if until is not None:
        query = query.where(ledger.c.time < _microseconds(until))
    return query


def _microseconds(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)


async def rows(
    engine: AsyncEngine, tenant: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> AsyncIterator[list[Mapping[str, Any]]]:
    """The rows in the order in which they were written, page by page. `since` is included, `until` is not."""
    last = 0
    while True:
        query = select(ledger).where(ledger.c.id > last).order_by(ledger.c.id).limit(_PAGE)
        async with transaction(engine) as connection:
            found = (await connection.execute(_chosen(query, tenant, since, until))).mappings().all()
        if not found:
            return
        yield [dict(row) for row in found]
        last = found[-1]["id"]


async def summary(
    engine: AsyncEngine, tenant: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> list[Mapping[str, Any]]:
    """Sums by tenant, provider and model; money in nano-dollars. Presumed rows are no requests."""
    request = case((ledger.c.presumed, 0), else_=1)
    query = select(
        ledger.c.tenant,
        ledger.c.provider,
        ledger.c.model,
        func.sum(request).label("requests"),
        func.sum(ledger.c.input_tokens).label("input_tokens"),
        func.sum(ledger.c.cached_input_tokens).label("cached_input_tokens"),
        func.sum(ledger.c.output_tokens).label("output_tokens"),
        func.coalesce(func.sum(ledger.c.cost_nanousd), 0).label("cost_nanousd"),
        func.coalesce(func.sum(case((ledger.c.presumed, ledger.c.cost_nanousd))), 0).label("presumed_nanousd"),
        func.sum(case((ledger.c.estimated, 1), else_=0)).label("estimated"),
        func.sum(case((ledger.c.cost_nanousd.is_(None), 1), else_=0)).label("unpriced"),
    ).group_by(ledger.c.tenant, ledger.c.provider, ledger.c.model)
    query = query.order_by(ledger.c.tenant, ledger.c.provider, ledger.c.model)
    async with transaction(engine) as connection:
        found = (await connection.execute(_chosen(query, tenant, since, until))).mappings().all()
    # PostgreSQL sums its 64-bit integers as decimals, which have no bound.
    return [
        {name: value if isinstance(value, str | None) else int(value) for name, value in row.items()} for row in found
    ]


async def prune(engine: AsyncEngine, before: int) -> None:
    """Delete the rows written before `before` (microseconds), in parts that keep no one waiting."""
    while True:
        old = select(ledger.c.id).where(ledger.c.time < before).limit(_PAGE)
        async with transaction(engine) as connection:
            deleted = await connection.execute(delete(ledger).where(ledger.c.id.in_(old)))
        if deleted.rowcount < _PAGE:
            return
