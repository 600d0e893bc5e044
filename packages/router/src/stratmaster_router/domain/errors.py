"""What can go wrong, without HTTP in it. `api.errors` holds the one table that renders these on the wire.

A message tells the reader what to do. It never holds a key, a prompt or an upstream's address.
"""

from collections.abc import Mapping
from typing import Any

from stratmaster_router.domain.limits import Account, Metric
from stratmaster_router.domain.routing import Decision


class RouterError(Exception):
    """Base of every failure that a client may see.

    `param` names the request field at fault; `details` are extra members of the error object.
    """

    def __init__(self, message: str, *, param: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details or {}


class InvalidJson(RouterError):
    """The body is not one JSON object without duplicate keys."""


class InvalidRequest(RouterError):
    """A field is missing or of the wrong type."""


class TenantRequired(RouterError):
    """No `X-Tenant-ID`."""


class ClientCertificateRequired(RouterError):
    """The router asks its clients for a certificate, and this connection has shown none."""


class MissingApiKey(RouterError):
    """No bearer credential."""


class InvalidApiKey(RouterError):
    """A credential that opens nothing; one message for all of them."""


class InvalidAssertion(RouterError):
    """A signed assertion that proves nothing; one message for all that a stranger could probe.

    `reason` is for the log, in words of ours and never the token's. `keys_of` names the issuer whose keys may be out of
    date: the assertion names one of its keys that is not known.
    """

    def __init__(self, message: str, reason: str, keys_of: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.keys_of = keys_of


class ExpiredApiKey(RouterError):
    """A key that was good and whose time is over."""


class TenantMismatch(RouterError):
    """The tenant asked for is not the credential's own."""


class AdminRequired(RouterError):
    """A tenant's credential where an administrator's is needed."""


class KeyNotLive(RouterError):
    """A key that was revoked, has expired or was rotated already, so this cannot be done with it."""


class KeysDisabled(RouterError):
    """No key can be made: the router has no pepper, or another one than the keys that there are."""


class KeyStoreUnavailable(RouterError):
    """Keys cannot be judged or changed, as their database cannot be read. `reason` is for the log."""

    retry_after = 1.0

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Refused(RouterError):
    """Policy said no; `decision.refusal` says which no."""

    def __init__(self, message: str, decision: Decision, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.decision = decision


class NotFound(RouterError):
    """No such path."""


class MethodNotAllowed(RouterError):
    """The path exists, the method does not."""


class RequestTooLarge(RouterError):
    """The body is over the configured limit."""


class UnsupportedMediaType(RouterError):
    """The body is not declared as JSON, or is compressed."""


class RequestTimeout(RouterError):
    """The body did not arrive in time."""


class UpstreamRejected(RouterError):
    """The upstream said that the request itself is wrong; `status` is the upstream's."""

    def __init__(self, message: str, status: int, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status


class AllProvidersUnavailable(RouterError):
    """Every hop of the plan failed; `details` lists the attempts. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float, details: Mapping[str, Any]) -> None:
        super().__init__(message, details=details)
        self.retry_after = retry_after


class DeadlineExceeded(RouterError):
    """The request's own total deadline passed."""


class Draining(RouterError):
    """This process is shutting down."""

    retry_after = 1.0


class StreamBroken(RouterError):
    """A stream failed after its first event: `code` is one of the `upstream_stream_*` codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ClientDisconnected(Exception):
    """The client went away; nothing is left to answer."""


class RequestExceedsLimit(RouterError):
    """More than an account could ever hold; waiting is of no use."""

    def __init__(self, message: str, account: Account, requested: int) -> None:
        super().__init__(message)
        self.account = account
        self.requested = requested


class LimitExceeded(RouterError):
    """An account has no room. `used` and `requested` are in its unit, `resets_at` in seconds since 1970.

    `retry_after` is in seconds, None where waiting is of no use to a client: a budget.
    """

    def __init__(
        self, message: str, account: Account, *, used: int, requested: int, resets_at: float, retry_after: float | None
    ) -> None:
        super().__init__(message)
        self.account = account
        self.used = used
        self.requested = requested
        self.resets_at = resets_at
        self.retry_after = retry_after


_LIMIT_CODES = {
    Metric.REQUESTS: "requests_per_minute_exceeded",
    Metric.TOKENS: "tokens_per_minute_exceeded",
    Metric.PARALLEL: "parallel_requests_exceeded",
    Metric.USD: "budget_exceeded",
}
LIMIT_CODES = frozenset(_LIMIT_CODES.values())


def limit_code(account: Account) -> str:
    """The code of a refusal by `account`, on the wire, in attempts and in metrics."""
    return _LIMIT_CODES[account.metric]


class LimitStoreUnavailable(RouterError):
    """The database of limits cannot be reached, and what applies here must not be decided without it."""

    retry_after = 1.0
