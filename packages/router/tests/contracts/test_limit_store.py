"""What every limit store promises, over a clock that the test turns."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import func, select
from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.limits.accounts import RECALL, SECOND, Batch, Lent, Outcome, Share, View
from stratmaster_router.limits.store import LEASE, StoreUnavailable
from stratmaster_router.storage.accounts import AccountStore
from stratmaster_router.storage.database import Database, database_now, database_url
from stratmaster_router.storage.ledger import COLUMNS, rows
from stratmaster_router.storage.tables import accounts, leases, processes
from support.database import execute, held

# 2026-11-24T08:00:00Z
MORNING = int(datetime(2026, 11, 24, 8, tzinfo=UTC).timestamp()) * SECOND
DAY = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * SECOND
MONTH = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * SECOND
HOUR = 3600 * SECOND
DEAD = int(LEASE * SECOND) + 1

TPM = Account("acme", None, Metric.TOKENS, Window.MINUTE, 6_000)
SLOTS = Account("acme", None, Metric.PARALLEL, Window.NOW, 10)
BUDGET = Account("acme", None, Metric.USD, Window.MONTH, 1_000)
DAILY = Account("acme", None, Metric.USD, Window.DAY, 500)
AT_FIRST = Account("acme", "first", Metric.USD, Window.MONTH, 900)
AT_SECOND = Account("acme", "second", Metric.USD, Window.MONTH, 900)
GLOBEX = Account("globex", None, Metric.USD, Window.MONTH, 1_000)

ROW = LedgerRow("req-1", "acme", "reasoning", "first", "gpt-4.1", 100, 20, 30, 700, 200, 1, "0123456789abcdef")


class Clock:
    """The time of the database, in microseconds."""

    def __init__(self) -> None:
        self.now = MORNING

    def __call__(self) -> int:
        """What it shows."""
        return self.now

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * SECOND)


class Process:
    """One process that talks to a store."""

    def __init__(self, store: AccountStore, name: str) -> None:
        self.store = store
        self.name = name
        self.number = 0

    def batch(self, *shares: Share, asks: Iterable[Any] = (), rows: tuple[LedgerRow, ...] = ()) -> Batch:
        """The next batch; what it asks for has a share."""
        self.number += 1
        return Batch(self.name, self.number, shares, tuple(asks), rows)

    async def say(self, *shares: Share, asks: Iterable[Any] = (), rows: tuple[LedgerRow, ...] = ()) -> Outcome:
        """One exchange."""
        return await self.store.exchange(self.batch(*shares, asks=asks, rows=rows))

    async def ask(self, account: Account, *amounts: int) -> Outcome:
        """Requests that need so much of `account` each, with nothing else to say."""
        return await self.say(Share(account), asks=[((account.key, amount),) for amount in amounts])


@pytest.fixture
def clock() -> Clock:
    """Eight in the morning of a day in November."""
    return Clock()


@pytest.fixture
def store(opened: Database, clock: Clock) -> AccountStore:
    """The store of the test's database."""
    return AccountStore(opened, clock)


async def account_row(opened: Database, account: Account) -> tuple[int, ...]:
    """Of an account: limit, used, since, held, reserved, recalled."""
    c = accounts.c
    query = select(c.limit, c.used, c.since, c.held, c.reserved, c.recalled).where(c.key == account.key)
    (row,) = await execute(opened, query)
    return tuple(row)


async def ledger(opened: Database) -> list[dict[str, Any]]:
    """All rows of the ledger."""
    return [dict(zip(COLUMNS, row, strict=True)) async for page in rows(opened) for row in page]


def presumed(process: str, tenant: str, provider: str | None, cost: int, time: int) -> dict[str, Any]:
    """A row for a dead process, as the ledger shows it."""
    return {
        "time": time,
        "request_id": f"presumed:{process}",
        "tenant": tenant,
        "task": None,
        "provider": provider,
        "model": None,
        "input_tokens": 0,
        "cached_input_tokens": 0,
        "output_tokens": 0,
        "cost_nanousd": cost,
        "status": 0,
        "attempts": 0,
        "policy": "",
        "estimated": False,
        "presumed": True,
    }


