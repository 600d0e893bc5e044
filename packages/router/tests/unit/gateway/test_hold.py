"""What a hop that redacts is admitted with: the body to send, and limits sized by it."""

import json
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
from stratmaster_router.domain.errors import InvalidRequest
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.domain.routing import Endpoint, Hop, Provider
from stratmaster_router.domain.usage import Usage
from stratmaster_router.gateway.hold import RequestHold
from stratmaster_router.gateway.redaction import Detectors, Redaction
from stratmaster_router.limits.limiter import Limiter
from stratmaster_router.limits.reservation import Reservation
from stratmaster_router.privacy.detect import Detector, Finding
from stratmaster_router.upstream.trip import Exposure, HopRemoved
from stratmaster_router.wire.envelope import Envelope, read_envelope
from support.memory_store import MemoryStore

TPM = Account("acme", None, Metric.TOKENS, Window.MINUTE, 1_000_000)
PLAIN = Hop(Provider("plain", "openai", "http://plain/v1"), "gpt-4.1", accounts=(TPM,))
REDACTING = Hop(Provider("redacting", "openai", "http://r/v1"), "gpt-4.1", accounts=(TPM,), redact=("email",))


def envelope(content: str = "a@b.co", **fields: object) -> Envelope:
    """A request of one message."""
    body = {"model": "reasoning", "messages": [{"role": "user", "content": content}], **fields}
    return read_envelope(Endpoint.CHAT, json.dumps(body, separators=(",", ":")).encode())


class Failing(Detector):
    """A detector that fails, with the text in its words."""

    def find(self, text: str) -> list[Finding]:
        """Fail."""
        raise OverflowError(text)


Held = tuple[RequestHold, Reservation]


@pytest.fixture
async def holding() -> AsyncIterator[Callable[..., Held]]:
    """Makes holds over requests, on one limiter."""
    limiter = Limiter(MemoryStore(lambda: time.time_ns() // 1000), "a")
    limiter.start()

    def hold(request: Envelope, detector: Callable[[tuple[str, ...]], Detector] | None = None) -> Held:
        reservation = Reservation(limiter, Endpoint.CHAT, request)
        redaction = Redaction(Endpoint.CHAT, request, detector or partial(Detectors().of, {}))
        return RequestHold(request, reservation, redaction), reservation

    yield hold
    await limiter.close()


async def test_each_hop_is_bounded_by_what_it_is_sent(holding: Callable[..., Held]) -> None:
    """A placeholder may be longer than its value: the input is bounded by the body with it, and back again."""
    request = envelope("a@b.co " * 50)
    hold, reservation = holding(request)

    redacted = await hold.admit(REDACTING, Exposure.NOTHING)
    plain = await hold.admit(PLAIN, Exposure.INPUT)
    first = reservation.used.input
    again = await hold.admit(REDACTING, Exposure.INPUT)
    second = reservation.used.input - first

    # What an attempt may have cost whose answer is lost is its bound: a token for each byte.
    assert redacted == again == plain.replace(b"a@b.co", b"[EMAIL_1]")
    assert plain == request.for_upstream("gpt-4.1")
    assert (first, second) == (len(request.body) + 50 * 3, len(request.body))
    reservation.settle(None)


async def test_what_cannot_be_replaced_removes_the_hop(holding: Callable[..., Held]) -> None:
    """With the refusal that a client gets where no other hop is left."""
    card = Hop(REDACTING.provider, "gpt-4.1", redact=("card",))
    hold, _ = holding(envelope("x", metadata={"n": 4111111111111111}))

    with pytest.raises(HopRemoved) as removed:
        await hold.admit(card, Exposure.NOTHING)

    assert (removed.value.code, removed.value.wait) == ("redaction_impossible", None)
    assert isinstance(removed.value.refusal, InvalidRequest)
    assert "4111111111111111" not in removed.value.refusal.message


async def test_failing_detector_removes_the_hop(
    holding: Callable[..., Held], capsys: pytest.CaptureFixture[str]
) -> None:
    """However it fails nothing is sent, and neither the log nor the refusal has the text."""
    hold, reservation = holding(envelope("canary-55"), lambda _: Failing())

    with pytest.raises(HopRemoved) as removed:
        await hold.admit(REDACTING, Exposure.NOTHING)

    assert (removed.value.code, removed.value.wait, removed.value.refusal) == ("redaction_failed", None, None)
    assert (reservation.leases, reservation.used) == ((), Usage(0, 0))
    assert "canary" not in "".join(capsys.readouterr())
