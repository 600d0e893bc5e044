"""Walks a plan: tries its hops until one gives the first byte of an answer, which commits."""

import asyncio
import random
from collections.abc import Mapping
from functools import partial
from time import monotonic, perf_counter

from msgspec import Struct

from stratmaster_router.domain.errors import (
    AllProvidersUnavailable,
    ClientDisconnected,
    DeadlineExceeded,
    Draining,
    RouterError,
    UpstreamRejected,
)
from stratmaster_router.domain.routing import Decision, Endpoint, Hop
from stratmaster_router.upstream.attempts import REFUSED_KEY, Attempt, HopFailed, Step, next_step, shortest_wait
from stratmaster_router.upstream.breaker import Breaker
from stratmaster_router.upstream.client import Misconfigured, UpstreamClient, UpstreamResponse, Upstreams
from stratmaster_router.upstream.failures import meaning
from stratmaster_router.upstream.race import CANCELLED, Leg, Race
from stratmaster_router.upstream.report import Report
from stratmaster_router.upstream.response import check_head, read_body
from stratmaster_router.upstream.stream import UpstreamStream, forget_frames
from stratmaster_router.upstream.tls import handshake_failed
from stratmaster_router.upstream.trip import Exposure, Hold, HopRemoved, Reply, Trip
from stratmaster_router.upstream.watch import Watch
from stratmaster_router.wire.answer import StreamReader, read_answer
from stratmaster_router.wire.envelope import Envelope

_BREAKER_OPEN = "breaker_open"
# A key that was refused is tried again after so long, where the provider has another meanwhile.
_BAD_KEY = 60.0
# The connector's own timer of a connection comes first; this one has the search for the address and all tries in it.
_LATE = 0.05
_UNREACHED = frozenset(
    {"upstream_connect_failed", "upstream_connect_timeout", "upstream_tls_failed", "upstream_egress_denied"}
)

_NOTHING, _INPUT, _ALL = Exposure


async def execute(
    decision: Decision,
    endpoint: Endpoint,
    envelope: Envelope,
    headers: Mapping[str, str],
    upstreams: Upstreams,
    watch: Watch,
    trip: Trip,
    hold: Hold,
) -> Reply:
    """Try the hops of `decision`, noting each attempt in `trip`.

    Raises `UpstreamRejected` (the request is wrong), `AllProvidersUnavailable` (the plan is exhausted),
    `DeadlineExceeded`, `Draining`, `ClientDisconnected`, what `hold.admit` raises, and where limits left no hop to try
    the refusal of the one that has room soonest.
    """
    walk = _Walk(decision.hops, endpoint, envelope, headers, upstreams, trip, Leg(watch, hold))
    try:
        return await walk.run()
    finally:
        trip.exposure = walk.leg.exposure