# --- amounts


async def test_a_first_exchange_makes_account_process_and_lease(opened: Database, store: AccountStore) -> None:
    """Whole rows: an account that nobody used before begins with its window."""
    outcome = await Process(store, "a").say(Share(BUDGET, wanted=100))
    view = View(0, MONTH, 100, 0, 0, Lent(100, 0))
    assert outcome == Outcome(MORNING, 1, {BUDGET.key: view}, ())
    (account,), (process,), (lease,) = [await execute(opened, select(each)) for each in (accounts, processes, leases)]
    assert tuple(account) == (BUDGET.key, "acme", None, "usd", "month", 1_000, 0, MONTH, 100, 0, 0)
    assert tuple(process) == ("a", 1, MORNING + int(LEASE * SECOND), False)
    assert tuple(lease) == ("a", BUDGET.key, 100, 0, 0, 0)


async def test_consumption_is_booked_and_surplus_returned(opened: Database, store: AccountStore) -> None:
    """Of 100 lent, 30 are consumed, 20 given back and 10 bound: 50 stay held."""
    process = Process(store, "a")
    await process.say(Share(BUDGET, wanted=100))
    outcome = await process.say(Share(BUDGET, consumed=30, returned=20, reserved=10))
    assert outcome.views == {BUDGET.key: View(30, MONTH, 50, 10, 0, Lent(50, 10))}
    assert await account_row(opened, BUDGET) == (1_000, 30, MONTH, 50, 10, 0)


async def test_a_bucket_flows_back_with_time(store: AccountStore, clock: Clock) -> None:
    """6,000 a minute are 100 a second."""
    process = Process(store, "a")
    await process.say(Share(TPM), asks=[((TPM.key, 5_000),)])
    outcome = await process.say(Share(TPM, consumed=5_000))
    assert outcome.views[TPM.key].used == 5_000
    assert (await process.ask(TPM, 1_001)).lacking == (TPM.key,)
    clock.forward(0.01)
    outcome = await process.ask(TPM, 1_001)
    assert outcome.lacking == (None,)
    assert outcome.views[TPM.key] == View(4_999, clock.now, 1_001, 1_001, 0, Lent(1_001, 1_001))


async def test_a_budget_begins_anew_with_its_window(opened: Database, store: AccountStore, clock: Clock) -> None:
    """At midnight the day's, on the first the month's; what is held goes along."""
    process = Process(store, "a")
    needs = ((DAILY.key, 400), (BUDGET.key, 400))
    await process.say(Share(DAILY), Share(BUDGET), asks=[needs])
    used = [Share(account, consumed=300, reserved=100) for account in (DAILY, BUDGET)]
    await process.say(*used)
    clock.now = DAY + 24 * HOUR
    outcome = await process.say(Share(DAILY, reserved=100), Share(BUDGET, reserved=100))
    assert outcome.views == {
        DAILY.key: View(0, DAY + 24 * HOUR, 100, 100, 0, Lent(100, 100)),
        BUDGET.key: View(300, MONTH, 100, 100, 0, Lent(100, 100)),
    }
    december = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * SECOND
    clock.now = december
    await process.say(Share(DAILY, reserved=100), Share(BUDGET, reserved=100))
    assert await account_row(opened, BUDGET) == (1_000, 0, december, 100, 100, 0)


async def test_an_ask_is_granted_whole_or_not_at_all(opened: Database, store: AccountStore) -> None:
    """The budget has room, the day has not: neither is touched."""
    needs = ((BUDGET.key, 600), (DAILY.key, 600))
    outcome = await Process(store, "a").say(Share(BUDGET), Share(DAILY), asks=[needs])
    assert outcome.lacking == (DAILY.key,)
    assert [(await account_row(opened, account))[3] for account in (BUDGET, DAILY)] == [0, 0]


