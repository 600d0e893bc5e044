"""What must be recorded of a request, exactly once, however it ends."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import structlog
from msgspec import Struct
from msgspec.structs import replace

from stratmaster_router.domain.errors import LIMIT_CODES
from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account
from stratmaster_router.domain.routing import Decision, Endpoint, Hop
from stratmaster_router.domain.usage import Usage
from stratmaster_router.limits.reservation import Reservation
from stratmaster_router.privacy.prompt import prompt_content, prompt_text
from stratmaster_router.privacy.redact import Redactor
from stratmaster_router.telemetry.access_log import AccessLine, AccessLog
from stratmaster_router.telemetry.audit import AuditLog
from stratmaster_router.telemetry.audit_records import RequestRecord
from stratmaster_router.telemetry.metrics import NONE, Metrics
from stratmaster_router.upstream.trip import Exposure, Trip

# The status that the access log gives a request whose client went away before an answer (nginx's custom).
CLIENT_CLOSED = 499

log = structlog.stdlib.get_logger("stratmaster_router")

L = TypeVar("L", AccessLine, RequestRecord)


class Prompt(Struct, frozen=True):
    """What was asked, where the tenant's policy lets a log have the beginning of it: `chars` characters, redacted."""

    endpoint: Endpoint
    fields: Mapping[str, Any]
    chars: int


class Settlement(Struct):
    """An obligation: made when the request begins, filled in along its way, settled when it ends.

    `began` is of `perf_counter`; durations are in seconds. `credential` is the principal's; `raw_docs` is why the
    request carries raw documents; `refused_by` is the account that refused it.
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
    reservation: Reservation | None = None
    redacted: str | None = None
    prompt: Prompt | None = None
    settled: bool = False
    credential: str | None = None
    raw_docs: str | None = None
    refused_by: Account | None = None

    def bill(self, usage: Usage | None, text: Callable[[], str], least: int, *, whole: bool = True) -> None:
        """Book what the hop that answered used: `usage` as its upstream counted it, or else counted here.

        `text` gives what it answered, of `least` output tokens or more. `whole`: the answer came to its end.
        """
        reservation = self.reservation
        assert reservation is not None
        if usage is None:
            usage = reservation.counted(text(), least, watched=self.stream)
            reservation.settle(usage, estimated=True)
        else:
            if not whole and usage.output < least:
                usage = replace(usage, output=least)
            reservation.settle(usage, estimated=not whole)
        self.usage = usage

    def ledger_row(self) -> LedgerRow | None:
        """The row of a request that called an upstream; others have cost nothing and have none."""
        trip, reservation, decision = self.trip, self.reservation, self.decision
        if trip is None or reservation is None or decision is None or trip.last is None:
            return None
        used = reservation.used
        last = trip.last
        return LedgerRow(
            request_id=self.request_id,
            tenant=self.tenant or NONE,
            task=decision.task,
            provider=last.provider,
            model=last.model,
            input_tokens=used.input,
            cached_input_tokens=used.cached_input,
            output_tokens=used.output,
            cost_nanousd=reservation.cost,
            status=self.status,
            attempts=trip.calls,
            policy=decision.policy,
            estimated=reservation.estimated,
        )


class Recorder:
    """Keeps settlements: limits, ledger, metrics, the access log and the audit log."""

    def __init__(
        self,
        metrics: Metrics,
        access_log: AccessLog,
        audit: AuditLog,
        record: Callable[[LedgerRow], None],
        redactor: Redactor,
    ) -> None:
        """`record` takes the ledger's rows."""
        self._metrics = metrics
        self._access_log = access_log
        self._audit = audit
        self._record = record
        self._redactor = redactor

    def settle(self, settlement: Settlement) -> None:
        """Record `settlement`; a second call does nothing."""
        if settlement.settled:
            return
        settlement.settled = True
        if settlement.reservation is not None and settlement.trip is not None:
            _close(settlement.reservation, settlement.trip)
            row = settlement.ledger_row()
            if row is not None:
                self._record(row)
        seconds = perf_counter() - settlement.began
        self._measure(settlement, seconds)
        if self._access_log.enabled:
            line = _line(settlement, seconds)
            prompt = settlement.prompt
            self._access_log.write(line if prompt is None else partial(_with_prompt, line, prompt, self._redactor))
        if self._audit.enabled:
            record = _audit_record(settlement, seconds)
            prompt = settlement.prompt
            self._audit.add(record if prompt is None else partial(_with_prompt, record, prompt, self._redactor))

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
                if attempt.code is not None and attempt.called:
                    metrics.upstream_failures.child(attempt.provider, attempt.model, attempt.code)[0] += 1
        if settlement.overhead is not None:
            metrics.overhead.observe(metrics.overhead_child, settlement.overhead)
        if settlement.code is not None:
            metrics.errors.child(tenant, settlement.code)[0] += 1
            if settlement.code in LIMIT_CODES:
                metrics.throttled.child(tenant, settlement.code)[0] += 1


