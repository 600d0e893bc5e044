"""Tells the operator why an upstream fails: in the log, in words of the router's own, never an address or a key."""

from time import monotonic

import structlog

from stratmaster_router.domain.routing import Hop
from stratmaster_router.upstream.attempts import HopFailed

_AGAIN = 60.0  # seconds until the same failure is told again
_MOST = 1000

log = structlog.stdlib.get_logger("stratmaster_router")


class Report:
    """Writes a line for each kind of failure of a hop, once a minute at the most, and for each change of a breaker."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str, str, str | None], float] = {}

    def failed(self, hop: Hop, place: str, failure: HopFailed, parked: float | None = None) -> None:
        """`hop` has failed at the endpoint that policy has at `place`, which is left alone for `parked` seconds."""
        key = (place, hop.model, failure.code, failure.why)
        now = monotonic()
        if now - self._told.get(key, -_AGAIN) < _AGAIN:
            return
        if len(self._told) >= _MOST:
            self._told.clear()
        self._told[key] = now
        log.warning("upstream failed", **_named(hop), endpoint=place, parked_seconds=parked, **_said(failure))

    def opened(self, hop: Hop, failure: HopFailed) -> None:
        """The breaker of `hop` has opened."""
        log.warning("breaker opened", **_named(hop), seconds=hop.provider.breaker.open_for, **_said(failure))

    def closed(self, hop: Hop) -> None:
        """The breaker of `hop` has closed."""
        log.warning("breaker closed", **_named(hop))


def _named(hop: Hop) -> dict[str, str]:
    return {"provider": hop.provider.name, "model": hop.model}


def _said(failure: HopFailed) -> dict[str, str | int | None]:
    return {"code": failure.code, "status": failure.status, "why": failure.why}