async def test_asks_are_granted_in_their_order(store: AccountStore) -> None:
    """700 leave 300, so 400 are refused and the 300 behind them granted."""
    outcome = await Process(store, "a").ask(BUDGET, 700, 400, 300, 1)
    assert outcome.lacking == (None, BUDGET.key, None, BUDGET.key)
    assert outcome.views == {BUDGET.key: View(0, MONTH, 1_000, 1_000, 0, Lent(1_000, 1_000))}


async def test_parts_shrink_on_the_way_to_the_cap(store: AccountStore) -> None:
    """Of two processes each is lent an eighth of what is left; within the last sixteenth nothing."""
    first, second = Process(store, "a"), Process(store, "b")
    await second.say()
    lent = []
    for process in (first, second, first):
        outcome = await process.say(Share(BUDGET, wanted=1_000))
        lent.append(outcome.views[BUDGET.key].held)
    # 1000 // 8, then 875 // 8, then 766 // 8.
    assert lent == [125, 125 + 109, 125 + 109 + 95]
    assert (await second.ask(BUDGET, 610)).lacking == (None,)
    # 1000 - 329 - 610 = 61 are left, and 1000 // 16 = 62.
    outcome = await first.say(Share(BUDGET, wanted=1_000))
    assert outcome.views[BUDGET.key].held == 939


async def test_what_sleeps_elsewhere_is_recalled(store: AccountStore, clock: Clock) -> None:
    """Who lacks it makes its holder hear of it, for two seconds, and gets it when it is back."""
    holder, other = Process(store, "a"), Process(store, "b")
    await holder.say(Share(BUDGET, wanted=200))
    assert (await other.ask(BUDGET, 900)).lacking == (BUDGET.key,)
    assert (await holder.say()).recalled == (BUDGET.key,)
    assert (await holder.say(Share(BUDGET, returned=200))).views[BUDGET.key].mine == Lent(0, 0)
    assert (await other.ask(BUDGET, 900)).lacking == (None,)
    clock.now += RECALL
    assert (await holder.say()).recalled == ()


async def test_what_requests_elsewhere_have_bound_is_not_recalled(store: AccountStore) -> None:
    """It would not come."""
    await Process(store, "a").ask(BUDGET, 200)
    other = Process(store, "b")
    assert (await other.ask(BUDGET, 900)).lacking == (BUDGET.key,)
    assert (await other.say()).recalled == ()


async def test_more_may_be_used_than_was_held(opened: Database, store: AccountStore) -> None:
    """An answer larger than its reservation is booked as it was, and what is under way stays held."""
    process = Process(store, "a")
    await process.ask(BUDGET, 900, 100)
    outcome = await process.say(Share(BUDGET, consumed=1_200, reserved=100))
    assert outcome.views == {BUDGET.key: View(1_200, MONTH, 100, 100, 0, Lent(100, 100))}
    assert (await process.ask(BUDGET, 1)).lacking == (BUDGET.key,)


async def test_a_changed_limit_is_kept_with_the_account(opened: Database, store: AccountStore) -> None:
    """Even where nothing else has changed."""
    process = Process(store, "a")
    await process.say(Share(BUDGET))
    await process.say(Share(Account("acme", None, Metric.USD, Window.MONTH, 2_000)))
    assert await account_row(opened, BUDGET) == (2_000, 0, MONTH, 0, 0, 0)


async def test_many_accounts_fit_one_exchange(opened: Database, store: AccountStore) -> None:
    """More than any statement's parameters in the usual case."""
    many = [Account(f"tenant-{number}", None, Metric.USD, Window.MONTH, 1_000) for number in range(700)]
    outcome = await Process(store, "a").say(*[Share(account, wanted=10) for account in many])
    assert outcome.views == {account.key: View(0, MONTH, 10, 0, 0, Lent(10, 0)) for account in many}


# --- the ledger


