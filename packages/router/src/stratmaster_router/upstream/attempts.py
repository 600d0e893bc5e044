"""What comes next, judged purely from what was tried: the same hop again, the next one, or nothing."""

from collections.abc import Sequence

from msgspec import Struct

from stratmaster_router.domain.routing import Hop, Retries

# The upstream says that the request itself is wrong: another provider would be asked in vain (wire.md, "Errors").
CLIENT_FAULTS = frozenset({400, 413, 422})
# The upstream says that it is the key: another one may do.
REFUSED_KEY = frozenset({401, 403})

_CODES = {
    401: "upstream_auth_failed",
    402: "upstream_auth_failed",
    403: "upstream_auth_failed",
    404: "upstream_not_found",
    408: "upstream_timeout",
    429: "upstream_rate_limited",
}
# The words of the policy's `retries.on` for attempts without a status that says more.
_CONNECT = frozenset({"upstream_connect_failed", "upstream_connect_timeout", "upstream_disconnected"})
_TIMEOUT = frozenset({"upstream_timeout"})

_SOON = 1.0


class Attempt(Struct, frozen=True, omit_defaults=True):
    """One try of one hop.

    `hop` is its place in the plan. `status` is the upstream's, `code` is None where it succeeded, `retry_after` is in
    seconds. `called` is False where no call was made, because a limit or an open breaker kept the hop out. `spare`:
    another endpoint of the provider can be asked.
    """

    provider: str
    model: str
    status: int | None
    code: str | None
    ms: float
    retry_after: float | None = None
    called: bool = True
    hop: int = 0
    spare: bool = False


class Step(Struct, frozen=True):
    """Try hop number `hop` of the plan after `wait` seconds. `retry`: it is the same one again."""

    hop: int
    wait: float = 0.0
    retry: bool = False


class HopFailed(Exception):
    """A hop failed before its first byte: the next one may be tried. `retry_after` is in seconds.

    `why` is for the operator's log, where there is more to say than the code and the status.
    """

    def __init__(
        self, code: str, status: int | None = None, retry_after: float | None = None, *, why: str | None = None
    ) -> None:
        super().__init__(code)
        self.why = why
        self.code = code
        self.status = status
        self.retry_after = retry_after


_FIRST = Step(0)


def failure_code(status: int) -> str:
    """The attempt's code for an upstream's status that is neither a success nor the client's fault."""
    if 300 <= status < 400:
        return "upstream_redirected"
    return _CODES.get(status, "upstream_error")


def next_step(
    hops: Sequence[Hop], attempts: Sequence[Attempt], *, credit: bool, left: float, chance: float
) -> Step | None:
    """What to do after `attempts`, all of which failed before their first byte; None when the plan is exhausted.

    `credit`: the provider's retry budget has room. `left` are the seconds until the request's deadline, and `chance`
    is a random number from 0 to 1, for the jitter.
    """
    if not attempts:
        return _FIRST if hops else None
    last = attempts[-1]
    if last.called:
        again = _again(hops[last.hop].provider.retries, attempts, credit=credit, left=left, chance=chance)
        if again is not None:
            return again
    following = max(attempt.hop for attempt in attempts) + 1  # the last to fail need not be the last of the plan
    return Step(following) if following < len(hops) else None


def _again(rule: Retries, attempts: Sequence[Attempt], *, credit: bool, left: float, chance: float) -> Step | None:
    """The same hop once more, where its rule, its budget and the deadline allow it."""
    last = attempts[-1]
    tries = sum(attempt.called and attempt.hop == last.hop for attempt in attempts)
    if last.status in REFUSED_KEY and last.spare:
        # Another key, so no retry of the same call; each is refused once, and is then left alone.
        return Step(last.hop)
    if tries > rule.max or not credit or not retryable(rule, last):
        return None
    # Exponential, with full jitter: those who failed together do not come back together.
    wait = chance * min(rule.backoff_max, rule.backoff_initial * 2 ** (tries - 1))
    if last.retry_after is not None:
        if last.retry_after > rule.backoff_max:
            return None  # the next hop answers sooner
        wait = max(wait, last.retry_after)
    return Step(last.hop, wait, retry=True) if wait < left else None


def retryable(rule: Retries, attempt: Attempt) -> bool:
    """Whether the policy's `retries.on` names this failure."""
    on = rule.on
    status = attempt.status
    if status is not None and status != 200:
        return str(status) in on or (status >= 500 and "5xx" in on) or (status == 408 and "timeout" in on)
    return ("connect" in on and attempt.code in _CONNECT) or ("timeout" in on and attempt.code in _TIMEOUT)


def shortest_wait(attempts: Sequence[Attempt]) -> float:
    """Seconds until a new request may fare better: the shortest that is known of a hop by its latest attempt.

    Where nothing is known of any, one second.
    """
    latest = {attempt.hop: attempt.retry_after for attempt in attempts}
    return min((wait for wait in latest.values() if wait is not None), default=_SOON)
