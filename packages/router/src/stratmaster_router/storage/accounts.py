"""The truth of accounts in the database: `limits.store.LimitStore` over SQLAlchemy."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.limits.accounts import (
    RECALL,
    SECOND,
    Batch,
    Lent,
    Outcome,
    Truth,
    View,
    exchange,
    presume,
    unpresume,
)
from stratmaster_router.limits.store import LEASE
from stratmaster_router.storage.engine import database_now, transaction
from stratmaster_router.storage.tables import accounts, leases, ledger, processes

_LEASE = int(LEASE * SECOND)
# The dead are remembered for so long, in case one of them lives.
_REMEMBERED = 3600 * SECOND

_TRUTH = (accounts.c.used, accounts.c.since, accounts.c.held, accounts.c.reserved, accounts.c.recalled)
_save_truth = (
    update(accounts)
    .where(accounts.c.key == bindparam("k"))
    .values({column.name: bindparam(f"v_{column.name}") for column in (*_TRUTH, accounts.c.limit)})
)
_save_lent = (
    update(leases)
    .where(leases.c.process == bindparam("p"), leases.c.key == bindparam("k"))
    .values(held=bindparam("v_held"), reserved=bindparam("v_reserved"))
)
_insert_rows = insert(ledger)


class AccountStore:
    """Accounts, leases and ledger in the database behind `engine`."""

    def __init__(self, engine: AsyncEngine, clock: ColumnElement[int] | None = None) -> None:
        """`clock` is the SQL expression of the time in microseconds; by default the database's own."""
        self._engine = engine
        self._clock = database_now() if clock is None else clock
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    async def exchange(self, batch: Batch) -> Outcome:
        """Apply a batch in one transaction, and renew its process's lease. Raises `StoreUnavailable`."""
        async with transaction(self._engine) as connection:
            now, live, known = await self._process(connection, batch.process)
            if known is not None and not known.dead and batch.number <= known.number:
                return await self._replay(connection, batch, now, live)
            lost = known.dead if known is not None else batch.number > 1
            await self._renew(connection, batch, now)
            if known is None or known.dead:
                live += 1
            if lost:
                await self._revive(connection, batch.process, now)
            truths, lents = await self._load(connection, batch)
            before = {
                key: (msgspec.structs.astuple(truth), msgspec.structs.astuple(lents[key]))
                for key, truth in truths.items()
            }
            lacking = exchange(batch, truths, lents, live, now)
            await self._save(connection, batch, truths, lents, before)
            await _write(connection, batch.rows, now)
            recalled = await self._recalled(connection, now)
        return Outcome(now, live, _views(batch, truths, lents), lacking, recalled, lost)

    async def _process(self, connection: AsyncConnection, process: str) -> tuple[int, int, Row[int, bool] | None]:
        """The time, how many processes live, and what is known of `process`, which is locked."""
        alive = select(func.count()).select_from(processes).where(~processes.c.dead).scalar_subquery()
        now, live = (await connection.execute(select(self._clock, alive))).one()
        one = select(processes.c.number, processes.c.dead).where(processes.c.id == process).with_for_update()
        return int(now), int(live), (await connection.execute(one)).one_or_none()

    async def _renew(self, connection: AsyncConnection, batch: Batch, now: int) -> None:
        values = {"id": batch.process, "number": batch.number, "expires_at": now + _LEASE, "dead": False}
        upsert = self._insert(processes).values(values)
        await connection.execute(upsert.on_conflict_do_update(index_elements=["id"], set_=values))

    async def _load(self, connection: AsyncConnection, batch: Batch) -> tuple[dict[str, Truth], dict[str, Lent]]:
        """The accounts of `batch`, locked in the order of their keys, and what its process was lent of each."""
        shares = {share.account.key: share.account for share in batch.shares}
        if not shares:
            return {}, {}
        keys = sorted(shares)
        wanted = (
            select(accounts.c.key, *_TRUTH).where(accounts.c.key.in_(keys)).order_by(accounts.c.key).with_for_update()
        )
        found = (await connection.execute(wanted)).all()
        if len(found) < len(keys):
            have = {row.key for row in found}
            fresh = [_new_account(shares[key]) for key in keys if key not in have]
            await connection.execute(self._insert(accounts).on_conflict_do_nothing(), fresh)
            found = (await connection.execute(wanted)).all()
        truths = {row[0]: Truth(*row[1:]) for row in found}
        mine = select(leases.c.key, leases.c.held, leases.c.reserved).where(
            leases.c.process == batch.process, leases.c.key.in_(keys)
        )
        lents = {row[0]: Lent(*row[1:]) for row in (await connection.execute(mine)).all()}
        missing = [_new_lease(batch.process, key) for key in keys if key not in lents]
        if missing:
            await connection.execute(insert(leases), missing)
            lents.update({row["key"]: Lent() for row in missing})
        return truths, lents

    async def _save(
        self,
        connection: AsyncConnection,
        batch: Batch,
        truths: dict[str, Truth],
        lents: dict[str, Lent],
        before: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]],
    ) -> None:
        limits = {share.account.key: share.account.limit for share in batch.shares}
        changed = [
            {
                "k": key,
                "v_limit": limits[key],
                **{f"v_{name}": value for name, value in msgspec.structs.asdict(truth).items()},
            }
            for key, truth in truths.items()
            if msgspec.structs.astuple(truth) != before[key][0]
        ]
        if changed:
            await connection.execute(_save_truth, changed)
        moved = [
            {"p": batch.process, "k": key, "v_held": lent.held, "v_reserved": lent.reserved}
            for key, lent in lents.items()
            if msgspec.structs.astuple(lent) != before[key][1]
        ]
        if moved:
            await connection.execute(_save_lent, moved)

    async def _recalled(self, connection: AsyncConnection, now: int) -> tuple[str, ...]:
        found = await connection.execute(select(accounts.c.key).where(accounts.c.recalled > now - RECALL))
        return tuple(found.scalars())

    async def _replay(self, connection: AsyncConnection, batch: Batch, now: int, live: int) -> Outcome:
        """What the first application of `batch` has led to."""
        truths, lents = await self._load(connection, batch)
        lacking = tuple([needs[0][0] for needs in batch.asks])
        return Outcome(now, live, _views(batch, truths, lents), lacking, replayed=True)

    async def _revive(self, connection: AsyncConnection, process: str, now: int) -> None:
        """Take back what was presumed of `process`: it lives, and reports itself what it spent."""
        presumed = select(leases.c.key, leases.c.presumed, leases.c.presumed_since).where(
            leases.c.process == process, leases.c.presumed > 0
        )
        found = {row.key: row for row in (await connection.execute(presumed)).all()}
        for account, truth in await self._lock(connection, found):
            row = found[account.key]
            unpresume(truth, row.presumed, row.presumed_since, account, now)
            await self._store(connection, account.key, truth)
        await connection.execute(
            update(leases).where(leases.c.process == process).values(held=0, reserved=0, presumed=0, presumed_since=0)
        )
        booked = (
            select(ledger.c.tenant, ledger.c.provider, func.sum(ledger.c.cost_nanousd))
            .where(ledger.c.presumed, ledger.c.request_id == _presumed_id(process))
            .group_by(ledger.c.tenant, ledger.c.provider)
        )
        rows = [
            _presumed_row(process, tenant, provider, -int(cost))
            for tenant, provider, cost in (await connection.execute(booked)).all()
            if cost
        ]
        await _write(connection, rows, now)

    async def reap(self) -> int:
        """Book what processes held whose lease has run out; how many died. Raises `StoreUnavailable`."""
        async with transaction(self._engine) as connection:
            now = int((await connection.execute(select(self._clock))).scalar_one())
            expired = (
                select(processes.c.id)
                .where(~processes.c.dead, processes.c.expires_at < now)
                .with_for_update(skip_locked=True)
            )
            dead = list((await connection.execute(expired)).scalars())
            for process in dead:
                await self._bury(connection, process, now)
            old = select(processes.c.id).where(processes.c.dead, processes.c.expires_at < now - _REMEMBERED)
            await connection.execute(delete(leases).where(leases.c.process.in_(old)))
            await connection.execute(
                delete(processes).where(processes.c.dead, processes.c.expires_at < now - _REMEMBERED)
            )
        return len(dead)

    async def _bury(self, connection: AsyncConnection, process: str, now: int) -> None:
        held = select(leases.c.key, leases.c.held, leases.c.reserved).where(leases.c.process == process)
        found = {row.key: Lent(row.held, row.reserved) for row in (await connection.execute(held)).all()}
        spent: list[tuple[Account, int]] = []
        for account, truth in await self._lock(connection, found):
            presumed = presume(truth, found[account.key], account, now)
            await self._store(connection, account.key, truth)
            await connection.execute(
                update(leases)
                .where(leases.c.process == process, leases.c.key == account.key)
                .values(held=0, reserved=0, presumed=presumed, presumed_since=truth.since)
            )
            spent.append((account, presumed))
        await connection.execute(update(processes).where(processes.c.id == process).values(dead=True))
        await _write(connection, _presumed_rows(process, spent), now)

    async def _lock(self, connection: AsyncConnection, keys: Iterable[str]) -> list[tuple[Account, Truth]]:
        """The accounts with `keys`, locked in their order."""
        wanted = select(accounts).where(accounts.c.key.in_(sorted(keys))).order_by(accounts.c.key).with_for_update()
        return [
            (
                Account(row.tenant, row.provider, Metric(row.metric), Window(row.window), row.limit),
                Truth(row.used, row.since, row.held, row.reserved, row.recalled),
            )
            for row in (await connection.execute(wanted)).all()
        ]

    async def _store(self, connection: AsyncConnection, key: str, truth: Truth) -> None:
        await connection.execute(update(accounts).where(accounts.c.key == key).values(msgspec.structs.asdict(truth)))

    async def leave(self, process: str) -> None:
        """Forget `process`; if it still holds something, its lease runs out instead. Raises `StoreUnavailable`."""
        async with transaction(self._engine) as connection:
            holds = select(func.count()).where(leases.c.process == process, leases.c.held > 0)
            if not (await connection.execute(holds)).scalar_one():
                await connection.execute(delete(leases).where(leases.c.process == process))
                await connection.execute(delete(processes).where(processes.c.id == process))


