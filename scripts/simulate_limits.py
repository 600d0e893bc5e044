#!/usr/bin/env python3
"""Leases in a fleet, by a virtual clock: 200 replicas, 1,000 tenants. Draws docs/limits-simulation.svg.

`PYTHONPATH=packages/router/tests python scripts/simulate_limits.py [--seconds 30]`

The arithmetic is the router's own (`limits.accounts`, `limits.leases`); this file only drives it: requests arrive at
random at random replicas, each replica exchanges every 200 ms while it has something to say and at once for a request
that its leases cannot meet. A tenant's load is drawn from a long tail; the limits are such that a part of the tenants
is over them all the time. Three figures, each second:

- transactions a second at the store, all replicas together;
- requests that were wrongly refused: how many more than by an omniscient single counter, which is asked by the same
  requests, knows each use when it happens, and whose every request takes and uses as much as ours;
- the worst staleness: the age of the oldest use that the store had not heard of.
"""

import argparse
import heapq
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from typing import NamedTuple

from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.limits.accounts import SECOND, drained
from stratmaster_router.limits.leases import Leases, Needs
from support.memory_store import MemoryStore

INTERVAL = SECOND // 5
PATIENCE = SECOND
BURST = 20.0


class Second(NamedTuple):
    """What a second of virtual time saw."""

    requests: int
    refused: int
    refused_by_oracle: int
    transactions: int
    staleness: float


class Oracle:
    """One counter for an account, told of everything when it happens."""

    def __init__(self, account: Account, now: int) -> None:
        self.account = account
        self.used = 0
        self.since = now
        self.reserved = 0

    def room(self, now: int) -> int:
        """What an omniscient router could still give."""
        self.used, self.since = drained(self.used, self.since, self.account.limit, now)
        return self.account.limit - self.used - self.reserved


class Request(NamedTuple):
    """What one request reserves, uses and how long it takes, in microseconds: the same for us and for the oracle."""

    tenant: int
    amount: int
    used: int
    lasts: int


class Replica:
    """A process of the fleet, and what it does at which time."""

    def __init__(self, name: str) -> None:
        self.leases = Leases(name)
        self.waiting: deque[tuple[int, Needs, Request]] = deque()  # since when
        self.last = 0
        self.ticks = 0
        self.burst = BURST
        self.oldest: int | None = None


