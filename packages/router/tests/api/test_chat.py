import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from openai import OpenAI
from support.calls import HELLO, call, chat, connected, events, read_answer, request_bytes
from support.policies import one_hop
from support.scripted import Exchange, chunked, head, running_scripted
from support.servers import ACME_KEY, Mock, RunningRouter, running_router

USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}'
HELD = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE_CHUNK = b'data: {"choices":[],' + USAGE + b"}\n\n"
DONE = b"data: [DONE]\n\n"


def test_chat_answers_with_the_bytes_of_the_upstream(router: RunningRouter, mock: Mock) -> None:
    """A whole answer reaches the client byte for byte, and only the model of the request is changed."""
    body = b'{ "messages":[{"role":"user","content":"caf\\u00e9 \xc3\xa9"}] ,"model" : "reasoning", "x_unknown":[1, 2]}'
    headers = {"Authorization": f"Bearer {ACME_KEY}", "X-Tenant-ID": "acme", "Content-Type": "application/json"}

    with urlopen(Request(f"{router.url}/v1/chat/completions", body, headers)) as response:
        answer = json.loads(response.read())

    assert answer["choices"][0]["message"]["content"] == "echo: café é"
    assert [request["body"].encode() for request in mock.requests()] == [body.replace(b"reasoning", b"gpt-4.1")]


def test_openai_client_gets_an_answer(router: RunningRouter) -> None:
    """The official client asks for a task and gets a message, with the model that policy chose in the headers."""
    with OpenAI(base_url=f"{router.url}/v1", api_key=ACME_KEY, default_headers={"X-Tenant-ID": "acme"}) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="reasoning", messages=[{"role": "user", "content": "one two three"}]
        )

    assert raw.parse().choices[0].message.content == "echo: one two three"
    assert (raw.headers["x-router-provider"], raw.headers["x-router-model"], raw.headers["x-router-task"]) == (
        "first",
        "gpt-4.1",
        "reasoning",
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[]}',
        b' \n{ "choices" : [ { "message":{"content":"caf\\u00e9 \xc3\xa9 \xf0\x9f\x98\x80"} } ] , "x":1.50e2 }\r\n',
        b'{"choices":[{"a":1,"a":2}],"usage":null,"error":null}',
        b'{"choices":[{"text":"' + b"x" * 3_000_000 + b'"}],"usage":{"prompt_tokens":"many"}}',
    ],
    ids=["small", "spaced", "odd", "3 MB"],
)
@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
def test_whole_answer_keeps_every_byte_however_it_comes(tmp_path: Path, body: bytes, framing: str) -> None:
    """The body of an answer is the upstream's to the byte, in whatever pieces and framing it arrives."""

    def script(exchange: Exchange) -> None:
        if framing == "length":
            exchange.answer(body, "application/json; charset=utf-8")
        elif framing == "chunks":
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n")
            exchange.send(b"Transfer-Encoding: chunked\r\n\r\n")
            for part in (body[:1], body[1:7], body[7:]):
                if part:
                    exchange.chunk(part)
            exchange.chunk(b"")
        else:
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n\r\n" + body)
            exchange.close()

    with running_scripted(script) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answer = chat(router)

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert answer.body == body


STREAMS: dict[str, bytes] = {
    "plain": HELD + FINISH + DONE,
    "comments": b": first\n\n" + HELD + b":\n\n" + FINISH + b": last\n\n" + DONE,
    "all fields": b"event: chunk\nid: 7\nretry: 1000\n" + HELD + FINISH + b"unknown: x\n" + DONE,
    "no space": HELD.replace(b"data: ", b"data:") + FINISH + DONE,
    "two data lines": b'data: {"choices":\ndata: [{"delta":{"content":"a"}}]}\n\n' + FINISH + DONE,
    "crlf": (HELD + FINISH + DONE).replace(b"\n", b"\r\n"),
    "cr": (HELD + FINISH + DONE).replace(b"\n", b"\r"),
    "mixed": HELD.replace(b"\n", b"\r\n") + FINISH + DONE.replace(b"\n", b"\r"),
    "unicode": HELD.replace(b'"a"', '"é😀\u2028"'.encode()) + FINISH + DONE,
    "unknown members": HELD.replace(b'"usage"', b'"x_groq":{"id":"r"},"usage"') + FINISH + DONE,
    "null choices": b'data: {"choices":null}\n\n' + FINISH + DONE,
    "no last blank line": HELD + FINISH + b"data: [DONE]",
    "one line end": HELD + FINISH + b"data: [DONE]\n",
    "finish alone": HELD + FINISH,
    "usage with choices": HELD + FINISH.replace(b"]}\n", b"]," + USAGE + b"}\n") + DONE,
    "megabyte": HELD.replace(b'"a"', b'"' + b"x" * 1_000_000 + b'"') + FINISH + DONE,
}


