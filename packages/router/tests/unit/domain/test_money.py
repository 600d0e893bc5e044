"""What a request costs, to the nano-dollar; each amount is computed by hand beside it."""

from decimal import Decimal

import pytest
from stratmaster_router.domain.money import Price, Tier, dollars, nano_dollars
from stratmaster_router.domain.usage import Usage

# 2, 0.5 and 8 dollars for a million tokens are 2000, 500 and 8000 nano-dollars for one.
GPT_41 = Price(input=2_000_000_000, cached_input=500_000_000, output=8_000_000_000)
TIERED = Price(
    input=1_000_000_000,
    cached_input=100_000_000,
    output=4_000_000_000,
    tiers=(Tier(100, 2_000_000_000, 200_000_000, 6_000_000_000), Tier(1000, 3_000_000_000, 300_000_000, 9_000_000_000)),
)


@pytest.mark.parametrize(
    ("usage", "nanousd"),
    [
        (Usage(0, 0), 0),
        (Usage(1, 0), 2_000),
        (Usage(1000, 200), 1000 * 2_000 + 200 * 8_000),
        (Usage(1000, 200, cached_input=600), 400 * 2_000 + 600 * 500 + 200 * 8_000),
        (Usage(1000, 200, cached_input=1000), 1000 * 500 + 200 * 8_000),
        (Usage(1000, 200, cached_input=5000), 1000 * 500 + 200 * 8_000),
        (Usage(1000, 200, reasoning=150), 1000 * 2_000 + 200 * 8_000),
    ],
    ids=["nothing", "one_token", "plain", "cached", "all_cached", "more_cached_than_input", "reasoning_is_output"],
)
def test_cost_of_a_usage(usage: Usage, nanousd: int) -> None:
    """Cached input is a part of the input, reasoning one of the output."""
    assert GPT_41.cost(usage) == nanousd


def test_cost_is_rounded_up_once() -> None:
    """A third of a nano-dollar three times is one nano-dollar, and a little more is two."""
    price = Price(input=333_333, cached_input=333_333, output=333_334)
    assert price.cost(Usage(1, 0)) == 1  # 0.333333
    assert price.cost(Usage(2, 1)) == 1  # 2 * 0.333333 + 0.333334 = 1
    assert price.cost(Usage(1, 2)) == 2  # 0.333333 + 2 * 0.333334 = 1.000001
    assert price.bound(2, 1) == 1
    assert price.bound(1, 2) == 2


@pytest.mark.parametrize(
    ("usage", "nanousd"),
    [
        (Usage(100, 10, 50), 50 * 1_000 + 50 * 100 + 10 * 4_000),
        (Usage(101, 10, 50), 51 * 2_000 + 50 * 200 + 10 * 6_000),
        (Usage(1000, 10), 1000 * 2_000 + 10 * 6_000),
        (Usage(1001, 10), 1001 * 3_000 + 10 * 9_000),
    ],
)
def test_last_tier_that_the_input_exceeds_prices_the_whole_request(usage: Usage, nanousd: int) -> None:
    """One token above a threshold makes all tokens dearer, those of the answer included."""
    assert TIERED.cost(usage) == nanousd


def test_request_has_a_price_of_its_own() -> None:
    """What is asked for each request comes on top of its tokens."""
    price = Price(input=3_000_000_000, cached_input=3_000_000_000, output=15_000_000_000, per_request=14_000_000)
    assert price.cost(Usage(0, 0)) == 14_000_000
    assert price.cost(Usage(10, 1)) == 14_000_000 + 10 * 3_000 + 15_000
    assert price.bound(10, 1) == 14_000_000 + 10 * 3_000 + 15_000


def test_bound_counts_on_no_discount() -> None:
    """Nothing is taken to be cached, and where cached input is dearer, all of it is."""
    assert GPT_41.bound(1000, 4096) == 1000 * 2_000 + 4096 * 8_000
    odd = Price(input=225_000_000, cached_input=230_000_000, output=450_000_000)
    assert odd.bound(1000, 100) == 1000 * 230 + 100 * 450


def test_bound_takes_the_dearest_tier_in_reach() -> None:
    """A tier that the input cannot exceed is none; of those in reach a cheaper later one does not lower the bound."""
    assert TIERED.bound(100, 10) == 100 * 1_000 + 10 * 4_000
    assert TIERED.bound(101, 10) == 101 * 2_000 + 10 * 6_000
    bulk = Price(2_000_000_000, 2_000_000_000, 2_000_000_000, tiers=(Tier(100, 1_000_000_000, 0, 1_000_000_000),))
    assert bulk.bound(200, 10) == 210 * 2_000


def test_dollars_are_nano_dollars_and_back() -> None:
    """Nine decimal places are exact both ways."""
    assert nano_dollars(Decimal("300.000000001")) == 300_000_000_001
    assert dollars(300_000_000_001) == Decimal("300.000000001")
