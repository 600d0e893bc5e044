"""Who is asking: the key is judged first, so that nobody can probe for tenants (wire.md, "Requests")."""

import pytest
from stratmaster_router.auth.assertions import Assertions
from stratmaster_router.auth.authenticate import authenticate
from stratmaster_router.auth.jwks import parse_jwks
from stratmaster_router.auth.keys import KeyRing
from stratmaster_router.domain.errors import (
    InvalidApiKey,
    InvalidAssertion,
    MissingApiKey,
    RouterError,
    TenantMismatch,
    TenantRequired,
)
from stratmaster_router.domain.routing import Principal
from stratmaster_router.domain.service_accounts import Issuer, ServiceAccount, ServiceAccounts
from support.assertions import AUDIENCE, ISSUER, NOW, SUBJECT, jwks, kubernetes_claims, signer

RING = KeyRing({"acme": [b"sk-acme", b"sk-acme-next"], "globex": [b"sk-globex"], "café": [b"sk-cafe"]})

KEY = signer("EdDSA")
ASSERTIONS = Assertions(
    ServiceAccounts(
        {ISSUER: Issuer(ISSUER, AUDIENCE)}, {SUBJECT: ServiceAccount(SUBJECT, frozenset({"acme", "initech", "café"}))}
    ),
    {ISSUER: parse_jwks(jwks(KEY.jwk()))},
    lambda: NOW,
)
TOKEN = KEY.token(kubernetes_claims())

MISSING = (MissingApiKey, "An API key is required: send it as 'Authorization: Bearer <key>'.")
INVALID = (InvalidApiKey, "The API key is not valid. Check it with the team that runs the router.")
REQUIRED = (TenantRequired, "The header X-Tenant-ID is required: send the name of your tenant.")
MISMATCH = (TenantMismatch, "The API key does not belong to the tenant in X-Tenant-ID.")
UNPROVEN = (
    InvalidAssertion,
    "The assertion is not valid. Check its issuer, audience, subject and key with the team that runs the router.",
)
EXPIRED = (InvalidAssertion, "The assertion has expired. Send the request again with a fresh one.")
NOT_ITS = (TenantMismatch, "The service account may not act for the tenant in X-Tenant-ID.")

REFUSED: list[tuple[bytes | None, tuple[type[RouterError], str]]] = [
    (None, MISSING),
    (b"", MISSING),
    (b"Bearer", MISSING),
    (b"Bearer ", MISSING),
    (b"Bearer \t ", MISSING),
    (b"sk-acme", MISSING),
    (b"Basic sk-acme", MISSING),
    (b"Bearersk-acme", MISSING),
    (b"Bearer\tsk-acme", MISSING),
    (b" Bearer sk-acme", MISSING),
    (b"Bearer sk-other", INVALID),
    (b"Bearer SK-ACME", INVALID),
    (b"Bearer sk-acm", INVALID),
    (b"Bearer sk-acme2", INVALID),
    (b"Bearer sk-acme sk-acme", INVALID),
    (b"Bearer sk-acme, Bearer sk-acme", INVALID),
    (b"Bearer \xff\xfe", INVALID),
    (b"Bearer " + b"k" * 5000, INVALID),
    (b"Bearer " + TOKEN[:-2] + b"AA", UNPROVEN),
    (b"Bearer " + TOKEN + b", Bearer " + TOKEN, INVALID),
    (b"Bearer eyJ.e30.x", UNPROVEN),
    (b"Bearer " + KEY.token(kubernetes_claims(NOW - 7200)), EXPIRED),
    (b"Basic " + TOKEN, MISSING),
]


@pytest.mark.parametrize(("authorization", "refusal"), REFUSED)
@pytest.mark.parametrize("tenant", [None, b"", b"acme", b"globex", b"nobody", b"\xff"])
def test_bad_credential_is_refused_whatever_the_tenant_header_says(
    authorization: bytes | None, refusal: tuple[type[RouterError], str], tenant: bytes | None
) -> None:
    """A key that opens nothing gives the same answer for every tenant, real or not."""
    with pytest.raises(RouterError) as raised:
        authenticate(RING, ASSERTIONS, authorization, tenant)

    assert (type(raised.value), raised.value.message) == refusal


@pytest.mark.parametrize(
    ("tenant", "refusal"),
    [
        (None, REQUIRED),
        (b"", REQUIRED),
        (b"globex", MISMATCH),
        (b"nobody", MISMATCH),
        (b"ACME", MISMATCH),
        (b"acm", MISMATCH),
        (b"acme, acme", MISMATCH),
        (b"\xff", MISMATCH),
    ],
)
def test_good_key_needs_its_own_tenant(tenant: bytes | None, refusal: tuple[type[RouterError], str]) -> None:
    """After the key its tenant is asked for, and must be the key's own, to the letter."""
    with pytest.raises(RouterError) as raised:
        authenticate(RING, ASSERTIONS, b"Bearer sk-acme", tenant)

    assert (type(raised.value), raised.value.message) == refusal


@pytest.mark.parametrize(
    ("authorization", "tenant", "owner"),
    [
        (b"Bearer sk-acme", b"acme", "acme"),
        (b"bearer sk-acme", b"acme", "acme"),
        (b"BEARER   sk-acme  ", b"acme", "acme"),
        (b"Bearer sk-acme-next", b"acme", "acme"),
        (b"Bearer sk-globex", b"globex", "globex"),
        (b"Bearer sk-cafe", "café".encode(), "café"),
    ],
)
def test_good_key_acts_for_its_tenant(authorization: bytes, tenant: bytes, owner: str) -> None:
    """The scheme's case and spaces around the key do not matter; each live key of a tenant opens it."""
    assert authenticate(RING, ASSERTIONS, authorization, tenant) == Principal(owner)


def test_empty_ring_opens_nothing() -> None:
    """Without keys every credential is refused as an unknown one."""
    with pytest.raises(InvalidApiKey):
        authenticate(KeyRing({}), ASSERTIONS, b"Bearer sk-acme", b"acme")


@pytest.mark.parametrize("tenant", ["acme", "initech", "café"])
def test_assertion_acts_for_each_tenant_of_its_account(tenant: str) -> None:
    """A service account is one credential for several tenants; the header chooses."""
    assert authenticate(RING, ASSERTIONS, b"Bearer " + TOKEN, tenant.encode()) == Principal(tenant, f"jwt:{SUBJECT}")


@pytest.mark.parametrize(
    ("tenant", "refusal"),
    [
        (None, REQUIRED),
        (b"", REQUIRED),
        (b"globex", NOT_ITS),
        (b"nobody", NOT_ITS),
        (b"ACME", NOT_ITS),
        (b"acme, initech", NOT_ITS),
        (b"\xff", NOT_ITS),
    ],
)
def test_assertion_acts_for_no_other_tenant(tenant: bytes | None, refusal: tuple[type[RouterError], str]) -> None:
    """After the assertion a tenant is asked for, and must be one of the account's, to the letter."""
    with pytest.raises(RouterError) as raised:
        authenticate(RING, ASSERTIONS, b"Bearer " + TOKEN, tenant)

    assert (type(raised.value), raised.value.message) == refusal
