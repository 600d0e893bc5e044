import http.client
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk
from support.calls import (
    HELLO,
    TIMEOUT,
    chat,
    connected,
    events,
    eventually,
    identified,
    request_bytes,
    stream_error,
)
from support.policies import one_hop
from support.scripted import Exchange, Script, running_scripted, stream_head
from support.servers import ACME_KEY, Mock, RunningRouter, running_mock, running_router

# `chunks=4` is 1 opening event, 4 tokens, 1 finish and [DONE]; the router asks for usage, which is 1 event more: 8.
MIDWAY = [
    ("fault=cut,at=3", "upstream_stream_truncated"),
    ("fault=cut,at=6", "upstream_stream_truncated"),
    ("fault=reset,at=3", "upstream_stream_truncated"),
    ("fault=truncated-content-length,at=3", "upstream_stream_truncated"),
    ("fault=stall-after-first-byte,at=3", "upstream_stream_stalled"),
    ("fault=error-in-band,at=3", "upstream_stream_error"),
    ("fault=malformed-json,at=3", "upstream_stream_invalid"),
    ("fault=half-json,at=3", "upstream_stream_invalid"),
]
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"index":%d,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def _model(directives: str) -> str:
    # The gap lets the first event be passed on before the fault comes.
    return f"gpt-4.1@chunks=4,gap=40ms,{directives}"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Mock]:
    """One mocked provider for the module."""
    with running_mock() as mock:
        yield mock