@pytest.mark.parametrize("size", [1, 7, 10**9])
@pytest.mark.parametrize("name", STREAMS)
def test_stream_keeps_every_byte_however_it_is_cut(tmp_path: Path, name: str, size: int) -> None:
    """The bytes of a stream are the upstream's, for every way of writing events and of cutting them into chunks."""
    stream = STREAMS[name]
    if len(stream) > 100_000:
        size *= 10_000
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    with running_scripted(chunked(*pieces)) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answer = chat(router, stream=True)

    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    assert answer.body == stream


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("size", [1, 11, 10**9])
def test_usage_chunk_is_hidden_from_a_client_that_did_not_ask(tmp_path: Path, size: int, newline: bytes) -> None:
    """The router asks for usage for itself: the chunk is taken out again, and every other byte stays."""
    stream = (HELD + FINISH + USAGE_CHUNK + DONE).replace(b"\n", newline)
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    with running_scripted(chunked(*pieces)) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answer = chat(router, stream=True)
        tokens = router.metrics()

    assert answer.body == (HELD + FINISH + DONE).replace(b"\n", newline)
    assert 'litellm_input_tokens_total{model="gpt-4.1",provider="only",tenant="acme"} 7.0\n' in tokens
    assert 'litellm_output_tokens_total{model="gpt-4.1",provider="only",tenant="acme"} 3.0\n' in tokens


def test_usage_chunk_is_shown_to_a_client_that_asked(tmp_path: Path) -> None:
    """Who asks for usage gets the stream as it is."""
    pieces = (HELD, FINISH, USAGE_CHUNK, DONE)
    with running_scripted(chunked(*pieces)) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answer = chat(router, stream=True, stream_options={"include_usage": True})

    assert answer.body == b"".join(pieces)


@pytest.mark.parametrize(
    "content_type", ["text/event-stream", "Text/Event-Stream; charset=UTF-8", "text/event-stream;charset=utf-8"]
)
def test_stream_is_known_by_its_type_in_any_writing(tmp_path: Path, content_type: str) -> None:
    """Media types are case-insensitive (RFC 9110, 8.3.1) and may have parameters; the client gets it as it was."""

    def script(exchange: Exchange) -> None:
        exchange.send(head(content_type, "Transfer-Encoding: chunked"))
        for piece in (HELD, FINISH, DONE, b""):
            exchange.chunk(piece)

    with running_scripted(script) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answer = chat(router, stream=True)

    assert (answer.status, answer.headers["content-type"]) == (200, content_type)
    assert answer.body == HELD + FINISH + DONE


@pytest.mark.parametrize("stream", [False, True])
def test_identity_is_no_encoding(tmp_path: Path, stream: bool) -> None:
    """A provider that says `Content-Encoding: identity`, which was asked for, has encoded nothing."""

    def script(exchange: Exchange) -> None:
        if stream:
            exchange.answer(HELD + FINISH + DONE, "text/event-stream", "Content-Encoding: identity")
        else:
            exchange.answer(b'{"choices":[]}', "application/json", "Content-Encoding: identity")

    with running_scripted(script) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answer = chat(router, stream=stream)

    assert (answer.status, answer.body) == (200, HELD + FINISH + DONE if stream else b'{"choices":[]}')


def test_answer_without_a_type_is_given_as_json(tmp_path: Path) -> None:
    """A provider that leaves out the content type has answered all the same: the client is told that it is JSON."""
    with (
        running_scripted(
            lambda exchange: exchange.send(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"choices":[]}')
        ) as upstream,
        running_router(tmp_path, one_hop(upstream.url)) as router,
    ):
        answer = chat(router)

    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "application/json", b'{"choices":[]}')


def test_usage_reported_more_than_once_is_counted_once(tmp_path: Path) -> None:
    """Some providers report the sum so far with every chunk: the last one counts, not all of them together."""
    running = [
        b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":7,"completion_tokens":%d}}\n\n' % n for n in (1, 2)
    ]
    pieces = (*running, FINISH, USAGE_CHUNK, DONE)
    with running_scripted(chunked(*pieces)) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answer = chat(router, stream=True)
        tokens = router.metrics()

    assert answer.body == b"".join((*running, FINISH, DONE))
    assert 'litellm_input_tokens_total{model="gpt-4.1",provider="only",tenant="acme"} 7.0\n' in tokens
    assert 'litellm_output_tokens_total{model="gpt-4.1",provider="only",tenant="acme"} 3.0\n' in tokens


