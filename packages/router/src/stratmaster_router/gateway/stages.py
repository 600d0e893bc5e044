"""The stages of a request, each a frozen value made from the last.

Authenticated → Screened → Permitted → Reserved → Answered. The values are msgspec structs because they are made for
every request.
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from stratmaster_router.domain.routing import Decision, Principal, RequestFacts
from stratmaster_router.domain.usage import Usage
from stratmaster_router.limits.reservation import Reservation
from stratmaster_router.upstream.trip import Reply
from stratmaster_router.wire.envelope import Envelope


class Authenticated(Struct, frozen=True):
    """A caller whose key and tenant have been judged.

    `data_class` is the header `X-Data-Class`; `forwarded` are the only headers that travel to an upstream. `timeout` is
    the client's own deadline for the whole request, in seconds.
    """

    principal: Principal
    data_class: str | None
    forwarded: Mapping[str, str]
    timeout: float | None = None


class Screened(Struct, frozen=True):
    """A body that has been read, and what a decision may know of it."""

    envelope: Envelope
    facts: RequestFacts


class Permitted(Struct, frozen=True):
    """A plan that policy allows; never empty."""

    decision: Decision


class Reserved(Struct, frozen=True):
    """A plan with the hold on limits that goes with the request from hop to hop."""

    decision: Decision
    reservation: Reservation


class AnswerStream(Protocol):
    """A streaming answer: as its upstream sends it, or restored."""

    @property
    def least(self) -> int:
        """Output tokens that there must have been so far."""

    @property
    def usage(self) -> Usage | None:
        """The usage that the upstream has reported so far."""

    def text(self) -> str:
        """The text of the answer so far, as the provider sent it."""

    async def next(self) -> bytes:
        """The next bytes for the client; empty at the end."""

    def flush(self) -> bytes:
        """What is held back, where the stream ends before its time."""

    def close(self) -> None:
        """Let the upstream go."""


class Answered(Struct, frozen=True):
    """The answer of the hop that committed, with its `body` or `stream` as the client is to have it.

    `redacted` says what the hop was not sent, such as `card=1,email=2`.
    """

    decision: Decision
    reservation: Reservation
    reply: Reply
    body: bytes | None
    stream: AnswerStream | None
    redacted: str = ""
