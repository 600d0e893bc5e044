"""The stages of a request, each a frozen value made from the last.

Authenticated → Screened → Permitted → Reserved → Answered. The values are msgspec structs because they are made for
every request.
"""

from collections.abc import Mapping

from msgspec import Struct

from stratmaster_router.domain.routing import Decision, Principal, RequestFacts
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


class Answered(Struct, frozen=True):
    """The answer of the hop that committed."""

    decision: Decision
    reservation: Reservation
    reply: Reply
