"""The OpenAI endpoints that reach a provider, as plain ASGI. Source: wire.md."""

import asyncio
import contextlib
from time import perf_counter

import structlog

from stratmaster_router.api.body import check_media_type, read_body
from stratmaster_router.api.errors import Headers, error_body, wire_error
from stratmaster_router.api.guard import EXPIRES, Receive, Scope, Send, Visit, header_pairs
from stratmaster_router.api.limits import limit_lines
from stratmaster_router.api.protocol import answer_whole, write_chunk
from stratmaster_router.domain.errors import ClientDisconnected, RouterError
from stratmaster_router.domain.routing import Decision, Endpoint, Hop
from stratmaster_router.gateway.pipeline import Gateway
from stratmaster_router.gateway.settlement import Settlement
from stratmaster_router.gateway.stages import Answered, AnswerStream
from stratmaster_router.upstream.watch import Watch, Watchdog

# Seconds that the last event of a stream may take where the deadline has passed.
_LAST_WRITE = 0.02

log = structlog.stdlib.get_logger("stratmaster_router")


class OpenAIEndpoint:
    """Serves POST requests of one endpoint; the guard has put a `Visit` into the scope's state."""

    def __init__(
        self, endpoint: Endpoint, gateway: Gateway, watchdog: Watchdog, *, body_limit: int, body_timeout: float
    ) -> None:
        """`body_limit` is in bytes, `body_timeout` in seconds."""
        self._endpoint = endpoint
        self._gateway = gateway
        self._watchdog = watchdog
        self._body_limit = body_limit
        self._body_timeout = body_timeout
        self._lanes: dict[tuple[str, str | None, str, str], bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be a route of the FastAPI app; the guard calls `serve` without that detour."""
        await self.serve(scope["state"]["visit"], receive, send)

    async def serve(self, visit: Visit, receive: Receive, send: Send) -> None:
        """Answer one request; errors before the answer's head are the guard's to render."""
        settlement = visit.settlement
        watch = self._watchdog.watch()
        try:
            check_media_type(visit.headers)
            body = await read_body(receive, visit.headers, watch, self._body_limit, self._body_timeout)
            watch.listen(receive)
            answered = await self._gateway.answer(self._endpoint, visit.caller, body, watch, settlement)
            stream = answered.stream
            if stream is None:
                whole = answered.body
                assert whole is not None
                watch.close()
                lines = b"content-length: %d\r\n" % len(whole) + self._lines(answered, visit)
                if answer_whole(send, lines, whole):
                    return
                await send({"type": "http.response.start", "status": 200, "headers": header_pairs(lines)})
                await send({"type": "http.response.body", "body": whole})
            else:
                await self._relay(stream, header_pairs(self._lines(answered, visit)), send, settlement, watch)
        except asyncio.CancelledError as cancelled:
            raise watch.interruption(cancelled) from None
        finally:
            watch.close()

    async def _relay(
        self, stream: AnswerStream, headers: Headers, send: Send, settlement: Settlement, watch: Watch
    ) -> None:
        """Pass a stream on. A failure from here on is an event of the stream; it then ends without `[DONE]`."""
        settlement.first_event = perf_counter() - settlement.began
        headers.append((b"cache-control", b"no-cache"))
        last = b""
        whole = False
        reservation = settlement.reservation
        assert reservation is not None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while events := await stream.next():
                if stream.least > reservation.output:
                    await reservation.grow(stream.least)
                if not write_chunk(send, events):
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            whole = True
        except asyncio.CancelledError as cancelled:
            last = stream.flush() + _failure_event(watch.interruption(cancelled), settlement)
        except Exception as error:  # noqa: BLE001  # whatever it is, the stream must not look complete
            last = stream.flush() + _failure_event(error, settlement)
        finally:
            settlement.bill(stream.usage, stream.text, stream.least, whole=whole)
            stream.close()
        left = watch.left()
        watch.close()
        # A client may read as slowly as its deadline allows. One that has stopped must not hold the request for longer:
        # its connection is then dropped by the server.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(left, _LAST_WRITE)):
                await send({"type": "http.response.body", "body": last})

    def _lines(self, answered: Answered, visit: Visit) -> bytes:
        """The header lines of an answer, each with its end; notes the router's own time so far."""
        settlement = visit.settlement
        trip = settlement.trip
        assert trip is not None
        reservation = answered.reservation
        more = limit_lines(reservation.leases, reservation.now()) if reservation.leases else b""
        expires = visit.caller.principal.expires
        if expires is not None:
            more += b"%b: %b\r\n" % (EXPIRES, expires.encode())
        if answered.redacted:
            more += f"x-router-redacted: {answered.redacted}\r\n".encode()
        overhead = perf_counter() - settlement.began - trip.upstream_seconds
        settlement.overhead = overhead
        settlement.status = 200
        return b"content-type: %b\r\nx-request-id: %b\r\nx-router-attempts: %d\r\nx-router-overhead-ms: %.3f\r\n%b" % (
            answered.reply.content_type,
            settlement.request_id.encode(),
            trip.calls,
            overhead * 1000,
            self._lane_lines(answered.decision, answered.reply.hop) + more,
        )

    def _lane_lines(self, decision: Decision, hop: Hop) -> bytes:
        """The header lines that only depend on the policy, made once for each lane."""
        key = (decision.policy, decision.task, hop.provider.name, hop.model)
        lines = self._lanes.get(key)
        if lines is None:
            if any(known[0] != decision.policy for known in self._lanes):
                # Lanes of a former policy are not needed again; this is what keeps the table small.
                self._lanes.clear()
            named = {"provider": hop.provider.name, "model": hop.model, "policy": decision.policy}
            if decision.task is not None:
                named["task"] = decision.task
            lines = "".join([f"x-router-{name}: {value}\r\n" for name, value in named.items()]).encode()
            self._lanes[key] = lines
        return lines


def _failure_event(failure: BaseException, settlement: Settlement) -> bytes:
    """The event that ends a broken stream. Raises `failure` on where no client is left to read it."""
    if isinstance(failure, ClientDisconnected) or not isinstance(failure, Exception):
        try:
            raise failure
        finally:
            del failure  # a frame that names the exception whose traceback holds it is a reference cycle
    if not isinstance(failure, RouterError):
        log.error("stream failed", request_id=settlement.request_id, exc_info=failure)
    settlement.code = wire_error(failure).code
    settlement.refused_by = getattr(failure, "account", None)
    return b"data: " + error_body(failure, settlement.request_id) + b"\n\n"
