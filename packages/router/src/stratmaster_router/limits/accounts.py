"""The arithmetic of accounts: what the database knows, and how one exchange with a process changes it. Pure.

An account's truth is what was `used` and what is `held` by processes, which use it as they see fit. The laws:

- what is lent never makes `used + held` greater than the limit, so what is billed cannot be either;
- `held` falls only by what its process reports as consumed or gives back, or when that process has died: then money
  and tokens count as used, slots as returned;
- an ask is granted whole or not at all, in the order of arrival;
- near the cap nothing is lent ahead of need.

Amounts are whole requests, tokens, slots or nano-dollars. Times are microseconds since 1970 of the database's clock.
Source: design.md, "Limits by lease".
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct

from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account, Metric, Window

SECOND = 1_000_000
_MINUTE = 60 * SECOND
_DAY = 86_400 * SECOND

# Within the last sixteenth of the limit nothing is lent ahead of need.
_NEAR = 16
# No process is lent more than a quarter of its even part of what is left: the parts shrink on the way to the cap.
_PART = 4
# For so long after somebody lacked what slept elsewhere, nothing is lent ahead of need, and holders are told.
RECALL = 2 * SECOND


class Truth(Struct):
    """One account in the database.

    `since`: a bucket's `used` is of then; a budget's is since then, the beginning of its window. `held` is lent to all
    processes together; `reserved` is the part of it that they last said was bound by requests under way. `recalled` is
    when somebody was last refused what slept elsewhere.
    """

    used: int = 0
    since: int = 0
    held: int = 0
    reserved: int = 0
    recalled: int = 0


class Lent(Struct):
    """What one process holds of one account."""

    held: int = 0
    reserved: int = 0


class Share(Struct, frozen=True):
    """What a process says of one account.

    `consumed` and `returned` are since the last time, `reserved` is what of its lease is bound by requests now, and
    `wanted` is how much more it would like to have ahead of need.
    """

    account: Account
    consumed: int = 0
    returned: int = 0
    reserved: int = 0
    wanted: int = 0


class Batch(Struct, frozen=True):
    """All that a process has to say in one exchange.

    `number` counts the process's exchanges, from 1: one that is repeated because its answer was lost is not applied
    twice. Each of `asks` is what one request needs: (account key, amount); every key has its share.
    """

    process: str
    number: int
    shares: tuple[Share, ...]
    asks: tuple[tuple[tuple[str, int], ...], ...] = ()
    rows: tuple[LedgerRow, ...] = ()


class View(Struct, frozen=True):
    """An account as an exchange left it; `mine` is what the process holds of it."""

    used: int
    since: int
    held: int
    reserved: int
    recalled: int
    mine: Lent


class Outcome(Struct, frozen=True):
    """The answer to a batch.

    `lacking` has an entry for each ask: None where it was granted, else the first account that lacked it. `processes`
    is how many are alive. `lost`: the process had been taken for dead, so what it held is no longer its own.
    `replayed`: the batch had been applied before; nothing is granted, and `mine` says what had been. `recalled` names
    the accounts, whosever, that were recalled within `RECALL`.
    """

    now: int
    processes: int
    views: Mapping[str, View]
    lacking: tuple[str | None, ...]
    recalled: tuple[str, ...] = ()
    lost: bool = False
    replayed: bool = False


def exchange(
    batch: Batch, truths: Mapping[str, Truth], lents: Mapping[str, Lent], processes: int, now: int
) -> tuple[str | None, ...]:
    """Apply `batch` to the truths and to what its process was lent, each by key; what each ask lacked."""
    accounts = {}
    for share in batch.shares:
        account = share.account
        accounts[account.key] = account
        advance(truths[account.key], account, now)
        _report(share, truths[account.key], lents[account.key])
    lacking = tuple([_ask(needs, accounts, truths, lents, now) for needs in batch.asks])
    for share in batch.shares:
        if share.wanted > 0 and share.account.key not in lacking:
            truth, lent = truths[share.account.key], lents[share.account.key]
            ahead = min(share.wanted, _ahead_of_need(share.account, truth, processes, now))
            truth.held += ahead
            lent.held += ahead
    return lacking


def advance(truth: Truth, account: Account, now: int) -> None:
    """Let time pass until `now`: buckets drain, windows of the calendar begin anew."""
    window = account.window
    if window is Window.MINUTE:
        truth.used, truth.since = drained(truth.used, truth.since, account.limit, now)
    elif window is not Window.NOW:
        begin = window_begin(window, now)
        if begin > truth.since:
            truth.used, truth.since = 0, begin


def drained(used: int, since: int, limit: int, now: int) -> tuple[int, int]:
    """What is left at `now` of a bucket's `used`, and since when: whole units only, so that no part of one is lost."""
    gone = limit * (now - since) // _MINUTE
    if gone >= used:
        return 0, max(now, since)
    if gone <= 0:
        return used, since
    return used - gone, since - -gone * _MINUTE // limit


