"""One process's leases: its share of each account, from which it reserves and to which it refunds in memory. Pure.

    free      may be reserved at once
    reserved  bound by requests under way
    consumed  used, and not yet reported
    returning on its way back to the database

The four together are what the process holds. All amounts are whole requests, tokens, slots or nano-dollars; times are
microseconds of the database's clock, as far as it is known here.
"""

from collections.abc import Iterator, Sequence

from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.limits.accounts import SECOND, Batch, Lent, Outcome, Share, View, drained, near, window_end

_USD, _TOKENS, _REQUESTS = Metric.USD, Metric.TOKENS, Metric.REQUESTS
_MINUTE = Window.MINUTE
# How much of what one interval needed is kept at hand: an exchange of a busy process may itself take as long.
_AHEAD = 4
_AHEAD_ASKED = 8
# What a tenant that is seldom heard of may keep at hand: its next request then needs no exchange.
_LINGER = 30 * SECOND
# Tuples of accounts that are remembered, of several policies.
_MOST_KNOWN = 100_000
# How old what is known of an account may be for a refusal without asking.
_FRESH = SECOND * 2 // 5
_NEVER = 2**63
_NOTHING = View(0, 0, 0, 0, 0, Lent())


class Lease:
    """This process's part of one account.

    `start` and `low` are what was free after the last exchange and at the least since: their difference is how much
    is needed at hand, and `target` is what shall be free after an exchange. `base` is the limit without what requests
    of other processes had reserved when the account was last seen. `queue` is above zero while requests wait
    for the database, so that no later one takes what comes in. `recalled`: others lack what is free here. `refused` is
    the least amount that was refused since there last was room for it. `wanted_at` is when it was last needed, `ends`
    when the calendar window ends that the account was last seen in.
    """

    __slots__ = (
        "account",
        "base",
        "consumed",
        "dirty",
        "ends",
        "free",
        "low",
        "metric",
        "queue",
        "recalled",
        "refused",
        "reserved",
        "returning",
        "seen_at",
        "sent",
        "start",
        "target",
        "view",
        "wanted_at",
    )

    def __init__(self, account: Account) -> None:
        self.account = account
        self.metric = account.metric
        self.base = account.limit
        self.free = 0
        self.reserved = 0
        self.consumed = 0
        self.returning = 0
        self.sent = 0
        self.start = 0
        self.low = 0
        self.target = 0
        self.queue = 0
        self.dirty = False
        self.recalled = False
        self.wanted_at = 0
        self.refused: int | None = None
        self.view = _NOTHING
        self.ends = _NEVER
        self.seen_at = 0

    def used(self, now: int) -> int:
        """What of the account is used, as far as is known here."""
        view, account = self.view, self.account
        if account.window is _MINUTE:
            return drained(view.used, view.since, account.limit, now)[0] + self.consumed
        return self.consumed if now >= self.ends else view.used + self.consumed

    def elsewhere(self) -> int:
        """What requests of other processes had reserved when the account was last seen."""
        return self.view.reserved - self.view.mine.reserved

    def unlent(self) -> int:
        """What the database could lend when the account was last seen."""
        return self.account.limit - self.view.used - self.view.held

    def room(self, now: int) -> int:
        """The most that a new request could get, were all leases given back that nobody needs."""
        # As `limit - used() - elsewhere() - reserved`: every answer's headers come here.
        left = self.base - self.consumed - self.reserved
        view = self.view
        if not view.used or now >= self.ends:
            return left
        account = self.account
        if account.window is not _MINUTE:
            return left - view.used
        return left - drained(view.used, view.since, account.limit, now)[0]

    def worth_waiting(self, amount: int, now: int) -> bool:
        """Whether `amount`, for which there is no room, may come free soon without time passing.

        What sleeps elsewhere comes back within two exchanges. Requests under way reserve an upper bound and use less:
        a budget's last money is worth waiting for, and what another process may have refunded already.
        """
        if amount > self.account.limit - self.used(now):
            return False
        if amount <= self.room(now):
            return True
        metric = self.metric
        return metric is _USD or (metric is not _REQUESTS and self.elsewhere() > 0)


Needs = Sequence[tuple[Lease, int]]
"""What one request needs, of each account that applies to it."""


