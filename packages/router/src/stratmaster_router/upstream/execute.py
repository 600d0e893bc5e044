"""Walks a plan: tries its hops in order until one gives the first byte of an answer, which commits."""

import asyncio
import re
from collections.abc import Mapping
from time import perf_counter

import aiohttp
import msgspec
from aiohttp import ClientResponse
from msgspec import Struct

from stratmaster_router.domain.errors import (
    AllProvidersUnavailable,
    ClientDisconnected,
    DeadlineExceeded,
    StreamBroken,
    UpstreamRejected,
)
from stratmaster_router.domain.routing import Decision, Endpoint, Hop
from stratmaster_router.domain.usage import Usage
from stratmaster_router.upstream.attempts import CLIENT_FAULTS, Attempt, failure_code, next_hop, shortest_wait
from stratmaster_router.upstream.client import Misconfigured, Upstreams
from stratmaster_router.upstream.stream import NETWORK_FAILURES, UpstreamStream
from stratmaster_router.upstream.watch import PhaseExpired, Watch
from stratmaster_router.wire.answer import BadAnswer, StreamReader, read_answer
from stratmaster_router.wire.envelope import Envelope

LARGEST_ANSWER = 128 * 1024 * 1024  # bytes of an answer that is held in memory until it is whole
_LARGEST_ERROR = 64 * 1024


class Reply(Struct):
    """The answer of the hop that committed. Exactly one of `body` (whole) and `stream` is set."""

    hop: Hop
    content_type: bytes
    body: bytes | None = None
    usage: Usage | None = None
    stream: UpstreamStream | None = None


