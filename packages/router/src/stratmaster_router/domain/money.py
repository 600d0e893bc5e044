"""Money: whole nano-dollars, never floats (policy.md, rule 7)."""

from decimal import Decimal

from msgspec import Struct

from stratmaster_router.domain.usage import Usage

NANO_DOLLARS = 10**9
"""Nano-dollars in a dollar."""

_MTOK = 10**6


def nano_dollars(usd: Decimal) -> int:
    """Dollars with at most nine decimal places as whole nano-dollars."""
    return int(usd * NANO_DOLLARS)


def dollars(nanousd: int) -> Decimal:
    """Nano-dollars as an exact number of dollars."""
    return Decimal(nanousd) / NANO_DOLLARS


class Tier(Struct, frozen=True):
    """Prices of a whole request with more than `above` input tokens, in nano-dollars for a million tokens."""

    above: int
    input: int
    cached_input: int
    output: int


class Price(Struct, frozen=True):
    """What a model costs: nano-dollars for a million tokens, and `per_request` nano-dollars for each request.

    `cached_input` is the input's price where no other is known. `tiers` rise by `above`; the last one that a request's
    input exceeds prices all of its tokens.
    """

    input: int
    cached_input: int
    output: int
    tiers: tuple[Tier, ...] = ()
    per_request: int = 0

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for `usage`, rounded once, up."""
        counted = usage.input
        # An upstream that counts more cached tokens than input must not make a request cheaper than all of it cached.
        cached = usage.cached_input
        if cached > counted:  # noqa: PLR1730 - min() takes a third longer, and every request comes here
            cached = counted
        at = self._at(counted) if self.tiers else self
        amount = (counted - cached) * at.input + cached * at.cached_input + usage.output * at.output
        return self.per_request - (-amount // _MTOK)

    def bound(self, input_tokens: int, output_tokens: int) -> int:
        """The most nano-dollars that a request of at most so many tokens can cost: the law is `cost <= bound`.

        It counts on nothing being cached, nor on a larger request being in a dearer tier.
        """
        dearer = self.input if self.input > self.cached_input else self.cached_input  # noqa: FURB136  # max() is a call
        most = input_tokens * dearer + output_tokens * self.output
        for tier in self.tiers:
            if input_tokens > tier.above:
                most = max(most, input_tokens * max(tier.input, tier.cached_input) + output_tokens * tier.output)
        return self.per_request - (-most // _MTOK)

    def _at(self, input_tokens: int) -> "Price | Tier":
        for tier in reversed(self.tiers):
            if input_tokens > tier.above:
                return tier
        return self
