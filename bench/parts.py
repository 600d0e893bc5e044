"""What cannot be switched off, and so not be seen by comparing gateways, in a loop. Prints JSON.

Run by the harness with the router's own interpreter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from stratmaster_router.domain.routing import Hop, Provider
from stratmaster_router.upstream.attempts import next_step
from stratmaster_router.upstream.health import Health

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


if __name__ == "__main__":
    print(json.dumps({"failure_logic_us": _microseconds(_failure_logic()) - _microseconds(lambda: None)}))
