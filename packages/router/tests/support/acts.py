"""What a scripted provider does, right and wrong."""

import time

from support.scripted import Exchange, Script, head, stream_head

USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":1}'
WHOLE = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}],' + USAGE + b"}"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
COUNTS = b'data: {"choices":[],' + USAGE + b"}\n\n"
DONE = b"data: [DONE]\n\n"
ERROR = b'{"error":{"message":"out of order","type":"server_error"}}'
HTML = b"<html><body>It works!</body></html>"

close, reset, stall = Exchange.close, Exchange.reset, Exchange.wait_closed


def answers(exchange: Exchange) -> None:
    """What it should do."""
    if asked_to_stream(exchange):
        events(EVENT, FINISH, COUNTS, DONE, b"")(exchange)
    else:
        exchange.answer(WHOLE)


def asked_to_stream(exchange: Exchange) -> bool:
    """Whether a stream is wanted."""
    return b'"stream": true' in exchange.body


def begins(exchange: Exchange, *lines: str) -> None:
    """Send the head of an answer that does not come."""
    kind = "text/event-stream" if asked_to_stream(exchange) else "application/json"
    exchange.send(head(kind, *(lines or ("Transfer-Encoding: chunked",))))


def events(*chunks: bytes) -> Script:
    """A stream of these chunks."""

    def script(exchange: Exchange) -> None:
        exchange.send(stream_head())
        more(*chunks)(exchange)

    return script


def more(*chunks: bytes) -> Script:
    """Further chunks."""

    def script(exchange: Exchange) -> None:
        for chunk in chunks:
            exchange.chunk(chunk)

    return script


def sends(data: bytes, then: Script) -> Script:
    """These bytes as they are, and then something else."""

    def script(exchange: Exchange) -> None:
        exchange.send(data)
        then(exchange)

    return script


def after_head(then: Script, *lines: str) -> Script:
    """A head, and then something else."""

    def script(exchange: Exchange) -> None:
        begins(exchange, *lines)
        then(exchange)

    return script


def body(data: bytes, kind: str | None = None, *lines: str) -> Script:
    """An answer with status 200 and this body, of the media type that was asked for or of `kind`."""

    def script(exchange: Exchange) -> None:
        fitting = "text/event-stream" if asked_to_stream(exchange) else "application/json"
        exchange.answer(data, kind or fitting, *lines)

    return script


def refuses(status: str, *lines: str) -> Script:
    """An error."""
    return lambda exchange: exchange.answer(ERROR, "application/json", *lines, status=status)


def busy_then_gone(exchange: Exchange) -> None:
    """An error with a long wish to wait; then it sees that its connection is closed, so the answer was read."""
    exchange.answer(ERROR, "application/json", "Retry-After: 30", "Connection: close", status="503 Service Unavailable")
    exchange.wait_closed()


def murmurs(exchange: Exchange) -> None:
    """Comments without end, which are no answer."""
    while True:
        exchange.chunk(b": still here\n\n")
        time.sleep(0.02)


def unused(exchange: Exchange) -> None:
    """Nobody gets so far."""
    raise AssertionError(exchange.path)
