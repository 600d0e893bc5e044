"""The limiter over a store in memory: who is admitted, who waits, who is refused, and what the database is told."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from stratmaster_router.domain.errors import LimitExceeded, LimitStoreUnavailable, RequestExceedsLimit
from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.limits.leases import Lease
from stratmaster_router.limits.limiter import INTERVAL, Limiter
from support.memory_store import MemoryStore

RPM = Account("acme", None, Metric.REQUESTS, Window.MINUTE, 3)
TPM = Account("acme", None, Metric.TOKENS, Window.MINUTE, 1_000)
SLOTS = Account("acme", None, Metric.PARALLEL, Window.NOW, 2)
BUDGET = Account("acme", None, Metric.USD, Window.MONTH, 10_000)
ROW = LedgerRow("req_1", "acme", "chat", "openai", "gpt-4.1", 3, 0, 4, 700, 200, 1, "abc")


def wall() -> int:
    """Microseconds of the wall clock, as a database counts."""
    return time.time_ns() // 1000


@pytest.fixture
def store() -> MemoryStore:
    """A database for all processes of a test."""
    return MemoryStore(wall)


@asynccontextmanager
async def limiting(store: MemoryStore, name: str = "a") -> AsyncIterator[Limiter]:
    """A process on `store`, from its start to its end."""
    limiter = Limiter(store, name)
    limiter.start()
    try:
        yield limiter
    finally:
        await limiter.close()


def needs(limiter: Limiter, *wanted: tuple[Account, int]) -> list[tuple[Lease, int]]:
    """What a request needs."""
    return [(limiter.leases.lease(account), amount) for account, amount in wanted]


async def refusal(reserving: Awaitable[None]) -> tuple[str, int, int, bool]:
    """Who refuses, what is used and asked for, and whether to try again."""
    with pytest.raises(LimitExceeded) as refused:
        await reserving
    error = refused.value
    return error.account.key, error.used, error.requested, error.retry_after is not None


async def eventually(true: Callable[[], bool]) -> None:
    """Wait until the exchanges have brought it about."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  # what is waited for is the store's state, which sets no event
            await asyncio.sleep(0.01)


async def test_requests_of_a_minute_are_counted_one_by_one(store: MemoryStore) -> None:
    """The cap is the number admitted; the refusal says what is used and that it is worth trying again."""
    async with limiting(store) as limiter:
        for _ in range(3):
            await limiter.reserve(needs(limiter, (RPM, 1)))
        assert await refusal(limiter.reserve(needs(limiter, (RPM, 1)))) == ("tenant:acme requests minute", 3, 1, True)


async def test_all_accounts_hold_together_or_none(store: MemoryStore) -> None:
    """Where one account refuses, the others keep nothing of the request."""
    async with limiting(store) as limiter:
        await limiter.reserve(needs(limiter, (SLOTS, 1), (TPM, 900)))
        refused = await refusal(limiter.reserve(needs(limiter, (SLOTS, 1), (TPM, 200))))
        assert refused[:3] == ("tenant:acme tokens minute", 900, 200)
        await limiter.reserve(needs(limiter, (SLOTS, 1)))
        assert (await refusal(limiter.reserve(needs(limiter, (SLOTS, 1)))))[:3] == ("tenant:acme parallel now", 2, 1)


async def test_what_can_never_fit_is_refused_at_once(store: MemoryStore) -> None:
    """However long one waits, an account holds no more than its limit."""
    async with limiting(store) as limiter:
        with pytest.raises(RequestExceedsLimit) as refused:
            await limiter.reserve(needs(limiter, (TPM, 1_001)))
        assert (refused.value.account, refused.value.requested) == (TPM, 1_001)
        assert store.exchanges == 0


async def test_a_budget_waits_for_requests_under_way(store: MemoryStore) -> None:
    """A reservation is an upper bound: what it does not use serves the request that waits for it."""
    async with limiting(store) as limiter:
        first = needs(limiter, (BUDGET, 9_000))
        await limiter.reserve(first)
        second = asyncio.create_task(limiter.reserve(needs(limiter, (BUDGET, 5_000))))
        await asyncio.sleep(INTERVAL / 4)
        assert not second.done()
        limiter.settle(first, nanousd=1_000)
        await second
        assert await refusal(limiter.reserve(needs(limiter, (BUDGET, 9_500)))) == (
            "tenant:acme usd month",
            1_000,
            9_500,
            False,
        )


async def test_what_sleeps_in_one_process_serves_another(store: MemoryStore) -> None:
    """Nobody is refused for a share that another process holds without need."""
    async with limiting(store, "a") as first, limiting(store, "b") as second:
        held = needs(first, (BUDGET, 1_000))
        await first.reserve(held)
        first.settle(held)
        assert first.leases.lease(BUDGET).free > 0
        await second.reserve(needs(second, (BUDGET, 10_000)))
        assert first.leases.lease(BUDGET).free == 0


