"""A request as `upstream.execute` sees it: limits and redaction turned into hops that stay in the plan or leave it."""

from functools import partial
from typing import Self

import structlog

from stratmaster_router.domain.errors import (
    InvalidRequest,
    LimitExceeded,
    LimitStoreUnavailable,
    RequestExceedsLimit,
    limit_code,
)
from stratmaster_router.domain.routing import Hop
from stratmaster_router.gateway.redaction import Redaction
from stratmaster_router.limits.reservation import Reservation
from stratmaster_router.privacy.outgoing import Unsearchable
from stratmaster_router.upstream.trip import Exposure, HopRemoved
from stratmaster_router.wire.envelope import Envelope

log = structlog.stdlib.get_logger("stratmaster_router")

# Looking a member up on its enum is as dear as a call.
_NOTHING = Exposure.NOTHING


class RequestHold:
    """`upstream.trip.Hold` over one reservation. `optional`: a request that cannot have it goes on without.

    `redaction` is needed where the policy has hops that redact.
    """

    __slots__ = ("_envelope", "_optional", "_redaction", "_reservation")

    def __init__(
        self, envelope: Envelope, reservation: Reservation, redaction: Redaction | None, *, optional: bool = False
    ) -> None:
        self._envelope = envelope
        self._reservation = reservation
        self._redaction = redaction
        self._optional = optional

    async def admit(self, hop: Hop, exposure: Exposure) -> bytes:
        """Take the request to `hop`: its body. Raises `HopRemoved` and what `Limiter.reserve` raises."""
        self.book(exposure)
        # Before its limits: a placeholder can be longer than what it stands for, and the bounds are of what is sent.
        envelope = await self._redacted(hop) if hop.redact else self._envelope
        try:
            bound = await self._reservation.admit(hop, envelope)
        except (LimitStoreUnavailable, InvalidRequest) as refused:
            if not self._optional:
                raise
            code = "invalid_request" if isinstance(refused, InvalidRequest) else "limit_store_unavailable"
            raise HopRemoved(refused, code, None) from None
        except (LimitExceeded, RequestExceedsLimit) as refused:
            if refused.account.provider is None and not self._optional:
                raise
            wait = refused.retry_after if isinstance(refused, LimitExceeded) else None
            code = limit_code(refused.account) if isinstance(refused, LimitExceeded) else "request_exceeds_limit"
            raise HopRemoved(refused, code, wait) from None
        return envelope.for_upstream(hop.model, bound)

    async def _redacted(self, hop: Hop) -> Envelope:
        """The request as `hop` may see it. Raises `HopRemoved`, whatever goes wrong: nothing is sent as it is."""
        assert self._redaction is not None
        try:
            return (await self._redaction.of(hop)).envelope
        except Unsearchable as why:
            message = f"The provider may only be sent what has been redacted, and this cannot be: {why}."
            raise HopRemoved(InvalidRequest(message), "redaction_impossible", None) from None
        except Exception as failure:  # noqa: BLE001  # a detector may fail in any way
            # Only the class: the text of an exception can hold the prompt.
            log.error("redaction failed", provider=hop.provider.name, error=type(failure).__name__)
            raise HopRemoved(None, "redaction_failed", None) from None

    def book(self, exposure: Exposure) -> None:
        """Book what an attempt may have cost whose answer is lost."""
        if exposure is not _NOTHING:
            self._reservation.spend(output=exposure is Exposure.ALL)

    def fork(self) -> Self:
        """A hold for a hop that is asked beside this one's."""
        return type(self)(self._envelope, self._reservation.fork(), self._redaction, optional=True)

    def join(self, fork: Self, own: Exposure, forks: Exposure, *, won: bool) -> None:
        """End `fork`, with what either attempt may have cost; where it has `won`, this one goes on as it."""
        if won:
            self._reservation.become(fork._reservation, partial(self.book, own))
        else:
            fork.book(forks)
            self._reservation.absorb(fork._reservation)
