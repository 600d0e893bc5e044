"""uvicorn's HTTP protocol, with shorter ways for an answer.

uvicorn writes the head and then the body, and uvloop sends each write at once; it also searches each header twice with
a regular expression. One write for both, and an ASGI extension for whole answers whose headers are known to be sound,
save about 25 µs of CPU a request (docs/decisions/0004).
"""

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from stratmaster_router.api.errors import error_body, error_headers
from stratmaster_router.domain.errors import InvalidRequest

# In a scope's extensions: `answer(headers, body) -> bool`, which answers 200 with a body whose length is among the
# headers. Where it returns False nothing has been sent, and the ordinary way is to be taken.
WHOLE_ANSWER = "stratmaster.whole_answer"

# A client that is refused before its body was read may send it to its end, so that it gets to read the answer; but not
# without end.
_MOST_DISCARDED = 64 * 1024 * 1024

WholeAnswer = Callable[[list[tuple[bytes, bytes]], bytes], bool]


class GatheringProtocol(HttpToolsProtocol):
    """`HttpToolsProtocol` that joins an answer's head to the first bytes of its body."""

    _discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Begin a connection."""
        super().connection_made(_GatheringTransport(transport, self.loop))  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        """Take a piece of a request's body; of one that is answered already, only so much is read to its end."""
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _MOST_DISCARDED:
                self.transport.close()
        else:
            self._discarded = 0
            super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the one shape of all errors."""
        request_id = f"req_{secrets.token_hex(12)}"
        error = InvalidRequest("This is not a valid HTTP request.")
        body = error_body(error, request_id)
        headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close"), *error_headers(error)]
        lines = b"".join([b"%b: %b\r\n" % header for header in [*self.server_state.default_headers, *headers]])
        self.transport.write(STATUS_LINE[400] + lines + b"\r\n" + body)
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        extensions: dict[str, Any] = {WHOLE_ANSWER: partial(_answer_whole, cycle)}
        cycle.scope["extensions"] = extensions
        super()._start_asgi_task(cycle, app)


def _answer_whole(cycle: RequestResponseCycle, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
    if cycle.flow.write_paused or cycle.response_started or not cycle.keep_alive:
        return False
    if cycle.disconnected:
        return True
    parts = [STATUS_LINE[200]]
    for name, value in cycle.default_headers:
        parts += (name, b": ", value, b"\r\n")
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    parts += (b"\r\n", body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join(parts))
    cycle.message_event.set()
    cycle.on_response()
    return True


class _GatheringTransport:
    """A transport that keeps an answer's head back until its body comes, or until the event loop comes round."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._write = transport.write
        self._call_soon = loop.call_soon
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._call_soon(self._flush)
            return
        self._write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
