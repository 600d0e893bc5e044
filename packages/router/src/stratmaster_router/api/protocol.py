"""uvicorn's HTTP protocol, with limits for a request's head and a shorter way for an answer.

uvicorn writes the head and then the body, and uvloop sends each write at once; it also searches each header twice with
a regular expression. One write for both, and `answer_whole` for answers whose headers are known to be sound, save
about 25 µs of CPU a request (docs/decisions/0004). This builds on uvicorn's internals, so its version is pinned.
"""

import asyncio
import re
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from stratmaster_router.api.drain import Drain
from stratmaster_router.api.errors import error_body, error_headers
from stratmaster_router.domain.errors import InvalidRequest

_LARGEST_HEAD = 64 * 1024  # bytes of a request's line and headers
# A client that is refused before its body was read may send it to its end, so that it gets to read the answer; but not
# without end.
_MOST_DISCARDED = 64 * 1024 * 1024
LINGER = 10.0  # seconds for a client to read the end of a closing connection

_upgrade = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class RouterProtocol(HttpToolsProtocol):
    """`HttpToolsProtocol` that bounds heads and joins an answer's head to the first bytes of its body.

    The application's lifespan state has `head_timeout`, in seconds, and `drain`.
    """

    _in_head = False
    _in_body = False
    _began = False  # in this read
    _took_body = False  # in this read
    _head_size = 0
    _timer: asyncio.TimerHandle | None = None  # of a head, or of a body that is read only to be thrown away
    _discarded = 0
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Begin a connection."""
        self._head_timeout: float = self.app_state["head_timeout"]
        self._drain: Drain = self.app_state["drain"]
        self._drain.connections = self.connections  # the server's one set of them
        super().connection_made(_GatheringTransport(transport, self.loop))  # type: ignore[arg-type]
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection; the request that runs must hear of it, also where another one is queued behind it."""
        self._stop_timer()
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        self._running = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if (b"pgrade:" in data or b"PGRADE:" in data) and not self._in_body:
            # An offer to change the protocol (Java's client makes one) is not taken up; uvicorn would lose the body.
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _upgrade.sub(b"", head) + end + rest
        self._began = self._took_body = False
        super().data_received(data)
        if self._in_head or (self._in_body and not self._took_body):
            self._bound_head(len(data))
        elif self.timeout_keep_alive_task is None and self.cycle is not None and self.cycle.response_complete:
            # uvicorn stops the idle timer at any byte, and only starts it again at the end of an answer.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _bound_head(self, size: int) -> None:
        """Count bytes of a head, or of what stands between the pieces of a body and after it."""
        if not self._began:
            self._head_size += size
        if self.transport.is_closing():
            return
        if self._head_size > _LARGEST_HEAD:
            if self._in_head:
                self.send_400_response("The request's head is too large.")
            else:
                self.transport.close()
        elif self._timer is None and self._in_head:
            self._start_timer()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = self._began = True
        self._head_size = self._discarded = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End a head, begin a body."""
        self._in_head = False
        self._in_body = True
        self._head_size = 0
        self._stop_timer()
        super().on_headers_complete()
        self.headers = _NO_TRAILERS
        if self._drain.begun:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """End a body."""
        self._in_body = False
        self._stop_timer()
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a request's body; of one that is answered already, only so much is read to its end."""
        self._took_body = True
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _MOST_DISCARDED:
                self.transport.close()
            elif self._timer is None:
                self._start_timer()
        else:
            super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the one shape of all errors."""
        request_id = f"req_{secrets.token_hex(12)}"
        error = InvalidRequest(msg)
        body = error_body(error, request_id)
        headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close"), *error_headers(error)]
        lines = b"".join([b"%b: %b\r\n" % header for header in [*self.server_state.default_headers, *headers]])
        self.transport.write(STATUS_LINE[400] + lines + b"\r\n" + body)
        self.transport.close()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._head_timeout, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _NoTrailers(list[tuple[bytes, bytes]]):
    """Where uvicorn collects a request's trailers, which are no headers and must not be gathered without bound."""

    def append(self, _: tuple[bytes, bytes]) -> None:
        pass


_NO_TRAILERS = _NoTrailers()


def answer_whole(send: Any, lines: bytes, body: bytes) -> bool:
    """Answer 200 with `body`; the header `lines` must be sound, hold the body's length, and each have its end.

    Where it returns False (another server, another shape of answer) nothing was sent: take ASGI's way.
    """
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not RequestResponseCycle:
        return False
    if cycle.flow.write_paused or cycle.response_started or not cycle.keep_alive:
        return False
    if cycle.disconnected or cycle.transport.is_closing():
        return True
    default = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join((STATUS_LINE[200], default, lines, b"\r\n", body)))
    cycle.message_event.set()
    cycle.on_response()
    return True


def write_chunk(send: Any, data: bytes) -> bool:
    """Write a piece of a chunked answer that has begun; returns False, as `answer_whole`, where it was not written."""
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not RequestResponseCycle or cycle.flow.write_paused or not cycle.chunked_encoding:
        return False
    if not cycle.disconnected:
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
    return True


class _GatheringTransport:
    """A transport that keeps an answer's head back until its body comes, or until the event loop comes round."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._write = transport.write
        self._loop = loop
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            # Closing waits until the client has read; one that has stopped reading must not hold its connection.
            self._loop.call_later(LINGER, self._transport.abort)

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