def _views(batch: Batch, truths: dict[str, Truth], lents: dict[str, Lent]) -> dict[str, View]:
    views = {}
    for share in batch.shares:
        key = share.account.key
        truth, lent = truths[key], lents[key]
        views[key] = View(truth.used, truth.since, truth.held, truth.reserved, truth.recalled, lent)
    return views


async def _write(connection: AsyncConnection, rows: Sequence[LedgerRow], now: int) -> None:
    if rows:
        await connection.execute(_insert_rows, [{"time": now, **msgspec.structs.asdict(row)} for row in rows])


def _new_account(account: Account) -> dict[str, Any]:
    return {
        "key": account.key,
        "tenant": account.tenant,
        "provider": account.provider,
        "metric": account.metric.value,
        "window": account.window.value,
        "limit": account.limit,
        **msgspec.structs.asdict(Truth()),
    }


def _new_lease(process: str, key: str) -> dict[str, Any]:
    return {"process": process, "key": key, "held": 0, "reserved": 0, "presumed": 0, "presumed_since": 0}


def _presumed_id(process: str) -> str:
    return f"presumed:{process}"


def _presumed_row(process: str, tenant: str, provider: str | None, cost: int) -> LedgerRow:
    return LedgerRow(_presumed_id(process), tenant, None, provider, None, 0, 0, 0, cost, 0, 0, "", presumed=True)


def _presumed_rows(process: str, spent: Iterable[tuple[Account, int]]) -> list[LedgerRow]:
    """What each tenant may have spent: the same money is in its own budgets and in those of its providers."""
    own: dict[str, int] = defaultdict(int)
    at: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for account, presumed in spent:
        if account.provider is None:
            own[account.tenant] = max(own[account.tenant], presumed)
        else:
            by_provider = at[account.tenant]
            by_provider[account.provider] = max(by_provider[account.provider], presumed)
    rows = []
    for tenant in sorted({*own, *at}):
        costs = dict(at[tenant])
        if own[tenant] >= sum(costs.values()):
            rows.append(_presumed_row(process, tenant, None, own[tenant]))
        else:
            rows += [_presumed_row(process, tenant, provider, cost) for provider, cost in sorted(costs.items())]
    return [row for row in rows if row.cost_nanousd]
