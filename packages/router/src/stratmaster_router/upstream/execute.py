"""Walks a plan: tries its hops in order until one gives the first byte of an answer, which commits."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from time import perf_counter

import aiohttp
from msgspec import Struct

from stratmaster_router.domain.errors import (
    AllProvidersUnavailable,
    ClientDisconnected,
    DeadlineExceeded,
    Draining,
    RouterError,
    StreamBroken,
    UpstreamRejected,
)
from stratmaster_router.domain.routing import Decision, Endpoint, Hop
from stratmaster_router.domain.usage import Usage
from stratmaster_router.upstream.attempts import Attempt, next_hop, shortest_wait
from stratmaster_router.upstream.client import Misconfigured, UpstreamResponse, Upstreams
from stratmaster_router.upstream.response import HopFailed, check_head, read_body
from stratmaster_router.upstream.stream import NETWORK_FAILURES, UpstreamStream, forget_frames
from stratmaster_router.upstream.watch import PhaseExpired, Watch
from stratmaster_router.wire.answer import BadAnswer, StreamReader, read_answer
from stratmaster_router.wire.envelope import Envelope, OutputBound


class Exposure(Enum):
    """What the attempt under way may cost although its answer has not been read. An error is never billed."""

    NOTHING = auto()
    INPUT = auto()
    """A stream has been asked for, and none of it has come."""
    ALL = auto()
    """A whole answer has been asked for: it may have been made, and lost on the way."""


_NOTHING, _INPUT, _ALL = Exposure


Admit = Callable[[Hop, Exposure], Awaitable[OutputBound | None]]
"""Takes the request to a hop, after a former one that may have cost its exposure: the bound on output tokens to send.

