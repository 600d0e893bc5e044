"""HTTP that is broken or odd in ways that the libraries below would let through."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from support.scripted import Exchange, head, running_scripted, stream_head
from support.servers import ACME_KEY, RunningRouter, running_router

POLICY = """
providers:
  only: {{base_url: "{url}/v1", timeouts: {{first_byte: 5s, idle: 5s, total: 20s}}, retries: {{max: 0}}}}
tenants:
  acme:
    providers:
      only: {{models: {{reasoning: {{default: gpt-4.1}}}}}}
"""
HEADERS = {"Authorization": f"Bearer {ACME_KEY}", "X-Tenant-ID": "acme", "Content-Type": "application/json"}
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


def body(*, stream: bool) -> bytes:
    """A chat request."""
    return json.dumps({"model": "reasoning", "messages": [{"role": "user"}], "stream": stream}).encode()


def attempts(url: str, *, stream: bool) -> list[str]:
    """The code of each attempt of a request that ends in a 503; its status depends on how the packets came."""
    with pytest.raises(HTTPError) as failed:
        urlopen(Request(f"{url}/v1/chat/completions", body(stream=stream), HEADERS))
    with failed.value as error:
        assert error.code == 503
        return [attempt["code"] for attempt in json.load(error)["error"]["attempts"]]


@pytest.mark.parametrize("stream", [False, True])
def test_chunk_that_is_none_fails_the_hop_at_once(stream: bool, tmp_path: Path) -> None:
    """A body whose chunks cannot be read is a failed attempt, and nobody waits for the idle time."""

    def malformed(exchange: Exchange) -> None:
        start = stream_head() if stream else head("application/json", "Transfer-Encoding: chunked")
        exchange.send(start)
        exchange.send(b"zz\r\n")
        exchange.wait_closed()

    with running_scripted(malformed) as scripted, running_router(tmp_path, POLICY.format(url=scripted.url)) as router:
        assert attempts(router.url, stream=stream) == ["upstream_disconnected"]


def test_chunk_that_is_none_after_the_first_event_is_a_cut_stream(tmp_path: Path) -> None:
    """The events before it are passed on; then the stream says that it was cut."""
    received = threading.Event()

    def malformed(exchange: Exchange) -> None:
        exchange.send(stream_head())
        exchange.chunk(EVENT)
        assert received.wait(10)
        exchange.send(b"zz\r\n")
        exchange.wait_closed()

    with (
        running_scripted(malformed) as scripted,
        running_router(tmp_path, POLICY.format(url=scripted.url)) as router,
        urlopen(Request(f"{router.url}/v1/chat/completions", body(stream=True), HEADERS)) as response,
    ):
        first = response.readline() + response.readline()
        received.set()
        last = response.read()

    assert first == EVENT
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_stream_truncated"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[RunningRouter]:
    """A router whose provider is not needed."""
    with running_router(tmp_path, POLICY.format(url="http://127.0.0.1:9")) as router:
        yield router


def connected(router: RunningRouter) -> socket.socket:
    """A raw connection to the router."""
    return socket.create_connection(("127.0.0.1", router.port), timeout=10)


def test_trailer_is_no_header(alone: RunningRouter) -> None:
    """A tenant that is named after the body was not named in the head, also where both come in one packet."""
    with connected(alone) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\nConnection: close\r\n"
            b"Authorization: Bearer %b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Tenant-ID: acme\r\n\r\n"
            % ACME_KEY.encode()
        )
        answer = line.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "tenant_required"


def test_trailers_without_end_are_cut(alone: RunningRouter) -> None:
    """A client without a key cannot fill the memory with what it sends after a body."""
    with connected(alone) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        answer = line.recv(65536)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            line.sendall(b"X-Filler: 0123456789\r\n" * 1_000_000)

    assert answer.startswith(b"HTTP/1.1 401 ")
