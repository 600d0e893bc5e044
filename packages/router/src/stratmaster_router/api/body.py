"""Reading a request's body within its limits of size and time."""

import asyncio
from collections.abc import Mapping

from stratmaster_router.api.guard import Receive
from stratmaster_router.domain.errors import (
    ClientDisconnected,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)
from stratmaster_router.upstream.watch import PhaseExpired, Watch


def check_media_type(headers: Mapping[bytes, bytes]) -> None:
    """Raises `UnsupportedMediaType` unless the body is declared as plain JSON, or not declared at all."""
    declared = headers.get(b"content-type", b"application/json")
    if declared != b"application/json":
        media_type = declared.partition(b";")[0].strip().lower()
        if media_type != b"application/json" and not media_type.endswith(b"+json"):
            raise UnsupportedMediaType("The body must be JSON: send 'Content-Type: application/json'.")
    if b"content-encoding" in headers:
        raise UnsupportedMediaType("The body must not be compressed: leave out Content-Encoding.")


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], watch: Watch, limit: int, seconds: float
) -> bytes:
    """The whole body, of `limit` bytes at the most, within `seconds`.

    Raises `RequestTooLarge` (before the body is read, where its length is declared), `RequestTimeout` and
    `ClientDisconnected`.
    """
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    watch.phase(seconds)
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            message = await receive()
        except asyncio.CancelledError as cancelled:
            meant = watch.interruption(cancelled)
            if isinstance(meant, PhaseExpired):
                raise RequestTimeout(f"The body did not arrive within {seconds:g} seconds.") from None
            raise meant from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body = message.get("body", b"")
        size += len(body)
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join((*parts, body)) if parts else body
        parts.append(body)


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than the limit of {limit} bytes.")
