"""The truth of accounts in the database: `limits.store.LimitStore` over SQLAlchemy."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, bindparam, delete, func, or_, select, update

from stratmaster_router.domain.limits import Account
from stratmaster_router.limits.accounts import (
    RECALL,
    SECOND,
    Batch,
    Outcome,
    Share,
    View,
    exchange,
    presume,
    unpresume,
)
from stratmaster_router.limits.store import LEASE, StoreUnavailable
from stratmaster_router.storage.books import Books, Entry, insert_or_nothing
from stratmaster_router.storage.database import Database, database_now
from stratmaster_router.storage.presumed import presumed_rows, reversing_rows
from stratmaster_router.storage.tables import accounts, leases, processes

_LEASE = int(LEASE * SECOND)
# The dead are remembered for so long, in case one of them lives.
_REMEMBERED = 3600 * SECOND

_this = processes.c.id == bindparam("of_process")
_leased = leases.c.process == bindparam("of_process")
_renew = (
    update(processes).where(_this).values(number=bindparam("to_number"), expires_at=bindparam("to_expire"), dead=False)
)
_bury = update(processes).where(_this).values(dead=True, expires_at=bindparam("to_expire"))
_forget = delete(processes).where(_this)
_forget_leases = delete(leases).where(_leased)
_holding = select(leases.c.key).where(_leased, or_(leases.c.held != 0, leases.c.reserved != 0))
_presumed = select(leases.c.key).where(_leased, leases.c.presumed > 0)
_recalled = select(accounts.c.key).where(accounts.c.recalled > bindparam("after"))


class AccountStore:
    """Accounts, leases and ledger in the database of a database."""

    def __init__(self, database: Database, clock: ColumnElement[int] | Callable[[], int] | None = None) -> None:
        """`clock` gives the time in microseconds: an SQL expression or a function; by default the database's own."""
        self._database = database
        self._books = Books(database.dialect)
        self._enrol = insert_or_nothing(database.dialect, processes)
        if clock is None:
            clock = database_now()
        now = clock if isinstance(clock, ColumnElement) else bindparam("now", type_=BigInteger(), callable_=clock)
        living = select(func.count()).select_from(processes).where(~processes.c.dead).scalar_subquery()
        self._now = select(now, living)
        self._process = select(now, living, processes.c.number, processes.c.dead).where(_this).with_for_update()
        expired = and_(~processes.c.dead, processes.c.expires_at < now)
        forgotten = and_(processes.c.dead, processes.c.expires_at < now - _REMEMBERED)
        self._overdue = (
            select(now, processes.c.id, processes.c.dead)
            .where(or_(expired, forgotten))
            .order_by(processes.c.expires_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )

    async def exchange(self, batch: Batch) -> Outcome:
        """Apply a batch in one transaction, and renew its process's lease. Raises `StoreUnavailable`."""
        outcome = await self._database.run(partial(self._exchange, batch))
        self._books.remember(outcome.views)
        return outcome

    def _exchange(self, batch: Batch, connection: Connection) -> Outcome:
        now, living, number, dead = self._look(connection, batch.process)
        repeated = number is not None and batch.number <= number
        lost = dead or (number is None and batch.number > 1)
        living += number is None or dead
        self._renew(connection, batch, now, known=number is not None)
        new = {share.account.key: share.account for share in batch.shares}
        keys = {*new}
        if lost:
            keys.update(connection.execute(_presumed, {"of_process": batch.process}).scalars())
        entries = self._books.load(connection, batch.process, keys, new)
        lacking: tuple[str | None, ...] = tuple([needs[0][0] for needs in batch.asks])
        if not repeated:
            lacking = self._apply(connection, batch, entries, living, now)
        elif lost:
            self._apply(connection, _under_way(batch), entries, living, now)
        recalled = tuple(connection.execute(_recalled, {"after": now - RECALL}).scalars())
        views = {key: _view(entries[key]) for key in new}
        return Outcome(now, living, views, lacking, recalled, lost, repeated)

    def _apply(
        self, connection: Connection, batch: Batch, entries: dict[str, Entry], living: int, now: int
    ) -> tuple[str | None, ...]:
        reversing = reversing_rows(batch.process, _take_back(entries, now))
        truths = {key: entry.truth for key, entry in entries.items()}
        lents = {key: entry.lent for key, entry in entries.items()}
        lacking = exchange(batch, truths, lents, living, now)
        self._books.save(connection, batch.process, entries)
        self._books.record(connection, [*reversing, *batch.rows], now)
        return lacking

    def _look(self, connection: Connection, process: str) -> tuple[int, int, int | None, bool]:
        """The time, how many processes live, and of `process`, which is locked, its last number and whether it died."""
        found: Any = connection.execute(self._process, {"of_process": process}).one_or_none()
        if found is None:
            now, living = connection.execute(self._now).one()
            return now, living, None, False
        now, living, number, dead = found
        return now, living, number, dead

    def _renew(self, connection: Connection, batch: Batch, now: int, *, known: bool) -> None:
        if known:
            row = {"of_process": batch.process, "to_number": batch.number, "to_expire": now + _LEASE}
            connection.execute(_renew, row)
        else:
            row = {"id": batch.process, "number": batch.number, "expires_at": now + _LEASE, "dead": False}
            if not connection.execute(self._enrol, row).rowcount:
                raise StoreUnavailable("this batch is just being applied, by an exchange that was given up")

    async def reap(self) -> int:
        """Book what processes held whose lease has run out; how many died. Raises `StoreUnavailable`.

        A transaction for each, so that the accounts of one are not kept from others for longer than that takes.
        """
        died = 0
        while True:
            dead = await self._database.run(self._reap)
            if dead is None:
                return died
            died += not dead

    def _reap(self, connection: Connection) -> bool | None:
        """Bury one process, or forget it; whether it was dead already, None where all live."""
        overdue: Any = connection.execute(self._overdue).one_or_none()
        if overdue is None:
            return None
        now, process, dead = overdue
        if dead:
            self._forget(connection, process)
        else:
            self._bury(connection, process, now)
        return bool(dead)

    def _bury(self, connection: Connection, process: str, now: int) -> None:
        keys = connection.execute(_holding, {"of_process": process}).scalars()
        entries = self._books.load(connection, process, keys, {})
        for entry in entries.values():
            entry.presumed = presume(entry.truth, entry.lent, entry.account, now)
            entry.presumed_since = entry.truth.since
        self._books.save(connection, process, entries)
        spent = [(entry.account, entry.presumed) for entry in entries.values()]
        self._books.record(connection, presumed_rows(process, spent), now)
        connection.execute(_bury, {"of_process": process, "to_expire": now})

    def _forget(self, connection: Connection, process: str) -> None:
        connection.execute(_forget_leases, {"of_process": process})
        connection.execute(_forget, {"of_process": process})

    async def leave(self, process: str) -> None:
        """Forget `process`; if it still holds something, its lease runs out instead. Raises `StoreUnavailable`."""
        await self._database.run(partial(self._leave, process))

    def _leave(self, process: str, connection: Connection) -> None:
        self._look(connection, process)
        if connection.execute(_holding, {"of_process": process}).first() is None:
            self._forget(connection, process)


def _under_way(batch: Batch) -> Batch:
    """What is left to apply of a batch that was applied before its process was taken for dead: what is under way."""
    shares = tuple([Share(share.account, reserved=share.reserved) for share in batch.shares])
    return Batch(batch.process, batch.number, shares)


def _take_back(entries: Mapping[str, Entry], now: int) -> list[tuple[Account, int]]:
    """Give a process that lives back what was presumed of it: it reports by itself what it has spent. What that was."""
    taken = []
    for entry in entries.values():
        if entry.presumed:
            unpresume(entry.truth, entry.lent, entry.presumed, entry.presumed_since, entry.account, now)
            taken.append((entry.account, entry.presumed))
            entry.presumed = entry.presumed_since = 0
    return taken


def _view(entry: Entry) -> View:
    truth = entry.truth
    return View(truth.used, truth.since, truth.held, truth.reserved, truth.recalled, entry.lent)
