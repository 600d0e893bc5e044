"""What comes next, judged purely from what was tried. Retries, backoff and breakers have their place here (issue 4)."""

from collections.abc import Sequence

from msgspec import Struct

from stratmaster_router.domain.routing import Hop

# The upstream says that the request itself is wrong: no other provider would be asked in vain (wire.md, "Errors").
CLIENT_FAULTS = frozenset({400, 413, 422})

_CODES = {
    401: "upstream_auth_failed",
    402: "upstream_auth_failed",
    403: "upstream_auth_failed",
    404: "upstream_not_found",
    408: "upstream_timeout",
    429: "upstream_rate_limited",
}


class Attempt(Struct, frozen=True):
    """One try of one hop.

    `status` is the upstream's, `code` is None where it succeeded, `retry_after` is in seconds. `limited`: no call was
    made, because a limit removed the hop.
    """

    provider: str
    model: str
    status: int | None
    code: str | None
    ms: float
    retry_after: float | None = None
    limited: bool = False


def failure_code(status: int) -> str:
    """The attempt's code for an upstream's status that is neither a success nor the client's fault."""
    if 300 <= status < 400:
        return "upstream_redirected"
    return _CODES.get(status, "upstream_error")


def next_hop(hops: Sequence[Hop], attempts: Sequence[Attempt]) -> Hop | None:
    """The hop to try after `attempts`, all of which failed before their first byte; None when the plan is exhausted."""
    return hops[len(attempts)] if len(attempts) < len(hops) else None


def shortest_wait(attempts: Sequence[Attempt]) -> float:
    """Seconds until a new request may fare better: the shortest that an upstream asked for, else one second."""
    return min((attempt.retry_after for attempt in attempts if attempt.retry_after is not None), default=1.0)
