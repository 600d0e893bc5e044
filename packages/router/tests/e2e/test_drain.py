import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.calls import request_bytes, stream_error
from support.numbered import numbered_upstream, stream_of
from support.processes import ACME, Line, Served, serving, wait_until
from support.servers import Mock

POLICY = """
providers:
  numbered:
    base_url: "http://127.0.0.1:{port}/v1"
    timeouts: {{connect: 10s, first_byte: 60s, idle: 60s, total: 300s}}
tenants:
  acme:
    providers:
      numbered: {{models: {{reasoning: {{default: gpt-4.1}}}}}}
"""
STREAMS = 200
CHAT: dict[str, Any] = {"model": "reasoning", "messages": [{"role": "user", "content": "one two three"}]}
DRAINED = {"type": "api_error", "param": None, "code": "draining", "retryable": True}


class Stream:
    """A stream that has begun, as its client sees it."""

    def __init__(self, number: int, response: aiohttp.ClientResponse, first: bytes) -> None:
        self.number = number
        self.response = response
        self._first = first

    async def rest(self) -> bytes:
        """All of it, once it has ended."""
        return self._first + await self.response.read()


class Streams:
    """Streams of numbered prompts over a connection each."""

    def __init__(self, session: aiohttp.ClientSession, served: Served) -> None:
        self._session = session
        self._url = f"{served.url}/v1/chat/completions"

    async def begin(self, number: int) -> Stream:
        """Ask for stream `number`, and wait for the first of it."""
        body = {**CHAT, "stream": True, "user": str(number)}
        response = await self._session.post(self._url, json=body, headers=ACME)
        assert response.status == 200
        return Stream(number, response, await response.content.readany())

    async def begin_many(self, count: int) -> list[Stream]:
        """Begin streams 0 to `count`."""
        return await asyncio.gather(*(self.begin(number) for number in range(count)))


@contextlib.asynccontextmanager
async def streams_of(served: Served) -> Any:
    """Streams from `served`."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield Streams(session, served)


def ledger(folder: Path) -> list[tuple[int, bool, int]]:
    """Status, whether estimated, and output tokens of each of the ledger's rows."""
    with contextlib.closing(sqlite3.connect(folder / "router.db")) as database:
        found = database.execute("SELECT status, estimated, output_tokens FROM ledger").fetchall()
    return [(status, bool(estimated), output) for status, estimated, output in found]


