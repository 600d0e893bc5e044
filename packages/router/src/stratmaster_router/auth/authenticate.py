"""Who is asking. The order of judgement is wire.md's: the credential first, so that nobody can probe for tenants."""

from stratmaster_router.auth.assertions import Assertions, is_assertion
from stratmaster_router.auth.credentials import mistyped
from stratmaster_router.auth.issued import IssuedRing
from stratmaster_router.auth.keys import KeyRing
from stratmaster_router.domain.errors import (
    AdminRequired,
    InvalidApiKey,
    MissingApiKey,
    TenantMismatch,
    TenantRequired,
)
from stratmaster_router.domain.routing import Administrator, Principal
from stratmaster_router.domain.service_accounts import KEY_ADMIN


def authenticate(
    ring: KeyRing, issued: IssuedRing, assertions: Assertions, authorization: bytes | None, tenant: bytes | None
) -> Principal:
    """Judge the headers `Authorization` and `X-Tenant-ID`; a key of the folder is looked for first.

    Raises `MissingApiKey`, then `InvalidApiKey`, `InvalidAssertion` or what `IssuedRing.owner` raises, then
    `TenantRequired`, then `TenantMismatch`.
    """
    key = bearer(authorization)
    if key.startswith(b"e") and is_assertion(key):  # the first letter spares most keys the closer look
        principals = assertions.judge(key).principals
        if not tenant:
            raise _no_tenant()
        if tenant not in principals:
            raise TenantMismatch("The service account may not act for the tenant in X-Tenant-ID.")
        return principals[tenant]
    principal = ring.owner(key) or issued.owner(key)
    if principal is None:
        raise _invalid(key)
    if not tenant:
        raise _no_tenant()
    if tenant != principal.tenant.encode():
        raise TenantMismatch("The API key does not belong to the tenant in X-Tenant-ID.")
    return principal


def authenticate_administrator(
    administrators: KeyRing, ring: KeyRing, issued: IssuedRing, assertions: Assertions, authorization: bytes | None
) -> Administrator:
    """Judge the header `Authorization` of a request to /admin; `administrators` has the keys of their folder.

    A service account is an administrator of its own tenants where it has the role `key_admin`. Raises `MissingApiKey`,
    `AdminRequired` for whoever is none, `InvalidApiKey`, `InvalidAssertion` or what `IssuedRing.owner` raises.
    """
    key = bearer(authorization)
    if is_assertion(key):
        account = assertions.judge(key).account
        if KEY_ADMIN not in account.roles:
            raise AdminRequired(f"This service account may not use the admin API: it lacks the role {KEY_ADMIN}.")
        return Administrator(f"jwt:{account.subject}", account.tenants)
    # Tenants first: should both folders be one by mistake, no tenant becomes an administrator.
    if ring.owner(key) or issued.owner(key):
        raise AdminRequired("This is a tenant's API key. The admin API needs an administrator's.")
    owner = administrators.owner(key)
    if owner is None:
        raise _invalid(key)
    return Administrator(owner.tenant)


def bearer(authorization: bytes | None) -> bytes:
    """The credential in the header `Authorization`. Raises `MissingApiKey`."""
    scheme, _, key = (authorization or b"").partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise MissingApiKey("An API key is required: send it as 'Authorization: Bearer <key>'.")
    return key


def _no_tenant() -> TenantRequired:
    return TenantRequired("The header X-Tenant-ID is required: send the name of your tenant.")


def _invalid(key: bytes) -> InvalidApiKey:
    if mistyped(key):
        # Anybody can compute a checksum, so this tells nothing of the keys that there are.
        return InvalidApiKey("The API key is cut off or mistyped: its checksum does not match. Copy it again.")
    return InvalidApiKey("The API key is not valid. Check it with the team that runs the router.")