async def test_rows_are_written_with_the_time_of_their_exchange(opened: Database, store: AccountStore) -> None:
    """Every field, null where nothing is known."""
    unknown = LedgerRow("req-2", "acme", None, None, None, 0, 0, 0, None, 499, 2, "", estimated=True)
    await Process(store, "a").say(rows=(ROW, unknown))
    assert await ledger(opened) == [
        {
            "time": MORNING,
            "request_id": "req-1",
            "tenant": "acme",
            "task": "reasoning",
            "provider": "first",
            "model": "gpt-4.1",
            "input_tokens": 100,
            "cached_input_tokens": 20,
            "output_tokens": 30,
            "cost_nanousd": 700,
            "status": 200,
            "attempts": 1,
            "policy": "0123456789abcdef",
            "estimated": False,
            "presumed": False,
        },
        {
            "time": MORNING,
            "request_id": "req-2",
            "tenant": "acme",
            "task": None,
            "provider": None,
            "model": None,
            "input_tokens": 0,
            "cached_input_tokens": 0,
            "output_tokens": 0,
            "cost_nanousd": None,
            "status": 499,
            "attempts": 2,
            "policy": "",
            "estimated": True,
            "presumed": False,
        },
    ]


async def test_a_repeated_batch_is_applied_once(opened: Database, store: AccountStore, clock: Clock) -> None:
    """Its answer was lost: the second one says what had been, grants nothing, and renews the lease."""
    process = Process(store, "a")
    await process.ask(BUDGET, 500)
    batch = process.batch(Share(BUDGET, consumed=300), asks=[((BUDGET.key, 10),)], rows=(ROW,))
    await store.exchange(batch)
    clock.forward(4)
    outcome = await store.exchange(batch)
    # 500 - 300 are still held, and 10 more.
    view = View(300, MONTH, 210, 10, 0, Lent(210, 10))
    assert outcome == Outcome(clock.now, 1, {BUDGET.key: view}, (BUDGET.key,), replayed=True)
    assert await account_row(opened, BUDGET) == (1_000, 300, MONTH, 210, 10, 0)
    assert [row["request_id"] for row in await ledger(opened)] == ["req-1"]
    clock.forward(4)
    assert await store.reap() == 0


# --- death


async def test_a_dead_process_has_spent_what_it_held(opened: Database, store: AccountStore, clock: Clock) -> None:
    """Money and tokens count as used, slots as returned; one row of the ledger says so."""
    await Process(store, "a").say(
        *[Share(account) for account in (BUDGET, DAILY, SLOTS, TPM)],
        asks=[((BUDGET.key, 300), (DAILY.key, 300), (SLOTS.key, 1), (TPM.key, 2_000))],
    )
    clock.forward(LEASE)
    assert await store.reap() == 0
    clock.now += 1
    assert await store.reap() == 1
    assert await account_row(opened, BUDGET) == (1_000, 300, MONTH, 0, 0, 0)
    assert await account_row(opened, DAILY) == (500, 300, DAY, 0, 0, 0)
    assert await account_row(opened, SLOTS) == (10, 0, 0, 0, 0, 0)
    assert await account_row(opened, TPM) == (6_000, 2_000, clock.now, 0, 0, 0)
    assert await ledger(opened) == [presumed("a", "acme", None, 300, clock.now)]
    assert await store.reap() == 0
    assert (await Process(store, "b").say()).processes == 1


async def test_a_death_is_booked_for_each_tenant(opened: Database, store: AccountStore, clock: Clock) -> None:
    """The same money is in several accounts and is booked once: where they say most."""
    await Process(store, "a").say(
        *[Share(account) for account in (BUDGET, AT_FIRST, AT_SECOND, GLOBEX)],
        asks=[((BUDGET.key, 100), (AT_FIRST.key, 100)), ((AT_SECOND.key, 40),), ((GLOBEX.key, 7),)],
    )
    await Process(store, "b").say(
        Share(BUDGET), Share(AT_FIRST), asks=[((BUDGET.key, 100), (AT_FIRST.key, 100)), ((BUDGET.key, 1),)]
    )
    clock.now += DEAD
    assert await store.reap() == 2
    found = await ledger(opened)
    assert [row for row in found if row["request_id"] == "presumed:a"] == [
        # 100 + 40 at the providers are more than 100 of the tenant's own.
        presumed("a", "acme", "first", 100, clock.now),
        presumed("a", "acme", "second", 40, clock.now),
        presumed("a", "globex", None, 7, clock.now),
    ]
    assert [row for row in found if row["request_id"] == "presumed:b"] == [presumed("b", "acme", None, 101, clock.now)]


