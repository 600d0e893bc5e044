"""The limits' store in memory: the same arithmetic as the database's, for virtual clocks."""

from collections.abc import Callable

from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account
from stratmaster_router.limits.accounts import (
    RECALL,
    SECOND,
    Batch,
    Lent,
    Outcome,
    Share,
    Truth,
    View,
    exchange,
    presume,
    unpresume,
)
from stratmaster_router.limits.store import LEASE, StoreUnavailable


class MemoryStore:
    """Accounts, leases and ledger of all processes. `now` gives microseconds; while `down` nothing can be reached."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.down = False
        self.exchanges = 0
        self.accounts: dict[str, Account] = {}
        self.truths: dict[str, Truth] = {}
        self.lents: dict[str, dict[str, Lent]] = {}
        self.expires: dict[str, int] = {}
        self.rows: list[LedgerRow] = []
        self.presumed: dict[str, int] = {}
        self.recalled: dict[str, int] = {}
        self.numbers: dict[str, int] = {}
        # What the dead are presumed to have spent: by process, then by account, with the window's beginning.
        self.dead: dict[str, dict[str, tuple[int, int]]] = {}
        # Budgets into whose new window a process that had been taken for dead came back with what it held.
        self.carried: set[str] = set()

    def apply(self, batch: Batch) -> Outcome:
        """One exchange."""
        now = self.now()
        self.exchanges += 1
        replayed = batch.number <= self.numbers.get(batch.process, 0)
        self.numbers[batch.process] = batch.number
        lost = batch.process in self.dead
        lents = self.lents.setdefault(batch.process, {})
        for key, (spent, since) in self.dead.pop(batch.process, {}).items():
            truth = self.truths[key]
            unpresume(truth, lents.setdefault(key, Lent()), spent, since, self.accounts[key], now)
            self.presumed[key] -= spent
            if spent and truth.since != since:
                self.carried.add(key)
        self.expires[batch.process] = now + int(LEASE * SECOND)
        for share in batch.shares:
            key = share.account.key
            self.accounts[key] = share.account
            self.truths.setdefault(key, Truth())
            lents.setdefault(key, Lent())
        if replayed:
            lacking: tuple[str | None, ...] = tuple([needs[0][0] for needs in batch.asks])
            if lost:
                # What it reported is in the books; of its lease only what is under way is left.
                shares = tuple([Share(share.account, reserved=share.reserved) for share in batch.shares])
                exchange(Batch(batch.process, batch.number, shares), self.truths, lents, len(self.expires), now)
        else:
            lacking = exchange(batch, self.truths, lents, len(self.expires), now)
            self.rows += batch.rows
        for lacked in lacking:
            if lacked is not None and self.truths[lacked].recalled == now:
                self.recalled[lacked] = now
        self.recalled = {key: at for key, at in self.recalled.items() if now - at < RECALL}
        views = {}
        for share in batch.shares:
            truth, mine = self.truths[share.account.key], lents[share.account.key]
            views[share.account.key] = View(
                truth.used, truth.since, truth.held, truth.reserved, truth.recalled, Lent(mine.held, mine.reserved)
            )
        return Outcome(now, len(self.expires), views, lacking, tuple(self.recalled), lost, replayed)

    def die(self, process: str) -> None:
        """Book what `process` held: its lease has run out."""
        del self.expires[process]
        for key, lent in self.lents.pop(process, {}).items():
            spent = presume(self.truths[key], lent, self.accounts[key], self.now())
            self.presumed[key] = self.presumed.get(key, 0) + spent
            dead = self.dead.setdefault(process, {})
            if spent:
                dead[key] = spent, self.truths[key].since

    async def exchange(self, batch: Batch) -> Outcome:
        """As `LimitStore.exchange`."""
        if self.down:
            raise StoreUnavailable
        return self.apply(batch)

    async def reap(self) -> int:
        """As `LimitStore.reap`."""
        dead = [process for process, expires in self.expires.items() if expires < self.now()]
        for process in dead:
            self.die(process)
        return len(dead)

    async def leave(self, process: str) -> None:
        """As `LimitStore.leave`."""
        if not any(lent.held for lent in self.lents.get(process, {}).values()):
            self.lents.pop(process, None)
            del self.expires[process]
