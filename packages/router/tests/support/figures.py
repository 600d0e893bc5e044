"""Times that the router promises when providers fail: deadlines, dead providers, clients that leave.

The router is a process of its own. Client and provider share this one, and so its event loop: what the router is
charged with includes their work.
"""

import asyncio
import os
import random
import signal
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from support.acting import Declared, Provider, acting_provider, dead_ports, policy, request_for
from support.acts import EVENT, WHOLE
from support.bridge import START_WITHIN, bridge_python, bridges
from support.processes import Served, serving

TOTAL = 0.5  # seconds: the deadline of requests that stall
_PATIENCE = 20.0
_SYN_SENT = "02"  # in /proc/net/tcp


class Figure(NamedTuple):
    """What was measured of one kind of request, in milliseconds, and the most that is allowed."""

    what: str
    samples: list[float]
    most: float

    @property
    def worst(self) -> float:
        """The greatest."""
        return max(self.samples)

    def __str__(self) -> str:
        """The figure in a line."""
        return (
            f"{self.what:52} n {len(self.samples):4}  p50 {statistics.median(self.samples):7.1f}  "
            f"max {self.worst:7.1f}  (at most {self.most:g})"
        )


_NEVER = "breaker: {failures: 9999}"
_WHOLE = "timeouts: {connect: 500ms, first_byte: 500ms, idle: 500ms, total: 500ms}"
_SHORT = "timeouts: {connect: 200ms, first_byte: 200ms, idle: 500ms, total: 500ms}, retries: {max: 0}"
_AGAIN = "timeouts: {connect: 300ms, first_byte: 300ms, idle: 500ms, total: 500ms}, retries: {backoff: {initial: 1ms}}"
# Tasks, and where their requests stall.
_STALLS = {
    "connecting": "waiting for a connection",
    "silent": "waiting for the head",
    "headed": "waiting for the first event",
    "begun": "in the middle",
    "dripping": "answered without end",
    "tried_again": "trying again",  # a dozen may, the rest fails sooner: the retry budget
    "second_hop": "waiting for the next hop",
    "hedged": "waiting for two hops",
}


def _stalling(port: int, silence: int) -> str:
    """A policy with a task for each way to stall."""
    acts = ("silent", "headed", "begun", "dripping", "gushing")
    return policy(
        Declared("a", silence, "none", "connecting", f"{_WHOLE}, {_NEVER}"),
        *(Declared(act, port, act, act, f"{_WHOLE}, {_NEVER}") for act in acts),
        Declared("b", port, "silent", "tried_again", f"{_AGAIN}, {_NEVER}"),
        Declared("d", port, "silent", "second_hop", f"{_SHORT}, {_NEVER}"),
        Declared("e", port, "headed", "second_hop", f"{_WHOLE}, {_NEVER}"),
        Declared("f", port, "silent", "hedged", f"{_WHOLE}, hedge: {{after: 100ms}}, {_NEVER}"),
        Declared("g", port, "headed", "hedged", f"{_WHOLE}, {_NEVER}"),
    )