class _Walk(Struct):
    """One request on its way. `removed` is the refusal of the provider's limit that has room soonest."""

    hops: tuple[Hop, ...]
    endpoint: Endpoint
    envelope: Envelope
    headers: Mapping[str, str]
    upstreams: Upstreams
    trip: Trip
    leg: Leg
    removed: HopRemoved | None = None

    async def run(self) -> Reply:
        while True:
            step = self._next()
            if step is None:
                raise self._failure()
            if step.wait:
                await self._pause(step.wait)
            hop = self.hops[step.hop]
            if hop.provider.hedge_after is None or not self._untried(step.hop + 1):
                reply = await self._attempt(step, self.leg)
            else:
                reply = await Race(self._attempt, self.leg, self.trip, step).run(hop.provider.hedge_after)
            if reply is not None:
                self.leg.watch.commit()
                return reply

    def _failure(self) -> RouterError:
        """What a client gets whose plan is exhausted."""
        removed, self.removed = self.removed, None
        if removed is not None and removed.refusal is not None and not self.trip.calls:
            forget_frames(removed.refusal)
            return removed.refusal
        return _exhausted(self.trip.attempts)

    def _next(self) -> Step | None:
        attempts = self.trip.attempts
        if not attempts:
            return next_step(self.hops, attempts, credit=True, left=0.0, chance=0.0)
        budget = self.upstreams.health.budget(self.hops[attempts[-1].hop].provider)
        credit, left = budget.allows(monotonic()), self.leg.watch.left()
        step = next_step(self.hops, attempts, credit=credit, left=left, chance=random.random())  # noqa: S311  # jitter
        if step is not None and step.retry:
            budget.retry()  # at once: while this one waits, others are decided
        return step

    def _untried(self, place: int) -> bool:
        """Whether there is a hop number `place` that has not been tried yet."""
        return place < len(self.hops) and all(attempt.hop < place for attempt in self.trip.attempts)

    async def _pause(self, seconds: float) -> None:
        watch = self.leg.watch
        watch.rest()
        began = perf_counter()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError as cancelled:
            raise watch.interruption(cancelled) from None
        finally:
            self.trip.upstream_seconds += perf_counter() - began

    async def _attempt(self, step: Step, leg: Leg) -> Reply | None:
        """Ask the step's hop. None where it failed, or was kept out, which is noted."""
        hop, trip = self.hops[step.hop], self.trip
        health = self.upstreams.health
        breaker = health.breaker(hop)
        if self._open(step, hop, breaker):
            return None
        exposure, leg.exposure = leg.exposure, _NOTHING  # it is for the hold to book, once
        leg.watch.rest()  # no phase of a former attempt may interrupt what waits for a limit
        try:
            body = await leg.hold.admit(hop, exposure)
        except HopRemoved as refused:
            trip.kept_out(step, hop, refused.code, refused.wait)
            forget_frames(refused)  # they hold this walk, which holds the refusal
            if refused.refusal is not None and (self.removed is None or _sooner(refused, self.removed)):
                self.removed = refused
            return None
        if self._open(step, hop, breaker):  # while a limit was waited for
            return None
        if not step.retry:
            health.budget(hop.provider).request()
        began = leg.began = perf_counter()
        try:
            pool = self.upstreams.pool(hop.provider)
        except Misconfigured as error:
            trip.record(step, hop, began, None, "upstream_misconfigured")
            place = f"providers.{hop.provider.name}"
            self.upstreams.report.failed(hop, place, HopFailed("upstream_misconfigured", why=str(error)))
            return None
        client = pool.choose()
        probe = breaker.begin(monotonic())
        try:
            reply = await self._call(hop, client, body, leg)
        except HopFailed as failure:
            _tell(self.upstreams.report, breaker, client, hop, failure, probe=probe)
            spare = pool.spare(client)
            trip.record(step, hop, began, failure.status, failure.code, failure.retry_after, spare=spare)
            return None
        except UpstreamRejected as rejected:
            self._well(hop, breaker, probe=probe)
            trip.record(step, hop, began, rejected.status, "upstream_rejected")
            raise
        except BaseException as failure:
            breaker.abandoned(probe=probe)
            code = _GIVEN_UP.get(type(failure), CANCELLED if leg.raced else None)
            if code is not None:
                trip.record(step, hop, began, None, code)
            raise
        self._well(hop, breaker, probe=probe)
        if reply.stream is not None:
            reply.stream.broken = partial(_broken, self.upstreams.report, breaker, client, hop)
        if not leg.raced:
            trip.record(step, hop, began, 200, None)
        return reply

    def _well(self, hop: Hop, breaker: Breaker, *, probe: bool) -> None:
        if probe:
            breaker.succeeded(probe=True)
            self.upstreams.report.closed(hop)

    def _open(self, step: Step, hop: Hop, breaker: Breaker) -> bool:
        wait = breaker.wait(monotonic())
        if wait:
            self.trip.kept_out(step, hop, _BREAKER_OPEN, wait)
        return wait > 0

    async def _call(self, hop: Hop, client: UpstreamClient, body: bytes, leg: Leg) -> Reply:
        timeouts, envelope, endpoint, watch = hop.provider.timeouts, self.envelope, self.endpoint, leg.watch
        watch.attempt(timeouts.total)
        watch.phase(timeouts.connect + _LATE)
        response: UpstreamResponse | None = None
        connected = False
        try:
            connection = await client.connect(endpoint)
            connected = True
            watch.phase(timeouts.first_byte)
            leg.exposure = _INPUT if envelope.stream else _ALL
            response = await client.post(connection, endpoint, body, self.headers)
            if response.status != 200:
                leg.exposure = _NOTHING
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
            elif handshake_failed(failure):
                leg.exposure = _NOTHING  # what was sent has not been read: no server does before the handshake's end
            raise meaning(failure, response, watch, connected=connected) from None


def _tell(
    report: Report, breaker: Breaker, client: UpstreamClient, hop: Hop, failure: HopFailed, *, probe: bool
) -> None:
    """Let those know of a failure who keep later requests from the same, and the operator."""
    now = monotonic()
    if failure.status == 429:
        breaker.abandoned(probe=probe)  # busy, not ill
    elif breaker.failed(now, probe=probe):
        report.opened(hop, failure)
    if failure.retry_after is not None and failure.retry_after > hop.provider.retries.backoff_max:
        breaker.park(now, failure.retry_after)
    parked = None
    if failure.status in REFUSED_KEY:
        parked = _BAD_KEY
    elif failure.code in _UNREACHED:
        parked = hop.provider.breaker.open_for
    if parked is not None:
        client.park(parked, failure.code)
    report.failed(hop, client.place, failure, parked if hop.provider.endpoints else None)


def _broken(report: Report, breaker: Breaker, client: UpstreamClient, hop: Hop, code: str) -> None:
    _tell(report, breaker, client, hop, HopFailed(code, 200), probe=False)


def _sooner(one: HopRemoved, other: HopRemoved) -> bool:
    """Whether the limit that removed `one` lets a request through before that of `other` does."""
    return one.wait is not None and (other.wait is None or one.wait < other.wait)


_GIVEN_UP: dict[type[BaseException], str] = {
    DeadlineExceeded: "deadline_exceeded",
    Draining: "draining",
    ClientDisconnected: "client_disconnected",
}


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
