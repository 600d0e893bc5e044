import contextlib
import json
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.processes import ACME, Answer, Line, free_port, healthy, process, serving, wait_until
from support.servers import ACME_KEY, REPOSITORY, Mock

CHAT: dict[str, Any] = {"model": "reasoning", "messages": [{"role": "user", "content": "one two three " * 50}]}
STREAM = {**CHAT, "stream": True}
CHATS = "/v1/chat/completions"


def leave(port: int, body: dict[str, Any], first: bytes, withheld: int = 0) -> None:
    """Send `body` as a chat, without its last `withheld` bytes; reset once an answer begins with `first`."""
    encoded = json.dumps(body).encode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in ACME.items())
    head = f"POST {CHATS} HTTP/1.1\r\nHost: router\r\n{headers}Content-Length: {len(encoded)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head.encode() + encoded[: len(encoded) - withheld])
        if first:
            assert connection.recv(64).startswith(first)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def posts(body: dict[str, Any] | bytes, status: int, path: str = CHATS) -> Callable[[Line], None]:
    """A request that must be answered with `status`."""

    def send(line: Line) -> None:
        answer = line.post(path, body)
        assert answer.status == status, answer

    return send


def breaks(model: str, code: bytes) -> Callable[[Line], None]:
    """A stream of `model` that must break with `code`."""

    def send(line: Line) -> None:
        answer = line.post(CHATS, {**STREAM, "model": model})
        assert (answer.status, answer.body.count(code)) == (200, 1), answer

    return send


def gets(path: str, status: int) -> Callable[[Line], None]:
    """A GET that must be answered with `status`."""

    def send(line: Line) -> None:
        assert line.get(path).status == status

    return send


def without_key(line: Line) -> None:
    """A request without a key."""
    assert line.post(CHATS, CHAT, {"X-Tenant-ID": "acme"}).status == 401


KINDS: dict[str, Callable[[Line], None]] = {
    "chat": posts(CHAT, 200),
    "stream": posts(STREAM, 200),
    "stream with usage": posts({**STREAM, "stream_options": {"include_usage": True}}, 200),
    "completion": posts({"model": "reasoning", "prompt": "one two"}, 200, "/v1/completions"),
    "embedding": posts({"model": "embedding", "input": "one two"}, 200, "/v1/embeddings"),
    "bad JSON": posts(b'{"model": "reasoning", ', 400),
    "bad field": posts({"model": "reasoning", "messages": 3}, 400),
    "unknown model": posts({**CHAT, "model": "unknown"}, 404),
    "raw document": posts({**CHAT, "documents": ["a"]}, 403),
    "no key": without_key,
    "failing provider": posts({**CHAT, "model": "failing"}, 503),
    "rejecting provider": posts({**CHAT, "model": "rejecting"}, 422),
    "failing stream": posts({**STREAM, "model": "failing"}, 503),
    "cut stream": breaks("cut", b"upstream_stream_truncated"),
    "cut answer": posts({**CHAT, "model": "cut"}, 503),
    "models": gets("/v1/models", 200),
    "unknown path": gets("/v1/nothing", 404),
    "health": gets("/healthz", 200),
    "metrics": gets("/internal/metrics", 200),
}

# These wait for a timeout of 50 ms, so they are sent less often.
SLOW_KINDS: dict[str, Callable[[Line], None]] = {
    "silent provider": posts({**CHAT, "model": "silent"}, 503),
    "stalling stream": breaks("stalling", b"upstream_stream_stalled"),
    "late answer": posts({**CHAT, "model": "late"}, 504),
    "endless stream": breaks("endless", b"deadline_exceeded"),
    "hedged answer": posts({**CHAT, "model": "hedged"}, 200),
    "hedged stream": posts({**STREAM, "model": "hedged"}, 200),
    "removed hop": posts({**CHAT, "model": "removed"}, 200),
    # The only request of the minute was the one before.
    "refused by a provider's limit": posts({**CHAT, "model": "refused"}, 429),
}


