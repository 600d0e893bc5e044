"""What cannot be switched off, and so not be seen by comparing gateways, in a loop. Prints JSON.

Run by the harness with the router's own interpreter.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import cast

from stratmaster_router.domain.routing import Hop, Provider
from stratmaster_router.upstream.attempts import Step, next_step
from stratmaster_router.upstream.health import Health
from stratmaster_router.upstream.race import Leg, Race
from stratmaster_router.upstream.trip import Hold, Reply, Trip
from stratmaster_router.upstream.watch import Watchdog

_CALLS = 2_000
_TIMES = 50


def _microseconds(call: Callable[[], object]) -> float:
    """For one call: the least of many loops, which is the one that nobody disturbed."""
    least = float("inf")
    for _ in range(_TIMES):
        began = time.perf_counter()
        for _ in range(_CALLS):
            call()
        least = min(least, time.perf_counter() - began)
    return least / _CALLS * 1e6


def _failure_logic() -> Callable[[], None]:
    """What `upstream.execute` asks of steps, breakers and retry budgets for a request that goes well."""
    hops = (Hop(Provider("bench", "openai", "http://127.0.0.1"), "model"),)
    health = Health()

    def one_request() -> None:
        step = next_step(hops, (), credit=True, left=0.0, chance=0.0)
        assert step is not None
        hop = hops[step.hop]
        breaker = health.breaker(hop)
        # Before the limits are asked, and after them.
        if not breaker.wait(time.monotonic()) and not breaker.wait(time.monotonic()):
            health.budget(hop.provider).request()
            breaker.succeeded(probe=breaker.begin(time.monotonic()))

    return one_request


async def _hedge() -> float:
    """What a hedge costs that is on and not needed: the first hop answers at once."""
    hop = Hop(Provider("bench", "openai", "http://127.0.0.1"), "model")
    reply = Reply(hop, b"application/json", b"{}")
    watch = Watchdog().watch()
    # Nobody asks the hold: only a hedge that has begun takes a part of it.
    leg, trip, step = Leg(watch, cast(Hold, None)), Trip([]), Step(0)

    async def ask(_: Step, __: Leg) -> Reply | None:
        return reply

    async def least(once: Callable[[], Awaitable[object]]) -> float:
        shortest = float("inf")
        for _ in range(_TIMES):
            began = time.perf_counter()
            for _ in range(_CALLS):
                await once()
            shortest = min(shortest, time.perf_counter() - began)
        return shortest / _CALLS * 1e6

    raced = await least(lambda: Race(ask, leg, trip, step).run(5.0))
    asked = await least(lambda: ask(step, leg))
    watch.close()
    return raced - asked


if __name__ == "__main__":
    logic = _microseconds(_failure_logic()) - _microseconds(lambda: None)
    print(json.dumps({"failure_logic_us": logic, "hedge_us": asyncio.run(_hedge())}))