ASKING = '"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("tail", "sent"),
    [
        ('"stream":true}', f'"stream":true,{ASKING}}}'),
        ('"stream" : true , "x":{} } \n', f'"stream" : true , "x":{{}} ,{ASKING}}} \n'),
        ('"stream":true,"stream_options":null}', f'"stream":true,{ASKING}}}'),
        ('"stream":true,"stream_options":{ }}', f'"stream":true,{ASKING}}}'),
        (
            '"stream":true,"stream_options":{"x":[1]}}',
            '"stream":true,"stream_options":{"include_usage":true,"x":[1]}}',
        ),
        (
            '"stream_options":{"include_usage": false ,"x":1},"stream":true}',
            '"stream_options":{"include_usage": true ,"x":1},"stream":true}',
        ),
        (
            '"stream":true,"stream_options":{"include_usage":null}}',
            '"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (f'"stream":true,{ASKING}}}', f'"stream":true,{ASKING}}}'),
        ('"stream":false}', '"stream":false}'),
        ('"stream":null}', '"stream":null}'),
        ('"stop":"a"}', '"stop":"a"}'),
    ],
)
@pytest.mark.parametrize("endpoint", ["chat/completions", "completions"])
def test_request_is_changed_only_where_policy_must(
    router: RunningRouter, mock: Mock, endpoint: str, tail: str, sent: str
) -> None:
    """Of a request the model and, in a stream, the wish for usage are changed; every other byte is the client's."""
    what = (
        '"prompt":"h\\u0069  é"'
        if endpoint == "completions"
        else '"messages" :[{"role":"user","content":"h\\u0069 é"}]'
    )
    start = f'{{"a_b":1.0,"model" :\t"reasoning" ,{what},'

    answer = call(router, "POST", f"/v1/{endpoint}", (start + tail).encode())

    assert answer.status == 200
    assert [request["body"] for request in mock.requests()] == [start.replace("reasoning", "gpt-4.1") + sent]


@pytest.mark.parametrize("size", [32 * 1024, 1024 * 1024, 8 * 1024 * 1024])
@pytest.mark.parametrize("stream", [False, True])
def test_large_body_goes_through(router: RunningRouter, mock: Mock, size: int, stream: bool) -> None:
    """Bodies of 32 KB, 1 MB and more are no special case."""
    message = {"role": "assistant", "content": "x" * size}

    answer = chat(router, stream=stream, messages=[message, *HELLO["messages"]])

    assert answer.status == 200
    assert [request["body_bytes"] > size for request in mock.requests()] == [True]
    if stream:
        assert events(answer.body)[-1] == DONE


@pytest.mark.parametrize("name", ["first/gpt-4.1", "gpt-4.1", "reasoning", "gpt-4o-mini"])
def test_model_may_be_a_task_a_model_or_both_names(router: RunningRouter, mock: Mock, name: str) -> None:
    """A task, a model and `provider/model` each lead to the model that the upstream knows."""
    answer = chat(router, model=name)

    asked = "gpt-4o-mini" if name == "gpt-4o-mini" else "gpt-4.1"
    assert (answer.status, [request["model"] for request in mock.requests()]) == (200, [asked])
    assert answer.headers.get("x-router-task") == ("reasoning" if name == "reasoning" else None)


def test_chunked_request_is_read(router: RunningRouter, mock: Mock) -> None:
    """A client may send its body in chunks."""
    body = json.dumps(HELLO).encode()
    parts = [body[:5], body[5:40], body[40:]]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    with connected(router) as client:
        client.sendall(request_bytes(framed, b"Transfer-Encoding: chunked"))
        answer = read_answer(client)

    assert answer.status == 200
    assert [request["body"].encode() for request in mock.requests()] == [body.replace(b"reasoning", b"gpt-4.1")]


def test_answers_do_not_mix_under_load(router: RunningRouter) -> None:
    """Many clients at a time, streams and not, each get the answer to their own question."""

    def ask(number: int) -> tuple[str, str]:
        text = f"question {number}"
        body: Any = {**HELLO, "messages": [{"role": "user", "content": text}], "stream": number % 2 == 1}
        answer = chat(router, body)
        if number % 2 == 0:
            return text, answer.json()["choices"][0]["message"]["content"]
        chunks = [json.loads(event[6:]) for event in events(answer.body)[:-1]]
        return text, "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(120)))

    assert answers == [(text, f"echo: {text}") for text, _ in answers]
