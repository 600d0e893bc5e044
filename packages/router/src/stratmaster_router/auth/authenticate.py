"""Who is asking. The order of judgement is wire.md's: the credential first, so that nobody can probe for tenants."""

from stratmaster_router.auth.assertions import Assertions, is_assertion
from stratmaster_router.auth.keys import KeyRing
from stratmaster_router.domain.errors import InvalidApiKey, MissingApiKey, TenantMismatch, TenantRequired
from stratmaster_router.domain.routing import Principal


def authenticate(ring: KeyRing, assertions: Assertions, authorization: bytes | None, tenant: bytes | None) -> Principal:
    """Judge the headers `Authorization` and `X-Tenant-ID`.

    Raises `MissingApiKey`, `InvalidApiKey` or `InvalidAssertion`, `TenantRequired`, `TenantMismatch`, in this order.
    """
    key = bearer(authorization)
    if key.startswith(b"e") and is_assertion(key):  # the first letter spares most keys the closer look
        principals = assertions.judge(key).principals
        if not tenant:
            raise _no_tenant()
        if tenant not in principals:
            raise TenantMismatch("The service account may not act for the tenant in X-Tenant-ID.")
        return principals[tenant]
    principal = ring.owner(key)
    if principal is None:
        raise InvalidApiKey("The API key is not valid. Check it with the team that runs the router.")
    if not tenant:
        raise _no_tenant()
    if tenant != principal.tenant.encode():
        raise TenantMismatch("The API key does not belong to the tenant in X-Tenant-ID.")
    return principal


def bearer(authorization: bytes | None) -> bytes:
    """The credential in the header `Authorization`. Raises `MissingApiKey`."""
    scheme, _, key = (authorization or b"").partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise MissingApiKey("An API key is required: send it as 'Authorization: Bearer <key>'.")
    return key


def _no_tenant() -> TenantRequired:
    return TenantRequired("The header X-Tenant-ID is required: send the name of your tenant.")
