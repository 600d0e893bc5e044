"""What comes next, judged purely from what was tried."""

from collections.abc import Sequence

import pytest
from stratmaster_router.domain.routing import Hop, Provider, Retries
from stratmaster_router.upstream.attempts import CLIENT_FAULTS, Attempt, Step, failure_code, next_step, shortest_wait

CODES = {
    300: "upstream_redirected",
    301: "upstream_redirected",
    302: "upstream_redirected",
    304: "upstream_redirected",
    307: "upstream_redirected",
    308: "upstream_redirected",
    399: "upstream_redirected",
    401: "upstream_auth_failed",
    402: "upstream_auth_failed",
    403: "upstream_auth_failed",
    404: "upstream_not_found",
    405: "upstream_error",
    408: "upstream_timeout",
    409: "upstream_error",
    410: "upstream_error",
    429: "upstream_rate_limited",
    499: "upstream_error",
    500: "upstream_error",
    502: "upstream_error",
    503: "upstream_error",
    504: "upstream_error",
    529: "upstream_error",
    599: "upstream_error",
    201: "upstream_error",
    204: "upstream_error",
    206: "upstream_error",
}


@pytest.mark.parametrize("status", CODES)
def test_each_status_has_its_code(status: int) -> None:
    """An operator's faults, the upstream's limit and its failures are told apart by code."""
    assert failure_code(status) == CODES[status]


def test_clients_faults_are_exactly_these() -> None:
    """Only what says that the request itself is wrong ends the plan (wire.md, "Errors")."""
    assert frozenset({400, 413, 422}) == CLIENT_FAULTS
    assert not CLIENT_FAULTS & CODES.keys()


DEFAULT = Retries()


def hop(name: str, rule: Retries = DEFAULT) -> Hop:
    """A hop of the provider `name`."""
    return Hop(Provider(name, "openai", f"http://{name}/v1", retries=rule), f"{name}-model")


HOPS = [hop("a"), hop("b"), hop("c")]


def failed(
    at: int,
    status: int | None = 503,
    code: str = "upstream_error",
    retry_after: float | None = None,
    *,
    called: bool = True,
    spare: bool = False,
) -> Attempt:
    """An attempt of hop number `at` that failed."""
    return Attempt("p", "m", status, code, 1.0, retry_after, called=called, hop=at, spare=spare)


def following(
    *attempts: Attempt, hops: Sequence[Hop] = HOPS, credit: bool = True, left: float = 60.0, chance: float = 1.0
) -> Step | None:
    """The step after `attempts`, by default with the longest jitter."""
    return next_step(hops, attempts, credit=credit, left=left, chance=chance)


def test_a_plan_begins_with_its_first_hop() -> None:
    """At once; and an empty one not at all."""
    assert following() == Step(0)
    assert following(hops=[]) is None


@pytest.mark.parametrize(
    ("status", "code", "again"),
    [
        (503, "upstream_error", True),
        (500, "upstream_error", True),
        (529, "upstream_error", True),
        (429, "upstream_rate_limited", True),
        (408, "upstream_timeout", True),
        (None, "upstream_timeout", True),
        (200, "upstream_timeout", True),
        (None, "upstream_connect_failed", True),
        (None, "upstream_connect_timeout", True),
        (None, "upstream_disconnected", True),
        (200, "upstream_disconnected", True),
        (200, "upstream_invalid_response", False),
        (200, "upstream_stream_error", False),
        (None, "upstream_misconfigured", False),
        (409, "upstream_error", False),
        (302, "upstream_redirected", False),
        (401, "upstream_auth_failed", False),
        (403, "upstream_auth_failed", False),
        (404, "upstream_not_found", False),
    ],
)
def test_what_is_tried_again_by_default(status: int | None, code: str, again: bool) -> None:
    """Once, what may pass by itself; all else goes on to the next hop without waiting."""
    assert following(failed(0, status, code)) == (Step(0, 0.25, retry=True) if again else Step(1))
    assert following(failed(0, status, code), failed(0, status, code)) == Step(1)


