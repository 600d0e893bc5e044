"""Providers in this process's event loop, for measurements: many at once, and with the times of what happened."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from typing import NamedTuple

from support.acts import ERROR, EVENT, WHOLE
from support.scripted import head, stream_head
from support.servers import ACME_KEY


class Provider:
    """Does what the first part of the path says; `asked` and `left` have the times of requests and of their ends."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget what has happened."""
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self.left: asyncio.Queue[float] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                first, *lines = request.decode().lower().split("\r\n")
                (length,) = [int(line[15:]) for line in lines if line.startswith("content-length:")]
                sent = await reader.readexactly(length)
                self.asked.put_nowait(time.monotonic())
                act = first.split("/")[1]
                await getattr(self, act)(writer, b'"stream":true' in sent)
                if act != "well":
                    # Nothing more comes on this connection than its end.
                    await reader.read()
                    break
        self.left.put_nowait(time.monotonic())

    async def well(self, writer: asyncio.StreamWriter, stream: bool) -> None:
        """Answer."""
        del stream
        writer.write(head("application/json", f"Content-Length: {len(WHOLE)}") + WHOLE)

    async def silent(self, writer: asyncio.StreamWriter, stream: bool) -> None:
        """Say nothing."""

    async def begun(self, writer: asyncio.StreamWriter, stream: bool) -> None:
        """Begin an answer, and say no more."""
        if stream:
            writer.write(stream_head() + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        else:
            writer.write(head("application/json", "Content-Length: 1000") + WHOLE[:40])

    async def headed(self, writer: asyncio.StreamWriter, stream: bool) -> None:
        """Send a head alone."""
        kind = "text/event-stream" if stream else "application/json"
        writer.write(head(kind, "Transfer-Encoding: chunked"))

    async def dripping(self, writer: asyncio.StreamWriter, stream: bool) -> None:
        """Answer without end, a little at a time."""
        await self.begun(writer, stream)
        while not writer.is_closing():
            await asyncio.sleep(0.01)
            writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT) if stream else b" ")
            await writer.drain()

    async def gushing(self, writer: asyncio.StreamWriter, stream: bool) -> None:
        """Answer without end, as fast as it is read."""
        await self.begun(writer, stream)
        long = EVENT.replace(b'"a"', b'"%b"' % (b"a" * 65_536))
        while not writer.is_closing():
            writer.write(b"%x\r\n%b\r\n" % (len(long), long))
            await writer.drain()

    async def busy(self, writer: asyncio.StreamWriter, stream: bool) -> None:
        """Refuse, and ask to be left alone for long."""
        del stream
        lines = (f"Content-Length: {len(ERROR)}", "Connection: close", "Retry-After: 30")
        writer.write(head("application/json", *lines, status="503 Oops") + ERROR)


@asynccontextmanager
async def acting_provider() -> AsyncIterator[tuple[Provider, int]]:
    """A provider, and its port."""
    provider = Provider()
    tasks: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(provider.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield provider, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def dead_ports() -> Iterator[tuple[int, int]]:
    """A port that nobody listens on, and one whose queue is full so that it does not answer."""
    with ExitStack() as stack:
        nobody = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        closed: int = nobody.getsockname()[1]
        nobody.close()
        silence = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(silence.getsockname()))
        yield closed, silence.getsockname()[1]


class Declared(NamedTuple):
    """A provider of the policy, the tasks that it serves, and more of what the policy says of it."""

    name: str
    port: int
    act: str
    tasks: str
    more: str


def policy(*declared: Declared) -> str:
    """A policy for acme."""
    providers = [f'  {d.name}: {{base_url: "http://127.0.0.1:{d.port}/{d.act}/v1", {d.more}}}' for d in declared]
    uses = [
        f"      {d.name}: {{models: {{{', '.join(f'{task}: {{default: m}}' for task in d.tasks.split())}}}}}"
        for d in declared
    ]
    return "\n".join(["providers:", *providers, "tenants:", "  acme:", "    providers:", *uses])


def request_for(task: str, *, stream: bool = False, keep: bool = False) -> bytes:
    """A chat for `task`; `keep` leaves the connection open for another."""
    fields = {"model": task, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    sent = json.dumps(fields, separators=(",", ":")).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: router",
        f"Authorization: Bearer {ACME_KEY}",
        "X-Tenant-ID: acme",
        "Content-Type: application/json",
        f"Content-Length: {len(sent)}",
        *([] if keep else ["Connection: close"]),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + sent