class _HopFailed(Exception):
    def __init__(self, code: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.status = status
        self.retry_after = retry_after


class Trip(Struct):
    """One request's way through its plan, readable at any time, also after a failure.

    `upstream_seconds` is the time spent waiting for upstreams, failed hops included, until one committed.
    """

    attempts: list[Attempt]
    upstream_seconds: float = 0.0

    def record(self, hop: Hop, began: float, status: int | None, code: str | None, wait: float | None = None) -> None:
        """Note an attempt that began at `began` (of `perf_counter`) and has just ended."""
        seconds = perf_counter() - began
        self.upstream_seconds += seconds
        self.attempts.append(Attempt(hop.provider.name, hop.model, status, code, round(seconds * 1000, 3), wait))


async def execute(
    decision: Decision,
    endpoint: Endpoint,
    envelope: Envelope,
    headers: Mapping[str, str],
    upstreams: Upstreams,
    watch: Watch,
    trip: Trip,
) -> Reply:
    """Try the hops of `decision` in order, noting each attempt in `trip`.

    Raises `UpstreamRejected` (the request is wrong), `AllProvidersUnavailable` (the plan is exhausted),
    `DeadlineExceeded` and `ClientDisconnected`.
    """
    while True:
        hop = next_hop(decision.hops, trip.attempts)
        if hop is None:
            raise _exhausted(trip.attempts)
        began = perf_counter()
        try:
            reply = await _try(hop, endpoint, envelope, headers, upstreams, watch)
        except _HopFailed as failure:
            trip.record(hop, began, failure.status, failure.code, failure.retry_after)
        except UpstreamRejected as rejected:
            trip.record(hop, began, rejected.status, "upstream_rejected")
            raise
        except DeadlineExceeded:
            trip.record(hop, began, None, "deadline_exceeded")
            raise
        except ClientDisconnected:
            trip.record(hop, began, None, "client_disconnected")
            raise
        else:
            watch.rest()
            trip.record(hop, began, 200, None)
            return reply


async def _try(
    hop: Hop,
    endpoint: Endpoint,
    envelope: Envelope,
    headers: Mapping[str, str],
    upstreams: Upstreams,
    watch: Watch,
) -> Reply:
    timeouts = hop.provider.timeouts
    try:
        client = upstreams.client(hop.provider)
    except Misconfigured:
        raise _HopFailed("upstream_misconfigured") from None
    body = envelope.for_upstream(hop.model)
    watch.phase(min(timeouts.connect + timeouts.first_byte, timeouts.total))
    response: ClientResponse | None = None
    try:
        response = await client.post(endpoint, body, headers)
        if response.status != 200:
            raise await _refused(response, hop)
        if "Content-Encoding" in response.headers:
            # Identity was asked for; what cannot be read cannot be metered or judged.
            raise _HopFailed("upstream_invalid_response", 200)
        if envelope.stream:
            return await _begin_stream(response, hop, envelope, watch)
        answer = await _read_whole(response)
        return Reply(hop, _content_type(response), answer, read_answer(endpoint, answer))
    except BaseException as failure:  # noqa: BLE001  # cancellation too; all of it is raised on, translated
        # Closing the connection is what cancels the request at the upstream.
        if response is not None:
            response.close()
        raise _meaning(failure, response, watch) from None


async def _begin_stream(response: ClientResponse, hop: Hop, envelope: Envelope, watch: Watch) -> Reply:
    content_type = _content_type(response)
    if not content_type.startswith(b"text/event-stream"):
        raise _HopFailed("upstream_invalid_response", 200)
    stream = UpstreamStream(response, watch, hop.provider.timeouts.idle, StreamReader(envelope.wants_usage))
    await stream.hold_first_event()
    return Reply(hop, content_type, stream=stream)


def _content_type(response: ClientResponse) -> bytes:
    return response.headers.get("Content-Type", "application/json").encode("latin-1")


def _meaning(failure: BaseException, response: ClientResponse | None, watch: Watch) -> BaseException:
    """Translate what went wrong in a hop before it committed."""
    status = None if response is None else response.status
    if isinstance(failure, asyncio.CancelledError):
        meant = watch.interruption(failure)
        return _HopFailed("upstream_timeout", status) if isinstance(meant, PhaseExpired) else meant
    if isinstance(failure, (BadAnswer, StreamBroken)):
        return _HopFailed(failure.code, status)
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return _HopFailed("upstream_connect_timeout")
    if isinstance(failure, aiohttp.ClientConnectorError):
        return _HopFailed("upstream_connect_failed")
    if isinstance(failure, NETWORK_FAILURES):
        return _HopFailed("upstream_disconnected", status)
    return failure


async def _read_whole(response: ClientResponse) -> bytes:
    length = response.content_length
    if length is not None:
        if length > LARGEST_ANSWER:
            raise _HopFailed("upstream_response_too_large", response.status)
        return await response.read()
    body = await _read_at_most(response, LARGEST_ANSWER)
    if len(body) > LARGEST_ANSWER:
        raise _HopFailed("upstream_response_too_large", response.status)
    return body


async def _read_at_most(response: ClientResponse, most: int) -> bytes:
    """Read until the end, but not on from where `most` bytes are passed."""
    chunks = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            break
    return b"".join(chunks)


class _WireError(Struct):
    message: str | None = None
    param: str | None = None


class _WireErrorBody(Struct):
    error: _WireError


_decode_error = msgspec.json.Decoder(_WireErrorBody).decode


async def _refused(response: ClientResponse, hop: Hop) -> Exception:
    """The failure that a status other than 200 stands for."""
    status = response.status
    body = await _read_at_most(response, _LARGEST_ERROR)
    response.close()
    if status not in CLIENT_FAULTS:
        return _HopFailed(failure_code(status), status, _retry_after(response))
    try:
        error = _decode_error(body).error
    except (msgspec.DecodeError, RecursionError):
        error = _WireError()
    message = error.message or f"The provider rejected the request with status {status}."
    return UpstreamRejected(_without_secrets(message, hop), status, param=error.param)


def _without_secrets(message: str, hop: Hop) -> str:
    """An upstream's message without its address or our key, which some servers repeat."""
    provider = hop.provider
    if provider.api_key is not None:
        message = message.replace(provider.api_key.value, "…")
    return re.sub(r"https?://\S+", "…", message)[:2000]


def _retry_after(response: ClientResponse) -> float | None:
    """The upstream's wish in seconds: `retry-after-ms`, else `Retry-After` where it is a number."""
    for name, scale in (("retry-after-ms", 1000.0), ("Retry-After", 1.0)):
        value = response.headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) / scale
    return None


def _exhausted(attempts: list[Attempt]) -> AllProvidersUnavailable:
    return AllProvidersUnavailable(
        "No provider for this task could answer. Use cached recommendations, or try again after retry-after.",
        shortest_wait(attempts),
        {
            "attempts": [
                {"provider": a.provider, "model": a.model, "status": a.status, "code": a.code, "ms": a.ms}
                for a in attempts
            ],
            "fallback": {
                "action": "use_cached_recommendations",
                "message": "Answer from cached recommendations until a provider is back.",
            },
        },
    )