class Fleet:
    """The simulation."""

    def __init__(self, replicas: int, tenants: int, rate: float, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311  # a simulation that can be run again
        self.now = 1_800_000_000 * SECOND
        self.store = MemoryStore(lambda: self.now)
        self.replicas = [Replica(f"r{i}") for i in range(replicas)]
        weights = [1 / (i + 1) ** 0.8 for i in range(tenants)]
        total = sum(weights)
        self.cumulative = list(accumulate(weights))
        self.accounts: list[Account] = []
        for i, weight in enumerate(weights):
            # 400 tokens a request on average; a quarter of the tenants asks for twice its limit.
            asked = rate * weight / total * 60 * 400
            limit = max(2_000, int(asked * (0.5 if i % 4 == 0 else 3)))
            self.accounts.append(Account(f"t{i}", None, Metric.TOKENS, Window.MINUTE, limit))
        self.oracles = [Oracle(account, self.now) for account in self.accounts]
        self.rate = rate
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.order = count()
        self.requests = self.refused = self.refused_by_oracle = self.transactions = 0
        self.staleness = 0

    def run(self, seconds: int) -> list[Second]:
        """Simulate, and what each second saw."""
        self._later(0, self._arrive)
        for replica in self.replicas:
            self._later(self.chance.randrange(INTERVAL), partial(self._tick, replica))
        seen: list[Second] = []
        end = self.now + SECOND
        while len(seen) < seconds:
            at, _, event = heapq.heappop(self.events)
            while at >= end:
                seen.append(
                    Second(
                        self.requests, self.refused, self.refused_by_oracle, self.transactions, self.staleness / SECOND
                    )
                )
                self.requests = self.refused = self.refused_by_oracle = self.transactions = self.staleness = 0
                end += SECOND
            self.now = at
            event()
        return seen

    def _later(self, after: int, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + after, next(self.order), event))

    def _arrive(self) -> None:
        self._later(int(self.chance.expovariate(self.rate) * SECOND), self._arrive)
        self.requests += 1
        tenant = self.chance.choices(range(len(self.accounts)), cum_weights=self.cumulative)[0]
        replica = self.chance.choice(self.replicas)
        amount = self.chance.randrange(300, 1500)
        lasts = int(self.chance.uniform(0.2, 3.0) * SECOND)
        request = Request(tenant, amount, self.chance.randrange(50, amount), lasts)
        self._ask_oracle(request)
        needs = [(replica.leases.lease(self.accounts[tenant]), amount)]
        if replica.leases.take(needs):
            self._begin(replica, needs, request)
        elif replica.leases.refusing(needs, self.now) is not None:
            self.refused += 1
        else:
            replica.waiting.append((self.now, needs, request))
            needs[0][0].queue += 1
            if replica.burst >= 1:
                replica.burst -= 1
                self._exchange(replica, interval=False)

    def _ask_oracle(self, request: Request) -> None:
        oracle = self.oracles[request.tenant]
        if oracle.room(self.now) < request.amount:
            self.refused_by_oracle += 1
            return
        oracle.reserved += request.amount

        def end() -> None:
            oracle.room(self.now)
            oracle.reserved -= request.amount
            oracle.used += request.used

        self._later(request.lasts, end)

    def _begin(self, replica: Replica, needs: Needs, request: Request) -> None:
        def end() -> None:
            replica.leases.settle(needs, request.used, request.used)
            if replica.oldest is None:
                replica.oldest = self.now

        self._later(request.lasts, end)

    def _tick(self, replica: Replica) -> None:
        self._later(INTERVAL, lambda: self._tick(replica))
        replica.ticks += 1
        if replica.ticks % 5 == 0:
            replica.leases.expire(self.now)
        replica.burst = min(BURST, replica.burst + 1)
        if replica.waiting or not replica.leases.idle or self.now - replica.last >= 2.5 * INTERVAL:
            replica.burst -= 1
            self._exchange(replica, interval=True)

    def _exchange(self, replica: Replica, *, interval: bool) -> None:
        self.transactions += 1
        replica.last = self.now
        if replica.oldest is not None:
            self.staleness = max(self.staleness, self.now - replica.oldest)
            replica.oldest = None
        waiting, replica.waiting = list(replica.waiting), deque()
        asks = [needs for _, needs, _ in waiting]
        batch = replica.leases.batch(asks, [], interval=interval, now=self.now)
        outcome = self.store.apply(batch)
        replica.leases.apply(batch, asks, outcome)
        if outcome.recalled and not replica.leases.idle and replica.burst >= 1:
            replica.burst -= 1
            self._later(2_000, lambda: self._exchange(replica, interval=False))
        for (since, needs, request), lacking in zip(waiting, outcome.lacking, strict=True):
            [(lease, amount)] = needs
            if lacking is None:
                lease.queue -= 1
                self._begin(replica, needs, request)
            elif lease.worth_waiting(amount, self.now) and self.now - since <= PATIENCE:
                replica.waiting.append((since, needs, request))
            else:
                lease.queue -= 1
                lease.refused = amount if lease.refused is None else min(amount, lease.refused)
                self.refused += 1


def main() -> None:
    """Simulate, print a table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=200)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second, all replicas together")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chart", type=Path, default=Path("docs/limits-simulation.svg"))
    given = parser.parse_args()
    seen = Fleet(given.replicas, given.tenants, given.rate, given.seed).run(given.seconds)
    print("second  requests  refused   oracle  transactions  staleness s")
    for number, second in enumerate(seen, 1):
        print(
            f"{number:6}  {second.requests:8}  {second.refused:7}  {second.refused_by_oracle:7}"
            f"  {second.transactions:12}  {second.staleness:11.3f}"
        )
    requests = sum(second.requests for second in seen)
    wrong = sum(second.refused - second.refused_by_oracle for second in seen)
    print(
        f"wrongly refused: {wrong / requests:.2%} of {requests} requests; "
        f"transactions: {sum(s.transactions for s in seen) / len(seen) / given.replicas:.2f} a second and replica; "
        f"worst staleness: {max(second.staleness for second in seen):.3f} s"
    )
    draw(seen, given.chart)


def draw(seen: list[Second], chart: Path) -> None:
    """The three figures over time."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "limits"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, 1, sharex=True, figsize=(8, 7))
    seconds = range(1, len(seen) + 1)
    lines = (
        ("store transactions a second", [float(s.transactions) for s in seen]),
        (
            "refused more than by an omniscient counter, % of requests",
            [100 * (s.refused - s.refused_by_oracle) / max(1, s.requests) for s in seen],
        ),
        ("worst staleness, seconds", [s.staleness for s in seen]),
    )
    for panel, (title, values) in zip(panels, lines, strict=True):
        panel.plot(seconds, values, color="#1f6f8b")
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("virtual second")
    figure.tight_layout()
    figure.savefig(chart, metadata={"Date": None})


if __name__ == "__main__":
    main()
