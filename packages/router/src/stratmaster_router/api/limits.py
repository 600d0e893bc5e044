"""What a client is told of its limits: response headers and the `limit` member of an error. Source: wire.md."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from stratmaster_router.domain.errors import LimitExceeded, RequestExceedsLimit
from stratmaster_router.domain.limits import Metric, Window
from stratmaster_router.domain.money import NANO_DOLLARS, dollars
from stratmaster_router.limits.leases import Lease

_PLENTY = 2**63
_REQUEST_LINES, _TOKEN_LINES = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: " % (name, name, name)
    for name in (b"requests", b"tokens")
)
_USD, _TOKENS, _PARALLEL = Metric.USD, Metric.TOKENS, Metric.PARALLEL


def limit_lines(leases: Iterable[Lease], now: int) -> bytes:
    """Header lines, each with its end, of the tightest account of each kind; `now` is in microseconds."""
    requests = tokens = budget = _PLENTY
    of_requests = of_tokens = 0
    for lease in leases:
        metric = lease.metric
        if metric is _PARALLEL:
            continue
        room = lease.room(now)
        if metric is _TOKENS:
            if room < tokens:
                tokens, of_tokens = room, lease.account.limit
        elif metric is _USD:
            if room < budget:  # noqa: PLR1730  # min() is a call
                budget = room
        elif room < requests:
            requests, of_requests = room, lease.account.limit
    lines = b""
    if of_requests:
        lines = _rate(_REQUEST_LINES, of_requests, requests)
    if of_tokens:
        lines += _rate(_TOKEN_LINES, of_tokens, tokens)
    if budget is not _PLENTY:
        lines += b"x-router-budget-remaining-usd: %d.%09d\r\n" % divmod(max(0, budget), NANO_DOLLARS)
    return lines


def _rate(lines: bytes, limit: int, room: int) -> bytes:
    """`lines` with what is allowed, what is left, and when all of it is back."""
    left = room if room > 0 else 0  # noqa: FURB136  # max() is a call
    reset = (limit - left) * 60_000 // limit
    if reset < 1000:
        return lines % (limit, left) + b"%dms\r\n" % reset
    return lines % (limit, left) + _duration(reset)


def _duration(milliseconds: int) -> bytes:
    """A second or more as OpenAI writes a reset: `1.5s`, `6m0s`."""
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = b"%d.%03d" % divmod(rest, 1000)
    seconds = seconds.rstrip(b"0").rstrip(b".")
    return b"%dm%bs\r\n" % (minutes, seconds) if minutes else seconds + b"s\r\n"


def limit_details(error: LimitExceeded | RequestExceedsLimit) -> dict[str, Any]:
    """The `limit` member of an error; dollars are exact decimal numbers."""
    account = error.account
    amount: Any = dollars if account.metric is Metric.USD else int
    details: dict[str, Any] = {
        "scope": account.scope,
        "metric": account.metric.value,
        "window": None if account.window is Window.NOW else account.window.value,
        "limit": amount(account.limit),
    }
    if isinstance(error, LimitExceeded):
        details["used"] = amount(error.used)
    details["requested"] = amount(error.requested)
    if isinstance(error, LimitExceeded):
        resets = datetime.fromtimestamp(math.ceil(error.resets_at), UTC)
        details["resets_at"] = resets.isoformat(timespec="seconds").replace("+00:00", "Z")
    return details
