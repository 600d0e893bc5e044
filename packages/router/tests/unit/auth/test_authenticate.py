"""Who is asking: the key is judged first, so that nobody can probe for tenants (wire.md, "Requests")."""

import pytest
from stratmaster_router.auth.assertions import Assertions
from stratmaster_router.auth.authenticate import authenticate, authenticate_administrator
from stratmaster_router.auth.credentials import Pepper, whole_key
from stratmaster_router.auth.issued import IssuedRing
from stratmaster_router.auth.jwks import parse_jwks
from stratmaster_router.auth.keys import KeyRing
from stratmaster_router.auth.store import DAY, StoredKey
from stratmaster_router.domain.errors import (
    AdminRequired,
    ExpiredApiKey,
    InvalidApiKey,
    InvalidAssertion,
    KeyStoreUnavailable,
    MissingApiKey,
    RouterError,
    TenantMismatch,
    TenantRequired,
)
from stratmaster_router.domain.routing import Administrator, Principal
from stratmaster_router.domain.service_accounts import KEY_ADMIN, Issuer, ServiceAccount, ServiceAccounts
from support.assertions import AUDIENCE, ISSUER, SUBJECT, jwks, kubernetes_claims, signer
from support.assertions import NOW as JWT_NOW

RING = KeyRing({"acme": [b"sk-acme", b"sk-acme-next"], "globex": [b"sk-globex"], "café": [b"sk-cafe"]})

SIGNER = signer("EdDSA")
ASSERTIONS = Assertions(
    ServiceAccounts(
        {ISSUER: Issuer(ISSUER, AUDIENCE)}, {SUBJECT: ServiceAccount(SUBJECT, frozenset({"acme", "initech", "café"}))}
    ),
    {ISSUER: parse_jwks(jwks(SIGNER.jwk()))},
    lambda: JWT_NOW,
)
TOKEN = SIGNER.token(kubernetes_claims())

MISSING = (MissingApiKey, "An API key is required: send it as 'Authorization: Bearer <key>'.")
PEPPER = Pepper(b"pepper" * 6)
NOW = 1_795_521_600_000_000
KEY_ID = "0123456789ab"
KEY = whole_key(KEY_ID, 1)
EXPIRED_ID = "expired00000"
EXPIRED = whole_key(EXPIRED_ID, 2)
UNKNOWN = whole_key("unknown00000", 3)
MISTYPED = KEY[:-1] + ("0" if KEY[-1] != "0" else "1")
ISSUED = IssuedRing(
    [
        StoredKey(KEY_ID, "acme", PEPPER.digest(KEY.encode()), NOW - DAY, NOW + 30 * DAY),
        StoredKey(EXPIRED_ID, "acme", PEPPER.digest(EXPIRED.encode()), NOW - DAY, NOW),
    ],
    PEPPER,
    lambda: NOW,
    {},
)
NONE_ISSUED = IssuedRing((), None, lambda: NOW, {})
BLIND = IssuedRing((), PEPPER, lambda: NOW, {}, blind=True)
ADMINISTRATORS = KeyRing({"root": [b"adm-root", b"sk-acme"]})

INVALID = (InvalidApiKey, "The API key is not valid. Check it with the team that runs the router.")
REQUIRED = (TenantRequired, "The header X-Tenant-ID is required: send the name of your tenant.")
MISMATCH = (TenantMismatch, "The API key does not belong to the tenant in X-Tenant-ID.")
UNPROVEN = (
    InvalidAssertion,
    "The assertion is not valid. Check its issuer, audience, subject and key with the team that runs the router.",
)
LATE = (InvalidAssertion, "The assertion has expired. Send the request again with a fresh one.")
NOT_ITS = (TenantMismatch, "The service account may not act for the tenant in X-Tenant-ID.")

TYPO = (InvalidApiKey, "The API key is cut off or mistyped: its checksum does not match. Copy it again.")
ADMIN = (AdminRequired, "This is a tenant's API key. The admin API needs an administrator's.")
NO_ROLE = (AdminRequired, "This service account may not use the admin API: it lacks the role key_admin.")
OVER = (ExpiredApiKey, "The API key has expired. Ask the team that runs the router for another.")

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
    (b"Bearer " + SIGNER.token(kubernetes_claims(JWT_NOW - 7200)), LATE),
    (b"Basic " + TOKEN, MISSING),
    (b"Bearer " + UNKNOWN.encode(), INVALID),
    (b"Bearer " + MISTYPED.encode(), TYPO),
    (b"Bearer " + KEY[:40].encode(), TYPO),
    (b"Bearer " + KEY.encode() + b"0", TYPO),
    (b"Bearer smr_", TYPO),
    (b"Bearer " + EXPIRED.encode(), OVER),
]


