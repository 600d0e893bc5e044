"""Who is asking. The order of judgement is wire.md's: the key first, so that nobody can probe for tenants."""

from stratmaster_router.auth.keys import KeyRing
from stratmaster_router.domain.errors import InvalidApiKey, MissingApiKey, TenantMismatch, TenantRequired
from stratmaster_router.domain.routing import Principal


def authenticate(ring: KeyRing, authorization: bytes | None, tenant: bytes | None) -> Principal:
    """Judge the headers `Authorization` and `X-Tenant-ID`.

    Raises `MissingApiKey`, `InvalidApiKey`, `TenantRequired`, `TenantMismatch`, in this order.
    """
    if authorization is None:
        raise MissingApiKey("An API key is required: send it as 'Authorization: Bearer <key>'.")
    scheme, _, key = authorization.partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise MissingApiKey("An API key is required: send it as 'Authorization: Bearer <key>'.")
    principal = ring.owner(key)
    if principal is None:
        raise InvalidApiKey("The API key is not valid. Check it with the team that runs the router.")
    if not tenant:
        raise TenantRequired("The header X-Tenant-ID is required: send the name of your tenant.")
    if tenant != principal.tenant.encode():
        raise TenantMismatch("The API key does not belong to the tenant in X-Tenant-ID.")
    return principal