Raises `HopRemoved` where the provider's own limits say no, and what ends the request where the tenant's do.
"""


class HopRemoved(Exception):
    """A limit of its provider removes a hop from the plan. `refusal` is what the client gets if none is left."""

    def __init__(self, refusal: RouterError, code: str, wait: float | None) -> None:
        super().__init__(code)
        self.refusal = refusal
        self.code = code
        self.wait = wait


class Reply(Struct):
    """The answer of the hop that committed. Exactly one of `body` (whole) and `stream` is set."""

    hop: Hop
    content_type: bytes
    body: bytes | None = None
    usage: Usage | None = None
    stream: UpstreamStream | None = None


class Trip(Struct):
    """One request's way through its plan, readable at any time, also after a failure.

    `upstream_seconds` is the time spent waiting for upstreams, failed hops included, until one committed. `calls` are
    the attempts that were made: a hop that a limit removed was none. `last` is the latest of them.
    """

    attempts: list[Attempt]
    upstream_seconds: float = 0.0
    exposure: Exposure = Exposure.NOTHING
    calls: int = 0
    last: Attempt | None = None

    def removed(self, hop: Hop, code: str, wait: float | None) -> None:
        """Note a hop that a limit of its provider removed from the plan."""
        self.attempts.append(Attempt(hop.provider.name, hop.model, None, code, 0.0, wait, limited=True))

    def record(self, hop: Hop, began: float, status: int | None, code: str | None, wait: float | None = None) -> None:
        """Note an attempt that began at `began` (of `perf_counter`) and has just ended."""
        seconds = perf_counter() - began
        self.upstream_seconds += seconds
        self.calls += 1
        self.last = Attempt(hop.provider.name, hop.model, status, code, round(seconds * 1000, 3), wait)
        self.attempts.append(self.last)


async def execute(
    decision: Decision,
    endpoint: Endpoint,
    envelope: Envelope,
    headers: Mapping[str, str],
    upstreams: Upstreams,
    watch: Watch,
    trip: Trip,
    admit: Admit,
) -> Reply:
    """Try the hops of `decision` in order, noting each attempt in `trip`.

    Raises `UpstreamRejected` (the request is wrong), `AllProvidersUnavailable` (the plan is exhausted),
    `DeadlineExceeded`, `Draining`, `ClientDisconnected`, what `admit` raises, and where limits left no hop to try the
    refusal of the one that has room soonest.
    """
    removed: HopRemoved | None = None
    while True:
        hop = next_hop(decision.hops, trip.attempts)
        if hop is None:
            if removed is not None and not trip.calls:
                raise removed.refusal
            raise _exhausted(trip.attempts)
        exposure, trip.exposure = trip.exposure, _NOTHING  # it is for `admit` to book, once
        try:
            bound = await admit(hop, exposure)
        except HopRemoved as refused:
            trip.removed(hop, refused.code, refused.wait)
            if removed is None or _sooner(refused, removed):
                removed = refused
            continue
        began = perf_counter()
        try:
            reply = await _try(hop, endpoint, envelope, bound, headers, upstreams, watch, trip)
        except HopFailed as failure:
            trip.record(hop, began, failure.status, failure.code, failure.retry_after)
        except UpstreamRejected as rejected:
            trip.record(hop, began, rejected.status, "upstream_rejected")
            raise
        except DeadlineExceeded:
            trip.record(hop, began, None, "deadline_exceeded")
            raise
        except Draining:
            trip.record(hop, began, None, "draining")
            raise
        except ClientDisconnected:
            trip.record(hop, began, None, "client_disconnected")
            raise
        else:
            watch.commit()
            trip.record(hop, began, 200, None)
            return reply


def _sooner(one: HopRemoved, other: HopRemoved) -> bool:
    """Whether the limit that removed `one` lets a request through before that of `other` does."""
    return one.wait is not None and (other.wait is None or one.wait < other.wait)


async def _try(
    hop: Hop,
    endpoint: Endpoint,
    envelope: Envelope,
    bound: OutputBound | None,
    headers: Mapping[str, str],
    upstreams: Upstreams,
    watch: Watch,
    trip: Trip,
) -> Reply:
    timeouts = hop.provider.timeouts
    try:
        client = upstreams.client(hop.provider)
    except Misconfigured:
        raise HopFailed("upstream_misconfigured") from None
    body = envelope.for_upstream(hop.model, bound)
    watch.attempt(timeouts.total)
    watch.phase(timeouts.connect + timeouts.first_byte)
    response: UpstreamResponse | None = None
    try:
        connection = await client.connect(endpoint)
        trip.exposure = _INPUT if envelope.stream else _ALL
        response = await client.post(connection, endpoint, body, headers)
        if response.status != 200:
            trip.exposure = _NOTHING
        content_type = await check_head(response, hop, watch, stream=envelope.stream)
        if envelope.stream:
            stream = UpstreamStream(response, watch, timeouts.idle, StreamReader(envelope.wants_usage))
            await stream.hold_first_event()
            return Reply(hop, content_type, stream=stream)
        answer = await read_body(response, hop, watch)
        return Reply(hop, content_type, answer, read_answer(endpoint, answer))
    except BaseException as failure:  # noqa: BLE001  # cancellation too; all of it is raised on, translated
        # Closing the connection is what cancels the request at the upstream.
        if response is not None:
            response.close()
        raise _meaning(failure, response, watch) from None


def _meaning(failure: BaseException, response: UpstreamResponse | None, watch: Watch) -> BaseException:
    """Translate what went wrong in a hop before it committed."""
    status = None if response is None else response.status
    if isinstance(failure, asyncio.CancelledError):
        meant = watch.interruption(failure)
        return HopFailed("upstream_timeout", status) if isinstance(meant, PhaseExpired) else meant
    if isinstance(failure, (BadAnswer, StreamBroken)):
        return HopFailed(failure.code, status)
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return HopFailed("upstream_connect_timeout")
    if isinstance(failure, (aiohttp.ClientConnectorError, UnicodeError)):  # a host name may not be encodable
        return HopFailed("upstream_connect_failed")
    if isinstance(failure, NETWORK_FAILURES):
        forget_frames(failure)
        return HopFailed("upstream_disconnected", status)
    return failure


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