async def test_refusals_are_not_asked_for_again(store: MemoryStore) -> None:
    """A used-up account costs no transaction for each refusal."""
    async with limiting(store) as limiter:
        held = needs(limiter, (BUDGET, 10_000))
        await limiter.reserve(held)
        limiter.settle(held, nanousd=10_000)
        before = store.exchanges
        began = time.monotonic()
        for _ in range(500):
            await refusal(limiter.reserve(needs(limiter, (BUDGET, 10))))
        assert store.exchanges - before <= 2 + (time.monotonic() - began) / INTERVAL


async def test_a_lower_limit_refuses_the_next_request_and_a_higher_one_admits_it(store: MemoryStore) -> None:
    """A change of policy keeps what was used, and holds at once."""
    async with limiting(store) as limiter:
        held = needs(limiter, (BUDGET, 5_000))
        await limiter.reserve(held)
        limiter.settle(held, nanousd=5_000)
        lower = Account("acme", None, Metric.USD, Window.MONTH, 4_000)
        assert (await refusal(limiter.reserve(needs(limiter, (lower, 1)))))[1] == 5_000
        higher = Account("acme", None, Metric.USD, Window.MONTH, 20_000)
        await limiter.reserve(needs(limiter, (higher, 15_000)))
        assert (await refusal(limiter.reserve(needs(limiter, (higher, 15_001)))))[1] == 5_000


async def test_the_ledger_is_written_with_the_accounts(store: MemoryStore) -> None:
    """Consumption and the rows of the same requests reach the database in one exchange."""
    async with limiting(store) as limiter:
        held = needs(limiter, (BUDGET, 1_000))
        await limiter.reserve(held)
        limiter.settle(held, nanousd=700)
        limiter.record(ROW)
        await eventually(lambda: bool(store.rows))
        assert store.rows == [ROW]
        assert store.truths[BUDGET.key].used == 700


async def test_closing_writes_and_gives_everything_back(store: MemoryStore) -> None:
    """After a shutdown nothing is held, and no row is lost."""
    async with limiting(store) as limiter:
        held = needs(limiter, (BUDGET, 1_000), (SLOTS, 1))
        await limiter.reserve(held)
        limiter.settle(held, nanousd=700)
        limiter.record(ROW)
    truth = store.truths[BUDGET.key]
    assert (truth.used, truth.held, store.truths[SLOTS.key].held, store.rows) == (700, 0, 0, [ROW])
    assert store.expires == {}


async def test_an_outage_refuses_budgets_and_obeys_the_policy_for_rates(store: MemoryStore) -> None:
    """Leases in hand go on; then a budget is refused for want of the store, and a local rate limit is kept alone."""
    local = Account("acme", None, Metric.TOKENS, Window.MINUTE, 1_000, local=True)
    async with limiting(store) as limiter:
        await limiter.reserve(needs(limiter, (BUDGET, 100), (local, 10)))
        in_hand = limiter.leases.lease(BUDGET).free
        assert in_hand == 800
        store.down = True
        await limiter.reserve(needs(limiter, (BUDGET, in_hand)))
        with pytest.raises(LimitStoreUnavailable):
            await limiter.reserve(needs(limiter, (BUDGET, 1)))
        await limiter.reserve(needs(limiter, (local, 990)))
        assert (await refusal(limiter.reserve(needs(limiter, (local, 1)))))[:2] == ("tenant:acme tokens minute", 1_000)
        with pytest.raises(LimitStoreUnavailable):
            await limiter.reserve(needs(limiter, (TPM, 1)))
        limiter.record(ROW)
        store.down = False
        await eventually(lambda: not limiter.down)
        await limiter.reserve(needs(limiter, (BUDGET, 1_000)))
        await eventually(lambda: store.rows == [ROW])


async def test_a_request_that_gives_up_while_waiting_holds_nothing(store: MemoryStore) -> None:
    """Cancelled in the queue, it leaves no trace."""
    async with limiting(store) as limiter:
        first = needs(limiter, (BUDGET, 9_000))
        await limiter.reserve(first)
        second = asyncio.create_task(limiter.reserve(needs(limiter, (BUDGET, 5_000))))
        await asyncio.sleep(INTERVAL / 4)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        limiter.settle(first)
        await limiter.reserve(needs(limiter, (BUDGET, 10_000)))


async def test_client_that_leaves_while_it_is_served_stops_nobody_else(store: MemoryStore) -> None:
    """It is let go in the moment in which its turn comes: the exchanges go on, and the money is the next one's."""
    async with limiting(store) as limiter:
        held = needs(limiter, (BUDGET, 9_000))
        await limiter.reserve(held)
        leaves = asyncio.create_task(limiter.reserve(needs(limiter, (BUDGET, 8_000))))
        stays = asyncio.create_task(limiter.reserve(needs(limiter, (BUDGET, 7_000))))
        await asyncio.sleep(INTERVAL / 4)
        assert not leaves.done()
        assert not stays.done()
        limiter.settle(held)
        leaves.cancel()  # after those who wait have been called, and before it runs itself
        await asyncio.wait_for(stays, 5)
        with pytest.raises(asyncio.CancelledError):
            await leaves
        limiter.settle(needs(limiter, (BUDGET, 7_000)), nanousd=1_000)
        await asyncio.wait_for(limiter.reserve(needs(limiter, (BUDGET, 9_000))), 5)