async def test_who_held_nothing_leaves_no_row(opened: Database, store: AccountStore, clock: Clock) -> None:
    """A death without loss."""
    await Process(store, "a").say(Share(BUDGET))
    clock.now += DEAD
    assert await store.reap() == 1
    assert await ledger(opened) == []


async def test_the_return_of_the_dead_takes_back_what_was_presumed(
    opened: Database, store: AccountStore, clock: Clock
) -> None:
    """Ledger and accounts agree again, to the nano-dollar; what it reports then is booked as always."""
    process = Process(store, "a")
    needs = ((BUDGET.key, 300), (DAILY.key, 300), (AT_FIRST.key, 300))
    await process.say(*[Share(account) for account in (BUDGET, DAILY, AT_FIRST)], asks=[needs])
    await process.say(Share(GLOBEX), asks=[((GLOBEX.key, 50),)])
    clock.now += DEAD
    died = clock.now
    await store.reap()
    clock.forward(1)
    outcome = await process.say(Share(BUDGET, consumed=120, returned=30, reserved=150), rows=(ROW,))
    assert outcome == Outcome(clock.now, 1, {BUDGET.key: View(120, MONTH, 150, 150, 0, Lent(150, 150))}, (), lost=True)
    # Of these it has not said yet what became of what it holds.
    assert await account_row(opened, DAILY) == (500, 0, DAY, 300, 0, 0)
    assert await account_row(opened, AT_FIRST) == (900, 0, MONTH, 300, 0, 0)
    assert await account_row(opened, GLOBEX) == (1_000, 0, MONTH, 50, 0, 0)
    found = await ledger(opened)
    assert [row for row in found if row["presumed"]] == [
        presumed("a", "acme", None, 300, died),
        presumed("a", "globex", None, 50, died),
        presumed("a", "acme", None, -300, clock.now),
        presumed("a", "globex", None, -50, clock.now),
    ]
    assert sum(row["cost_nanousd"] for row in found) == 700
    assert (await process.say(Share(BUDGET, reserved=150))).lost is False
    assert len(await ledger(opened)) == 5


async def test_what_was_presumed_in_a_window_that_is_over_is_not_taken_from_the_next(
    opened: Database, store: AccountStore, clock: Clock
) -> None:
    """The day has begun anew; the month goes on. What the process held it holds still, until it says otherwise."""
    process = Process(store, "a")
    await process.say(Share(BUDGET), Share(DAILY), asks=[((BUDGET.key, 300), (DAILY.key, 300))])
    clock.now = DAY + 24 * HOUR - SECOND
    await store.reap()
    other = Process(store, "b")
    clock.now = DAY + 24 * HOUR + SECOND
    await other.ask(DAILY, 100)
    await other.say(Share(DAILY, consumed=100))
    await process.say()
    assert await account_row(opened, DAILY) == (500, 100, DAY + 24 * HOUR, 300, 0, 0)
    assert await account_row(opened, BUDGET) == (1_000, 0, MONTH, 300, 0, 0)


async def test_who_returns_and_dies_before_it_says_what_it_spent_has_lost_nothing(
    opened: Database, store: AccountStore, clock: Clock
) -> None:
    """It comes back with another account's news only; what it held of this one stays held, and is presumed again."""
    process = Process(store, "a")
    await process.ask(BUDGET, 300)
    clock.now += DEAD
    await store.reap()
    assert (await process.say(Share(TPM))).lost
    assert await account_row(opened, BUDGET) == (1_000, 0, MONTH, 300, 0, 0)
    other = Process(store, "b")
    assert (await other.ask(BUDGET, 701)).lacking == (BUDGET.key,)
    recalled = clock.now
    clock.now += DEAD
    await store.reap()
    assert await account_row(opened, BUDGET) == (1_000, 300, MONTH, 0, 0, recalled)
    assert [row["cost_nanousd"] for row in await ledger(opened)] == [300, -300, 300]


