"""Every error that the domain knows has its place on the wire."""

import inspect

import pytest
from stratmaster_router.api.errors import INTERNAL, REFUSALS, TABLE, WireError
from stratmaster_router.domain import errors
from stratmaster_router.domain.errors import RouterError
from stratmaster_router.domain.routing import Refusal

# These look at the error itself for their status or code; `api.errors.wire_error` knows each of them.
BY_VALUE = {errors.Refused, errors.UpstreamRejected, errors.StreamBroken, errors.LimitExceeded}


def subclasses(base: type[RouterError]) -> set[type[RouterError]]:
    """All errors below `base`, at any depth, that the router itself defines."""
    found = {kind for kind in base.__subclasses__() if kind.__module__.startswith("stratmaster_router.")}
    return found.union(*(subclasses(kind) for kind in found))


def test_every_router_error_has_a_row() -> None:
    """An error without a row would be a 500, and a row without an error would be dead."""
    assert subclasses(RouterError) == TABLE.keys() | BY_VALUE
    assert not TABLE.keys() & BY_VALUE


def test_every_router_error_is_the_domains() -> None:
    """Errors are defined in one module, so that one table can hold them all."""
    assert {kind.__module__ for kind in subclasses(RouterError)} == {"stratmaster_router.domain.errors"}


def test_every_refusal_has_a_row_with_its_own_code() -> None:
    """Policy's words for no are the codes on the wire."""
    assert {refusal: wire.code for refusal, wire in REFUSALS.items()} == {refusal: refusal.value for refusal in Refusal}


ROWS = [*TABLE.values(), *REFUSALS.values(), INTERNAL]


def test_each_code_is_one_errors() -> None:
    """A client that matches a code knows which error it met."""
    assert len({row.code for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.code)
def test_row_fits_its_status(row: WireError) -> None:
    """Types follow the status, and no client is told to retry what its library would not retry by itself."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    expected = "api_error" if row.status >= 500 else kinds.get(row.status, "invalid_request_error")

    assert row.type == expected
    assert not row.retryable or row.status in {408, 409, 429} or row.status >= 500


def test_domain_errors_know_no_http() -> None:
    """No error but the upstream's own rejection carries a status, and none carries headers."""
    for kind in subclasses(RouterError):
        names = set(inspect.signature(kind).parameters)
        assert "headers" not in names, kind
        assert ("status" in names) == (kind is errors.UpstreamRejected), kind