def window_begin(window: Window, now: int) -> int:
    """When the calendar window that holds `now` began."""
    if window is Window.DAY:
        return now - now % _DAY
    date = datetime.fromtimestamp(now // SECOND, UTC)
    return int(datetime(date.year, date.month, 1, tzinfo=UTC).timestamp()) * SECOND


def window_end(window: Window, now: int) -> int:
    """When the calendar window that holds `now` ends."""
    begin = window_begin(window, now)
    # Any moment of the 32nd day is in the next month.
    return begin + _DAY if window is Window.DAY else window_begin(window, begin + 32 * _DAY)


def presume(truth: Truth, lent: Lent, account: Account, now: int) -> int:
    """Book what a dead process held; the nano-dollars that it is presumed to have spent."""
    advance(truth, account, now)
    held = lent.held
    truth.held -= held
    truth.reserved -= lent.reserved
    lent.held = lent.reserved = 0
    if account.metric is Metric.PARALLEL:
        return 0
    truth.used += held
    return held if account.metric is Metric.USD else 0


def unpresume(truth: Truth, lent: Lent, presumed: int, since: int, account: Account, now: int) -> None:
    """Undo what `presume` did to a budget in the window that began at `since`: the process lives, and holds it still.

    It is not free before the process has said what became of it, nor when that window has ended: then the new one may
    be overdrawn, by no more than this.
    """
    advance(truth, account, now)
    if truth.since == since:
        truth.used -= presumed
    truth.held += presumed
    lent.held += presumed


def _report(share: Share, truth: Truth, lent: Lent) -> None:
    truth.used += share.consumed
    # What is reserved is under way whatever the lease says, as after an answer that was larger than its reservation.
    held = max(lent.held - share.consumed - share.returned, share.reserved)
    truth.held += held - lent.held
    truth.reserved += share.reserved - lent.reserved
    lent.held, lent.reserved = held, share.reserved


def _ask(
    needs: tuple[tuple[str, int], ...],
    accounts: Mapping[str, Account],
    truths: Mapping[str, Truth],
    lents: Mapping[str, Lent],
    now: int,
) -> str | None:
    for key, amount in needs:
        truth, lent = truths[key], lents[key]
        room = accounts[key].limit - truth.used - truth.held
        if room < amount:
            asleep_elsewhere = (truth.held - truth.reserved) - (lent.held - lent.reserved)
            if room + asleep_elsewhere >= amount:
                truth.recalled = now
            return key
    for key, amount in needs:
        for holder in (truths[key], lents[key]):
            holder.held += amount
            holder.reserved += amount
    return None


def _ahead_of_need(account: Account, truth: Truth, processes: int, now: int) -> int:
    room = account.limit - truth.used - truth.held
    if near(truth, account, now):
        return 0
    return room // (_PART * processes)


def near(seen: Truth | View, account: Account, now: int) -> bool:
    """Whether an account is near its cap: nobody then holds what he does not need."""
    return now - seen.recalled < RECALL or account.limit - seen.used - seen.held < account.limit // _NEAR
