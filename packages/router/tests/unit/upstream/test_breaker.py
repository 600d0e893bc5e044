"""When a hop is left alone, and when it is asked again. Times are seconds of a clock that the test turns."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from stratmaster_router.domain.routing import BreakerRule
from stratmaster_router.upstream.breaker import Breaker, RetryBudget, State

RULE = BreakerRule(failures=3, window=10.0, open_for=5.0)


def fail(breaker: Breaker, *times: float) -> None:
    """A call that fails at each of `times`."""
    for now in times:
        breaker.failed(now, probe=breaker.begin(now))


def opened(at: float = 2.0) -> Breaker:
    """A breaker that opened at `at`."""
    breaker = Breaker(RULE)
    fail(breaker, at - 2.0, at - 1.0, at)
    return breaker


def test_enough_failures_in_the_window_open_it() -> None:
    """Not one fewer; it then says how long it will be."""
    breaker = Breaker(RULE)
    fail(breaker, 0.0, 1.0)
    assert (breaker.state(1.0), breaker.wait(1.0)) == (State.CLOSED, 0.0)
    fail(breaker, 2.0)
    assert (breaker.state(2.0), breaker.wait(2.0)) == (State.OPEN, 5.0)
    assert (breaker.state(6.5), breaker.wait(6.5)) == (State.OPEN, 0.5)


def test_failures_outside_the_window_are_forgotten() -> None:
    """A hop that fails now and then stays in use."""
    breaker = Breaker(RULE)
    fail(breaker, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
    assert breaker.state(25.0) is State.CLOSED


def test_one_probe_at_a_time() -> None:
    """After `open_for` one call goes through; others wait until it has told."""
    breaker = opened()
    assert (breaker.state(7.0), breaker.wait(7.0)) == (State.HALF_OPEN, 0.0)
    assert breaker.begin(7.0) is True
    assert breaker.wait(7.0) == 5.0


def test_a_probe_that_succeeds_closes_it() -> None:
    """And what had failed before is forgotten."""
    breaker = opened()
    breaker.succeeded(probe=breaker.begin(7.0))
    assert (breaker.state(7.0), breaker.wait(7.0)) == (State.CLOSED, 0.0)
    fail(breaker, 7.0, 7.0)
    assert breaker.state(7.0) is State.CLOSED


def test_a_probe_that_fails_opens_it_again() -> None:
    """For as long as the first time."""
    breaker = opened()
    fail(breaker, 8.0)
    assert (breaker.state(8.0), breaker.wait(8.0)) == (State.OPEN, 5.0)


def test_a_probe_that_is_given_up_lets_the_next_one_try() -> None:
    """The client went away before anything was known."""
    breaker = opened()
    breaker.abandoned(probe=breaker.begin(7.0))
    assert (breaker.state(7.0), breaker.wait(7.0)) == (State.HALF_OPEN, 0.0)


def test_calls_from_before_it_opened_change_nothing() -> None:
    """Neither a late answer nor a late failure speaks of the hop as it is now."""
    breaker = Breaker(RULE)
    late = [breaker.begin(0.0) for _ in range(3)]
    fail(breaker, 0.0, 1.0, 2.0)
    breaker.succeeded(probe=late[0])
    breaker.failed(4.0, probe=late[1])
    breaker.abandoned(probe=late[2])
    assert (breaker.state(4.0), breaker.wait(4.0)) == (State.OPEN, 3.0)


@pytest.mark.parametrize(("asked", "kept"), [(30.0, 30.0), (86_400.0, 3_600.0)])
def test_a_hop_that_asks_for_it_is_left_alone(asked: float, kept: float) -> None:
    """As long as it says, an hour at the most; then it is as it was before."""
    breaker = Breaker(RULE)
    breaker.park(1.0, asked)
    assert (breaker.state(1.0), breaker.wait(1.0)) == (State.OPEN, kept)
    assert (breaker.state(1.0 + kept), breaker.wait(1.0 + kept)) == (State.CLOSED, 0.0)


def test_the_later_of_two_ends_counts() -> None:
    """A shorter wish does not shorten a longer one, nor an open breaker."""
    breaker = opened()
    breaker.park(2.0, 1.0)
    assert breaker.wait(2.0) == 5.0
    breaker.park(2.0, 9.0)
    breaker.park(2.0, 3.0)
    assert (breaker.wait(2.0), breaker.state(8.0)) == (9.0, State.OPEN)
    assert breaker.state(11.0) is State.HALF_OPEN


class Machine(RuleBasedStateMachine):
    """Calls that overlap in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(RULE)
        self.under_way: list[bool] = []

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 5.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule()
    def call(self) -> None:
        """Call, where the breaker lets it."""
        if not self.breaker.wait(self.now):
            self.under_way.append(self.breaker.begin(self.now))

    @rule(which=st.integers(0, 5), how=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def end(self, which: int, how: str) -> None:
        """End one of the calls."""
        if which < len(self.under_way):
            probe = self.under_way.pop(which)
            if how == "succeeded":
                self.breaker.succeeded(probe=probe)
                assert not probe or self.breaker.state(self.now) is State.CLOSED
            elif how == "failed":
                self.breaker.failed(self.now, probe=probe)
                assert not probe or self.breaker.wait(self.now) == RULE.open_for
            else:
                self.breaker.abandoned(probe=probe)

    @invariant()
    def one_probe(self) -> None:
        """There is never more than one probe."""
        assert sum(self.under_way) <= 1

    @invariant()
    def never_stuck(self) -> None:
        """Without a probe under way it can be called again after `open_for` at the latest."""
        if not any(self.under_way):
            assert self.breaker.wait(self.now) <= RULE.open_for
            assert self.breaker.wait(self.now + RULE.open_for) == 0.0


TestBreaker = Machine.TestCase
TestBreaker.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_retries_are_a_fifth_of_the_requests() -> None:
    """However long an outage lasts, beside the few that were saved up."""
    budget = RetryBudget(0.0)
    retries = 0
    for _ in range(1_000):
        budget.request()
        if budget.allows(0.0):
            budget.retry()
            retries += 1
    assert retries == 10 + 200 - 1  # the very first request earns nothing: the savings are full


def test_savings_have_an_end() -> None:
    """A long time without trouble does not pay for a storm of retries."""
    budget = RetryBudget(0.0)
    for _ in range(10_000):
        budget.request()
    retries = 0
    while budget.allows(1_000_000.0):
        budget.retry()
        retries += 1
    assert retries == 10


def test_savings_come_back_with_time() -> None:
    """A provider that is seldom asked may be asked twice, three times a minute."""
    budget = RetryBudget(0.0)
    for _ in range(10):
        budget.retry()
    assert [budget.allows(now) for now in (0.0, 19.0, 20.0)] == [False, False, True]
