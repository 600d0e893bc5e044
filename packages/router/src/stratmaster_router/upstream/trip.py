"""One request's way through its plan: what was tried, what it may have cost, what holds its limits, what came of it."""

from enum import Enum, auto
from time import perf_counter
from typing import Protocol, Self

from msgspec import Struct

from stratmaster_router.domain.errors import RouterError
from stratmaster_router.domain.routing import Hop
from stratmaster_router.domain.usage import Usage
from stratmaster_router.upstream.attempts import Attempt, Step
from stratmaster_router.upstream.stream import UpstreamStream


class Exposure(Enum):
    """What the attempt under way may cost although its answer has not been read. An error is never billed."""

    NOTHING = auto()
    INPUT = auto()
    """A stream has been asked for, and none of it has come."""
    ALL = auto()
    """A whole answer has been asked for: it may have been made, and lost on the way."""


class HopRemoved(Exception):
    """A limit of its provider, or what the request holds, removes a hop from the plan.

    `refusal` is what the client gets if none is left; None for the refusal of a plan that is exhausted. `wait` is in
    seconds, None where waiting is of no use.
    """

    def __init__(self, refusal: RouterError | None, code: str, wait: float | None) -> None:
        super().__init__(code)
        self.refusal = refusal
        self.code = code
        self.wait = wait


class Hold(Protocol):
    """What the request holds of its limits, and what may be sent: the gateway's, which knows of them."""

    async def admit(self, hop: Hop, exposure: Exposure) -> bytes:
        """Take it to `hop`, after a former one that may have cost `exposure`: the body to send there.

        Raises `HopRemoved` where the provider's own limits say no, or the request cannot be made fit for it, and what
        ends the request where the tenant's limits do.
        """

    def fork(self) -> Self:
        """A second one, for a hop that is asked at the same time."""

    def join(self, fork: Self, own: Exposure, forks: Exposure, *, won: bool) -> None:
        """End `fork`: book what either may have cost, and where it has `won`, go on with what it holds."""


class Reply(Struct):
    """The answer of the hop that committed. Exactly one of `body` (whole) and `stream` is set."""

    hop: Hop
    content_type: bytes
    body: bytes | None = None
    usage: Usage | None = None
    stream: UpstreamStream | None = None


class Trip(Struct):
    """One request's way through its plan, readable at any time, also after a failure.

    `upstream_seconds` is the time spent waiting for upstreams, failed hops and pauses included, until one committed.
    `calls` are the attempts that were made: a hop that a limit or a breaker kept out was none. `last` is the latest.
    `exposure` is that of an attempt that has ended, until the hold has booked it, and of one under way.
    """

    attempts: list[Attempt]
    upstream_seconds: float = 0.0
    exposure: Exposure = Exposure.NOTHING
    calls: int = 0
    last: Attempt | None = None

    def kept_out(self, step: Step, hop: Hop, code: str, wait: float | None) -> None:
        """Note a hop that was not called."""
        self.attempts.append(Attempt(hop.provider.name, hop.model, None, code, 0.0, wait, called=False, hop=step.hop))

    def record(
        self,
        step: Step,
        hop: Hop,
        began: float,
        status: int | None,
        code: str | None,
        wait: float | None = None,
        *,
        spare: bool = False,
    ) -> None:
        """Note an attempt that began at `began` (of `perf_counter`) and has just ended."""
        seconds = perf_counter() - began
        self.upstream_seconds += seconds
        self.calls += 1
        self.last = Attempt(
            hop.provider.name, hop.model, status, code, round(seconds * 1000, 3), wait, hop=step.hop, spare=spare
        )
        self.attempts.append(self.last)
