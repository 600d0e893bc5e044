"""What must be recorded of a request, exactly once, however it ends."""

from datetime import UTC, datetime
from time import perf_counter

from msgspec import Struct

from stratmaster_router.domain.routing import Decision, Hop
from stratmaster_router.domain.usage import Usage
from stratmaster_router.telemetry.access_log import AccessLine, AccessLog
from stratmaster_router.telemetry.metrics import NONE, Metrics
from stratmaster_router.upstream.execute import Trip

# The status that the access log gives a request whose client went away before an answer (nginx's custom).
CLIENT_CLOSED = 499


class Settlement(Struct):
    """An obligation: made when the request begins, filled in along its way, settled when it ends.

    `began` is of `perf_counter`; durations are in seconds.
    """

    request_id: str
    method: str
    path: str
    began: float
    tenant: str | None = None
    stream: bool = False
    decision: Decision | None = None
    trip: Trip | None = None
    hop: Hop | None = None
    usage: Usage | None = None
    status: int = CLIENT_CLOSED
    code: str | None = None
    overhead: float | None = None
    first_event: float | None = None
    settled: bool = False


class Recorder:
    """Keeps settlements: metrics and the access log."""

    def __init__(self, metrics: Metrics, access_log: AccessLog) -> None:
        self._metrics = metrics
        self._access_log = access_log

    def settle(self, settlement: Settlement) -> None:
        """Record `settlement`; a second call does nothing."""
        if settlement.settled:
            return
        settlement.settled = True
        seconds = perf_counter() - settlement.began
        self._measure(settlement, seconds)
        if self._access_log.enabled:
            self._access_log.write(_line(settlement, seconds))

    def _measure(self, settlement: Settlement, seconds: float) -> None:
        metrics = self._metrics
        tenant = settlement.tenant or NONE
        trip = settlement.trip
        if trip is not None:
            hop = settlement.hop
            if hop is None:
                metrics.lane((tenant, NONE, NONE)).count(seconds)
            else:
                lane = metrics.lane((tenant, hop.provider.name, hop.model))
                lane.count(seconds)
                lane.answered(trip.attempts[-1].ms / 1000, settlement.first_event, settlement.usage)
            for attempt in trip.attempts:
                if attempt.code is not None:
                    metrics.upstream_failures.child(attempt.provider, attempt.model, attempt.code)[0] += 1
        if settlement.overhead is not None:
            metrics.overhead.observe(metrics.overhead_child, settlement.overhead)
        if settlement.code is not None:
            metrics.errors.child(tenant, settlement.code)[0] += 1


def _line(settlement: Settlement, seconds: float) -> AccessLine:
    hop = settlement.hop
    decision = settlement.decision
    usage = settlement.usage
    overhead = settlement.overhead
    first_event = settlement.first_event
    return AccessLine(
        time=datetime.now(UTC),
        request_id=settlement.request_id,
        method=settlement.method,
        path=settlement.path,
        status=settlement.status,
        ms=round(seconds * 1000, 3),
        tenant=settlement.tenant,
        task=None if decision is None else decision.task,
        provider=None if hop is None else hop.provider.name,
        model=None if hop is None else hop.model,
        stream=settlement.stream,
        code=settlement.code,
        attempts=0 if settlement.trip is None else len(settlement.trip.attempts),
        overhead_ms=None if overhead is None else round(overhead * 1000, 3),
        first_event_ms=None if first_event is None else round(first_event * 1000, 3),
        input_tokens=None if usage is None else usage.input,
        output_tokens=None if usage is None else usage.output,
        policy=None if decision is None else decision.policy,
    )
