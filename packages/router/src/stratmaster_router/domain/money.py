"""Money: whole nano-dollars, never floats (policy.md, rule 7)."""

from decimal import Decimal

NANO_DOLLARS = 10**9
"""Nano-dollars in a dollar."""


def nano_dollars(usd: Decimal) -> int:
    """Dollars with at most nine decimal places as whole nano-dollars."""
    return int(usd * NANO_DOLLARS)


def dollars(nanousd: int) -> Decimal:
    """Nano-dollars as an exact number of dollars."""
    return Decimal(nanousd) / NANO_DOLLARS