def refused(served: Served) -> bool:
    """Whether a new connection is refused."""
    try:
        socket.create_connection(("127.0.0.1", served.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def not_ready(served: Served) -> bool:
    """Whether a new connection is told that the router drains."""
    return served.call("GET", "/readyz").status == 503


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_during_many_streams_loses_none(workers: int, tmp_path: Path) -> None:
    """Readiness fails first, while new and kept connections are served; every stream is whole; then it exits with 0."""
    gate = threading.Event()
    with (
        numbered_upstream(gate) as port,
        serving(tmp_path, POLICY.format(port=port), workers=workers, environ={"ROUTER_DRAIN_DELAY": "8"}) as served,
        contextlib.closing(Line(served.port)) as kept,
        socket.create_connection(("127.0.0.1", served.port), timeout=60) as idle,
    ):
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: router\r\n\r\n")
        assert idle.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")
        assert "connection" not in kept.get("/healthz").headers
        async with streams_of(served) as streams:
            begun = await streams.begin_many(STREAMS)

            served.signal(signal.SIGTERM)
            await asyncio.to_thread(wait_until, lambda: not_ready(served), "readiness fails")
            answer = await asyncio.to_thread(served.call, "GET", "/readyz")
            error = answer.json()["error"]
            assert (answer.status, error["code"], error["retryable"]) == (503, "draining", True)
            assert (answer.headers["connection"], answer.headers["retry-after"]) == ("close", "1")
            for answer in (served.call("GET", "/v1/models"), kept.get("/v1/models"), served.call("GET", "/healthz")):
                assert (answer.status, answer.headers["connection"]) == (200, "close")
            late = await streams.begin(STREAMS)
            assert late.response.headers["connection"] == "close"

            await asyncio.to_thread(wait_until, lambda: refused(served), "new connections are refused")
            assert idle.recv(1) == b""
            assert served.running()
            gate.set()
            bodies = {stream.number: await stream.rest() for stream in [*begun, late]}

        assert await asyncio.to_thread(served.wait) == 0
    wrong = [number for number, body in bodies.items() if body != stream_of(number, usage=False)]
    assert (len(bodies), wrong) == (STREAMS + 1, [])
    assert ledger(tmp_path) == [(200, False, 50)] * (STREAMS + 1)
    lines = [(line["path"], line["status"], line.get("code")) for line in served.access_lines()]
    assert sorted(lines) == [("/v1/chat/completions", 200, None)] * (STREAMS + 1) + [("/v1/models", 200, None)] * 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_outlasts_the_deadline_ends_with_an_error_and_is_recorded(workers: int, tmp_path: Path) -> None:
    """A stream ends with the event `draining` and never with `[DONE]`; each has its row in the ledger."""
    gate = threading.Event()
    with (
        numbered_upstream(gate) as port,
        serving(tmp_path, POLICY.format(port=port), workers=workers, environ={"ROUTER_DRAIN_TIMEOUT": "1.5"}) as served,
    ):
        async with streams_of(served) as streams:
            begun = await streams.begin_many(40)
            served.signal(signal.SIGTERM)
            bodies = [await stream.rest() for stream in begun]
        assert await asyncio.to_thread(served.wait) == 0

    assert_ended_by_drain(begun, bodies)
    rows = ledger(tmp_path)
    assert [(status, estimated) for status, estimated, _ in rows] == [(200, True)] * 40
    # What was passed on is the least that is booked.
    assert min(output for _, _, output in rows) >= min(body.count(b'"content"') for body in bodies)
    assert [(line["status"], line["code"]) for line in served.access_lines()] == [(200, "draining")] * 40


def assert_ended_by_drain(begun: list[Stream], bodies: list[bytes]) -> None:
    """Each stream is a true part of what the upstream sent, and then one error event, its last."""
    for stream, body in zip(begun, bodies, strict=True):
        whole = stream_of(stream.number, usage=False)
        passed, _, last = body.rpartition(b'data: {"error"')
        assert whole.startswith(passed)
        assert b"[DONE]" not in body
        error = stream_error(b'data: {"error"' + last)
        assert error == {**DRAINED, "request_id": stream.response.headers["x-request-id"]}


async def test_requests_without_an_answer_yet_get_503_at_the_deadline(
    policy: str, upstream: Mock, tmp_path: Path
) -> None:
    """One that waits for its provider has a row in the ledger, for it may have cost; one half sent has none."""
    with serving(tmp_path, policy, environ={"ROUTER_DRAIN_TIMEOUT": "1"}) as served:
        waiting, half_sent = Line(served.port), socket.create_connection(("127.0.0.1", served.port), timeout=60)
        waiting.send("POST", "/v1/chat/completions", {**CHAT, "model": "hanging"})
        half_sent.sendall(request_bytes(b"{", b"Content-Length: 100"))
        upstream.wait_open(1)
        wait_until(lambda: served.metrics().total("litellm_requests_in_flight") == 2, "both are in flight")

        served.signal(signal.SIGTERM)
        answer = await asyncio.to_thread(waiting.receive)
        error = answer.json()["error"]
        assert (answer.status, error["code"], answer.headers["connection"]) == (503, "draining", "close")
        assert (answer.headers["x-should-retry"], answer.headers["retry-after"]) == ("true", "1")
        with half_sent:
            assert half_sent.recv(65_536).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        waiting.close()
        assert await asyncio.to_thread(served.wait) == 0
    assert [(status, estimated) for status, estimated, _ in ledger(tmp_path)] == [(503, True)]
    assert [(line["status"], line["code"]) for line in served.access_lines()] == [(503, "draining")] * 2


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_at_once_and_still_settles(
    second: signal.Signals, workers: int, tmp_path: Path
) -> None:
    """However long the delay and the deadline are, another signal ends streams with an error event and exits with 0."""
    environ = {"ROUTER_DRAIN_DELAY": "300", "ROUTER_DRAIN_TIMEOUT": "300"}
    with (
        numbered_upstream(threading.Event()) as port,
        serving(tmp_path, POLICY.format(port=port), workers=workers, environ=environ) as served,
    ):
        async with streams_of(served) as streams:
            begun = await streams.begin_many(10)
            served.signal(signal.SIGTERM)
            await asyncio.to_thread(wait_until, lambda: not_ready(served), "readiness fails")
            served.signal(second)
            bodies = [await stream.rest() for stream in begun]
        assert await asyncio.to_thread(served.wait) == 0

    assert_ended_by_drain(begun, bodies)
    assert [(status, estimated) for status, estimated, _ in ledger(tmp_path)] == [(200, True)] * 10


async def test_signal_to_the_whole_group_is_one_wish(tmp_path: Path) -> None:
    """A terminal and an init system signal workers too, who hear of it again from the supervisor: no stream is cut."""
    gate = threading.Event()
    with numbered_upstream(gate) as port, serving(tmp_path, POLICY.format(port=port), workers=2) as served:
        async with streams_of(served) as streams:
            begun = await streams.begin_many(20)
            workers = served.children()
            os.killpg(served.pid, signal.SIGINT)  # `serving` gave it a group of its own
            await asyncio.to_thread(wait_until, lambda: refused(served), "new connections are refused")
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):  # one that had no stream has ended
                    os.kill(pid, signal.SIGTERM)
                    os.kill(pid, signal.SIGINT)
            gate.set()
            bodies = [await stream.rest() for stream in begun]
        assert await asyncio.to_thread(served.wait) == 0
    assert bodies == [stream_of(stream.number, usage=False) for stream in begun]


async def test_client_that_reads_nothing_does_not_hold_the_process(policy: str, tmp_path: Path) -> None:
    """At the deadline and a moment for last words its connection is cut; the request is recorded all the same."""
    endless = policy.replace('"gpt-4.1@chunks=20,gap=50ms"', '"gpt-4.1@chunks=100000"')
    with serving(tmp_path, endless, environ={"ROUTER_DRAIN_TIMEOUT": "0.5"}) as served, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", served.port))
        client.sendall(request_bytes({**CHAT, "model": "slow", "stream": True}))
        assert client.recv(10).startswith(b"HTTP/1.1 2")
        served.signal(signal.SIGTERM)
        assert await asyncio.to_thread(served.wait, 9) == 0
    assert [(status, estimated) for status, estimated, _ in ledger(tmp_path)] == [(200, True)]
    assert [(line["status"], line["code"]) for line in served.access_lines()] == [(200, "draining")]