def _close(reservation: Reservation, trip: Trip) -> None:
    """Settle what no answer has settled: at nothing, or at what the last attempt may have cost."""
    if reservation.settled:
        return
    if trip.exposure is not Exposure.NOTHING:
        reservation.spend(output=trip.exposure is Exposure.ALL)
    reservation.settle(None)


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
        attempts=0 if settlement.trip is None else settlement.trip.calls,
        overhead_ms=None if overhead is None else round(overhead * 1000, 3),
        first_event_ms=None if first_event is None else round(first_event * 1000, 3),
        input_tokens=None if usage is None else usage.input,
        output_tokens=None if usage is None else usage.output,
        policy=None if decision is None else decision.policy,
        redacted=settlement.redacted,
    )


def _audit_record(settlement: Settlement, seconds: float) -> RequestRecord:
    decision, trip, reservation, hop = settlement.decision, settlement.trip, settlement.reservation, settlement.hop
    refused_by = settlement.refused_by
    # What was used is told where it is in the ledger: where an upstream was called.
    used = None if trip is None or trip.last is None or reservation is None else reservation.used
    task = model_asked = None
    if decision is not None:
        task = decision.task
        if task is None and decision.trace:
            model_asked = decision.trace[0].model
    return RequestRecord(
        datetime.now(UTC),
        settlement.request_id,
        settlement.method,
        settlement.path,
        settlement.status,
        round(seconds * 1000, 3),
        tenant=settlement.tenant,
        credential=settlement.credential,
        task=task,
        model_asked=model_asked,
        stream=settlement.stream,
        code=settlement.code,
        policy=None if decision is None else decision.policy,
        refusal=None if decision is None else decision.refusal,
        raw_docs=settlement.raw_docs,
        limit=None if refused_by is None else refused_by.key,
        trace=() if decision is None else decision.trace,
        attempts=() if trip is None else tuple(trip.attempts),
        provider=None if hop is None else hop.provider.name,
        model=None if hop is None else hop.model,
        input_tokens=None if used is None else used.input,
        cached_input_tokens=None if used is None else used.cached_input,
        output_tokens=None if used is None else used.output,
        cost_nanousd=None if used is None or reservation is None else reservation.cost,
        estimated=reservation is not None and reservation.estimated,
        redacted=settlement.redacted,
    )


def _with_prompt(line: L, prompt: Prompt, redactor: Redactor) -> L:
    try:
        line.prompt = redactor.snippet(prompt_text(prompt.endpoint, prompt.fields), prompt.chars)
        line.prompt_fingerprint = redactor.fingerprint(prompt_content(prompt.endpoint, prompt.fields))
    except Exception as error:  # the line counts more than its snippet
        log.error("prompt snippet not made", request_id=line.request_id, exc_info=error)
    return line
