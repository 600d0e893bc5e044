"""The one table from domain errors to the wire. Source: wire.md, "Errors"."""

import math
from typing import Any, NamedTuple

import msgspec

from stratmaster_router.api.limits import limit_details
from stratmaster_router.domain import errors
from stratmaster_router.domain.errors import RouterError
from stratmaster_router.domain.routing import Decision, Refusal

# Dollars are written as the numbers that they are, exactly.
_encode = msgspec.json.Encoder(decimal_format="number").encode

Headers = list[tuple[bytes, bytes]]


class WireError(NamedTuple):
    """How an error looks on the wire."""

    status: int
    type: str
    code: str
    retryable: bool


_INVALID = "invalid_request_error"
_PERMISSION = "permission_error"

TABLE: dict[type[RouterError], WireError] = {
    errors.InvalidJson: WireError(400, _INVALID, "invalid_json", False),
    errors.InvalidRequest: WireError(400, _INVALID, "invalid_request", False),
    errors.TenantRequired: WireError(400, _INVALID, "tenant_required", False),
    errors.ClientCertificateRequired: WireError(401, "authentication_error", "client_certificate_required", False),
    errors.MissingApiKey: WireError(401, "authentication_error", "missing_api_key", False),
    errors.InvalidApiKey: WireError(401, "authentication_error", "invalid_api_key", False),
    errors.InvalidAssertion: WireError(401, "authentication_error", "invalid_assertion", False),
    errors.ExpiredApiKey: WireError(401, "authentication_error", "expired_api_key", False),
    errors.TenantMismatch: WireError(403, _PERMISSION, "tenant_mismatch", False),
    errors.AdminRequired: WireError(403, _PERMISSION, "admin_required", False),
    errors.NotFound: WireError(404, _INVALID, "not_found", False),
    errors.MethodNotAllowed: WireError(405, _INVALID, "method_not_allowed", False),
    errors.RequestTimeout: WireError(408, _INVALID, "request_timeout", True),
    errors.KeyNotLive: WireError(409, _INVALID, "key_not_live", False),
    errors.RequestTooLarge: WireError(413, _INVALID, "request_too_large", False),
    errors.UnsupportedMediaType: WireError(415, _INVALID, "unsupported_media_type", False),
    errors.RequestExceedsLimit: WireError(400, _INVALID, "request_exceeds_limit", False),
    errors.KeysDisabled: WireError(501, "api_error", "keys_disabled", False),
    errors.KeyStoreUnavailable: WireError(503, "api_error", "key_store_unavailable", True),
    errors.LimitStoreUnavailable: WireError(503, "api_error", "limit_store_unavailable", True),
    errors.AllProvidersUnavailable: WireError(503, "api_error", "all_providers_unavailable", True),
    errors.Draining: WireError(503, "api_error", "draining", True),
    errors.DeadlineExceeded: WireError(504, "api_error", "deadline_exceeded", True),
}

REFUSALS: dict[Refusal, WireError] = {
    Refusal.MODEL_NOT_FOUND: WireError(404, _INVALID, "model_not_found", False),
    Refusal.ENDPOINT_DISABLED: WireError(403, _PERMISSION, "endpoint_disabled", False),
    Refusal.RAW_DOCS_FORBIDDEN: WireError(403, _PERMISSION, "raw_docs_forbidden", False),
}

INTERNAL = WireError(500, "api_error", "internal_error", False)
_INTERNAL_MESSAGE = "The router failed. Give the request_id to the team that runs it."


def wire_error(error: Exception) -> WireError:
    """The status, type, code and retryable flag of `error`; `internal_error` for whatever has no row."""
    if isinstance(error, errors.Refused):
        assert error.decision.refusal is not None
        return REFUSALS[error.decision.refusal]
    if isinstance(error, errors.UpstreamRejected):
        return WireError(error.status, _INVALID, "upstream_rejected", False)
    if isinstance(error, errors.StreamBroken):
        return WireError(502, "api_error", error.code, True)
    if isinstance(error, errors.LimitExceeded):
        return WireError(429, "rate_limit_error", errors.limit_code(error.account), error.retry_after is not None)
    return TABLE.get(type(error), INTERNAL)  # type: ignore[arg-type]  # a type without a row is what the default is for


def error_body(error: Exception, request_id: str) -> bytes:
    """The JSON of `error` in the one shape that every answer and stream uses."""
    wire = wire_error(error)
    body: dict[str, Any] = {
        "message": error.message if isinstance(error, RouterError) else _INTERNAL_MESSAGE,
        "type": wire.type,
        "param": error.param if isinstance(error, RouterError) else None,
        "code": wire.code,
        "retryable": wire.retryable,
        "request_id": request_id,
    }
    if isinstance(error, RouterError):
        body.update(error.details)
    if isinstance(error, errors.Refused) and wire.status == 403:
        body["decision"] = _decision(error.decision)
    if isinstance(error, (errors.LimitExceeded, errors.RequestExceedsLimit)):
        body["limit"] = limit_details(error)
    return _encode({"error": body})


def error_headers(error: Exception) -> Headers:
    """The headers that tell a client whether and when to try again."""
    headers = [(b"x-should-retry", b"true" if wire_error(error).retryable else b"false")]
    wait = getattr(error, "retry_after", None)
    if wait is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait))))
        headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(wait * 1000))))
    return headers


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "policy": decision.policy,
        "task": decision.task,
        "trace": [
            {"provider": entry.provider, "model": entry.model, "kept": entry.kept, "reason": entry.reason}
            for entry in decision.trace
        ],
    }
