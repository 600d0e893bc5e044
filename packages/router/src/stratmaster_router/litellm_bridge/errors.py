"""LiteLLM's exceptions in the one error shape (wire.md, "Errors"), each with a true `retryable`."""

import json
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import litellm

from stratmaster_router.domain.errors import InvalidRequest


class StreamTruncated(Exception):
    """The provider's stream ended before it gave a finish reason."""


_INVALID = "invalid_request_error"


class Failure(NamedTuple):
    """A refusal as it goes over the wire; `retry_after` is in seconds."""

    status: int
    type: str
    code: str
    message: str
    retryable: bool
    param: str | None = None
    retry_after: float | None = None

    def body(self) -> bytes:
        """The JSON of the one shape."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            "retryable": self.retryable,
        }
        return json.dumps({"error": error}).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What tells the caller whether and when to try again."""
        headers = [(b"x-should-retry", b"true" if self.retryable else b"false")]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after))))
            headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(self.retry_after * 1000))))
        return headers


# By status: what LiteLLM's class says is the status that it gives the class, and providers know more than LiteLLM has
# classes for.
_BY_STATUS: Mapping[int, Failure] = {
    401: Failure(401, "authentication_error", "upstream_auth_failed", "The provider refused the key.", False),
    402: Failure(402, "billing_error", "upstream_auth_failed", "The provider wants to be paid.", False),
    403: Failure(403, "permission_error", "upstream_auth_failed", "The provider refused the key.", False),
    404: Failure(404, _INVALID, "upstream_not_found", "The provider does not know the model.", False),
    408: Failure(408, "api_error", "upstream_timeout", "The provider did not answer in time.", True),
    429: Failure(429, "rate_limit_error", "upstream_rate_limited", "The provider's limits are reached.", True),
}
_REJECTED = frozenset({400, 413, 422})
_FAILED = Failure(502, "api_error", "upstream_error", "The provider failed, or could not be reached.", True)
_NOT_IN_BODY = Failure(502, "api_error", "upstream_invalid_response", "The provider's answer is unusable.", True)
_TRUNCATED = Failure(502, "api_error", "upstream_stream_truncated", "The provider's stream ended too early.", True)
UNAUTHORISED = Failure(401, "authentication_error", "invalid_api_key", "This is not the bridge's token.", False)
NOT_FOUND = Failure(404, _INVALID, "not_found", "There is no such path.", False)
UNKNOWN = Failure(
    503, "api_error", "upstream_misconfigured", "The bridge does not know this provider yet.", True, None, 1
)
MISCONFIGURED = Failure(
    401,
    "authentication_error",
    "upstream_misconfigured",
    "The provider lacks a key; the bridge's log says which.",
    False,
)

# What is wrong with the request, where the status alone does not say it.
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (litellm.ContextWindowExceededError, "context_length_exceeded"),
    (litellm.ContentPolicyViolationError, "content_policy_violation"),
    (litellm.UnsupportedParamsError, "unsupported_parameter"),
)
_PREFIX = re.compile(r"^(?:litellm\.\w+: |\w+(?:Error|Exception): | *\w+Exception - )+")
_LONGEST_MESSAGE = 2_000


def failure(error: Exception) -> Failure:
    """What `error` means to the caller."""
    if isinstance(error, InvalidRequest):
        return Failure(400, _INVALID, "invalid_request", error.message, False, error.param)
    if isinstance(error, StreamTruncated):
        return _TRUNCATED
    if isinstance(error, litellm.Timeout):
        return _BY_STATUS[408]
    if isinstance(error, litellm.APIResponseValidationError):
        return _NOT_IN_BODY
    status = _status(error)
    if status in _REJECTED:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "upstream_rejected")
        return Failure(status, _INVALID, code, _words(error), False)
    known = _BY_STATUS.get(status)
    if known is not None:
        return known._replace(retry_after=_retry_after(error)) if status == 429 else known
    if 500 <= status <= 599:
        return _FAILED._replace(status=status, retry_after=_retry_after(error))
    return _FAILED


def _status(error: Exception) -> int:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else 0


def _words(error: Exception) -> str:
    """The provider's own words, out of LiteLLM's wrapping."""
    if isinstance(error, litellm.UnsupportedParamsError):
        # LiteLLM's advice, to set its own options, is of no use here.
        names = re.findall(r"'(\w+)'", str(error).partition("parameters:")[2].partition("]")[0])
        return f"The provider does not support what the request asks for: {', '.join(names) or 'a parameter'}."
    said = _PREFIX.sub("", str(getattr(error, "message", "") or error)).strip()
    start = said.find("{")
    if start >= 0:
        try:
            told = json.JSONDecoder().raw_decode(said, start)[0]
        except ValueError:
            told = {}
        inner = told.get("error", told)
        message = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(message, str) and message:
            said = message
    return said[:_LONGEST_MESSAGE] or "The provider rejected the request."


def _retry_after(error: Exception) -> float | None:
    """The provider's wish in seconds."""
    headers = _headers(error)
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", str(value)):
            return float(value) / scale
    return None


def _headers(error: BaseException) -> Mapping[str, str]:
    """The headers of the provider's refusal: LiteLLM keeps them at one of several places, or at what it translated."""
    seen: BaseException | None = error
    while seen is not None:
        for holder in (seen, getattr(seen, "response", None)):
            headers = getattr(holder, "litellm_response_headers", None) or getattr(holder, "headers", None)
            if headers:
                found: Mapping[str, str] = headers
                return found
        seen = seen.__cause__ or seen.__context__
    return {}
