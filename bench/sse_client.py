"""Streaming load: many raw connections in one event loop, which do as little as they can while data arrives.

Bytes are only collected while a stream runs; decoding, counting and hashing happen afterwards, so that
the client takes little of the processor that it shares with the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from .load import Target

_END_OF_CHUNKS = b"0\r\n\r\n"


@dataclass
class Stream:
    """One streamed answer: what arrived, and when the first event did."""

    user: str
    first_event_s: float | None = None
    raw: bytearray = field(default_factory=bytearray)

    def body(self) -> bytes:
        """The answer's body as far as it arrived, without the chunked framing."""
        head, _, rest = bytes(self.raw).partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" not in head.lower():
            return rest
        pieces: list[bytes] = []
        at = 0
        while (end := rest.find(b"\r\n", at)) > at:
            start = end + 2
            length = int(rest[at:end], 16)
            pieces.append(rest[start : start + length])
            at = start + length + 2
        return b"".join(pieces)

    @property
    def complete(self) -> bool:
        """Whether a good answer came to its proper end."""
        return self.raw[9:12] == b"200" and self.body().endswith(b"data: [DONE]\n\n")

    @property
    def chunks(self) -> int:
        """Events received, `[DONE]` not counted."""
        return self.body().count(b"data: {")

    @property
    def digest(self) -> str:
        """SHA-256 of the body, to compare with the upstream's."""
        return hashlib.sha256(self.body()).hexdigest()


class _Client(asyncio.Protocol):
    def __init__(self, stream: Stream, request: bytes, ended: asyncio.Future[None]) -> None:
        self._stream = stream
        self._request = request
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        stream = self._stream
        stream.raw += data
        if stream.first_event_s is None and b"data:" in stream.raw:
            stream.first_event_s = time.perf_counter() - self._sent
        if data.endswith(_END_OF_CHUNKS):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def _one(target: Target, make_body: Callable[[str], bytes], stream: Stream) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    request = target.request(make_body(stream.user))
    transport, _ = await loop.create_connection(lambda: _Client(stream, request, ended), "127.0.0.1", target.port)
    try:
        await ended
    finally:
        transport.abort()


async def _keep_streaming(
    target: Target, make_body: Callable[[str], bytes], names: Iterable[str], delay_s: float, streams: list[Stream]
) -> None:
    await asyncio.sleep(delay_s)
    for name in names:
        streams.append(Stream(name))
        try:
            await _one(target, make_body, streams[-1])
        except OSError:
            # A refused connection is a stream that did not complete, and is counted as one; do not spin on it.
            await asyncio.sleep(0.1)


def run(
    target: Target,
    make_body: Callable[[str], bytes],
    *,
    connections: int,
    seconds: float,
    spread_s: float,
    per_connection: int | None = None,
    mark: str = "",
) -> list[Stream]:
    """Stream on `connections` at once, started evenly over `spread_s`, and return every stream begun.

    Each connection takes one stream after another, `per_connection` of them or until `seconds` have
    passed; streams still running then are cut off.
    """
    streams: list[Stream] = []

    async def main() -> None:
        async with asyncio.timeout(seconds):
            async with asyncio.TaskGroup() as group:
                for index in range(connections):
                    numbers = itertools.count() if per_connection is None else range(per_connection)
                    names = (f"{mark}s{index}-{number}" for number in numbers)
                    delay = spread_s * index / connections
                    group.create_task(_keep_streaming(target, make_body, names, delay, streams))

    with contextlib.suppress(TimeoutError):
        uvloop.run(main())
    return streams
