"""An upstream whose streams are known beforehand: what it answers to number N is `stream_of(N)`, in odd pieces."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from functools import partial

_EVENTS = 50


def stream_of(number: int, *, usage: bool) -> bytes:
    """The stream for `number`: 50 events of a token each, a finish, the usage where it is asked for, and `[DONE]`.

    Every third event has a comment, and every number its own line ends.
    """
    end = ("\n", "\r\n", "\r")[number % 3]
    events = [
        f": {number}{end}" * (event % 3 == 0)
        + "data: "
        + json.dumps(
            {
                "id": f"chatcmpl-{number}",
                "choices": [{"index": 0, "delta": {"content": f" {number}.{event} é{'x' * (event % 7)}"}}],
            },
            ensure_ascii=False,
        )
        + end * 2
        for event in range(_EVENTS)
    ]
    events.append('data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}' + end * 2)
    if usage:
        counts = f'{{"prompt_tokens":{number},"completion_tokens":{_EVENTS},"total_tokens":{number + _EVENTS}}}'
        events.append(f'data: {{"choices":[],"usage":{counts}}}{end * 2}')
    events.append("data: [DONE]" + end * 2)
    return "".join(events).encode()


async def _serve(opened: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                number = int(body["user"])
                stream = stream_of(number, usage=body["stream_options"]["include_usage"])
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                # Pieces of an odd size, so that events, characters and line ends are cut anywhere.
                size = 41 + number % 97
                for start in range(0, len(stream), size):
                    if start > len(stream) / 2:
                        await opened.wait()
                    piece = stream[start : start + size]
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
                await writer.drain()
    finally:
        writer.transport.abort()


@contextlib.contextmanager
def numbered_upstream(gate: threading.Event | None = None) -> Iterator[int]:
    """The upstream, on a thread of its own; its port. Streams stand still in their middle until `gate` is set."""
    if gate is None:
        gate = threading.Event()
        gate.set()
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    started = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        opened = asyncio.Event()
        async with await asyncio.start_server(partial(_serve, opened), sock=listener, limit=2**20) as server:
            started.set()
            await asyncio.to_thread(gate.wait)
            opened.set()
            await stop.wait()
            server.close()
            connections = asyncio.all_tasks() - {asyncio.current_task()}
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
            await asyncio.sleep(0)  # so that their sockets are closed

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    started.wait()
    try:
        yield listener.getsockname()[1]
    finally:
        gate.set()
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
