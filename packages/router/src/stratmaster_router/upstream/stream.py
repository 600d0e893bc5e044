"""A streaming answer on its way through."""

import asyncio
from collections.abc import Callable
from time import monotonic

import aiohttp

from stratmaster_router.domain.errors import DeadlineExceeded, Draining, StreamBroken
from stratmaster_router.domain.usage import Usage
from stratmaster_router.upstream.client import UpstreamResponse
from stratmaster_router.upstream.watch import PhaseExpired, Watch
from stratmaster_router.wire.answer import StreamReader

NETWORK_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)

# What may happen once the answer is whole.
_TOO_LATE_TO_MATTER = (PhaseExpired, DeadlineExceeded, Draining, StreamBroken, *NETWORK_FAILURES)
_KEEP_ALIVE = 15.0
# After [DONE] only the end of the HTTP message is awaited, so that the connection can be used again.
_LAST_BYTES = 1.0


def _ignore(_: str) -> None:
    """Nobody wants to know."""


def forget_frames(failure: BaseException) -> None:
    """Drop the tracebacks of `failure`: aiohttp keeps the exception in the response, which the frames hold in turn."""
    link: BaseException | None = failure
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


class UpstreamStream:
    """The events of a streaming answer, whole and byte for byte, after the first one has been held back."""

    def __init__(
        self,
        response: UpstreamResponse,
        watch: Watch,
        idle: float,
        reader: StreamReader,
        *,
        keep_alive: float = _KEEP_ALIVE,
    ) -> None:
        """`idle` and `keep_alive` are seconds without a byte: until the stream is given up, until a comment is sent."""
        self._response = response
        self._read = response.content.readany
        self._watch = watch
        self._idle = idle
        self._keep_alive = keep_alive
        self._reader = reader
        self._held = b""
        self._waited = 0.0
        self._last_by: float | None = None
        self._ended = False
        # Told the code when the stream breaks by the upstream's fault.
        self.broken: Callable[[str], None] = _ignore

    @property
    def least(self) -> int:
        """Output tokens that there must have been so far."""
        return self._reader.least

    def text(self) -> str:
        """The text of the answer so far."""
        return self._reader.text()

    @property
    def usage(self) -> Usage | None:
        """The usage that the upstream has reported so far."""
        return self._reader.usage

    def watched_by(self, watch: Watch) -> None:
        """Let another task read on."""
        self._watch = watch

    async def hold_first_event(self) -> None:
        """Wait for the first event that carries data. Raises `StreamBroken` and what reading raises."""
        while not self._reader.started:
            data = await self._read()
            self._held += self._reader.feed(data) if data else self._end()

    async def next(self) -> bytes:
        """The next bytes for the client, in whole events or a keep-alive comment; empty at the end.

        Raises `StreamBroken`, `DeadlineExceeded`, `Draining`, `ClientDisconnected`. After any of them the upstream is
        cancelled.
        """
        if self._held:
            held, self._held = self._held, b""
            return held
        if self._ended:
            return b""
        reader, watch = self._reader, self._watch
        try:
            reader.check()
            while True:
                wait = self._last_bytes() if reader.complete else min(self._keep_alive, self._idle - self._waited)
                watch.phase(wait)
                try:
                    data = await self._read()
                except asyncio.CancelledError as cancelled:
                    return self._interrupted(watch.interruption(cancelled), wait)
                self._waited = 0.0
                events = reader.feed(data) if data else self._end()
                if events or self._ended:
                    # Until the next read only the total deadline runs: a client that reads slowly is no stalled
                    # upstream.
                    watch.rest()
                    return events
        except BaseException as failure:
            self._ended = True
            self._response.close()
            if reader.complete and isinstance(failure, _TOO_LATE_TO_MATTER):
                return b""
            if isinstance(failure, NETWORK_FAILURES):
                self.broken("upstream_stream_truncated")
                forget_frames(failure)
                raise reader.truncated() from None
            if isinstance(failure, StreamBroken):
                self.broken(failure.code)
            raise

    def _last_bytes(self) -> float:
        """Seconds left of `_LAST_BYTES`, which run from the first look after `[DONE]`."""
        if self._last_by is None:
            self._last_by = monotonic() + _LAST_BYTES
        return self._last_by - monotonic()

    def _interrupted(self, meant: BaseException, waited: float) -> bytes:
        if not isinstance(meant, PhaseExpired) or self._reader.complete:
            try:
                raise meant
            finally:
                del meant  # a frame that names the exception whose traceback holds it is a reference cycle
        self._waited += waited
        if self._waited >= self._idle:
            raise StreamBroken("upstream_stream_stalled", "The provider's stream stood still for too long.")
        return b": keep-alive\n\n"

    def _end(self) -> bytes:
        self._ended = True
        return self._reader.end()

    def flush(self) -> bytes:
        """What is held back of the answer: nothing, since each event is passed on when it is whole."""
        return b""

    def close(self) -> None:
        """Let the upstream go: its connection is used again where the stream was read to its end, else closed."""
        if not self._ended:
            self._response.close()
