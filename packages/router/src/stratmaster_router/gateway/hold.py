"""A reservation as `upstream.execute` sees it: its limits turned into hops that stay in the plan or leave it."""

from functools import partial
from typing import Self

from stratmaster_router.domain.errors import (
    InvalidRequest,
    LimitExceeded,
    LimitStoreUnavailable,
    RequestExceedsLimit,
    limit_code,
)
from stratmaster_router.domain.routing import Hop
from stratmaster_router.limits.reservation import Reservation
from stratmaster_router.upstream.trip import Exposure, HopRemoved
from stratmaster_router.wire.envelope import OutputBound

# Looking a member up on its enum is as dear as a call.
_NOTHING = Exposure.NOTHING


class LimitsHold:
    """`upstream.trip.Hold` over one reservation. `optional`: a request that cannot have it goes on without."""

    __slots__ = ("_optional", "_reservation")

    def __init__(self, reservation: Reservation, *, optional: bool = False) -> None:
        self._reservation = reservation
        self._optional = optional

    async def admit(self, hop: Hop, exposure: Exposure) -> OutputBound | None:
        """Take the reservation to `hop`. Raises `HopRemoved` and what `Limiter.reserve` raises."""
        self.book(exposure)
        try:
            return await self._reservation.admit(hop)
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

    def book(self, exposure: Exposure) -> None:
        """Book what an attempt may have cost whose answer is lost."""
        if exposure is not _NOTHING:
            self._reservation.spend(output=exposure is Exposure.ALL)

    def fork(self) -> Self:
        """A hold for a hop that is asked beside this one's."""
        return type(self)(self._reservation.fork(), optional=True)

    def join(self, fork: Self, own: Exposure, forks: Exposure, *, won: bool) -> None:
        """End `fork`, with what either attempt may have cost; where it has `won`, this one goes on as it."""
        if won:
            self._reservation.become(fork._reservation, partial(self.book, own))
        else:
            fork.book(forks)
            self._reservation.absorb(fork._reservation)
