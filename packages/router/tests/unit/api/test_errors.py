"""The one table from errors to the wire, every row of it rendered whole (wire.md, "Errors")."""

import json
from typing import Any

import pytest
from stratmaster_router.api.errors import error_body, error_headers, wire_error
from stratmaster_router.domain import errors
from stratmaster_router.domain.routing import Considered, Decision, Refusal

INVALID = "invalid_request_error"
DETAILS = {"attempts": [{"provider": "openai", "status": 503}], "fallback": {"action": "x", "message": "y"}}
NO_RETRY = [(b"x-should-retry", b"false")]
RETRY = [(b"x-should-retry", b"true")]


def refused(refusal: Refusal, task: str | None = "reasoning") -> errors.Refused:
    """A refusal over two hops that were considered."""
    trace = (Considered("openai", "gpt-4.1", False, "why not"), Considered("local", "llama", True, "why"))
    return errors.Refused("No.", Decision("0123456789ab", task, (), refusal, trace), param="model")


DECISION = {
    "policy": "0123456789ab",
    "task": "reasoning",
    "trace": [
        {"provider": "openai", "model": "gpt-4.1", "kept": False, "reason": "why not"},
        {"provider": "local", "model": "llama", "kept": True, "reason": "why"},
    ],
}

ROWS: list[tuple[errors.RouterError, int, str, str, bool, dict[str, Any], list[tuple[bytes, bytes]]]] = [
    # An error; its status, type, code and whether to retry; further members of its body; its headers.
    (errors.InvalidJson("No."), 400, INVALID, "invalid_json", False, {}, NO_RETRY),
    (errors.InvalidRequest("No.", param="messages[0]"), 400, INVALID, "invalid_request", False, {}, NO_RETRY),
    (errors.TenantRequired("No."), 400, INVALID, "tenant_required", False, {}, NO_RETRY),
    (errors.MissingApiKey("No."), 401, "authentication_error", "missing_api_key", False, {}, NO_RETRY),
    (errors.InvalidApiKey("No."), 401, "authentication_error", "invalid_api_key", False, {}, NO_RETRY),
    (errors.ExpiredApiKey("No."), 401, "authentication_error", "expired_api_key", False, {}, NO_RETRY),
    (errors.AdminRequired("No."), 403, "permission_error", "admin_required", False, {}, NO_RETRY),
    (errors.KeyNotLive("No."), 409, INVALID, "key_not_live", False, {}, NO_RETRY),
    (errors.KeysDisabled("No."), 501, "api_error", "keys_disabled", False, {}, NO_RETRY),
    (
        errors.KeyStoreUnavailable("No.", "the database's password"),
        503,
        "api_error",
        "key_store_unavailable",
        True,
        {},
        [*RETRY, (b"retry-after", b"1"), (b"retry-after-ms", b"1000")],
    ),
    (errors.TenantMismatch("No."), 403, "permission_error", "tenant_mismatch", False, {}, NO_RETRY),
    (refused(Refusal.MODEL_NOT_FOUND), 404, INVALID, "model_not_found", False, {}, NO_RETRY),
    (
        refused(Refusal.ENDPOINT_DISABLED),
        403,
        "permission_error",
        "endpoint_disabled",
        False,
        {"decision": DECISION},
        NO_RETRY,
    ),
    (
        refused(Refusal.RAW_DOCS_FORBIDDEN, None),
        403,
        "permission_error",
        "raw_docs_forbidden",
        False,
        {"decision": {**DECISION, "task": None}},
        NO_RETRY,
    ),
    (errors.NotFound("No."), 404, INVALID, "not_found", False, {}, NO_RETRY),
    (errors.MethodNotAllowed("No."), 405, INVALID, "method_not_allowed", False, {}, NO_RETRY),
    (errors.RequestTimeout("No."), 408, INVALID, "request_timeout", True, {}, RETRY),
    (errors.RequestTooLarge("No."), 413, INVALID, "request_too_large", False, {}, NO_RETRY),
    (errors.UnsupportedMediaType("No."), 415, INVALID, "unsupported_media_type", False, {}, NO_RETRY),
    (errors.UpstreamRejected("No.", 400, param="tools"), 400, INVALID, "upstream_rejected", False, {}, NO_RETRY),
    (errors.UpstreamRejected("No.", 413), 413, INVALID, "upstream_rejected", False, {}, NO_RETRY),
    (errors.UpstreamRejected("No.", 422), 422, INVALID, "upstream_rejected", False, {}, NO_RETRY),
    (
        errors.AllProvidersUnavailable("No.", 2.5, DETAILS),
        503,
        "api_error",
        "all_providers_unavailable",
        True,
        DETAILS,
        [*RETRY, (b"retry-after", b"3"), (b"retry-after-ms", b"2500")],
    ),
    (
        errors.Draining("No."),
        503,
        "api_error",
        "draining",
        True,
        {},
        [*RETRY, (b"retry-after", b"1"), (b"retry-after-ms", b"1000")],
    ),
    (errors.DeadlineExceeded("No."), 504, "api_error", "deadline_exceeded", True, {}, RETRY),
    *(
        (errors.StreamBroken(code, "No."), 502, "api_error", code, True, {}, RETRY)
        for code in (
            "upstream_stream_truncated",
            "upstream_stream_invalid",
            "upstream_stream_error",
            "upstream_stream_stalled",
        )
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[3]}-{row[1]}")
def test_error_has_its_status_body_and_headers(
    row: tuple[errors.RouterError, int, str, str, bool, dict[str, Any], list[tuple[bytes, bytes]]],
) -> None:
    """Every error renders in the one shape: nothing is missing, and nothing else is there."""
    error, status, kind, code, retryable, more, headers = row

    assert wire_error(error) == (status, kind, code, retryable)
    assert json.loads(error_body(error, "req_1")) == {
        "error": {
            "message": "No.",
            "type": kind,
            "param": error.param,
            "code": code,
            "retryable": retryable,
            "request_id": "req_1",
            **more,
        }
    }
    assert error_headers(error) == headers


class Unlisted(errors.RouterError):
    """An error that nobody gave a row."""


@pytest.mark.parametrize(
    "error",
    [ValueError("sk-secret"), KeyError("sk-secret"), ConnectionResetError(104, "http://upstream"), Exception()],
    ids=repr,
)
def test_anything_else_is_an_internal_error_that_tells_nothing(error: Exception) -> None:
    """No text of an unforeseen exception reaches a client."""
    assert wire_error(error) == (500, "api_error", "internal_error", False)
    assert json.loads(error_body(error, "req_1")) == {
        "error": {
            "message": "The router failed. Give the request_id to the team that runs it.",
            "type": "api_error",
            "param": None,
            "code": "internal_error",
            "retryable": False,
            "request_id": "req_1",
        }
    }
    assert error_headers(error) == NO_RETRY


def test_router_error_without_a_row_is_an_internal_error() -> None:
    """A new error that was forgotten in the table is at least no success and no retry."""
    assert wire_error(Unlisted("No.")) == (500, "api_error", "internal_error", False)
    assert error_headers(Unlisted("No.")) == NO_RETRY


@pytest.mark.parametrize(
    ("wait", "seconds", "milliseconds"),
    [
        (0.0, b"1", b"1"),
        (0.0001, b"1", b"1"),
        (0.25, b"1", b"250"),
        (1.0, b"1", b"1000"),
        (1.0001, b"2", b"1001"),
        (59.5, b"60", b"59500"),
        (86_400.0, b"86400", b"86400000"),
    ],
)
def test_wait_is_rounded_up(wait: float, seconds: bytes, milliseconds: bytes) -> None:
    """A client that obeys never comes too early, and never at once."""
    assert error_headers(errors.AllProvidersUnavailable("No.", wait, {})) == [
        (b"x-should-retry", b"true"),
        (b"retry-after", seconds),
        (b"retry-after-ms", milliseconds),
    ]


def test_message_of_any_characters_is_json() -> None:
    """What an upstream said stays what it said, escaped where JSON needs it."""
    said = 'a "quote", a \\, a\nline, é, 😀 and \x00'

    body = error_body(errors.UpstreamRejected(said, 400, param='a"b'), "req_1")

    assert json.loads(body)["error"]["message"] == said
    assert json.loads(body)["error"]["param"] == 'a"b'
    assert b"\n" not in body  # it also stands in one line of a stream
