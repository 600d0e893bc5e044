"""What this process knows of the health of every hop: breakers by (provider, model), retry budgets by provider."""

from collections.abc import Iterator
from time import monotonic

from msgspec import Struct

from stratmaster_router.domain.routing import Hop, Provider
from stratmaster_router.upstream.breaker import Breaker, RetryBudget, State


class HopState(Struct, frozen=True):
    """A breaker as others may see it; `wait` are the seconds until a call may go through."""

    provider: str
    model: str
    state: State
    wait: float


class Health:
    """Breakers and retry budgets; they outlive changes of the policy."""

    def __init__(self) -> None:
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._budgets: dict[str, RetryBudget] = {}

    def breaker(self, hop: Hop) -> Breaker:
        """The breaker of `hop`, under the rule that the policy has for it now."""
        key = (hop.provider.name, hop.model)
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = Breaker(hop.provider.breaker)
        else:
            breaker.rule = hop.provider.breaker
        return breaker

    def budget(self, provider: Provider) -> RetryBudget:
        """The retry budget of `provider`."""
        budget = self._budgets.get(provider.name)
        if budget is None:
            budget = self._budgets[provider.name] = RetryBudget(monotonic())
        return budget

    def states(self) -> Iterator[HopState]:
        """Every hop that was ever called."""
        now = monotonic()
        # A copy, because a scrape walks them in another thread.
        for (provider, model), breaker in list(self._breakers.items()):
            yield HopState(provider, model, breaker.state(now), breaker.wait(now))
