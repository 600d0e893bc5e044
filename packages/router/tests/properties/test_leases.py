"""Whatever happens, in whatever order: nothing is lent beyond a cap, nothing that was used is lost."""

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.limits.accounts import SECOND, Batch, drained
from stratmaster_router.limits.leases import Leases, Needs
from support.memory_store import MemoryStore

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
DAY = 86_400 * SECOND
METRICS = {
    "rpm": (Metric.REQUESTS, Window.MINUTE),
    "tpm": (Metric.TOKENS, Window.MINUTE),
    "parallel": (Metric.PARALLEL, Window.NOW),
    "day": (Metric.USD, Window.DAY),
    "month": (Metric.USD, Window.MONTH),
}


class Process:
    """One process: its leases, and the requests that it has under way."""

    def __init__(self, name: str) -> None:
        self.leases = Leases(name)
        self.open: list[list[tuple[Account, int]]] = []
        self.unanswered: Batch | None = None


class LeaseMachine(RuleBasedStateMachine):
    """Processes reserve, settle, exchange, die and see their policy change, while time passes.

    The model is what was truly used of each account: the sum since its window began, or a bucket of its own.
    """

    @initialize(limits=st.fixed_dictionaries({name: st.integers(1, 5_000) for name in METRICS}))
    def begin(self, limits: dict[str, int]) -> None:
        """One tenant with every kind of cap, one of them at a provider too."""
        self.now = 1_800_000_000 * SECOND
        self.store = MemoryStore(lambda: self.now)
        self.accounts = [Account("t", None, *METRICS[name], limit) for name, limit in limits.items()]
        self.accounts.append(Account("t", "p", Metric.TOKENS, Window.MINUTE, max(1, limits["tpm"] // 2)))
        self.names = 0
        self.processes: list[Process] = []
        # What was truly used of a bucket, drained as time passes; of a budget, in its window.
        self.true_used = {account.key: 0 for account in self.accounts}
        self.true_since = {account.key: self.now for account in self.accounts}
        self.doubted = False
        for _ in range(3):
            self.join()

    def _use(self, account: Account, amount: int) -> None:
        key = account.key
        if account.window is Window.MINUTE:
            self.true_used[key], self.true_since[key] = drained(
                self.true_used[key], self.true_since[key], account.limit, self.now
            )
        self.true_used[key] += amount

    @rule()
    @precondition(lambda self: len(self.processes) < 5)
    def join(self) -> None:
        """A process starts."""
        self.names += 1
        self.processes.append(Process(f"p{self.names}"))

    @rule(index=st.integers(0, 4), amounts=st.lists(st.integers(0, 400), min_size=6, max_size=6), alone=st.booleans())
    def request(self, index: int, amounts: list[int], alone: bool) -> None:
        """A request reserves: from the lease, or else by asking."""
        process = self.processes[index % len(self.processes)]
        chosen = self.accounts if not alone else self.accounts[1:2]
        wanted = [
            (a, 1 if a.metric in (Metric.REQUESTS, Metric.PARALLEL) else amount)
            for a, amount in zip(chosen, amounts, strict=False)
        ]
        needs = [(process.leases.lease(account), amount) for account, amount in wanted]
        granted = process.leases.take(needs)
        if not granted and process.unanswered is None:
            before = {key: (t.used, t.held) for key, t in self.store.truths.items()}
            (lacking,) = self._exchange(process, [needs])
            granted = lacking is None
            if not granted and lacking in before and len(self.processes) == 1 and not process.open:
                # Alone, with nothing under way: a refusal means that there was no room for it.
                truth = self.store.truths[lacking]
                account, amount = next((a, n) for a, n in wanted if a.key == lacking)
                assert amount > account.limit - truth.used - truth.held
        if granted:
            for account, _ in wanted:
                if account.metric is Metric.REQUESTS:
                    self._use(account, 1)
            process.open.append(wanted)

    @rule(index=st.integers(0, 4), part=st.floats(0, 1))
    def settle(self, index: int, part: float) -> None:
        """A request ends: it used some of what it reserved."""
        process = self.processes[index % len(self.processes)]
        if process.open:
            for account, amount in process.open.pop():
                if account.metric is not Metric.REQUESTS:
                    used = 0 if account.metric is Metric.PARALLEL else int(amount * part)
                    process.leases.settle([(process.leases.lease(account), amount)], used, used)
                    self._use(account, used)

    @rule(index=st.integers(0, 4), interval=st.booleans())
    def sync(self, index: int, interval: bool) -> None:
        """A process exchanges in turn."""
        process = self.processes[index % len(self.processes)]
        if process.unanswered is not None:
            outcome = self.store.apply(process.unanswered)
            process.leases.apply(process.unanswered, [], outcome)
            process.unanswered = None
        else:
            self._exchange(process, [], interval=interval)

    @rule(index=st.integers(0, 4), applied=st.booleans())
    def lose_an_answer(self, index: int, applied: bool) -> None:
        """An exchange of which the process does not hear: it may have been applied, and is repeated until it is."""
        process = self.processes[index % len(self.processes)]
        if process.unanswered is None:
            process.unanswered = process.leases.batch([], [], interval=True, now=self.now)
            if applied:
                self.store.apply(process.unanswered)

    @rule(index=st.integers(0, 4))
    def is_taken_for_dead(self, index: int) -> None:
        """A process is not heard of for so long that others book what it held; it lives, and comes back."""
        name = self.processes[index % len(self.processes)].leases.name
        if name in self.store.expires:
            self.store.die(name)
            self.doubted = True

    def _exchange(self, process: Process, asks: list[Needs], *, interval: bool = True) -> tuple[str | None, ...]:
        batch = process.leases.batch(asks, [], interval=interval, now=self.now)
        outcome = self.store.apply(batch)
        process.leases.apply(batch, asks, outcome)
        return outcome.lacking

    @rule(seconds=st.sampled_from([0.05, 0.2, 1.0, 20.0, 61.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += int(seconds * SECOND)

    @rule()
    def next_day(self) -> None:
        """Midnight passes: the day's budget begins anew, and on the first the month's."""
        self.now = (self.now // DAY + 1) * DAY
        for account in self.accounts:
            if account.window is Window.DAY or (account.window is Window.MONTH and self._first_of_month()):
                self.true_used[account.key] = 0

    def _first_of_month(self) -> bool:
        from datetime import UTC, datetime

        return datetime.fromtimestamp(self.now // SECOND, UTC).day == 1

    @rule(index=st.integers(0, 4))
    @precondition(lambda self: len(self.processes) > 1)
    def die(self, index: int) -> None:
        """A process is killed; its lease runs out."""
        process = self.processes.pop(index % len(self.processes))
        name = process.leases.batch([], [], interval=False, now=self.now).process
        if name in self.store.expires:
            self.store.die(name)

    @invariant()
    def nothing_beyond_the_cap(self) -> None:
        """What is used and lent stays within the limit, and so does what was truly used."""
        for account in self.accounts:
            truth = self.store.truths.get(account.key)
            if truth is None:
                continue
            used = truth.used
            if account.window is Window.MINUTE:
                used, _ = drained(truth.used, truth.since, account.limit, self.now)
                true, _ = drained(self.true_used[account.key], self.true_since[account.key], account.limit, self.now)
            else:
                true = self.true_used[account.key]
            assert truth.held >= truth.reserved >= 0
            if self.doubted and account.metric is not Metric.USD:
                # What was booked of somebody who lives stays booked, and slots were given to others.
                continue
            if account.key in self.store.carried:
                continue
            assert used + truth.held <= account.limit
            if account.metric is not Metric.PARALLEL:
                assert true <= account.limit
            else:
                assert sum(a is account for p in self.processes for need in p.open for a, _ in need) <= account.limit

    @invariant()
    def processes_and_database_agree(self) -> None:
        """What the database says a process holds is what that process counts."""
        for process in self.processes:
            if process.unanswered is not None or process.leases.name in self.store.dead:
                continue
            lents = self.store.lents.get(process.leases.name, {})
            for lease in process.leases:
                held = lease.free + lease.reserved + lease.consumed + lease.returning
                lent = lents.get(lease.account.key)
                assert held == (0 if lent is None else lent.held) or lease.dirty
                assert lease.free >= 0 or lease.dirty or self.doubted
                assert lease.reserved >= 0

    def teardown(self) -> None:
        """After everything settles, what is recorded is what was used, and the rest is free."""
        if not hasattr(self, "store"):
            return
        for process in self.processes:
            for need in process.open:
                for account, amount in need:
                    if account.metric is not Metric.REQUESTS:
                        process.leases.settle([(process.leases.lease(account), amount)], 0, 0)
            self.sync(self.processes.index(process), interval=True)
            process.leases.give_all_back()
            self._exchange(process, [])
            # A second time, for one that had been taken for dead.
            process.leases.give_all_back()
            self._exchange(process, [])
        for account in self.accounts:
            truth = self.store.truths.get(account.key)
            if truth is not None:
                assert truth.held == truth.reserved == 0
                if account.metric is Metric.USD and not self.store.presumed.get(account.key):
                    # More where midnight passed between a use and its report: that counts in the new window.
                    assert truth.used >= self.true_used[account.key]


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(
    max_examples=50_000 if NIGHTLY else 2_000, stateful_step_count=40, deadline=None, print_blob=True
)