class Leases:
    """All leases of one process, named `process` in the database."""

    def __init__(self, process: str) -> None:
        self.name = process
        self._number = 0
        self._leases: dict[str, Lease] = {}
        # By identity: the hops of a policy share their tuples. One of a former policy finds its leases as they are now.
        self._of: dict[int, tuple[tuple[Account, ...], tuple[Lease, ...]]] = {}
        self._dirty: list[Lease] = []

    def lease(self, account: Account) -> Lease:
        """The lease on `account`; where the policy has changed its limit, the new one holds from now on."""
        lease = self._leases.get(account.key)
        if lease is None:
            lease = self._leases[account.key] = Lease(account)
        elif lease.account is not account:
            if lease.account != account:
                self._adopt(lease, account)
            lease.account = account
            lease.base = account.limit - lease.elsewhere()
        return lease

    def of(self, accounts: tuple[Account, ...]) -> tuple[Lease, ...]:
        """The leases on `accounts`, in their order."""
        known = self._of.get(id(accounts))
        if known is None:
            if len(self._of) >= _MOST_KNOWN:
                self._of.clear()
            # With the tuple itself, so that no other can be given its place in memory.
            known = self._of[id(accounts)] = accounts, tuple([self.lease(account) for account in accounts])
        return known[1]

    def _adopt(self, lease: Lease, account: Account) -> None:
        """What was lent under another limit goes back, so that the new one decides about the next request."""
        lease.target = 0
        lease.refused = None
        lease.returning += lease.free
        lease.free = lease.start = lease.low = 0
        self.touch(lease)

    def __iter__(self) -> Iterator[Lease]:
        # A copy, because a scrape walks them in another thread.
        return iter(list(self._leases.values()))

    def touch(self, lease: Lease) -> None:
        """Let `lease` take part in the next exchange."""
        if not lease.dirty:
            lease.dirty = True
            self._dirty.append(lease)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to say to the database."""
        return not self._dirty

    def take(self, needs: Needs) -> bool:
        """Reserve all of `needs`, or nothing. A request counts as used at once, all else when it is settled."""
        for lease, amount in needs:
            if lease.free < amount or lease.queue:
                return False
        # As `bind`, without calls: every request comes here.
        for lease, amount in needs:
            lease.free = free = lease.free - amount
            if free < lease.low:  # noqa: PLR1730  # min() is a call
                lease.low = free
            if lease.metric is _REQUESTS:
                lease.consumed += amount
            else:
                lease.reserved += amount
            if not lease.dirty:
                lease.dirty = True
                self._dirty.append(lease)
        return True

    def take_in_turn(self, needs: Needs) -> bool:
        """As `take`, for the first of those who wait."""
        if any(lease.free < amount for lease, amount in needs):
            return False
        for lease, amount in needs:
            self.bind(lease, amount)
        return True

    def bind(self, lease: Lease, amount: int) -> None:
        """Reserve `amount`, whether it is there or not."""
        lease.free -= amount
        lease.low = min(lease.low, lease.free)
        if lease.metric is _REQUESTS:
            lease.consumed += amount
        else:
            lease.reserved += amount
        self.touch(lease)

    def settle(self, needs: Needs, tokens: int, nanousd: int) -> bool:
        """End a reservation of `needs`, of which so much was used: less than that, all of it or more.

        The requests of a minute stay used: one was made. Returns whether others wait for any of it.
        """
        waited_for = False
        for lease, amount in needs:
            metric = lease.metric
            if metric is _REQUESTS:
                continue
            used = tokens if metric is _TOKENS else nanousd if metric is _USD else 0
            lease.reserved -= amount
            lease.consumed += used
            lease.free += amount - used
            if not lease.dirty:
                lease.dirty = True
                self._dirty.append(lease)
            if lease.queue:
                waited_for = True
        return waited_for

    def refusing(self, needs: Needs, now: int, *, patient: bool = True) -> Lease | None:
        """The lease that refuses `needs` without asking, as the accounts were when last seen; None to ask.

        `patient`: what requests under way may give back is worth asking for.
        """
        for lease, amount in needs:
            fresh = now - lease.seen_at < _FRESH
            if fresh and lease.free < amount and amount > lease.room(now):
                known = lease.refused is not None and amount >= lease.refused
                if known or not patient or not lease.worth_waiting(amount, now):
                    self.touch(lease)  # the next exchange shows whether it still is so
                    return lease
        return None

    def batch(self, asks: Sequence[Needs], rows: Sequence[LedgerRow], *, interval: bool, now: int) -> Batch:
        """What to tell the database now. `interval`: a whole one has passed, so that leases may shrink."""
        asked: dict[Lease, int] = {}
        for needs in asks:
            for lease, amount in needs:
                asked[lease] = asked.get(lease, 0) + amount
                self.touch(lease)
        dirty, self._dirty = self._dirty, []
        shares = []
        for lease in dirty:
            lease.dirty = False
            shares.append(self._share(lease, asked.get(lease, 0), interval=interval, now=now))
        self._number += 1
        wanted = tuple([tuple([(lease.account.key, amount) for lease, amount in needs]) for needs in asks])
        return Batch(self.name, self._number, tuple(shares), wanted, tuple(rows))

    def _share(self, lease: Lease, asked: int, *, interval: bool, now: int) -> Share:
        drawn = lease.start - lease.low
        if drawn or asked:
            lease.wanted_at = now
            kept = lease.target * 3 // 4 if interval else lease.target
            # Whoever had to ask will soon need more: few steps lead from nothing to a full load.
            lease.target = max(_AHEAD * drawn, _AHEAD_ASKED * asked, kept)
        free = max(0, lease.free)
        surplus = 0
        scarce = lease.seen_at and (near(lease.view, lease.account, now) or asked > lease.unlent())
        if scarce or lease.recalled:
            # Others may need it, and who waits here may need it together with what the database has left.
            surplus = free
        elif free > 2 * lease.target:
            surplus = free - lease.target
        lease.recalled = False
        lease.returning += surplus
        lease.free -= surplus
        lease.start = lease.low = lease.free
        lease.sent = lease.consumed
        wanted = 0
        if asked or drawn:
            wanted = lease.target - max(0, lease.free)
        return Share(lease.account, lease.consumed, lease.returning, lease.reserved, wanted)

    def expire(self, now: int) -> None:
        """Let what has not been needed for long go back with the next exchange."""
        for lease in self._leases.values():
            if lease.free > 0 and now - lease.wanted_at > _LINGER:
                lease.target = 0
                self.touch(lease)

    def apply(self, batch: Batch, asks: Sequence[Needs], outcome: Outcome) -> None:
        """Take in the answer to `batch`, which was made with `asks`: those that were granted are reserved now."""
        for needs, lacking in zip(asks, outcome.lacking, strict=True):
            if lacking is None:
                for lease, amount in needs:
                    self.bind(lease, amount)
        if outcome.lost or outcome.replayed:
            # The answer that got lost may have said that this process had been taken for dead.
            self._forfeit({share.account.key for share in batch.shares})
        for share in batch.shares:
            lease = self._leases[share.account.key]
            lease.view, lease.seen_at = outcome.views[share.account.key], outcome.now
            lease.base = lease.account.limit - lease.elsewhere()
            if share.account.metric is _USD:
                lease.ends = window_end(share.account.window, lease.view.since)
            lease.consumed -= lease.sent
            lease.returning -= share.returned
            lease.sent = 0
            free = lease.view.mine.held - lease.reserved - lease.consumed - lease.returning
            lent = free - lease.free
            lease.free = free
            lease.start += lent
            lease.low += lent
            if lease.refused is not None and lease.room(outcome.now) >= lease.refused:
                lease.refused = None

        for key in outcome.recalled:
            held = self._leases.get(key)
            if held is not None and held.free > 0:
                held.recalled = True
                self.touch(held)

    def _forfeit(self, reported: set[str]) -> None:
        """Count on nothing but what the batch has reported; the next exchange shows what of the rest is still held."""
        for key, lease in self._leases.items():
            if key not in reported:
                lease.returning = 0
                lease.free = lease.start = lease.low = -lease.reserved - lease.consumed
                self.touch(lease)

    def give_all_back(self) -> None:
        """Return whatever is free; for the last exchange."""
        for lease in self._leases.values():
            lease.returning += max(0, lease.free)
            lease.free = lease.start = lease.low = min(0, lease.free)
            lease.target = 0
            if lease.seen_at:
                self.touch(lease)
