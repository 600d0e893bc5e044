"""Accounts, one process's leases on them, and ledger rows, read and written within a transaction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import Dialect, Insert, Row, and_, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.limits.accounts import Lent, Truth
from stratmaster_router.storage.tables import accounts, leases, ledger

_a, _l = accounts.c, leases.c
# The rows of accounts are locked in the order of their keys, so that no two transactions wait for each other.
_read = (
    select(
        *(_a.key, _a.tenant, _a.provider, _a.metric, _a.window, _a.limit),
        *(_a.used, _a.since, _a.held, _a.reserved, _a.recalled),
        *(_l.held, _l.reserved, _l.presumed, _l.presumed_since),
    )
    .outerjoin(leases, and_(_l.key == _a.key, _l.process == bindparam("process")))
    .where(_a.key.in_(bindparam("keys", expanding=True)))
    .order_by(_a.key)
    .with_for_update(of=accounts)
)
_save = (
    update(accounts)
    .where(_a.key == bindparam("b_key"))
    .values({name: bindparam(f"b_{name}") for name in ("limit", "used", "since", "held", "reserved", "recalled")})
)


class Entry(Struct):
    """An account, its truth, and one process's part of it; `presumed` is what that process may have spent unseen."""

    account: Account
    truth: Truth
    lent: Lent
    presumed: int
    presumed_since: int
    stored: tuple[tuple[Any, ...], tuple[Any, ...]] = ((), ())

    def state(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What the two rows of this entry hold: the account's and the lease's."""
        return (self.account.limit, *astuple(self.truth)), (*astuple(self.lent), self.presumed, self.presumed_since)


class Books:
    """The statements for one kind of database."""

    def __init__(self, dialect: Dialect) -> None:
        upsert = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
        self._open: Insert = upsert(accounts).on_conflict_do_nothing()
        lent = upsert(leases)
        changing = {name: lent.excluded[name] for name in ("held", "reserved", "presumed", "presumed_since")}
        self._lend: Insert = lent.on_conflict_do_update(index_elements=["process", "key"], set_=changing)
        # In the driver's own words: 2,000 rows then cost a third of what they do through SQLAlchemy.
        compiled = insert(ledger).compile(
            dialect=dialect, column_keys=["time", *LedgerRow.__struct_fields__]
        )
        self._record = str(compiled)
        assert compiled.positiontup == ["time", *LedgerRow.__struct_fields__]
        # Accounts that have a row: they are never deleted.
        self._known: set[str] = set()

    async def load(
        self, connection: AsyncConnection, process: str, keys: Iterable[str], new: Mapping[str, Account]
    ) -> dict[str, Entry]:
        """The entries of `keys`, their accounts locked; those of `new` get a row where there is none.

        The policy's word in `new` is newer than what an account's row says of its limit.
        """
        wanted = sorted(keys)
        if not wanted:
            return {}
        unknown = [key for key in new if key not in self._known]
        if unknown:
            await self._make(connection, [new[key] for key in sorted(unknown)])
        found = await self._rows(connection, process, wanted)
        if len(found) < len(wanted) and new:
            # Somebody has emptied the table.
            await self._make(connection, [new[key] for key in wanted if key in new])
            found = await self._rows(connection, process, wanted)
        return {row[0]: _entry(row, new.get(row[0])) for row in found}

    async def _make(self, connection: AsyncConnection, missing: Sequence[Account]) -> None:
        await connection.execute(self._open, [_new(account) for account in missing])

    def remember(self, keys: Iterable[str]) -> None:
        """That these accounts have rows, once the transaction that made them is through."""
        self._known.update(keys)

    async def _rows(self, connection: AsyncConnection, process: str, keys: list[str]) -> Sequence[Row[Any]]:
        # A power of two of them: few different statements, so that the database prepares each once.
        padding = [keys[-1]] * ((1 << (len(keys) - 1).bit_length()) - len(keys))
        return (await connection.execute(_read, {"process": process, "keys": keys + padding})).all()

    async def save(self, connection: AsyncConnection, process: str, entries: Mapping[str, Entry]) -> None:
        """Write what has changed of `entries` since they were loaded."""
        changed, moved = [], []
        for key, entry in entries.items():
            account, lease = entry.state()
            if account != entry.stored[0]:
                limit, used, since, held, reserved, recalled = account
                changed.append(
                    {
                        "b_key": key,
                        "b_limit": limit,
                        "b_used": used,
                        "b_since": since,
                        "b_held": held,
                        "b_reserved": reserved,
                        "b_recalled": recalled,
                    }
                )
            if lease != entry.stored[1]:
                held, reserved, presumed, since = lease
                moved.append(
                    {
                        "process": process,
                        "key": key,
                        "held": held,
                        "reserved": reserved,
                        "presumed": presumed,
                        "presumed_since": since,
                    }
                )
        if changed:
            await connection.execute(_save, changed)
        if moved:
            await connection.execute(self._lend, moved)

    async def record(self, connection: AsyncConnection, rows: Sequence[LedgerRow], now: int) -> None:
        """Write `rows` into the ledger; `now` is their time."""
        if rows:
            await connection.exec_driver_sql(self._record, [(now, *astuple(row)) for row in rows])


def _entry(row: Row[Any], account: Account | None) -> Entry:
    (
        *(key, tenant, provider, metric, window, limit),
        *(used, since, held, reserved, recalled),
        *(mine, bound, presumed, presumed_since),
    ) = row
    raise NotImplementedError(key, account)


def _new(account: Account) -> dict[str, Any]:
    return {
        "key": account.key,
        "tenant": account.tenant,
        "provider": account.provider,
        "metric": account.metric.value,
        "window": account.window.value,
        "limit": account.limit,
        "used": 0,
        "since": 0,
        "held": 0,
        "reserved": 0,
        "recalled": 0,
    }
