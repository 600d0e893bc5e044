"""What comes next, judged purely from what was tried."""

import pytest
from stratmaster_router.domain.routing import Hop, Provider
from stratmaster_router.upstream.attempts import CLIENT_FAULTS, Attempt, failure_code, next_hop, shortest_wait

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


def hop(name: str) -> Hop:
    """A hop of the provider `name`."""
    return Hop(Provider(name, "openai", f"http://{name}/v1"), f"{name}-model")


def failed(name: str, retry_after: float | None = None) -> Attempt:
    """An attempt of the provider `name` that failed."""
    return Attempt(name, f"{name}-model", 503, "upstream_error", 1.0, retry_after)


HOPS = [hop("a"), hop("b"), hop("c")]


@pytest.mark.parametrize(
    ("tried", "expected"), [(0, HOPS[0]), (1, HOPS[1]), (2, HOPS[2]), (3, None), (4, None)], ids=str
)
def test_hops_are_tried_in_order_and_once_each(tried: int, expected: Hop | None) -> None:
    """Each failure leads to the next hop of the plan, until there is none."""
    assert next_hop(HOPS, [failed(name) for name in "abcd"[:tried]]) == expected


def test_empty_plan_has_no_hop() -> None:
    """Nothing to try is nothing to call."""
    assert next_hop([], []) is None


@pytest.mark.parametrize(
    ("waits", "seconds"),
    [
        ([], 1.0),
        ([None], 1.0),
        ([None, None], 1.0),
        ([20.0], 20.0),
        ([None, 20.0], 20.0),
        ([20.0, 0.25, 7.0], 0.25),
        ([20.0, None], 20.0),
        ([0.0, 5.0], 0.0),
    ],
)
def test_wait_is_the_shortest_that_an_upstream_asked_for(waits: list[float | None], seconds: float) -> None:
    """The first hop that may answer again decides; without any wish it is one second."""
    assert shortest_wait([failed("a", wait) for wait in waits]) == seconds
