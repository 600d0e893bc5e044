"""The request, top to bottom. Each stage is a function from the last stage's value to the next one's."""

from collections.abc import Callable
from functools import partial

from stratmaster_router.domain.errors import InvalidJson, Refused
from stratmaster_router.domain.routing import Decision, Endpoint, Refusal, RequestFacts
from stratmaster_router.gateway.hold import RequestHold
from stratmaster_router.gateway.redaction import Detectors, Redaction
from stratmaster_router.gateway.settlement import Prompt, Settlement
from stratmaster_router.gateway.stages import Answered, Authenticated, Permitted, Reserved, Screened
from stratmaster_router.limits.limiter import Limiter
from stratmaster_router.limits.reservation import Reservation
from stratmaster_router.policy.decide import decide
from stratmaster_router.policy.snapshot import Snapshot
from stratmaster_router.privacy.outgoing import unsearchable
from stratmaster_router.privacy.rawdocs import screen
from stratmaster_router.upstream.client import Upstreams
from stratmaster_router.upstream.execute import execute
from stratmaster_router.upstream.trip import Trip
from stratmaster_router.upstream.watch import Watch
from stratmaster_router.wire.answer import answer_text
from stratmaster_router.wire.envelope import read_envelope

_REFUSALS = {
    Refusal.MODEL_NOT_FOUND: "The model is neither a task nor an allowed model of this tenant. "
    "GET /v1/models lists them.",
    Refusal.ENDPOINT_DISABLED: "This tenant has no embedding task or model, so embeddings are disabled for it.",
    Refusal.RAW_DOCS_FORBIDDEN: "The request carries raw documents, and no provider of this model may receive them. "
    "Send excerpts instead, or ask for a task whose provider may.",
}
_UNSEARCHABLE = (
    "The request has parts that cannot be searched for personal data, and no provider of this model may be sent them. "
    "Leave out pictures, sound, files and token ids, or ask for a task whose provider may."
)


class Gateway:
    """Answers requests under the policy that is in force when they begin."""

    def __init__(self, snapshot: Callable[[], Snapshot], limiter: Limiter, upstreams: Upstreams) -> None:
        """`snapshot` gives the current policy: one immutable value for the whole request."""
        self._snapshot = snapshot
        self._limiter = limiter
        self._upstreams = upstreams
        self._detectors = Detectors()

    async def answer(
        self, endpoint: Endpoint, caller: Authenticated, body: bytes, watch: Watch, settlement: Settlement
    ) -> Answered:
        """Take a request to the hop that answers it.

        Raises `InvalidJson`, `InvalidRequest`, `Refused`, what `Limiter.reserve` and what `upstream.execute` raise.
        """
        snapshot = self._snapshot()
        trip = settlement.trip = Trip([])
        screened = _screen(endpoint, caller, body, snapshot)
        settlement.stream = screened.envelope.stream
        settlement.raw_docs = screened.facts.raw_docs
        tenant = snapshot.tenants.get(caller.principal.tenant)
        if tenant is not None and tenant.snippet_chars:
            settlement.prompt = Prompt(endpoint, screened.envelope.fields, tenant.snippet_chars)
        permitted = _permit(snapshot, caller, screened, settlement)
        reserved = self._reserve(endpoint, screened, permitted, settlement)
        watch.end_by(_total(reserved.decision, caller.timeout))
        envelope = screened.envelope
        redaction = None
        if snapshot.redacts:
            redaction = Redaction(endpoint, envelope, partial(self._detectors.of, snapshot.patterns))
        hold = RequestHold(envelope, reserved.reservation, redaction)
        reply = await execute(
            reserved.decision, endpoint, envelope, caller.forwarded, self._upstreams, watch, trip, hold
        )
        settlement.hop = reply.hop
        if reply.body is not None:
            settlement.bill(reply.usage, partial(answer_text, endpoint, reply.body), 0)
        if not reply.hop.redact or redaction is None:
            return Answered(reserved.decision, reserved.reservation, reply, reply.body, reply.stream)
        redacted = redaction.summary(reply.hop)
        settlement.redacted = redacted or None
        restored = await redaction.restored(reply)
        return Answered(reserved.decision, reserved.reservation, reply, *restored, redacted)

    def _reserve(
        self, endpoint: Endpoint, screened: Screened, permitted: Permitted, settlement: Settlement
    ) -> Reserved:
        """The hold on limits; it is the first hop's accounts that it takes first, when that hop is tried."""
        reservation = settlement.reservation = Reservation(self._limiter, endpoint, screened.envelope)
        return Reserved(permitted.decision, reservation)


def _screen(endpoint: Endpoint, caller: Authenticated, body: bytes, snapshot: Snapshot) -> Screened:
    envelope = read_envelope(endpoint, body)
    try:
        raw_docs, longest_text = screen(endpoint, envelope.fields, caller.data_class)
        unfit = unsearchable(endpoint, envelope.fields) if snapshot.redacts else None
    except RecursionError:
        raise InvalidJson("The request body is nested too deeply.") from None
    return Screened(envelope, RequestFacts(endpoint, envelope.model, raw_docs, longest_text, unfit))


def _permit(snapshot: Snapshot, caller: Authenticated, screened: Screened, settlement: Settlement) -> Permitted:
    decision: Decision = decide(snapshot, caller.principal, screened.facts)
    settlement.decision = decision
    if decision.refusal is not None:
        param = "model" if decision.refusal is Refusal.MODEL_NOT_FOUND else None
        unfit = screened.facts.unsearchable
        if unfit is not None and any(line.reason.startswith(unfit) for line in decision.trace):
            message = _UNSEARCHABLE
        else:
            message = _REFUSALS[decision.refusal]
        raise Refused(message, decision, param=param)
    return Permitted(decision)


def _total(decision: Decision, wish: float | None) -> float:
    """The whole request's deadline in seconds: the client's, or the most patient provider's if that is sooner.

    The most patient one's, so that each hop can have its own.
    """
    total = 0.0
    for hop in decision.hops:
        total = max(total, hop.provider.timeouts.total)
    return total if wish is None else min(total, wish)
