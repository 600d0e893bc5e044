"""Accounts, one process's leases on them, and ledger rows, read and written within a transaction."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import Connection, Dialect, Insert, Table, and_, bindparam, insert, select, update

from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.limits.accounts import Lent, Truth
from stratmaster_router.storage.database import copy_rows
from stratmaster_router.storage.tables import accounts, leases, ledger

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

_ACCOUNT = ("tenant", "provider", "metric", "window")
_BALANCE = ("limit", *Truth.__struct_fields__)
_LEASE = (*Lent.__struct_fields__, "presumed", "presumed_since")
_NO_LEASE = (0, 0, 0, 0)
_LEDGER = ["time", *LedgerRow.__struct_fields__]

# SQLite works in a thread of the router's own process, where each step of a statement gives the interpreter away and
# waits for it again, so rows are written by few statements: of so many rows, and of half, a quarter … of them.
_MOST_IN_SQLITE = 128
# Encoded in one go, in which no request is served: some 0.3 ms.
_MOST_IN_POSTGRESQL = 256

Values = tuple[Any, ...]

# The rows of accounts are locked in the order of their keys, so that no two transactions wait for each other.
_read = (
    select(accounts.c.key, *(accounts.c[name] for name in (*_ACCOUNT, *_BALANCE)), *(leases.c[name] for name in _LEASE))
    .outerjoin_from(accounts, leases, and_(leases.c.key == accounts.c.key, leases.c.process == bindparam("process")))
    .where(accounts.c.key.in_(bindparam("keys", expanding=True)))
    .order_by(accounts.c.key)
    .with_for_update(of=accounts)
)
_save = (
    update(accounts)
    .where(accounts.c.key == bindparam("of_key"))
    .values({name: bindparam(f"to_{name}") for name in _BALANCE})
)
_SAVE = ("of_key", *(f"to_{name}" for name in _BALANCE))
_LEND = ("process", "key", *_LEASE)


def _insert(dialect: Dialect, table: Table) -> "sqlite.Insert | postgresql.Insert":
    # Only what is needed is loaded.
    if dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


def insert_or_nothing(dialect: Dialect, table: Table) -> Insert:
    """An INSERT that leaves a row as it is where there is one with the same key."""
    return _insert(dialect, table).on_conflict_do_nothing()


class Entry(Struct):
    """An account, its truth, and one process's part of it.

    `presumed` is what that process, being dead, may have spent in the window that began at `presumed_since`.
    `balance` and `lease` are the two rows as they were loaded.
    """

    account: Account
    truth: Truth
    lent: Lent
    presumed: int
    presumed_since: int
    balance: tuple[int, ...]
    lease: tuple[int, ...]


class Books:
    """The statements for one kind of database."""

    def __init__(self, dialect: Dialect) -> None:
        self._open = insert_or_nothing(dialect, accounts)
        lend = _insert(dialect, leases)
        self._lend = lend.on_conflict_do_update(
            index_elements=["process", "key"], set_={name: lend.excluded[name] for name in _LEASE}
        )
        self._record = _recording_in_sqlite(dialect) if dialect.name == "sqlite" else _record_in_postgresql
        # Accounts that have a row; they are never deleted.
        self._known: set[str] = set()

    def load(
        self, connection: Connection, process: str, keys: Iterable[str], new: Mapping[str, Account]
    ) -> dict[str, Entry]:
        """The entries of `keys`, their accounts locked; those of `new` get a row where there is none.

        `new` is the policy's word, newer than what a row says of its account's limit.
        """
        wanted = sorted(keys)
        if not wanted:
            return {}
        unknown = new.keys() - self._known
        if unknown:
            self._make(connection, [new[key] for key in sorted(unknown)])
        found = self._rows(connection, process, wanted)
        if len(found) < len(wanted) and new:
            # The database has been replaced by another.
            self._make(connection, [new[key] for key in sorted(new)])
            found = self._rows(connection, process, wanted)
        return {row[0]: _entry(row, new.get(row[0])) for row in found}

    def _make(self, connection: Connection, missing: Sequence[Account]) -> None:
        nothing = dict.fromkeys(Truth.__struct_fields__, 0)
        rows = [
            {
                "key": account.key,
                "limit": account.limit,
                **nothing,
                **{name: getattr(account, name) for name in _ACCOUNT},
            }
            for account in missing
        ]
        connection.execute(self._open, rows)

    def remember(self, keys: Iterable[str]) -> None:
        """These accounts have rows: the transaction that may have made them is through."""
        self._known.update(keys)

    def _rows(self, connection: Connection, process: str, keys: list[str]) -> Sequence[Any]:
        # A power of two of them: there are few different statements then, which the database prepares once each.
        padding = [keys[-1]] * ((1 << (len(keys) - 1).bit_length()) - len(keys))
        return connection.execute(_read, {"process": process, "keys": keys + padding}).all()

    def save(self, connection: Connection, process: str, entries: Mapping[str, Entry]) -> None:
        """Write what has changed of `entries` since they were loaded."""
        changed, moved = [], []
        for key, entry in entries.items():
            balance = (entry.account.limit, *astuple(entry.truth))
            if balance != entry.balance:
                changed.append(dict(zip(_SAVE, (key, *balance), strict=True)))
            lease = (*astuple(entry.lent), entry.presumed, entry.presumed_since)
            if lease != entry.lease:
                moved.append(dict(zip(_LEND, (process, key, *lease), strict=True)))
        if changed:
            connection.execute(_save, changed)
        if moved:
            connection.execute(self._lend, moved)

    def record(self, connection: Connection, rows: Sequence[LedgerRow], now: int) -> None:
        """Write `rows` into the ledger; `now` is their time."""
        self._record(connection, [(now, *astuple(row)) for row in rows])


def _recording_in_sqlite(dialect: Dialect) -> Callable[[Connection, Sequence[Values]], None]:
    # In the driver's own words: a row then costs a third of what it does through SQLAlchemy.
    compiled = insert(ledger).compile(dialect=dialect, column_keys=_LEDGER)
    assert getattr(compiled, "positiontup", None) == _LEDGER
    head, _, row = str(compiled).rpartition(" VALUES ")
    sizes = [_MOST_IN_SQLITE >> halvings for halvings in range(_MOST_IN_SQLITE.bit_length())]
    statements = {size: f"{head} VALUES {', '.join([row] * size)}" for size in sizes}

    def record(connection: Connection, rows: Sequence[Values]) -> None:
        done = 0
        for size, statement in statements.items():
            while len(rows) - done >= size:
                connection.exec_driver_sql(statement, tuple(chain.from_iterable(rows[done : done + size])))
                done += size

    return record


def _record_in_postgresql(connection: Connection, rows: Sequence[Values]) -> None:
    for begin in range(0, len(rows), _MOST_IN_POSTGRESQL):
        copy_rows(connection, ledger.name, _LEDGER, rows[begin : begin + _MOST_IN_POSTGRESQL])


def _entry(row: Any, account: Account | None) -> Entry:
    _, tenant, provider, metric, window, *numbers = row
    balance = tuple(numbers[: len(_BALANCE)])
    lease = tuple(numbers[len(_BALANCE) :]) if numbers[-1] is not None else _NO_LEASE
    if account is None:
        account = Account(tenant, provider, Metric(metric), Window(window), balance[0])
    held, reserved, presumed, presumed_since = lease
    return Entry(account, Truth(*balance[1:]), Lent(held, reserved), presumed, presumed_since, balance, lease)
