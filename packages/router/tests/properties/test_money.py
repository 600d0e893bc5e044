"""The law of reservations: a request never costs more than its bound."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.domain.money import Price, Tier
from stratmaster_router.domain.usage import Usage
from support.bodies import unhurried

# From free to a thousand dollars for a million tokens, with thresholds that small requests cross.
rates = st.integers(0, 10**12)
tokens = st.integers(0, 300)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """Any price: cached input dearer than input, later tiers cheaper than earlier ones."""
    thresholds = sorted(draw(st.sets(st.integers(0, 250), max_size=3)))
    tiers = tuple(Tier(above, draw(rates), draw(rates), draw(rates)) for above in thresholds)
    return Price(draw(rates), draw(rates), draw(rates), tiers, draw(st.integers(0, 10**9)))


@unhurried
@given(prices(), tokens, tokens, st.data())
def test_bound_is_at_least_every_cost_within_it(
    price: Price, input_tokens: int, output_tokens: int, data: st.DataObject
) -> None:
    """Whatever part is cached or thought, and however little of the bound is used."""
    usage = Usage(
        data.draw(st.integers(0, input_tokens)), data.draw(st.integers(0, output_tokens)), data.draw(tokens), 0
    )

    assert 0 <= price.cost(usage) <= price.bound(input_tokens, output_tokens)


@unhurried
@given(prices(), tokens, tokens, tokens)
def test_cost_is_the_exact_amount_rounded_up(price: Price, input_tokens: int, output: int, cached: int) -> None:
    """Reckoned in fractions, the amount is not above the cost, and less than a nano-dollar below it."""
    at: Price | Tier = price
    for tier in price.tiers:
        if input_tokens > tier.above:
            at = tier
    hit = min(cached, input_tokens)
    million = 10**6
    exact = (
        price.per_request
        + (input_tokens - hit) * Fraction(at.input, million)
        + hit * Fraction(at.cached_input, million)
        + output * Fraction(at.output, million)
    )

    cost = price.cost(Usage(input_tokens, output, cached))

    assert 0 <= cost - exact < 1
