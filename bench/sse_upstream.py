"""A paced SSE upstream, run as `python sse_upstream.py PORT INTERVAL_MS`.

Every POST gets 200 chunks (198 with content, one with the finish reason, one with usage) and `[DONE]`, the
first at once and then one each interval. Each stream is unlike all others: its events carry the request's
`user`. `GET /sent` tells the SHA-256 of the body bytes sent to each user, so that a client can prove
that what it received is what was sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Iterator
from typing import cast

import uvloop

CHUNKS = 200
_MODEL = "bench-model"
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_MODELS = {"object": "list", "data": [{"id": _MODEL, "object": "model", "created": 0, "owned_by": "bench"}]}
_INFO = {"model_path": _MODEL, "served_model_name": _MODEL, "is_generation": True}


def _event(user: str, choices: str, usage: str) -> bytes:
    return (
        f'data: {{"id":"chatcmpl-{user}","object":"chat.completion.chunk","created":1790000000,"model":"{_MODEL}",'
        f'"system_fingerprint":"fp_bench","choices":{choices},"usage":{usage}}}\n\n'
    ).encode()


def events(user: str) -> Iterator[bytes]:
    """The bodies of the stream's writes, in order."""
    role = '"role":"assistant",'
    for index in range(CHUNKS - 2):
        delta = f'{{{role}"content":" word{index:03d}"}}'
        yield _event(user, f'[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]', "null")
        role = ""
    yield _event(user, '[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]', "null")
    usage = f'{{"prompt_tokens":57,"completion_tokens":{CHUNKS - 2},"total_tokens":{CHUNKS + 55}}}'
    yield _event(user, "[]", usage) + b"data: [DONE]\n\n"


class _Connection(asyncio.Protocol):
    def __init__(self, interval_s: float, sent: dict[str, str]) -> None:
        self._interval_s = interval_s
        self._sent = sent
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not separator:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            if not rest.endswith(b"0\r\n\r\n"):
                return
            body = b"".join(rest.split(b"\r\n")[1::2])  # JSON bodies hold no bare CRLF
        elif len(rest) < int(headers.get("content-length", "0")):
            return
        else:
            body = rest
        self._buffer.clear()
        method, path, _ = lines[0].split(" ", 2)
        if method == "POST":
            self._start(str(json.loads(body).get("user", "nobody")))
        else:
            self._answer(path, close=headers.get("connection", "").lower() == "close")

    def _answer(self, path: str, close: bool) -> None:
        answers: dict[str, object] = {"/sent": self._sent, "/v1/models": _MODELS}
        body = json.dumps(answers.get(path, _INFO)).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        if close:
            self._transport.close()

    def _start(self, user: str) -> None:
        self._user = user
        self._events = events(user)
        self._hash = hashlib.sha256()
        self._left = CHUNKS
        self._due = self._loop.time()
        self._transport.write(_HEAD)
        self._next()

    def _next(self) -> None:
        event = next(self._events)
        self._hash.update(event)
        self._left -= 1
        if self._left:
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            self._due += self._interval_s
            self._timer = self._loop.call_at(self._due, self._next)
        else:
            self._timer = None
            self._sent[self._user] = self._hash.hexdigest()
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))


async def _serve(port: int, interval_s: float) -> None:
    loop = asyncio.get_running_loop()
    sent: dict[str, str] = {}
    server = await loop.create_server(lambda: _Connection(interval_s, sent), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
