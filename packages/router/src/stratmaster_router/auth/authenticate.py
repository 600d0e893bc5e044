"""Who is asking. The order of judgement is wire.md's: the key first, so that nobody can probe for tenants."""

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


def authenticate(ring: KeyRing, issued: IssuedRing, authorization: bytes | None, tenant: bytes | None) -> Principal:
    """Judge the headers `Authorization` and `X-Tenant-ID`; a key of the folder is looked for first.

    Raises `MissingApiKey`, then `InvalidApiKey` or what `IssuedRing.owner` raises, then `TenantRequired`, then
    `TenantMismatch`.
    """
    key = _bearer(authorization)
    principal = ring.owner(key) or issued.owner(key)
    if principal is None:
        raise _invalid(key)
    if not tenant:
        raise TenantRequired("The header X-Tenant-ID is required: send the name of your tenant.")
    if tenant != principal.tenant.encode():
        raise TenantMismatch("The API key does not belong to the tenant in X-Tenant-ID.")
    return principal


def authenticate_administrator(
    administrators: KeyRing, ring: KeyRing, issued: IssuedRing, authorization: bytes | None
) -> Administrator:
    """Judge the header `Authorization` of a request to /admin; `administrators` has the keys of their folder.

    Raises `MissingApiKey`, `AdminRequired` for a key of a tenant, `InvalidApiKey` or what `IssuedRing.owner` raises.
    """
    key = _bearer(authorization)
    # Tenants first: should both folders be one by mistake, no tenant becomes an administrator.
    if ring.owner(key) or issued.owner(key):
        raise AdminRequired("This is a tenant's API key. The admin API needs an administrator's.")
    owner = administrators.owner(key)
    if owner is None:
        raise _invalid(key)
    return Administrator(owner.tenant)


def _bearer(authorization: bytes | None) -> bytes:
    if authorization is None:
        raise MissingApiKey("An API key is required: send it as 'Authorization: Bearer <key>'.")
    scheme, _, key = authorization.partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise MissingApiKey("An API key is required: send it as 'Authorization: Bearer <key>'.")
    return key


def _invalid(key: bytes) -> InvalidApiKey:
    if mistyped(key):
        # Anybody can compute a checksum, so this tells nothing of the keys that there are.
        return InvalidApiKey("The API key is cut off or mistyped: its checksum does not match. Copy it again.")
    return InvalidApiKey("The API key is not valid. Check it with the team that runs the router.")
