import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from support.calls import HELLO, TIMEOUT, chat, connected, events, eventually, read_answer, request_bytes, samples
from support.policies import one_hop
from support.scripted import Exchange, running_scripted, stream_head
from support.servers import ACME_KEY, Mock, RunningRouter, running_router

# Every limit of time is far longer than a test may take: only the client's leaving can end these requests.
ENDLESS = "{connect: 60s, first_byte: 60s, idle: 60s, total: 120s}"
MODELS = {
    "waiting for the head": "gpt-4.1@fault=stall-before-headers",
    "waiting for the first byte": "gpt-4.1@fault=stall-before-first-byte",
    "in the middle": "gpt-4.1@fault=stall-after-first-byte",
    "under way": "gpt-4.1@chunks=50000",
}
PHASES = [(phase, stream) for phase in MODELS for stream in (False, True) if stream or phase != "under way"]


@pytest.fixture
def patient(mock: Mock, tmp_path: Path) -> Iterator[RunningRouter]:
    """A router that waits for a minute, with models that never end."""
    with running_router(tmp_path, one_hop(mock.url, *MODELS.values(), timeouts=ENDLESS)) as router:
        yield router


def _last_line(router: RunningRouter) -> dict[str, object]:
    lines = eventually(router.access_lines, bool)
    line = dict(lines[-1])
    return {name: line.get(name, False) for name in ("status", "code", "tenant", "stream", "provider")}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(("phase", "stream"), PHASES)
def test_leaving_client_ends_the_upstream_request(
    patient: RunningRouter, mock: Mock, phase: str, stream: bool, how: str
) -> None:
    """In every phase the upstream's request is cancelled when the client goes away, and the line says who left."""
    with connected(patient) as client:
        client.sendall(request_bytes({**HELLO, "model": MODELS[phase], "stream": stream}))
        mock.wait_open(1)
        if stream and phase in ("in the middle", "under way"):
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    mock.wait_open(0)

    assert [request["state"] for request in mock.requests()] == ["disconnected"]
    begun = stream and phase in ("in the middle", "under way")
    assert _last_line(patient) == {
        "status": 200 if begun else 499,
        "code": "client_disconnected",
        "tenant": "acme",
        "stream": stream,
        "provider": "only" if begun else False,
    }
    assert eventually(lambda: samples(patient)["litellm_requests_in_flight"], lambda count: count == 0) == 0


def test_leaving_client_stops_the_plan(mock: Mock, tmp_path: Path) -> None:
    """No further hop is asked for a client that has gone."""
    models = ["a@fault=stall-before-headers", "b"]
    with running_router(tmp_path, one_hop(mock.url, *models, timeouts=ENDLESS)) as router:
        with connected(router) as client:
            client.sendall(request_bytes(HELLO))
            mock.wait_open(1)
        mock.wait_open(0)
        line = eventually(router.access_lines, bool)[-1]

    assert [request["model"] for request in mock.requests()] == ["a@fault=stall-before-headers"]
    assert (line["status"], line["code"], line["attempts"]) == (499, "client_disconnected", 1)


