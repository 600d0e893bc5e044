"""The outermost ASGI layer: request ids, authentication, errors and the record of every request.

Everything below `/v1` and `/admin` is reached only with a judged credential. The OpenAI endpoints are called from
here directly: they are routes of the FastAPI app too (for its document and its 405), but FastAPI's own way to them
costs 10 µs a request (docs/decisions/0003).
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from itertools import count
from time import perf_counter
from typing import Any

import structlog
from msgspec import Struct

from stratmaster_router.api.errors import Headers, error_body, error_headers, wire_error
from stratmaster_router.api.limits import limit_lines
from stratmaster_router.domain.errors import ClientDisconnected, InvalidAssertion, InvalidRequest, RouterError
from stratmaster_router.domain.routing import Administrator, Principal
from stratmaster_router.gateway.settlement import CLIENT_CLOSED, Recorder, Settlement
from stratmaster_router.gateway.stages import Authenticated

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Of answers to a key that will soon expire.
EXPIRES = b"x-api-key-expires"

# Reached without a credential; a test holds every other route against `guarded`.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/internal/metrics", "/internal/status", "/openapi.json"})

_well_formed_id = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch
# W3C Trace Context, version 00; an all-zero id is no id.
_traceparent = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_milliseconds = re.compile(rb"0*[1-9][0-9]{0,11}").fullmatch
_printable = re.compile(rb"[\t\x20-\x7e]*").fullmatch
_READ_HEADERS = frozenset(
    {b"authorization", b"x-tenant-id", b"x-request-id", b"x-data-class", b"traceparent", b"tracestate"}
    | {
        b"content-type",
        b"content-encoding",
        b"content-length",
        b"openai-beta",
        b"idempotency-key",
        b"x-request-timeout-ms",
    }
)
_FORWARDED = (("openai-beta", b"openai-beta"), ("idempotency-key", b"idempotency-key"))

log = structlog.stdlib.get_logger("stratmaster_router")


class Visit(Struct):
    """One guarded request: what the guard found out, for the endpoint behind it."""

    headers: Mapping[bytes, bytes]
    caller: Authenticated
    settlement: Settlement


Serve = Callable[[Visit, Receive, Send], Awaitable[None]]
# From the headers `Authorization` and `X-Tenant-ID`; they raise what `auth.authenticate` says.
Judge = Callable[[bytes | None, bytes | None], Principal]
JudgeAdministrator = Callable[[bytes | None], Administrator]
# Whether the keys of an issuer of assertions, which is named, have been brought up to date since.
LookAgain = Callable[[str], Awaitable[bool]]


def guarded(path: str) -> bool:
    """Whether `path` is reached only with a credential."""
    return path.startswith("/v1/") or path == "/v1" or administrative(path)


def administrative(path: str) -> bool:
    """Whether the credential must be an administrator's."""
    return path.startswith("/admin/") or path == "/admin"


