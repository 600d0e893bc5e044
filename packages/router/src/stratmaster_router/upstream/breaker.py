"""Leaves a hop alone that keeps failing, and sees with one request at a time whether it is back. Pure.

    closed     calls go through; enough failures within the window open it
    open       no call, until `open_for` has passed
    half-open  one call, the probe; its success closes the breaker, its failure opens it again

Times are seconds of any clock that does not go back.
"""

from collections import deque
from enum import IntEnum

from stratmaster_router.domain.routing import BreakerRule

_LONGEST_PARK = 3600.0


class State(IntEnum):
    """What a breaker does with a call; the number is the metric's value."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """One hop's breaker. Every `begin` is followed by one of `succeeded`, `failed` and `abandoned`."""

    __slots__ = ("_failures", "_open_until", "_parked_until", "_probing", "rule")

    def __init__(self, rule: BreakerRule) -> None:
        self.rule = rule
        self._failures: deque[float] = deque()
        # None while closed.
        self._open_until: float | None = None
        self._parked_until = 0.0
        self._probing = False

    def state(self, now: float) -> State:
        """What it is at `now`."""
        if now < self._parked_until:
            return State.OPEN
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if now < self._open_until else State.HALF_OPEN

    def wait(self, now: float) -> float:
        """Seconds until a call may go through; 0 where one may now."""
        if self._open_until is None:
            left = self._parked_until - now
            return left if left > 0 else 0.0  # max() is a call, and every request comes here twice
        left = max(self._open_until, self._parked_until) - now
        if left > 0:
            return left
        # The probe under way will tell; it cannot be known when.
        return self.rule.open_for if self._probing else 0.0

    def begin(self, now: float) -> bool:
        """Begin a call at `now`, which is the probe where the breaker was open; that is returned. `wait` must be 0."""
        probe = self._open_until is not None
        self._probing = self._probing or probe
        return probe

    def succeeded(self, *, probe: bool) -> None:
        """The hop has answered. One that was begun before the breaker opened does not close it."""
        if probe:
            self._probing = False
            self._open_until = None
            self._failures.clear()

    def failed(self, now: float, *, probe: bool) -> bool:
        """The hop has failed; whether that has opened the breaker, which was closed."""
        if probe:
            self._probing = False
            self._open_until = now + self.rule.open_for
            return False
        if self._open_until is not None:
            return False  # begun before it opened
        failures = self._failures
        failures.append(now)
        while failures[0] <= now - self.rule.window:
            failures.popleft()
        if len(failures) < self.rule.failures:
            return False
        failures.clear()
        self._open_until = now + self.rule.open_for
        return True

    def abandoned(self, *, probe: bool) -> None:
        """The call was given up before it could tell anything; another may be the probe."""
        if probe:
            self._probing = False

    def park(self, now: float, seconds: float) -> None:
        """Leave the hop alone for so long, as it has asked for; an hour at the most."""
        self._parked_until = max(self._parked_until, now + min(seconds, _LONGEST_PARK))


class RetryBudget:
    """Keeps retries to a fifth of the requests, so that an outage is not multiplied.

    Requests earn, retries spend. What can be saved up is small, and it comes back by itself within a few minutes, so
    that a provider that is seldom asked may be asked twice.
    """

    __slots__ = ("_at", "_credit")

    MOST = 10.0
    EARNED = 0.2
    A_SECOND = 0.05

    def __init__(self, now: float) -> None:
        self._credit = self.MOST
        self._at = now

    def request(self) -> None:
        """A first attempt is made."""
        if self._credit < self.MOST:
            self._credit = min(self.MOST, self._credit + self.EARNED)

    def allows(self, now: float) -> bool:
        """Whether a retry may be made at `now`."""
        self._credit = min(self.MOST, self._credit + (now - self._at) * self.A_SECOND)
        self._at = now
        return self._credit >= 1.0

    def retry(self) -> None:
        """A retry is made."""
        self._credit -= 1.0