def test_cancelled_task_of_the_openai_client_ends_the_upstream_request(patient: RunningRouter, mock: Mock) -> None:
    """Cancelling the asynchronous client's call is enough: nothing goes on at the provider's cost."""

    async def leave() -> None:
        headers = {"X-Tenant-ID": "acme"}
        async with AsyncOpenAI(base_url=f"{patient.url}/v1", api_key=ACME_KEY, default_headers=headers) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(
                    model=MODELS["waiting for the head"], messages=[{"role": "user", "content": "x"}]
                )
            )
            await asyncio.to_thread(mock.wait_open, 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(leave())
    mock.wait_open(0)

    assert [request["state"] for request in mock.requests()] == ["disconnected"]


def test_closed_stream_of_the_openai_client_ends_the_upstream_request(patient: RunningRouter, mock: Mock) -> None:
    """A stream that the client closes early ends at the provider too."""

    async def leave() -> None:
        headers = {"X-Tenant-ID": "acme"}
        async with AsyncOpenAI(base_url=f"{patient.url}/v1", api_key=ACME_KEY, default_headers=headers) as client:
            stream = await client.chat.completions.create(
                model=MODELS["under way"], messages=[{"role": "user", "content": "x"}], stream=True
            )
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(leave())
    mock.wait_open(0)

    assert [request["state"] for request in mock.requests()] == ["disconnected"]


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_client_that_leaves_in_its_body_asks_no_upstream(patient: RunningRouter, mock: Mock, framing: bytes) -> None:
    """Half a request is no request: nothing is sent on, and the line says that the client left."""
    with connected(patient) as client:
        client.sendall(request_bytes(b'20\r\n{"model":' if b"chunked" in framing else b'{"model":', framing))
        eventually(lambda: samples(patient)["litellm_requests_in_flight"], lambda count: count == 1)

    assert _last_line(patient) == {
        "status": 499,
        "code": "client_disconnected",
        "tenant": "acme",
        "stream": False,
        "provider": False,
    }
    assert mock.requests() == []


def test_client_that_reads_slowly_gets_every_byte(mock: Mock, tmp_path: Path) -> None:
    """A client that pauses for longer than `idle` is no stalled upstream: the stream waits, and then is whole."""
    words = 80_000  # about 16 MB, more than the kernel and the router hold between the two
    policy = one_hop(mock.url, f"gpt-4.1@chunks={words}", timeouts="{first_byte: 5s, idle: 200ms, total: 30s}")
    with running_router(tmp_path, policy) as router, connected(router, receive_buffer=4096) as client:
        client.sendall(request_bytes({**HELLO, "stream": True}))
        assert client.recv(15, socket.MSG_WAITALL | socket.MSG_PEEK) == b"HTTP/1.1 200 OK"
        time.sleep(0.6)  # the pause itself is what is tested
        mock.wait_open(1)  # the upstream is held back, not read into memory
        answer = read_answer(client)

    found = events(answer.body)
    assert len(found) == 1 + words + 1 + 1
    assert b'"error"' not in answer.body
    assert found[-1] == b"data: [DONE]\n\n"


def test_client_that_pauses_before_the_end_gets_it(tmp_path: Path) -> None:
    """Also where the stream is over at the provider for longer than a moment: only the deadline ends the patience."""
    # More than the kernel takes, with the end in one write.
    last = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\ndata: [DONE]\n\n' % (b"a" * 8_000_000)
    sent = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.send(stream_head())
        exchange.chunk(last)
        exchange.chunk(b"")
        sent.set()

    with (
        running_scripted(script) as upstream,
        running_router(tmp_path, one_hop(upstream.url, timeouts="{total: 60s}")) as router,
        connected(router, receive_buffer=4096) as client,
    ):
        client.sendall(request_bytes({**HELLO, "stream": True}))
        assert sent.wait(TIMEOUT)
        time.sleep(2.5)  # the pause itself is what is tested
        answer = read_answer(client)

    assert answer.body == last


def test_client_that_does_not_read_is_let_go_at_the_deadline(
    mock: Mock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that stops reading holds neither upstream nor router past the total deadline."""
    policy = one_hop(mock.url, "gpt-4.1@chunks=50000", timeouts="{connect: 1s, first_byte: 1s, idle: 1s, total: 1s}")
    with running_router(tmp_path, policy) as router, connected(router, receive_buffer=4096) as client:
        client.sendall(request_bytes({**HELLO, "stream": True}))
        mock.wait_open(1)
        mock.wait_open(0)
        line = eventually(router.access_lines, bool)[-1]
        in_flight = eventually(lambda: samples(router)["litellm_requests_in_flight"], lambda count: count == 0)
        errors = samples(router, "litellm_errors_total")

    assert [request["state"] for request in mock.requests()] == ["disconnected"]
    assert (line["status"], line["code"], in_flight) == (200, "deadline_exceeded", 0)
    assert errors == {'litellm_errors_total{code="deadline_exceeded",tenant="acme"}': 1.0}
    assert [record.getMessage() for record in caplog.records if "Exception" in record.getMessage()] == []


def test_request_ends_at_its_total_deadline(mock: Mock, tmp_path: Path) -> None:
    """`total` bounds the whole request: 504 in the one shape, and the upstream is cancelled."""
    timeouts = "{connect: 300ms, first_byte: 300ms, idle: 300ms, total: 300ms}"
    for stream in (False, True):
        folder = tmp_path / str(stream)
        folder.mkdir()
        with running_router(
            folder, one_hop(mock.url, "a@fault=stall-before-headers", "b", timeouts=timeouts)
        ) as router:
            answer = chat(router, stream=stream)
            mock.wait_open(0)

        request_id = answer.headers["x-request-id"]
        assert answer.error() == {
            "type": "api_error",
            "param": None,
            "code": "deadline_exceeded",
            "retryable": True,
            "request_id": request_id,
        }
        headers = {name: answer.headers[name] for name in ("x-should-retry", "x-router-attempts")}
        assert (answer.status, headers) == (504, {"x-should-retry": "true", "x-router-attempts": "1"})
    assert [request["model"] for request in mock.requests()] == ["a@fault=stall-before-headers"] * 2


def test_deadline_counts_all_hops_together(mock: Mock, tmp_path: Path) -> None:
    """Fallbacks do not start the clock anew: the third hop is asked with what the first two have left."""
    timeouts = "{connect: 100ms, first_byte: 800ms, idle: 2s, total: 2s}"
    models = [f"{name}@fault=stall-before-headers" for name in "abcdefgh"]
    with running_router(tmp_path, one_hop(mock.url, *models, timeouts=timeouts)) as router:
        answer = chat(router)

    # Each hop takes 800 ms and a tick, so the third is the one that the deadline ends.
    assert (answer.status, answer.error()["code"]) == (504, "deadline_exceeded")
    assert [request["model"] for request in mock.requests()] == models[:3]


def test_deadline_in_the_middle_of_a_stream_is_an_error_event(mock: Mock, tmp_path: Path) -> None:
    """A stream that outlives the total deadline ends with `deadline_exceeded` and without `[DONE]`."""
    policy = one_hop(
        mock.url,
        "gpt-4.1@chunks=1000,gap=20ms",
        timeouts="{connect: 500ms, first_byte: 500ms, idle: 500ms, total: 500ms}",
    )
    with running_router(tmp_path, policy) as router:
        answer = chat(router, stream=True)
        mock.wait_open(0)
        line = eventually(router.access_lines, bool)[-1]

    *passed, last = events(answer.body)
    error = json.loads(last[6:])["error"]
    assert len(passed) > 1
    assert (error["code"], error["type"], error["retryable"]) == ("deadline_exceeded", "api_error", True)
    assert b"[DONE]" not in answer.body
    assert (line["status"], line["code"]) == (200, "deadline_exceeded")


def test_second_request_on_a_connection_is_served_after_a_long_first(mock: Mock, tmp_path: Path) -> None:
    """Listening for a client's leaving must not swallow its next request on the same connection."""
    with running_router(tmp_path, one_hop(mock.url, "gpt-4.1@latency=150ms")) as router, connected(router) as client:
        answers = []
        for number in range(3):
            client.sendall(request_bytes(HELLO, b"x-request-id: number-%d" % number))
            answers.append(read_answer(client))

    assert [(answer.status, answer.headers["x-request-id"]) for answer in answers] == [
        (200, f"number-{number}") for number in range(3)
    ]


def test_pipelined_requests_are_answered_in_order(mock: Mock, tmp_path: Path) -> None:
    """Requests that come all at once on one connection get their own answers, one after the other."""
    with running_router(tmp_path, one_hop(mock.url, "gpt-4.1@latency=60ms")) as router, connected(router) as client:
        texts = [f"number {number}" for number in range(3)]
        client.sendall(
            b"".join(request_bytes({**HELLO, "messages": [{"role": "user", "content": text}]}) for text in texts)
        )
        answers = [read_answer(client) for _ in texts]

    assert [answer.json()["choices"][0]["message"]["content"] for answer in answers] == [
        f"echo: {text}" for text in texts
    ]


def test_answer_after_the_client_has_left_hurts_nobody(tmp_path: Path) -> None:
    """An upstream that answers at the moment when the client leaves: the next request is served as ever."""
    go = threading.Event()

    def script(exchange: Exchange) -> None:
        if b"leaves" in exchange.body:
            assert go.wait(TIMEOUT)
        exchange.send(stream_head())
        exchange.chunk(b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        exchange.chunk(b"")

    with running_scripted(script) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        with connected(router) as client:
            client.sendall(request_bytes({**HELLO, "stream": True, "user": "leaves"}))
            eventually(lambda: len(upstream.exchanges), lambda count: count == 1)
            go.set()
        lines = eventually(router.access_lines, bool)
        after = chat(router, stream=True)

    assert (after.status, events(after.body)[-1]) == (200, b"data: [DONE]\n\n")
    assert len(lines) == 1