async def overruns(folder: Path, count: int) -> list[Figure]:
    """How much longer than its total deadline a request takes, by where it stalls: `count` of each, eight at a time."""
    found = []
    with dead_ports() as (_, silence):
        async with acting_provider() as (_, port):
            with serving(folder, _stalling(port, silence)) as router:
                for task, what in _STALLS.items():
                    for stream in (False, True):
                        took = await _eight_at_a_time(count, partial(_timed, router.port, task, stream=stream))
                        over = [(seconds - TOTAL) * 1000 for seconds in took]
                        found.append(Figure(f"{what}, {'stream' if stream else 'plain'}", over, 100))
                # One at a time: each is as much work as a connection can buffer, and more is not what is asked here.
                for _ in range(count // 4):
                    await _unread(router.port)
                lines = [line for line in router.access_lines() if line.get("provider") == "gushing"]
                assert len(lines) == count // 4
                found.append(Figure("the client does not read", [line["ms"] - TOTAL * 1000 for line in lines], 100))
    return found


async def _eight_at_a_time(count: int, once: Callable[[], Awaitable[float]]) -> list[float]:
    left = iter(range(count))

    async def some() -> list[float]:
        return [await once() for _ in left]

    return [took for each in await asyncio.gather(*(some() for _ in range(8))) for took in each]


async def _timed(port: int, task: str, *, stream: bool) -> float:
    """Seconds from a request to the end of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        began = time.monotonic()
        writer.write(request_for(task, stream=stream))
        answer = await asyncio.wait_for(reader.read(), _PATIENCE)
        took = time.monotonic() - began
    assert b"deadline_exceeded" in answer or b"all_providers_unavailable" in answer, answer[:400]
    return took


async def _unread(port: int) -> None:
    """Ask, and read nothing for longer than a request may last."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, request_for("gushing", stream=True))
        await asyncio.sleep(TOTAL * 4)


class Added(NamedTuple):
    """Latencies of one round in milliseconds, sorted: of the healthy provider alone, and of it beside what is dead."""

    alone: list[float]
    behind: list[float]

    def more(self, percent: int) -> float:
        """How much the dead one adds at a percentile."""
        return _percentile(self.behind, percent) - _percentile(self.alone, percent)


def _percentile(found: list[float], percent: int) -> float:
    return found[min(len(found) - 1, len(found) * percent // 100)]


async def dead_providers(folder: Path, rounds: int, count: int) -> dict[str, list[Added]]:
    """What a dead provider before a healthy one adds once its breaker is open: `rounds` of `count` of each kind.

    The kinds alternate on one connection, in random order.
    """
    with dead_ports() as (closed, _):
        async with acting_provider() as (_, port):
            stays = "timeouts: {first_byte: 200ms}, breaker: {open_for: 600s}"
            declared = (
                Declared("gone", closed, "none", "refused", stays),
                Declared("hung", port, "silent", "stalled", stays),
                Declared("well", port, "well", "alone refused stalled", ""),
            )
            with serving(folder, policy(*declared)) as router:
                reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
                with closing(writer):

                    async def ask(task: str) -> tuple[float, bytes]:
                        began = time.perf_counter()
                        writer.write(request_for(task, keep=True))
                        found = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
                        await reader.readexactly(len(WHOLE))
                        assert found.startswith(b"HTTP/1.1 200 ")
                        return (time.perf_counter() - began) * 1000, found

                    for task in ("refused", "stalled"):
                        while b"x-router-attempts: 1\r\n" not in (await ask(task))[1]:
                            pass
                    kinds = ["alone", "refused", "stalled"]
                    results: dict[str, list[Added]] = {"refused": [], "stalled": []}
                    for _ in range(rounds):
                        took: dict[str, list[float]] = {kind: [] for kind in kinds}
                        for _ in range(count):
                            for kind in random.sample(kinds, 3):
                                took[kind].append((await ask(kind))[0])
                        for kind, found in results.items():
                            found.append(Added(sorted(took["alone"]), sorted(took[kind])))
                    return results


async def dead_bridge(folder: Path, rounds: int, count: int) -> list[Added]:
    """What the death of the LiteLLM bridge adds to requests that do not need it, and its return with it.

    Each round has `count` requests with the bridge up, and all from its end by SIGKILL until another one is up.
    """
    with dead_ports() as (closed, _):
        async with acting_provider() as (_, port):
            bridged = "wire: litellm, litellm_provider: anthropic, api_key: {env: CLAUDE_KEY}"
            claude = Declared("claude", closed, "none", "bridged", bridged)
            text = policy(claude, Declared("a", port, "well", "native", ""))
            environ = {"ROUTER_BRIDGE_PYTHON": bridge_python(), "CLAUDE_KEY": "sk-nobodys"}
            with serving(folder, text, environ=environ) as router:
                reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
                with closing(writer):

                    async def ask() -> float:
                        began = time.perf_counter()
                        writer.write(request_for("native", keep=True))
                        found = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
                        await reader.readexactly(len(WHOLE))
                        assert found.startswith(b"HTTP/1.1 200 ")
                        return (time.perf_counter() - began) * 1000

                    async def is_up() -> bool:
                        answer = await asyncio.to_thread(router.call, "GET", "/readyz")
                        return bool(answer.json()["litellm_bridge"] == "up")

                    async with asyncio.timeout(START_WITHIN * (rounds + 1)):
                        while not await is_up():
                            await ask()
                        results = []
                        for _ in range(rounds):
                            up = [await ask() for _ in range(count)]
                            os.kill(bridges(router.pid)[0], signal.SIGKILL)
                            dead = [await ask() for _ in range(count)]
                            while not await is_up():
                                dead += [await ask() for _ in range(count // 4)]
                            results.append(Added(sorted(up), sorted(dead)))
                        return results


async def disconnects(folder: Path, count: int) -> list[Figure]:
    """How long the upstream is held after the client has left, by what the request was doing; `count` of each.

    Where there is no connection to the provider, it is the request itself that must have ended.
    """
    endless = "timeouts: {connect: 60s, first_byte: 60s, idle: 60s, total: 600s}, breaker: {failures: 9999}"
    slow = "retries: {max: 9, backoff: {initial: 60s, max: 60s}}"
    with dead_ports() as (_, silence):
        async with acting_provider() as (provider, port):
            acts = ("silent", "headed", "begun", "dripping")
            declared = (
                Declared("a", silence, "none", "connecting", endless),
                *(Declared(act, port, act, act, endless) for act in acts),
                Declared("b", port, "busy", "backing_off", f"{endless}, {slow}"),
            )
            with serving(folder, policy(*declared)) as router:
                found = []
                for what, task, stream in (
                    ("waiting for a connection", "connecting", False),
                    ("waiting for the head", "silent", False),
                    ("waiting for the body", "begun", False),
                    ("waiting for the first event", "headed", True),
                    ("backing off", "backing_off", False),
                    ("in the middle of a stream, silent", "begun", True),
                    ("in the middle of a stream, busy", "dripping", True),
                ):
                    samples = [await _leave(router, provider, silence, task, stream=stream) for _ in range(count)]
                    found.append(Figure(what, samples, 100))
                return found


async def _leave(router: Served, provider: Provider, silence: int, task: str, *, stream: bool) -> float:
    """Milliseconds from the client's leaving to the provider's seeing it."""
    provider.forget()
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(request_for(task, stream=stream))
    if task == "connecting":
        await _in_flight(router, 1)
    elif stream and task != "headed":
        await reader.readuntil(EVENT)
    else:
        await asyncio.wait_for((provider.left if task == "backing_off" else provider.asked).get(), _PATIENCE)
    # At any moment, also before the router has begun to listen for it.
    await asyncio.sleep(random.uniform(0, 0.06))
    writer.transport.abort()
    gone = time.monotonic()
    if task in ("connecting", "backing_off"):
        await _in_flight(router, 0)
        took = (time.monotonic() - gone) * 1000
        assert not _connecting(silence)
        return took
    return (await asyncio.wait_for(provider.left.get(), _PATIENCE) - gone) * 1000


async def _in_flight(router: Served, count: int) -> None:
    """Wait until the router has so many requests."""
    while await asyncio.to_thread(lambda: router.metrics().total("litellm_requests_in_flight")) != count:
        pass


def _connecting(port: int) -> bool:
    """Whether anybody waits for a connection to `port`."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == _SYN_SENT for row in rows)
