"""What a client is told of its limits: response headers and the `limit` member of an error. Source: wire.md."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from stratmaster_router.domain.errors import LimitExceeded, RequestExceedsLimit
from stratmaster_router.domain.limits import Metric, Window
from stratmaster_router.domain.money import NANO_DOLLARS, dollars
from stratmaster_router.limits.leases import Lease

_NAMES = {Metric.REQUESTS: b"requests", Metric.TOKENS: b"tokens"}


def limit_lines(leases: Iterable[Lease], now: int) -> bytes:
    """Header lines, each with its end, of the tightest account of each kind; `now` is in microseconds."""
    lines = b""
    tightest: dict[Metric, tuple[int, Lease]] = {}
    for lease in leases:
        metric = lease.account.metric
        if metric is not Metric.PARALLEL:
            room = lease.room(now)
            if metric not in tightest or room < tightest[metric][0]:
                tightest[metric] = room, lease
    for metric, (room, lease) in tightest.items():
        left = max(0, room)
        if metric is Metric.USD:
            lines += b"x-router-budget-remaining-usd: %d.%09d\r\n" % divmod(left, NANO_DOLLARS)
        else:
            limit = lease.account.limit
            name = _NAMES[metric]
            lines += b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
                name,
                limit,
                name,
                left,
                name,
                _duration((limit - left) * 60_000 // limit),
            )
    return lines


def _duration(milliseconds: int) -> bytes:
    """As OpenAI writes a reset: `12ms`, `1.5s`, `6m0s`."""
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = b"%d.%03d" % divmod(rest, 1000)
    seconds = seconds.rstrip(b"0").rstrip(b".")
    return b"%dm%bs" % (minutes, seconds) if minutes else seconds + b"s"


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
        resets = datetime.fromtimestamp(error.resets_at, UTC)
        details["resets_at"] = resets.isoformat(timespec="seconds").replace("+00:00", "Z")
    return details