async def test_a_batch_that_was_applied_before_its_process_died_is_not_applied_again(
    opened: Database, store: AccountStore, clock: Clock
) -> None:
    """Its answer was lost, then the process was taken for dead: what is under way is held again, no more."""
    process = Process(store, "a")
    await process.ask(BUDGET, 300, 100)
    batch = process.batch(Share(BUDGET, consumed=250, returned=50, reserved=100), rows=(ROW,))
    await store.exchange(batch)
    clock.now += DEAD
    await store.reap()
    assert await account_row(opened, BUDGET) == (1_000, 350, MONTH, 0, 0, 0)
    outcome = await store.exchange(replace(batch, asks=()))
    assert outcome == Outcome(
        clock.now,
        1,
        {BUDGET.key: View(250, MONTH, 100, 100, 0, Lent(100, 100))},
        (),
        lost=True,
        replayed=True,
    )
    assert [row["cost_nanousd"] for row in await ledger(opened)] == [700, 100, -100]


async def test_a_second_death_books_only_what_was_held_then(
    opened: Database, store: AccountStore, clock: Clock
) -> None:
    """And its reversal takes back only that."""
    process = Process(store, "a")
    for lent, returned in ((300, 0), (40, 300)):
        await process.say(Share(BUDGET, returned=returned), asks=[((BUDGET.key, lent),)])
        clock.now += DEAD
        assert await store.reap() == 1
    await process.say(Share(BUDGET, returned=40))
    assert [row["cost_nanousd"] for row in await ledger(opened)] == [300, -300, 40, -40]
    assert await account_row(opened, BUDGET) == (1_000, 0, MONTH, 0, 0, 0)


async def test_the_dead_are_forgotten_after_an_hour(opened: Database, store: AccountStore, clock: Clock) -> None:
    """Until then one may return; afterwards what was presumed stays so, in accounts and ledger alike."""
    process = Process(store, "a")
    await process.ask(BUDGET, 300)
    clock.now += DEAD
    await store.reap()
    for passed, remembered in ((HOUR, 1), (1, 0)):
        clock.now += passed
        assert await store.reap() == 0
        for table in (processes, leases):
            assert await execute(opened, select(func.count()).select_from(table)) == [(remembered,)]
    outcome = await process.say(Share(BUDGET, consumed=300))
    assert (outcome.lost, outcome.views[BUDGET.key].used) == (True, 600)
    assert [row["cost_nanousd"] for row in await ledger(opened)] == [300]


async def test_who_leaves_with_nothing_is_forgotten(opened: Database, store: AccountStore, clock: Clock) -> None:
    """Who still holds something is not: its lease runs out."""
    tidy, untidy = Process(store, "a"), Process(store, "b")
    await tidy.say(Share(BUDGET, wanted=10))
    await tidy.say(Share(BUDGET, returned=10))
    await untidy.ask(BUDGET, 10)
    await store.leave("a")
    await store.leave("b")
    await store.leave("nobody")
    assert await execute(opened, select(processes.c.id)) == [("b",)]
    assert await execute(opened, select(leases.c.process)) == [("b",)]
    clock.now += DEAD
    assert await store.reap() == 1


# --- several at once


async def test_processes_at_once_stay_within_the_cap(opened: Database, database: str) -> None:
    """Eight processes, each with its own connection, ask for more than there is: every unit is given once."""
    limit = 500
    both = [Account("acme", None, Metric.USD, window, limit) for window in (Window.MONTH, Window.DAY)]
    several = [Database(database_url(database)) for _ in range(8)]

    async def run(name: str, opened: Database) -> int:
        process = Process(AccountStore(opened), name)
        used = 0
        for turn in range(25):
            # Each names the accounts in an order of its own.
            order = both if turn % 2 else both[::-1]
            ask = tuple([(account.key, 7) for account in order])
            outcome = await process.say(*[Share(account) for account in order], asks=[ask])
            if outcome.lacking == (None,):
                used += 4
                await process.say(*[Share(account, consumed=4, returned=3) for account in order])
        return used

    used = await asyncio.gather(*[run(f"p{number}", opened) for number, opened in enumerate(several)])
    for each in several:
        await each.close()
    for account in both:
        assert (await account_row(opened, account))[1] == sum(used)
        assert (await account_row(opened, account))[3:5] == (0, 0)
    # Whoever came last lacked room for 7.
    assert limit - 7 < sum(used) <= limit