def test_memory_and_descriptors_stay_flat(policy: str, upstream: Mock, tmp_path: Path) -> None:
    """Thousands of requests of every kind, refusals and broken streams among them, leave nothing behind."""
    with serving(tmp_path, policy) as served:

        def burden(rounds: int) -> tuple[int, int]:
            """Memory and descriptors after `rounds` of every kind, each on a kept and on a fresh connection."""
            kept = Line(served.port)
            for number in range(rounds):
                for kind in KINDS.values():
                    kind(kept)
                if number % 5 == 0:
                    fresh = Line(served.port)
                    KINDS["stream"](fresh)
                    fresh.close()
                    leave(served.port, {**STREAM, "model": "slow"}, b"HTTP/1.1 200")
                    leave(served.port, {**CHAT, "model": "hanging"}, b"")
            kept.close()
            upstream.wait_open(0)
            wait_until(lambda: served.metrics().total("litellm_requests_in_flight") == 0, "nothing is in flight")
            return served.memory(), served.descriptors()

        burden(40)  # pools, caches and the allocator's arenas grow to their size
        first_memory, first_descriptors = burden(50)
        second_memory, second_descriptors = burden(50)

        # 1,000 requests a half: a leak of one kilobyte in each would be 1 MB.
        assert second_memory - first_memory < 768 * 1024
        assert second_descriptors <= first_descriptors


@contextlib.contextmanager
def counting(folder: Path, policy: str) -> Iterator[tuple[int, Callable[[], dict[str, int]]]]:
    """A router whose collector is off: its port, and a function that tells what a collection finds."""
    (folder / "keys").mkdir()
    (folder / "keys" / "acme").write_text(ACME_KEY)
    (folder / "policy.yaml").write_text(policy)
    port, door = free_port(), free_port()
    arguments = [sys.executable, "-m", "support.counting", str(door), "serve", "--port", str(port)]
    environ = {
        "ROUTER_POLICY": str(folder / "policy.yaml"),
        "ROUTER_KEYS_DIR": str(folder / "keys"),
        "ROUTER_ACCESS_LOG": str(folder / "access.log"),
    }

    def collected() -> dict[str, int]:
        with socket.create_connection(("127.0.0.1", door), timeout=20) as connection:
            found: dict[str, int] = json.loads(connection.makefile("rb").read())
        return found

    with process(arguments, REPOSITORY / "packages" / "router" / "tests", environ) as ran:
        wait_until(lambda: healthy(port) or not ran.running(), "the router answers")
        assert ran.running(), ran.stderr()
        collected()
        yield port, collected


def cycles(collected: Callable[[], dict[str, int]], act: Callable[[], None], times: int = 50) -> dict[str, int]:
    """What `act` leaves to the collector each time: objects of a type that were found at least once an act."""
    for _ in range(3):
        act()
    collected()
    for _ in range(times):
        act()
    return {name: count for name, count in collected().items() if count >= times}


def test_requests_make_no_reference_cycles(policy: str, tmp_path: Path) -> None:
    """Whatever a request is and however it ends, counting references frees all that was made for it."""
    found = {}
    with counting(tmp_path, policy) as (port, collected):
        line = Line(port)
        for name, kind in {**KINDS, **SLOW_KINDS}.items():
            left = cycles(collected, partial(kind, line), 8 if name in SLOW_KINDS else 50)
            if left:
                found[name] = left
        line.close()
    assert found == {}


@pytest.mark.parametrize(
    ("model", "stream", "first", "withheld"),
    [
        ("slow", True, b"HTTP/1.1 200", 0),
        ("hanging", False, b"", 0),
        ("hanging", True, b"", 0),
        ("slow", False, b"", 9),
    ],
)
def test_clients_that_leave_make_no_reference_cycles(
    model: str, stream: bool, first: bytes, withheld: int, policy: str, upstream: Mock, tmp_path: Path
) -> None:
    """A client that goes away, in the middle of a stream or before an answer, leaves nothing to the collector."""
    with counting(tmp_path, policy) as (port, collected):

        def act() -> None:
            leave(port, {**CHAT, "model": model, "stream": stream}, first, withheld)
            upstream.wait_open(0)

        assert cycles(collected, act, 20) == {}


def test_connections_make_no_reference_cycles(policy: str, tmp_path: Path) -> None:
    """A connection that is opened for one request and closed leaves nothing to the collector."""
    with counting(tmp_path, policy) as (port, collected):

        def act() -> None:
            line = Line(port)
            answer: Answer = line.post(CHATS, CHAT)
            assert answer.status == 200
            line.close()

        assert cycles(collected, act) == {}