@pytest.fixture(scope="module")
def breaking(upstream: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router with a model for each way to break, and a spare that must not be asked once a stream has begun."""
    models = [_model(directives) for directives, _ in MIDWAY]
    models += [_model("fault=no-done"), _model("fault=no-finish"), _model("fault=no-usage"), "spare"]
    timeouts = "{first_byte: 2s, idle: 400ms, total: 5s}"
    with running_router(tmp_path_factory.mktemp("router"), one_hop(upstream.url, *models, timeouts=timeouts)) as router:
        yield router


def _openai(router: RunningRouter) -> OpenAI:
    headers = {"X-Tenant-ID": "acme"}
    return OpenAI(base_url=f"{router.url}/v1", api_key=ACME_KEY, default_headers=headers, max_retries=0)


@pytest.mark.parametrize(("directives", "code"), MIDWAY)
def test_stream_that_breaks_after_its_first_event_ends_with_an_error_and_no_done(
    breaking: RunningRouter, directives: str, code: str
) -> None:
    """What came stays, then one error event and the end: never `[DONE]`, so it never looks complete."""
    request_id = secrets.token_hex(8)

    answer = chat(breaking, model=_model(directives), stream=True, headers=identified(x_request_id=request_id))

    *passed, last = events(answer.body)  # reading to the end at all says that the HTTP message ended cleanly
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert stream_error(last) == {
        "type": "api_error",
        "param": None,
        "code": code,
        "retryable": True,
        "request_id": request_id,
    }
    assert DONE not in answer.body
    words = [b'"content":""', b'"content":"w1"', b'"content":" w2"', b'"content":" w3"', b'"content":" w4"', b'"stop"']
    assert 1 <= len(passed) <= int(directives[-1])
    assert [word in event for word, event in zip(words, passed, strict=False)] == [True] * len(passed)


@pytest.mark.parametrize(("directives", "code"), MIDWAY)
def test_openai_client_raises_when_a_stream_breaks(breaking: RunningRouter, directives: str, code: str) -> None:
    """The official client raises `APIError` with the code; without the event it would take the cut for the end."""
    seen: list[ChatCompletionChunk] = []
    with _openai(breaking) as client:
        stream = client.chat.completions.create(
            model=_model(directives), messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError) as raised:
            seen.extend(stream)

    assert (raised.value.code, raised.value.type) == (code, "api_error")
    assert 1 <= len(seen) <= int(directives[-1])


async def test_async_openai_client_raises_when_a_stream_breaks(breaking: RunningRouter) -> None:
    """The asynchronous client raises as well."""
    async with AsyncOpenAI(
        base_url=f"{breaking.url}/v1", api_key=ACME_KEY, default_headers={"X-Tenant-ID": "acme"}, max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model=_model("fault=cut,at=3"), messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError) as raised:
            _ = [chunk async for chunk in stream]

    assert raised.value.code == "upstream_stream_truncated"


@pytest.mark.parametrize(("fault", "count", "done"), [("no-done", 6, False), ("no-finish", 6, True)])
def test_stream_with_either_end_is_complete(breaking: RunningRouter, fault: str, count: int, done: bool) -> None:
    """A finish reason or `[DONE]` is an end: neither is missed when the other is there, and nothing is added."""
    answer = chat(breaking, model=_model(f"fault={fault}"), stream=True)

    assert b'"error"' not in answer.body
    assert len(events(answer.body)) == count
    assert (DONE in answer.body) is done


def test_no_hop_is_asked_after_a_stream_has_begun(tmp_path: Path, mock: Mock) -> None:
    """After the first event there is no fallback: a second answer in the same stream would be no answer."""
    with running_router(tmp_path, one_hop(mock.url, _model("fault=cut,at=3"), "spare")) as router:
        answer = chat(router, stream=True)

    assert stream_error(events(answer.body)[-1])["code"] == "upstream_stream_truncated"
    assert [request["model"] for request in mock.requests()] == [_model("fault=cut,at=3")]


def _stops_after(first: bytes, *pieces: bytes, gate: threading.Event, how: str = "end") -> Script:
    """A stream whose further pieces, and whose end, wait for `gate`: the client has the first event by then."""

    def script(exchange: Exchange) -> None:
        exchange.send(stream_head())
        exchange.chunk(first)
        assert gate.wait(TIMEOUT)
        for piece in pieces:
            exchange.chunk(piece)
        if how == "end":
            exchange.chunk(b"")
        elif how == "close":
            exchange.close()
        elif how == "reset":
            exchange.reset()
        else:
            exchange.wait_closed()

    return script


def _in_step(folder: Path, *pieces: bytes, how: str = "end", **fields: Any) -> bytes:
    """The body of a stream of which the client has read the first event before the upstream goes on."""
    gate = threading.Event()
    folder.mkdir(exist_ok=True)
    with (
        running_scripted(_stops_after(*pieces, gate=gate, how=how)) as upstream,
        running_router(folder, one_hop(upstream.url)) as router,
        connected(router) as client,
    ):
        client.sendall(request_bytes({**HELLO, "stream": True, **fields}))
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 200
        body = response.readline() + response.readline()
        gate.set()
        body += response.read()
        response.close()
    return body


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ((EVENT % b"a",), "upstream_stream_truncated"),
        ((EVENT % b"a", (EVENT % b"b")[:-1]), "upstream_stream_truncated"),
        ((EVENT % b"a", (EVENT % b"b")[:30]), "upstream_stream_invalid"),
        ((EVENT % b"a", FINISH.replace(b"%d", b"0")[:-20]), "upstream_stream_invalid"),
        ((EVENT % b"a", b": bye\n\n"), "upstream_stream_truncated"),
        ((EVENT % b"a", b"data: not json\n\n", DONE), "upstream_stream_invalid"),
        ((EVENT % b"a", b"data: \n\n", DONE), "upstream_stream_invalid"),
        ((EVENT % b"a", b'data: {"error":"overloaded"}\n\n', DONE), "upstream_stream_error"),
        ((EVENT % b"a", b'event: error\ndata: {"error":{"message":"x"}}\n\n', DONE), "upstream_stream_error"),
        ((EVENT % b"a", b'data: {"choices":[],"error":{"message":"x"}}\n\n', DONE), "upstream_stream_error"),
        ((EVENT % b"a", FINISH % 0, b'data: {"error":{"message":"x"}}\n\n'), "upstream_stream_error"),
    ],
    ids=[
        *("end", "no blank line", "half an event", "half a finish", "comment", "not JSON", "empty data"),
        *("error string", "error event", "error and choices", "error after the finish"),
    ],
)
def test_clean_end_of_a_broken_stream_is_no_success(tmp_path: Path, pieces: tuple[bytes, ...], code: str) -> None:
    """An upstream may end its HTTP message properly and yet have cut the answer: that is a failure all the same."""
    body = _in_step(tmp_path, *pieces)

    found = events(body)
    assert found[0] == EVENT % b"a"
    assert stream_error(found[-1])["code"] == code
    assert DONE not in body


@pytest.mark.parametrize("broken", [b"data: not json\n\n", b'data: {"error":{"message":"x"}}\n\n'])
def test_events_before_a_broken_one_are_passed_on_however_they_were_cut(tmp_path: Path, broken: bytes) -> None:
    """What came before a failure is the client's, whether it came in one read with the failure or before it."""
    apart = _in_step(tmp_path / "apart", EVENT % b"a", EVENT % b"b", EVENT % b"c", broken)
    together = _in_step(tmp_path / "together", EVENT % b"a", EVENT % b"b" + EVENT % b"c" + broken)

    for body in (apart, together):
        *passed, last = events(body)
        assert passed == [EVENT % b"a", EVENT % b"b", EVENT % b"c"]
        assert stream_error(last)["code"] in ("upstream_stream_invalid", "upstream_stream_error")


def test_stream_of_two_choices_is_complete_when_both_have_finished(tmp_path: Path) -> None:
    """One choice's finish reason does not end the other: with `n` of 2 a stream cut after the first is cut."""
    second = EVENT.replace(b'"index":0', b'"index":1') % b"b"

    cut = _in_step(tmp_path / "cut", EVENT % b"a", second, FINISH % 0, n=2)
    whole = _in_step(tmp_path / "whole", EVENT % b"a", second, FINISH % 0, FINISH % 1, n=2)

    assert stream_error(events(cut)[-1])["code"] == "upstream_stream_truncated"
    assert events(whole) == [EVENT % b"a", second, FINISH % 0, FINISH % 1]


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
def test_nothing_can_break_after_done(tmp_path: Path, how: str) -> None:
    """After `[DONE]` the answer is whole: how the upstream ends its connection then is no failure of it."""
    pieces = (EVENT % b"a", FINISH % 0, DONE)

    assert _in_step(tmp_path, *pieces, how=how) == b"".join(pieces)


def test_slow_stream_is_not_stalled(tmp_path: Path) -> None:
    """`idle` is the silence between two parts, however long the whole takes."""
    # 8 events, 100 ms apart, are 700 ms: more than each limit, but never 450 ms of silence.
    timeouts = "{connect: 100ms, first_byte: 400ms, idle: 450ms, total: 5s}"
    with (
        running_mock() as mock,
        running_router(tmp_path, one_hop(mock.url, "gpt-4.1@chunks=4,gap=100ms", timeouts=timeouts)) as router,
    ):
        answer = chat(router, stream=True)

    assert events(answer.body)[-1] == DONE


def test_comments_of_the_upstream_count_as_life(tmp_path: Path) -> None:
    """An upstream that sends comments while it thinks is not stalled."""

    def script(exchange: Exchange) -> None:
        exchange.send(stream_head())
        exchange.chunk(EVENT % b"a")
        for _ in range(6):
            time.sleep(0.1)
            exchange.chunk(b": thinking\n\n")
        exchange.chunk(DONE)
        exchange.chunk(b"")

    with (
        running_scripted(script) as upstream,
        running_router(tmp_path, one_hop(upstream.url, timeouts="{first_byte: 2s, idle: 450ms, total: 5s}")) as router,
    ):
        answer = chat(router, stream=True)

    assert answer.body == EVENT % b"a" + b": thinking\n\n" * 6 + DONE


@pytest.mark.parametrize(("directives", "code"), MIDWAY)
def test_broken_stream_is_recorded_as_broken(tmp_path: Path, mock: Mock, directives: str, code: str) -> None:
    """The access line and the error counter name what broke, though the status was 200 already."""
    timeouts = "{first_byte: 2s, idle: 400ms, total: 5s}"
    with running_router(tmp_path, one_hop(mock.url, _model(directives), timeouts=timeouts)) as router:
        chat(router, stream=True)
        counted = eventually(router.metrics, lambda text: f'code="{code}"' in text)
    line: dict[str, Any] = router.access_lines()[-1]

    assert f'litellm_errors_total{{code="{code}",tenant="acme"}} 1.0' in counted
    assert (line["status"], line["code"], line["stream"], line["attempts"]) == (200, code, True, 1)