async def test_many_begin_at_once(opened: Database, database: str) -> None:
    """First exchanges of new processes on accounts that nobody has used: each is made once."""
    several = [Database(database_url(database)) for _ in range(6)]
    every = [BUDGET, DAILY, TPM, SLOTS, AT_FIRST, GLOBEX]

    async def run(number: int) -> Outcome:
        mine = every[number:] + every[:number]
        process = Process(AccountStore(several[number]), f"p{number}")
        return await process.say(*[Share(account) for account in mine], asks=[((BUDGET.key, 200),)])

    outcomes = await asyncio.gather(*[run(number) for number in range(6)])
    for each in several:
        await each.close()
    assert sorted(outcome.lacking == (None,) for outcome in outcomes) == [False, True, True, True, True, True]
    assert (await account_row(opened, BUDGET))[3:5] == (1_000, 1_000)


async def test_several_reap_one_dead_process_once(opened: Database, database: str, clock: Clock) -> None:
    """Who comes second finds nothing."""
    several = [Database(database_url(database)) for _ in range(4)]
    stores = [AccountStore(each, clock) for each in several]
    for number in range(5):
        await Process(stores[0], f"p{number}").ask(BUDGET, 100)
    clock.now += DEAD
    assert sum(await asyncio.gather(*[store.reap() for store in stores])) == 5
    for each in several:
        await each.close()
    assert (await account_row(opened, BUDGET))[1:4] == (500, MONTH, 0)
    assert [row["cost_nanousd"] for row in await ledger(opened)] == [100] * 5


async def test_an_exchange_that_is_given_up_leaves_nothing_locked(database: str, store: AccountStore) -> None:
    """Cancelled while it waits for another's transaction, and afterwards repeated: it is applied once."""
    process = Process(store, "a")
    await process.say(Share(BUDGET))
    batch = process.batch(Share(BUDGET), asks=[((BUDGET.key, 10),)])
    async with held(database, "UPDATE accounts SET used = 5"):
        waiting = asyncio.create_task(store.exchange(batch))
        await asyncio.sleep(0.1)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    repeated = await store.exchange(batch)
    assert repeated.views[BUDGET.key] == View(5, MONTH, 10, 10, 0, Lent(10, 10))
    # SQLite's thread goes on when nobody waits for it any more; then this was a repetition, which grants nothing again.
    assert repeated.replayed is (repeated.lacking != (None,))


# --- the database's own


async def test_the_clock_is_the_databases(opened: Database) -> None:
    """By default: microseconds since 1970, as the database counts them."""
    before = int(datetime.now(UTC).timestamp() * 1_000) * 1_000
    outcome = await Process(AccountStore(opened), "a").say()
    ((after,),) = await execute(opened, select(database_now()))
    assert before <= outcome.now <= after <= before + 60 * SECOND


@pytest.mark.parametrize(
    "url",
    ["postgresql://router:secret@127.0.0.1:1/router", "sqlite:////nowhere/router.db"],
    ids=["postgresql", "sqlite"],
)
async def test_a_database_that_cannot_be_reached_is_unavailable(url: str) -> None:
    """Whatever the driver says; the password is not repeated."""
    opened = Database(database_url(url))
    store = AccountStore(opened)
    for attempt in (store.reap(), store.leave("a"), Process(store, "a").say(Share(BUDGET))):
        with pytest.raises(StoreUnavailable) as raised:
            await attempt
        assert "secret" not in str(raised.value)
        assert raised.value.__cause__ is None
    await opened.close()