@pytest.mark.parametrize(
    ("on", "again"),
    [
        (("connect",), {"refused"}),
        (("timeout",), {"timeout", "408"}),
        (("429",), {"429"}),
        (("5xx",), {"500", "503"}),
        (("503",), {"503"}),
        (("409",), {"409"}),
        ((), set()),
    ],
)
def test_the_policy_says_what_is_tried_again(on: tuple[str, ...], again: set[str]) -> None:
    """Each word of `retries.on` by itself."""
    failures = {
        "refused": failed(0, None, "upstream_connect_failed"),
        "timeout": failed(0, None, "upstream_timeout"),
        "408": failed(0, 408, "upstream_timeout"),
        "409": failed(0, 409),
        "429": failed(0, 429, "upstream_rate_limited"),
        "500": failed(0, 500),
        "503": failed(0, 503),
    }
    hops = [hop("a", Retries(on=on)), hop("b")]
    assert {name for name, failure in failures.items() if following(failure, hops=hops) != Step(1)} == again


def test_waits_double_up_to_the_longest() -> None:
    """And the jitter is full: anything from nothing to that."""
    hops = [hop("a", Retries(max=6, backoff_initial=0.25, backoff_max=2.0))]
    waits = []
    for tries in range(1, 7):
        step = following(*[failed(0)] * tries, hops=hops)
        assert step is not None
        waits.append(step.wait)
    assert waits == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert following(failed(0), hops=hops, chance=0.5) == Step(0, 0.125, retry=True)
    assert following(failed(0), hops=hops, chance=0.0) == Step(0, 0.0, retry=True)
    assert following(*[failed(0)] * 7, hops=hops) is None


def test_a_providers_wish_is_honoured_up_to_the_longest_wait() -> None:
    """Longer than that, the next hop answers sooner."""
    assert following(failed(0, 429, "upstream_rate_limited", 3.0), chance=0.1) == Step(0, 3.0, retry=True)
    assert following(failed(0, 429, "upstream_rate_limited", 0.01)) == Step(0, 0.25, retry=True)
    assert following(failed(0, 429, "upstream_rate_limited", 4.0)) == Step(0, 4.0, retry=True)
    assert following(failed(0, 429, "upstream_rate_limited", 4.001)) == Step(1)


def test_no_wait_goes_past_the_deadline() -> None:
    """The time is then the next hop's."""
    assert following(failed(0), left=0.25) == Step(1)
    assert following(failed(0), left=0.26) == Step(0, 0.25, retry=True)


def test_without_credit_nothing_is_tried_again() -> None:
    """An outage is not multiplied."""
    assert following(failed(0), credit=False) == Step(1)
    assert following(failed(2), credit=False) is None


def test_another_key_is_tried_at_once() -> None:
    """As long as there is one, whatever `retries` says: it is not the same call."""
    refused = failed(0, 401, "upstream_auth_failed", spare=True)
    assert following(refused) == Step(0)
    assert following(refused, refused, refused) == Step(0)
    assert following(refused, failed(0, 401, "upstream_auth_failed")) == Step(1)


def test_who_was_kept_out_is_not_tried_again() -> None:
    """A limit or an open breaker stays as it is for the rest of the request."""
    assert following(failed(0, None, "breaker_open", 3.0, called=False)) == Step(1)
    assert following(failed(2, None, "breaker_open", 3.0, called=False)) is None


def test_a_hop_that_failed_before_its_elder_is_not_asked_twice() -> None:
    """Two were asked at once, and the second failed first."""
    assert following(failed(1, 400), failed(0, 404)) == Step(2)


def test_kept_out_attempts_are_no_tries() -> None:
    """Only calls count against the provider's retries."""
    assert following(failed(0, called=False), failed(0)) == Step(0, 0.25, retry=True)


@pytest.mark.parametrize(
    ("waits", "seconds"),
    [
        ([], 1.0),
        ([None], 1.0),
        ([None, None], 1.0),
        ([20.0], 20.0),
        ([None, 20.0], 20.0),
        ([20.0, 0.25, 7.0], 0.25),
        ([0.0, 5.0], 0.0),
        ([30.0, 20.0], 20.0),
    ],
)
def test_wait_is_the_shortest_that_a_hop_needs(waits: list[float | None], seconds: float) -> None:
    """The first hop that is known to answer again decides; without any it is one second."""
    assert shortest_wait([failed(at, retry_after=wait) for at, wait in enumerate(waits)]) == seconds


def test_the_last_word_of_a_hop_counts() -> None:
    """What it said before it was tried again is over."""
    assert shortest_wait([failed(0, retry_after=0.5), failed(0, retry_after=30.0), failed(1, retry_after=60.0)]) == 30.0
