"""Which certificates draw a warning because of their dates."""

from datetime import UTC, datetime, timedelta

import pytest
from stratmaster_router.domain.routing import PemFile, TlsFiles
from stratmaster_router.policy.certificates import expiring
from stratmaster_router.policy.compile import compile_policy
from stratmaster_router.policy.parse import parse
from support.certificates import chain
from trustme import CA

AUTHORITY = CA()


def until(days: int) -> str:
    """A certificate that is good for so many days from now."""
    end = datetime.now(UTC) + timedelta(days=days, hours=1)
    return chain(AUTHORITY.issue_cert("router.example", not_before=end - timedelta(days=99), not_after=end))


def day(days: int) -> str:
    """The date so many days from now."""
    return f"{datetime.now(UTC) + timedelta(days=days, hours=1):%Y-%m-%d}"


@pytest.mark.parametrize(
    ("days", "words"), [(-1, "expired on"), (13, "expires on"), (15, None)], ids=["past", "soon", "later"]
)
def test_certificate_that_expires_draws_a_warning(days: int, words: str | None) -> None:
    """One that has expired, and one that will within 14 days, in either file."""
    pem = PemFile("/pem", until(days))
    files = TlsFiles(ca=pem, cert=pem, key=pem)
    expected = [f"tls.{what} file /pem {words} {day(days)}" for what in ("ca", "cert") if words]
    assert list(expiring(files)) == expected


def test_of_a_chain_the_first_counts_and_of_authorities_the_last() -> None:
    """A chain is as good as each part of it; a bundle with a new authority beside an old one is as it should be."""
    both = PemFile("/pem", until(3) + until(50))
    assert list(expiring(TlsFiles(ca=both))) == []
    assert list(expiring(TlsFiles(cert=both, key=both))) == [f"tls.cert file /pem expires on {day(3)}"]


def test_policy_warns_of_it() -> None:
    """The warning of a policy names the provider, the file and the day."""
    policy = """
providers: {models: {base_url: "https://models.internal/v1", tls: {cert: /pem, key: /pem}}}
tenants: {acme: {providers: {models: {models: {t: {default: m}}}}}}
"""
    pem = until(3)
    snapshot = compile_policy(parse(policy), "hash", {}, lambda _: pem, lambda _: None)
    assert snapshot.warnings == (f"providers.models: tls.cert file /pem expires on {day(3)}",)


def test_what_cannot_be_read_draws_none() -> None:
    """Whether a file can be used is judged elsewhere."""
    assert list(expiring(TlsFiles(ca=PemFile("/pem", "no certificate")))) == []