@pytest.mark.parametrize(("authorization", "refusal"), REFUSED)
@pytest.mark.parametrize("tenant", [None, b"", b"acme", b"globex", b"nobody", b"\xff"])
def test_bad_credential_is_refused_whatever_the_tenant_header_says(
    authorization: bytes | None, refusal: tuple[type[RouterError], str], tenant: bytes | None
) -> None:
    """A key that opens nothing gives the same answer for every tenant, real or not."""
    with pytest.raises(RouterError) as raised:
        authenticate(RING, ISSUED, ASSERTIONS, authorization, tenant)

    assert (type(raised.value), raised.value.message) == refusal


@pytest.mark.parametrize("key", ["sk-acme", KEY])
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
def test_good_key_needs_its_own_tenant(tenant: bytes | None, refusal: tuple[type[RouterError], str], key: str) -> None:
    """After the key its tenant is asked for, and must be the key's own, to the letter."""
    with pytest.raises(RouterError) as raised:
        authenticate(RING, ISSUED, ASSERTIONS, f"Bearer {key}".encode(), tenant)

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
    assert authenticate(RING, ISSUED, ASSERTIONS, authorization, tenant) == Principal(owner)


def test_empty_ring_opens_nothing() -> None:
    """Without keys every credential is refused as an unknown one."""
    with pytest.raises(InvalidApiKey):
        authenticate(KeyRing({}), NONE_ISSUED, ASSERTIONS, b"Bearer sk-acme", b"acme")


@pytest.mark.parametrize("tenant", ["acme", "initech", "café"])
def test_assertion_acts_for_each_tenant_of_its_account(tenant: str) -> None:
    """A service account is one credential for several tenants; the header chooses."""
    principal = authenticate(RING, ISSUED, ASSERTIONS, b"Bearer " + TOKEN, tenant.encode())

    assert principal == Principal(tenant, f"jwt:{SUBJECT}")


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
        authenticate(RING, ISSUED, ASSERTIONS, b"Bearer " + TOKEN, tenant)

    assert (type(raised.value), raised.value.message) == refusal


def test_self_service_key_acts_for_its_tenant_and_is_named() -> None:
    """By its visible id, so that records say which key it was."""
    principal = authenticate(RING, ISSUED, ASSERTIONS, f"Bearer {KEY}".encode(), b"acme")

    assert principal == Principal("acme", f"key:{KEY_ID}")


def test_whole_key_that_cannot_be_judged_is_not_called_wrong() -> None:
    """While keys cannot be read one that may be good gets 503, and what is surely none 401 as ever."""
    with pytest.raises(KeyStoreUnavailable) as raised:
        authenticate(RING, BLIND, ASSERTIONS, f"Bearer {KEY}".encode(), b"acme")
    assert raised.value.message == "API keys cannot be checked just now. Try again."
    for key in ("sk-other", MISTYPED):
        with pytest.raises(InvalidApiKey):
            authenticate(RING, BLIND, ASSERTIONS, f"Bearer {key}".encode(), b"acme")
    assert authenticate(RING, BLIND, ASSERTIONS, b"Bearer sk-acme", b"acme") == Principal("acme")


def test_administrator_is_the_name_of_the_file() -> None:
    """One who may act for every tenant."""
    found = authenticate_administrator(ADMINISTRATORS, RING, ISSUED, ASSERTIONS, b"Bearer adm-root")

    assert found == Administrator("root", None)


def test_service_account_with_the_role_administers_its_own_tenants() -> None:
    """And no others."""
    account = ServiceAccount(SUBJECT, frozenset({"acme", "initech"}), frozenset({KEY_ADMIN}))
    issuer = {ISSUER: Issuer(ISSUER, AUDIENCE)}
    keys = {ISSUER: parse_jwks(jwks(SIGNER.jwk()))}
    assertions = Assertions(ServiceAccounts(issuer, {SUBJECT: account}), keys, lambda: JWT_NOW)

    found = authenticate_administrator(ADMINISTRATORS, RING, ISSUED, assertions, b"Bearer " + TOKEN)

    assert found == Administrator(f"jwt:{SUBJECT}", frozenset({"acme", "initech"}))


@pytest.mark.parametrize(
    ("authorization", "refusal"),
    [
        (b"Bearer " + TOKEN, NO_ROLE),
        (b"Bearer " + TOKEN[:-2] + b"AA", UNPROVEN),
        (None, MISSING),
        (b"Basic adm-root", MISSING),
        (b"Bearer adm-other", INVALID),
        (f"Bearer {UNKNOWN}".encode(), INVALID),
        (f"Bearer {MISTYPED}".encode(), TYPO),
        (f"Bearer {EXPIRED}".encode(), OVER),
        (b"Bearer sk-globex", ADMIN),
        (f"Bearer {KEY}".encode(), ADMIN),
        # In both folders by mistake: no tenant becomes an administrator by that.
        (b"Bearer sk-acme", ADMIN),
    ],
)
def test_other_credentials_open_nothing_for_administrators(
    authorization: bytes | None, refusal: tuple[type[RouterError], str]
) -> None:
    """A tenant's own key is told apart from one that nobody knows."""
    with pytest.raises(RouterError) as raised:
        authenticate_administrator(ADMINISTRATORS, RING, ISSUED, ASSERTIONS, authorization)

    assert (type(raised.value), raised.value.message) == refusal