class Guard:
    """Wraps the FastAPI app. `endpoints` maps the paths of the POST endpoints to what serves them."""

    def __init__(
        self,
        app: App,
        endpoints: Mapping[str, Serve],
        judge: Judge,
        judge_administrator: JudgeAdministrator,
        look_again: LookAgain,
        recorder: Recorder,
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._judge_credential = judge
        self._judge_administrator = judge_administrator
        self._look_again = look_again
        self._recorder = recorder
        self._id_prefix = f"req_{secrets.token_hex(8)}"
        self._counter = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = _read_headers(scope["headers"])
        request_id = self._request_id(headers.get(b"x-request-id"))
        if path in OPEN_PATHS:
            scope["state"]["request_id"] = request_id
            await self._app(scope, receive, _with_request_id(send, request_id))
            return
        method = scope["method"]
        settlement = Settlement(request_id, method, "unknown", perf_counter())
        endpoint = self._endpoints.get(path) if method == "POST" else None
        try:
            if endpoint is not None:
                settlement.path = path
                try:
                    visit = self._judge(headers, settlement)
                except InvalidAssertion as refused:
                    await self._renew_keys(refused)
                    visit = self._judge(headers, settlement)
                await endpoint(visit, receive, send)
            else:
                await self._through_fastapi(scope, receive, send, headers, settlement)
        except ClientDisconnected:
            settlement.code = "client_disconnected"
        except Exception as error:
            if isinstance(error, InvalidAssertion):
                log.info("assertion refused", request_id=request_id, reason=error.reason)
            elif not isinstance(error, RouterError):
                log.error("request failed", request_id=request_id, exc_info=error)
            if settlement.status == CLIENT_CLOSED:
                await send_error(send, error, settlement)
            else:
                settlement.code = wire_error(error).code
        finally:
            self._recorder.settle(settlement)

    def _judge(self, headers: Mapping[bytes, bytes], settlement: Settlement) -> Visit:
        principal = self._judge_credential(headers.get(b"authorization"), headers.get(b"x-tenant-id"))
        settlement.tenant = principal.tenant
        settlement.credential = principal.credential
        data_class = headers.get(b"x-data-class")
        caller = Authenticated(
            principal,
            None if data_class is None else data_class.decode("latin-1"),
            _forwarded(headers, settlement.request_id),
            _timeout(headers.get(b"x-request-timeout-ms")),
        )
        return Visit(headers, caller, settlement)

    async def _renew_keys(self, refused: InvalidAssertion) -> None:
        """Look whether the issuer of an assertion has new keys, so that it is worth judging once more.

        Raises `refused` where that is of no use.
        """
        if refused.keys_of is None or not await self._look_again(refused.keys_of):
            raise refused

    async def _through_fastapi(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes], settlement: Settlement
    ) -> None:
        scope["state"]["request_id"] = settlement.request_id
        scope["state"]["settlement"] = settlement
        expires = None
        if administrative(scope["path"]):
            authorization = headers.get(b"authorization")
            try:
                administrator = self._judge_administrator(authorization)
            except InvalidAssertion as refused:
                await self._renew_keys(refused)
                administrator = self._judge_administrator(authorization)
            scope["state"]["administrator"] = administrator
            settlement.credential = f"administrator:{administrator.name}"
        elif guarded(scope["path"]):
            try:
                visit = self._judge(headers, settlement)
            except InvalidAssertion as refused:
                await self._renew_keys(refused)
                visit = self._judge(headers, settlement)
            scope["state"]["visit"] = visit
            expires = visit.caller.principal.expires

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                settlement.status = message["status"]
                if expires is not None and settlement.status < 400:
                    message["headers"] = [*message["headers"], (EXPIRES, expires.encode())]
            await send(message)

        await self._app(scope, receive, _with_request_id(send_and_note, settlement.request_id))
        settlement.path = _route_path(scope)

    def _request_id(self, wanted: bytes | None) -> str:
        if wanted is not None and _well_formed_id(wanted):
            return wanted.decode("ascii")
        return f"{self._id_prefix}{next(self._counter):08x}"


def _with_request_id(send: Send, request_id: str) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
        await send(message)

    return send_with_id


async def send_error(send: Send, error: Exception, settlement: Settlement) -> None:
    """Answer with `error`, in the one shape, and note it."""
    wire = wire_error(error)
    settlement.status = wire.status
    settlement.code = wire.code
    settlement.refused_by = getattr(error, "account", None)
    body = error_body(error, settlement.request_id)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", settlement.request_id.encode()),
        *error_headers(error),
    ]
    if settlement.decision is not None:
        headers.append((b"x-router-policy", settlement.decision.policy.encode()))
    if settlement.trip is not None:
        headers.append((b"x-router-attempts", b"%d" % settlement.trip.calls))
    if settlement.reservation is not None:
        headers += header_pairs(limit_lines(settlement.reservation.leases, settlement.reservation.now()))
    await send({"type": "http.response.start", "status": wire.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def header_pairs(lines: bytes) -> Headers:
    """Header lines, each with its end, as ASGI wants them."""
    pairs = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in pairs]


def _read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers that the router reads. One that comes twice is joined, so that no copy of it can hide another."""
    found: dict[bytes, bytes] = {}
    for name, value in raw:
        if name in _READ_HEADERS:
            found[name] = found[name] + b", " + value if name in found else value
    return found


def _timeout(wish: bytes | None) -> float | None:
    """The client's own deadline in seconds. Raises `InvalidRequest`: one that is not understood would not be kept."""
    if wish is None:
        return None
    if not _milliseconds(wish):
        raise InvalidRequest(
            "The header x-request-timeout-ms must be a whole number of milliseconds above 0.",
            param="x-request-timeout-ms",
        )
    return int(wish) / 1000


def _forwarded(headers: Mapping[bytes, bytes], request_id: str) -> dict[str, str]:
    """The request headers that an upstream sees beside the session's own: an allow-list, so nothing slips through."""
    forwarded = {"x-request-id": request_id}
    traceparent = headers.get(b"traceparent")
    if traceparent is not None and _traceparent(traceparent):
        forwarded["traceparent"] = traceparent.decode("ascii")
        if b"tracestate" in headers and _printable(headers[b"tracestate"]):
            forwarded["tracestate"] = headers[b"tracestate"].decode("latin-1")
    for name, key in _FORWARDED:
        if key in headers and _printable(headers[key]):
            forwarded[name] = headers[key].decode("latin-1")
    return forwarded


def _route_path(scope: Scope) -> str:
    """The path of the route that answered, as the app declares it: what a client typed never reaches a log."""
    return getattr(scope.get("route"), "path", "unknown")
