"""`scripts/mock_openai.py` over real sockets: what a gateway's tests rely on must hold without a gateway."""

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import math
import re
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "scripts" / "mock_openai.py"

spec = importlib.util.spec_from_file_location("mock_openai", SCRIPT)
assert spec is not None
assert spec.loader is not None
mock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mock)

pytestmark = pytest.mark.asyncio

JSON = dict[str, Any]
NO_DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
HI: list[JSON] = [{"role": "user", "content": "hi"}]
WEATHER: JSON = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1},
                "unit": {"enum": ["C", "F"]},
                "note": {"type": "string"},
            },
            "required": ["city", "days", "unit"],
        },
    },
}


@pytest_asyncio.fixture
async def address() -> AsyncIterator[str]:
    """The base address of a mock of this test's own."""
    runner, address = await mock.start(mock.create_app())
    yield address
    await runner.cleanup()


@pytest_asyncio.fixture
async def client(address: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, without its retries."""
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="sk-test", max_retries=0) as client:
        yield client


@dataclasses.dataclass
class Raw:
    """An answer as the socket gave it. `end`: complete (as HTTP has it), cut (closed too early) or reset."""

    status: int
    headers: dict[str, str]
    body: bytes
    end: str


async def connect(
    address: str, path: str, body: object, headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with one request written to it."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: mock", "connection: close", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)
    return reader, writer


async def raw(
    address: str, path: str, body: object, headers: dict[str, str] | None = None, method: str = "POST"
) -> Raw | str:
    """Reads to the end of the connection; the end alone when it came before any header."""
    reader, writer = await connect(address, path, body, headers, method)
    data, end = b"", "cut"
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionResetError:
        end = "reset"
    finally:
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
    if not data:
        return end
    head, _, rest = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if found.get("transfer-encoding") == "chunked":
        payload = b""
        while size := int(rest.partition(b"\r\n")[0] or b"0", 16):
            rest = rest.partition(b"\r\n")[2]
            payload, rest = payload + rest[:size], rest[size + 2 :]
        end = "complete" if rest == b"0\r\n\r\n" else end
    else:
        payload = rest
        end = "complete" if len(rest) == int(found["content-length"]) else end
    return Raw(int(status.split()[1]), found, payload, end)


async def chat(address: str, model: str = "m", stream: bool = False, headers: dict[str, str] | None = None) -> Raw:
    """The answer to `hi` from a model of this name."""
    answer = await raw(address, "/v1/chat/completions", {"model": model, "messages": HI, "stream": stream}, headers)
    assert isinstance(answer, Raw)
    return answer


async def get(address: str, path: str, method: str = "GET") -> Any:
    """The JSON of one of the endpoints for tests."""
    async with aiohttp.ClientSession() as session, session.request(method, address + path) as response:
        return await response.json()


async def last(address: str) -> Any:
    """The record of the latest request."""
    return (await get(address, "/mock/requests"))["requests"][-1]


def told(body: bytes) -> list[str]:
    """A stream in short: role, a content, `!` and its finish, usage, error, DONE, `:` a comment, `?` no JSON."""
    seen = []
    for block in re.split(rb"\r?\n\r?\n", body)[:-1]:
        data = block.removeprefix(b"data: ")
        if block.startswith(b":"):
            seen.append(":")
        elif data == b"[DONE]":
            seen.append("DONE")
        else:
            try:
                event = json.loads(data)
            except ValueError:
                seen.append("?")
                continue
            choice = (event.get("choices") or [{}])[0]
            if "error" in event or not choice:
                seen.append("error" if "error" in event else "usage")
            elif choice["finish_reason"]:
                seen.append("!" + choice["finish_reason"])
            else:
                seen.append("role" if "role" in choice["delta"] else choice["delta"]["content"])
    return seen


def still(value: JSON, **fixed: Any) -> JSON:
    """The value with what differs from run to run checked and replaced."""
    assert abs(value["created"] - time.time()) < 60
    return {**value, "created": 0, **fixed}


# ── answers ──


async def test_chat_has_the_whole_shape_of_openai(address: str) -> None:
    """A plain answer has every field that OpenAI sends, and usage counted in words."""
    answer = await raw(
        address,
        "/v1/chat/completions",
        {
            "model": "gpt-4o-mini",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "hello to you"}]},
            ],
        },
    )
    assert isinstance(answer, Raw)
    assert (answer.status, answer.headers["content-type"], answer.end) == (200, "application/json", "complete")
    body = json.loads(answer.body)
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{28}", body["id"])
    message: JSON = {"role": "assistant", "content": "echo: hello to you", "refusal": None, "annotations": []}
    assert still(body, id="") == {
        "id": "",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o-mini",
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9, **NO_DETAILS},
    }


async def test_chat_stream_has_the_whole_shape_of_openai_with_usage(address: str) -> None:
    """Role first, a chunk per word, finish, usage alone with no choices and null before, then [DONE]."""
    body = {"model": "m", "messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    answer = await raw(address, "/v1/chat/completions", body)
    assert isinstance(answer, Raw)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, done, rest = answer.body.split(b"\n\n")
    assert (done, rest, answer.end) == (b"data: [DONE]", b"", "complete")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert len({chunk["id"] for chunk in chunks}) == 1
    head = {"id": "", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    head |= {"service_tier": "default", "system_fingerprint": "fp_mock"}
    deltas: list[tuple[JSON, str | None]] = [
        ({"role": "assistant", "content": "", "refusal": None}, None),
        ({"content": "echo:"}, None),
        ({"content": " hi"}, None),
        ({}, "stop"),
    ]
    expected: list[JSON] = [
        {
            **head,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
            "usage": None,
        }
        for delta, finish in deltas
    ]
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, **NO_DETAILS}
    assert [still(chunk, id="") for chunk in chunks] == [*expected, {**head, "choices": [], "usage": usage}]


async def test_chat_stream_has_no_usage_when_not_asked_for(address: str) -> None:
    """Without `include_usage` no chunk has a usage member."""
    answer = await chat(address, stream=True)
    assert told(answer.body) == ["role", "echo:", " hi", "!stop", "DONE"]
    assert b'"usage"' not in answer.body


async def test_chat_is_read_by_the_openai_client(client: openai.AsyncOpenAI) -> None:
    """The official client reads an answer, whole and streamed, with its usage."""
    whole = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "grüße 東京"}])
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("echo: grüße 東京", "stop")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (2, 3, 5)
    text, usages = "", []
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "grüße 東京"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usages += [chunk.usage.total_tokens] if chunk.usage else []
    assert (text, usages) == ("echo: grüße 東京", [5])


async def test_tool_is_called_with_arguments_of_its_schema_by_the_openai_client(client: Any) -> None:
    """The first tool is called with its required properties alone; streamed argument deltas add up to the same."""
    arguments = '{"city": "text", "days": 1, "unit": "C"}'
    whole = await client.chat.completions.create(model="m", messages=HI, tools=[WEATHER])
    message = whole.choices[0].message
    assert (message.content, whole.choices[0].finish_reason) == (None, "tool_calls")
    assert [(call.type, call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("function", "weather", arguments)
    ]
    assert whole.usage.completion_tokens == 6  # {"city": / "text", / "days": / 1, / "unit": / "C"}
    stream = await client.chat.completions.create(model="m", messages=HI, tools=[WEATHER], stream=True)
    calls = [
        (call.id is not None, call.function.name, call.function.arguments)
        async for chunk in stream
        for call in chunk.choices[0].delta.tool_calls or []
    ]
    assert calls == [
        (True, "weather", ""),
        (False, None, '{"city":'),
        (False, None, ' "text",'),
        (False, None, ' "days":'),
        (False, None, " 1,"),
        (False, None, ' "unit":'),
        (False, None, ' "C"}'),
    ]


@pytest.mark.parametrize(
    ("extra", "called"),
    [
        ({}, "first"),
        ({"tool_choice": "required"}, "first"),
        ({"tool_choice": {"type": "function", "function": {"name": "second"}}}, "second"),
        ({"tool_choice": "none"}, None),
        ({"messages": [*HI, {"role": "tool", "tool_call_id": "c", "content": "12"}]}, None),
    ],
)
async def test_tool_choice_is_obeyed(address: str, extra: JSON, called: str | None) -> None:
    """The forced or first tool is called; none on "none", nor when the tool has already answered."""
    tools = [{"type": "function", "function": {"name": name}} for name in ("first", "second")]
    body = {"model": "m", "messages": HI, "tools": tools, **extra}
    answer = await raw(address, "/v1/chat/completions", body)
    assert isinstance(answer, Raw)
    message = json.loads(answer.body)["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls", [])]
    assert calls == ([{"name": called, "arguments": "{}"}] if called else [])
    assert message["content"] == (None if called else "echo: hi")


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": {"type": "number"}, "minItems": 2}, [0, 0]),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"type": ["null", "string"]}, "text"),
        ({"const": None}, None),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer", "minimum": 7}}}, 7),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "deep"),
    ],
)
async def test_sample_fits_the_schema(schema: JSON, value: Any) -> None:
    """Types, constants, minima, references and unions are followed; a schema without an end stops."""
    made = mock.sample(schema, schema)
    if value == "deep":
        for _ in range(8):
            made = made["a"]
        assert made is None
    else:
        assert made == value


@pytest.mark.parametrize(
    ("extra", "texts", "finish", "completion_tokens"),
    [
        ({"n": 2}, ["echo: a b c", "echo: a b c"], "stop", 8),
        ({"max_tokens": 2}, ["echo: a"], "length", 2),
        ({"max_completion_tokens": 3, "max_tokens": 1}, ["echo: a b"], "length", 3),
        ({"max_tokens": 4}, ["echo: a b c"], "stop", 4),
        ({"stop": " b"}, ["echo: a"], "stop", 2),
        ({"stop": [" c", " b"]}, ["echo: a"], "stop", 2),
        ({"response_format": {"type": "json_object"}}, ['{"echo": "a b c"}'], "stop", 4),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}},
            ["true"],
            "stop",
            1,
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_chat_options_shape_the_answer(
    address: str, extra: JSON, texts: list[str], finish: str, completion_tokens: int, stream: bool
) -> None:
    """n, token limits, stop and response_format act the same on a whole answer and on a stream."""
    body: JSON = {"model": "m", "messages": [{"role": "user", "content": "a b c"}], "stream": stream, **extra}
    if stream:
        body["stream_options"] = {"include_usage": True}
    answer = await raw(address, "/v1/chat/completions", body)
    assert isinstance(answer, Raw)
    got, ends = [""] * len(texts), [""] * len(texts)
    if stream:
        chunks = [json.loads(event[6:]) for event in answer.body.split(b"\n\n")[:-2]]
        usage = chunks.pop()["usage"]
        for chunk in chunks:
            choice = chunk["choices"][0]
            got[choice["index"]] += choice["delta"].get("content", "")
            ends[choice["index"]] = choice["finish_reason"]
    else:
        whole = json.loads(answer.body)
        usage = whole["usage"]
        for choice in whole["choices"]:
            got[choice["index"]], ends[choice["index"]] = choice["message"]["content"], choice["finish_reason"]
    assert (got, ends) == (texts, [finish] * len(texts))
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, completion_tokens)


async def test_completions_have_the_whole_shape_of_openai(address: str) -> None:
    """A choice for each prompt and n, in order."""
    answer = await raw(address, "/v1/completions", {"model": "m", "prompt": ["a", "b c"], "n": 2})
    assert isinstance(answer, Raw)
    body = json.loads(answer.body)
    assert re.fullmatch(r"cmpl-[0-9a-f]{28}", body["id"])
    texts = ["echo: a", "echo: a", "echo: b c", "echo: b c"]
    assert still(body, id="") == {
        "id": "",
        "object": "text_completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"text": text, "index": index, "logprobs": None, "finish_reason": "stop"}
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13, **NO_DETAILS},
    }


async def test_completions_are_streamed_to_the_openai_client(client: openai.AsyncOpenAI) -> None:
    """A chunk per word, a finish chunk with no text, a usage chunk."""
    stream = await client.completions.create(
        model="m", prompt=[1, 2, 3], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [(chunk.choices[0].text, chunk.choices[0].finish_reason) for chunk in chunks[:-1]] == [
        ("echo:", None),
        (" 1", None),
        (" 2", None),
        (" 3", None),
        ("", "stop"),
    ]
    assert chunks[-1].usage is not None
    assert (chunks[-1].choices, chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == ([], 3, 4)


@pytest.mark.parametrize(
    ("given", "vectors", "tokens"),
    [("a b", 1, 2), (["a", "b c"], 2, 3), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
async def test_embeddings_are_read_by_the_openai_client(
    client: openai.AsyncOpenAI, given: Any, vectors: int, tokens: int
) -> None:
    """Every kind of input gives unit vectors, the same in both encodings and in each call."""
    floats = await client.embeddings.create(model="m", input=given, encoding_format="float")
    packed = await client.embeddings.create(model="m", input=given)  # the client asks for base64 and unpacks it
    assert [(item.index, item.embedding) for item in packed.data] == [
        (item.index, item.embedding) for item in floats.data
    ]
    assert [len(item.embedding) for item in floats.data] == [1536] * vectors
    assert [math.hypot(*item.embedding) for item in floats.data] == [pytest.approx(1, abs=1e-6)] * vectors
    assert (floats.usage.prompt_tokens, floats.usage.total_tokens) == (tokens, tokens)


async def test_embedding_has_the_dimensions_asked_for(address: str) -> None:
    """A short vector is the start of the long one at unit length; base64 is little-endian float32."""
    body = {"model": "text-embedding-3-large", "input": "a"}
    long, short = (
        await raw(address, "/v1/embeddings", body),
        await raw(address, "/v1/embeddings", {**body, "dimensions": 2, "encoding_format": "base64"}),
    )
    assert isinstance(long, Raw)
    assert isinstance(short, Raw)
    start = json.loads(long.body)["data"][0]["embedding"]
    answer = json.loads(short.body)
    found = struct.unpack("<2f", base64.b64decode(answer["data"][0].pop("embedding")))
    assert len(start) == 3072
    assert found == pytest.approx([value / math.hypot(*start[:2]) for value in start[:2]], abs=1e-6)
    assert answer == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0}],
        "model": "text-embedding-3-large",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }


async def test_models_are_listed_to_the_openai_client(client: openai.AsyncOpenAI) -> None:
    """The list and each of its entries agree; another name is 404."""
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == list(mock.MODELS)
    assert await client.models.retrieve("gpt-4o") == listed[1]
    with pytest.raises(openai.NotFoundError) as error:
        await client.models.retrieve("gpt-9")
    assert error.value.code == "model_not_found"


# ── refusals ──


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("/v1/chat/completions", b"{", None, None),
        ("/v1/chat/completions", b"[]", None, None),
        ("/v1/chat/completions", b"[" * 100_000, None, None),
        ("/v1/chat/completions", {"messages": HI}, None, None),
        ("/v1/chat/completions", {"model": 1, "messages": HI}, "model", "invalid_type"),
        ("/v1/chat/completions", {"model": "m"}, "messages", "missing_required_parameter"),
        ("/v1/chat/completions", {"model": "m", "messages": "hi"}, "messages", "invalid_type"),
        ("/v1/chat/completions", {"model": "m", "messages": []}, "messages", "empty_array"),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "me"}]}, "messages[0].role", "invalid_value"),
        ("/v1/chat/completions", {"model": "m", "messages": HI, "stream": 1}, "stream", "invalid_type"),
        ("/v1/chat/completions", {"model": "m", "messages": HI, "n": 0}, "n", "integer_below_min_value"),
        ("/v1/chat/completions", {"model": "m", "messages": HI, "n": True}, "n", "invalid_type"),
        ("/v1/chat/completions", {"model": "m", "messages": HI, "n": 129}, "n", "integer_above_max_value"),
        (
            "/v1/chat/completions",
            {"model": "m", "messages": HI, "stream_options": {"include_usage": True}},
            "stream_options",
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            {"model": "m", "messages": HI, "tool_choice": {"function": {"name": "x"}}},
            "tool_choice",
            "invalid_value",
        ),
        ("/v1/completions", {"model": "m"}, "prompt", "missing_required_parameter"),
        ("/v1/embeddings", b'{"model": "m", "input": ' + b"[" * 900 + b"]" * 900 + b"}", "input", "invalid_type"),
        ("/v1/embeddings", {"model": "m"}, "input", "missing_required_parameter"),
        ("/v1/embeddings", {"model": "m", "input": [1, "a"]}, "input", "invalid_type"),
        ("/v1/embeddings", {"model": "m", "input": "a", "dimensions": 1537}, "dimensions", "invalid_value"),
        ("/v1/chat/completions", {"model": "m@fault=typo", "messages": HI}, "model", "invalid_mock_directive"),
        ("/v1/chat/completions", {"model": "m@latency=5", "messages": HI}, "model", "invalid_mock_directive"),
        ("/v1/chat/completions", {"model": "m@status=200", "messages": HI}, "model", "invalid_mock_directive"),
        ("/v1/chat/completions", {"model": "m@colour=red", "messages": HI}, "model", "invalid_mock_directive"),
    ],
)
async def test_invalid_request_is_refused_in_openai_shape(
    address: str, path: str, body: object, param: str | None, code: str | None
) -> None:
    """400 names the parameter at fault; a directive with a typing mistake is refused too."""
    answer = await raw(address, path, body)
    assert isinstance(answer, Raw)
    error = json.loads(answer.body)["error"]
    assert (answer.status, isinstance(error.pop("message"), str)) == (400, True)
    assert error == {"type": "invalid_request_error", "param": param, "code": code}


@pytest.mark.parametrize(
    ("method", "path", "status", "message", "code"),
    [
        ("POST", "/v1/nothing", 404, "Invalid URL (POST /v1/nothing)", "unknown_url"),
        ("GET", "/", 404, "Invalid URL (GET /)", "unknown_url"),
        (
            "GET",
            "/v1/chat/completions",
            405,
            "Not allowed to GET on /v1/chat/completions.",
            "method_not_supported",
        ),
        ("DELETE", "/v1/models/gpt-4o", 405, "Not allowed to DELETE on /v1/models/gpt-4o.", "method_not_supported"),
    ],
)
async def test_unknown_path_or_method_is_refused_in_openai_shape(
    address: str, method: str, path: str, status: int, message: str, code: str
) -> None:
    """404 for a path and 405 for a method that OpenAI does not have, both recorded."""
    answer = await raw(address, path, b"", method=method)
    assert isinstance(answer, Raw)
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    assert (answer.status, json.loads(answer.body)) == (status, {"error": error})
    record = await last(address)
    assert (record["method"], record["path"], record["status"]) == (method, path, status)


async def test_wrong_key_is_refused_in_openai_shape() -> None:
    """With an API key set: 401 for none and for another, an answer for the right one; health needs none."""
    runner, address = await mock.start(mock.create_app("sk-right"))
    try:
        answers = [
            await chat(address, headers=headers)
            for headers in ({}, {"authorization": "Bearer sk-wrong"}, {"Authorization": "Bearer sk-right"})
        ]
        errors = [json.loads(answer.body).get("error") for answer in answers]
        shape = {"type": "invalid_request_error", "param": None}
        assert [answer.status for answer in answers] == [401, 401, 200]
        assert errors == [
            {"message": "No API key was provided: send it as `Authorization: Bearer KEY`.", **shape, "code": None},
            {"message": "Incorrect API key provided.", **shape, "code": "invalid_api_key"},
            None,
        ]
        assert await get(address, "/healthz") == {"status": "ok"}
    finally:
        await runner.cleanup()


# ── directives ──


async def test_header_wins_over_model_name(address: str) -> None:
    """Directives of both are put together; the header's counts where both speak."""
    answer = await chat(address, "m@status=503,retry_after=3", headers={"X-Mock-Status": "429"})
    error = {"message": "The mock was asked to fail with 429.", "type": "requests", "param": None}
    assert (answer.status, answer.headers["retry-after"]) == (429, "3")
    assert json.loads(answer.body) == {"error": {**error, "code": "rate_limit_exceeded"}}


async def test_model_name_with_at_sign_and_no_directive_is_a_name(address: str) -> None:
    """Names as `claude@20250514` answer as they are; only the tail after the last `@` is read."""
    for name, status in (("claude@20250514", 200), ("a=b", 200), ("claude@20250514@status=500", 500)):
        answer = await chat(address, name)
        assert (answer.status, json.loads(answer.body).get("model", name)) == (status, name)


@pytest.mark.parametrize(
    ("model", "status", "header", "value"),
    [
        ("m@status=503,retry_after=1500ms", 503, "retry-after-ms", "1500"),
        ("m@retry_after=7", 200, "retry-after", "7"),
        ("m@status=307", 307, "location", "/mock/redirected"),
    ],
)
async def test_scripted_status_carries_its_headers(
    address: str, model: str, status: int, header: str, value: str
) -> None:
    """Retry-After in seconds or milliseconds with any answer; a redirection says where to."""
    answer = await chat(address, model)
    assert (answer.status, answer.headers[header]) == (status, value)


async def test_directives_end_after_their_times_with_a_client_that_retries(address: str) -> None:
    """`times=1` fails the first of equal requests only: the official client's own retry succeeds."""
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="k", max_retries=1) as client:
        answer = await client.chat.completions.create(
            model="m@status=503,retry_after=1ms,times=1", messages=[{"role": "user", "content": "hi"}]
        )
    assert answer.choices[0].message.content == "echo: hi"
    assert [record["status"] for record in (await get(address, "/mock/requests"))["requests"]] == [503, 200]
    await get(address, "/mock/requests", "DELETE")
    assert (await chat(address, "m@status=503,retry_after=1ms,times=1")).status == 503


async def test_directives_reach_every_endpoint(address: str) -> None:
    """Headers act on requests without a body as well."""
    paths = {"/v1/models": "GET", "/v1/models/gpt-4o": "GET", "/v1/embeddings": "POST", "/v1/completions": "POST"}
    for path, method in paths.items():
        answer = await raw(address, path, b"", {"x-mock-status": "502"}, method)
        assert isinstance(answer, Raw)
        assert answer.status == 502


async def test_usage_is_what_the_script_says(address: str) -> None:
    """Scripted token counts replace the true ones and their total."""
    script = "m@prompt_tokens=1000,completion_tokens=20,cached_tokens=900,reasoning_tokens=15"
    usage = json.loads((await chat(address, script)).body)["usage"]
    details = {"prompt_tokens_details": {**NO_DETAILS["prompt_tokens_details"], "cached_tokens": 900}}
    details["completion_tokens_details"] = {**NO_DETAILS["completion_tokens_details"], "reasoning_tokens": 15}
    assert usage == {"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020, **details}
    assert (await last(address))["billed"] == {"prompt_tokens": 1000, "completion_tokens": 20}


async def test_chunks_and_gap_pace_a_stream(address: str) -> None:
    """N words are N content chunks, each due a gap after the one before: never faster."""
    began = time.monotonic()
    answer = await chat(address, "m@chunks=4,gap=20ms,latency=50ms", stream=True)
    assert told(answer.body) == ["role", "w1", " w2", " w3", " w4", "!stop", "DONE"]
    assert time.monotonic() - began >= 0.05 + 6 * 0.02
    assert (await last(address))["billed"] == {"prompt_tokens": 1, "completion_tokens": 4}


# ── faults; the sound stream is role, "echo:", " hi", finish, [DONE] ──

STREAM_FAULTS: dict[str, tuple[str, list[str]]] = {
    "reset": ("reset", ["role", "echo:"]),
    "cut-before-first-event": ("cut", []),
    "cut": ("cut", ["role", "echo:"]),
    "cut,at=3": ("cut", ["role", "echo:", " hi"]),
    "truncated-content-length": ("cut", ["role", "echo:"]),
    "slow-body,gap=1ms": ("complete", ["role", "echo:", " hi", "!stop", "DONE"]),
    "error-first-event": ("complete", ["error"]),
    "error-in-band": ("complete", ["role", "echo:", "error"]),
    "malformed-json": ("complete", ["role", "echo:", "?", "!stop", "DONE"]),
    "half-json": ("complete", ["role", "echo:", "?"]),
    "half-json,at=0": ("complete", ["?"]),
    "no-usage": ("complete", ["role", "echo:", " hi", "!stop", "DONE"]),
    "no-done": ("complete", ["role", "echo:", " hi", "!stop"]),
    "no-finish": ("complete", ["role", "echo:", " hi", "DONE"]),
    "empty-body": ("complete", []),
    "wrong-content-type": ("complete", ["role", "echo:", " hi", "!stop", "DONE"]),
    "comments": ("complete", [":", "role", ":", "echo:", ":", " hi", ":", "!stop", ":", "DONE"]),
    "crlf": ("complete", ["role", "echo:", " hi", "!stop", "DONE"]),
}


@pytest.mark.parametrize(("fault", "expected"), STREAM_FAULTS.items(), ids=STREAM_FAULTS)
async def test_stream_shows_its_fault_on_the_socket(address: str, fault: str, expected: tuple[str, list[str]]) -> None:
    """Each fault gives exactly these events and this end of the connection, under a 200."""
    answer = await chat(address, f"m@fault={fault}", stream=True)
    assert (answer.status, answer.end, told(answer.body)) == (200, *expected)
    assert ("content-length" in answer.headers) == (fault == "truncated-content-length")
    kind = "text/plain" if fault == "wrong-content-type" else "text/event-stream"
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    assert (b"\r\n\r\n" in answer.body) == (fault == "crlf")
    record = await last(address)
    assert (record["state"], record["bytes_sent"]) == ("finished", len(answer.body))


SOUND, ERROR = "sound", "error"
PLAIN_FAULTS: dict[str, tuple[str, str]] = {
    "reset": ("reset", "half"),
    "cut-before-first-event": ("cut", "nothing"),
    "cut": ("cut", "half"),
    "truncated-content-length": ("cut", "half"),
    "slow-body,gap=1ms": ("complete", SOUND),
    "error-first-event": ("complete", ERROR),
    "error-in-band": ("complete", ERROR),
    "ok-with-error": ("complete", ERROR),
    "malformed-json": ("complete", "no JSON"),
    "half-json": ("complete", "half"),
    "empty-body": ("complete", "nothing"),
    "wrong-content-type": ("complete", SOUND),
    "no-done": ("complete", SOUND),
    "comments": ("complete", SOUND),
    "crlf": ("complete", SOUND),
}


@pytest.mark.parametrize(("fault", "expected"), PLAIN_FAULTS.items(), ids=PLAIN_FAULTS)
async def test_plain_answer_shows_its_fault_on_the_socket(address: str, fault: str, expected: tuple[str, str]) -> None:
    """Each fault gives exactly this body and this end of the connection, under a 200."""
    sound = (await chat(address, "m@" + "x" * len(f"fault={fault}"))).body  # as long as the answer without its fault
    answer = await chat(address, f"m@fault={fault}")
    if not answer.body:
        kind = "nothing"
    elif sound.startswith(answer.body[:10]) and len(answer.body) == (len(sound) + 1) // 2:
        kind = "half"
    else:
        try:
            kind = ERROR if "error" in json.loads(answer.body) else SOUND
        except ValueError:
            kind = "no JSON"
    assert (answer.status, answer.end, kind) == (200, *expected)
    kind = "text/plain; charset=utf-8" if fault == "wrong-content-type" else "application/json"
    assert answer.headers["content-type"] == kind


@pytest.mark.parametrize("stream", [False, True])
async def test_html_and_plain_errors_answer_a_stream_as_they_do_a_plain_request(address: str, stream: bool) -> None:
    """What a proxy or a broken upstream sends instead of an answer: a page, or an error under a 200."""
    page = await chat(address, "m@fault=html,status=502", stream)
    assert (page.status, page.headers["content-type"], page.body) == (502, "text/html; charset=utf-8", mock.HTML)
    wrong = await chat(address, "m@fault=ok-with-error", stream)
    error = {"message": "The mock was asked to fail with 500.", "type": "server_error", "param": None, "code": None}
    assert (wrong.status, wrong.headers["content-type"]) == (200, "application/json")
    assert json.loads(wrong.body) == {"error": error}


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect_closes_without_an_answer(address: str, stream: bool) -> None:
    """Not one byte comes back; the record says that no status was sent."""
    body = {"model": "m@fault=disconnect", "messages": HI, "stream": stream}
    assert await raw(address, "/v1/chat/completions", body) == "cut"
    record = await last(address)
    assert (record["state"], record["status"], record["bytes_sent"]) == ("finished", None, 0)


async def test_missing_parts_are_missing_alone(address: str) -> None:
    """`no-usage` and `no-finish` leave the rest of a plain answer and of a stream as they are."""
    plain = json.loads((await chat(address, "m@fault=no-usage")).body)
    ended = json.loads((await chat(address, "m@fault=no-finish")).body)
    assert ("usage" in plain, plain["choices"][0]["finish_reason"]) == (False, "stop")
    assert (ended["usage"]["total_tokens"], ended["choices"][0]["finish_reason"]) == (3, None)
    body = {"model": "m@fault=no-usage", "messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    stream = await raw(address, "/v1/chat/completions", body)
    assert isinstance(stream, Raw)
    assert told(stream.body) == ["role", "echo:", " hi", "!stop", "DONE"]


STALLS: dict[str, list[str] | None] = {
    "stall-before-headers": None,
    "latency=60s": None,
    "fault=stall-before-first-byte": [],
    "fault=stall-after-first-byte": ["role"],
    "fault=stall-after-first-byte,at=2": ["role", "echo:"],
    "chunks=10,gap=60s": ["role"],
}


@pytest.mark.parametrize(("script", "expected"), STALLS.items(), ids=STALLS)
async def test_client_that_leaves_is_recorded_as_disconnected(
    address: str, script: str, expected: list[str] | None
) -> None:
    """In every phase of waiting: what came is counted, the request stays open, then ends with its client."""
    script = script if "=" in script else f"fault={script}"
    body = {"model": f"m@{script}", "messages": HI, "stream": True}
    reader, writer = await connect(address, "/v1/chat/completions", body)
    if expected is not None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    got = b""
    for _ in expected or []:
        size = int(await reader.readline(), 16)
        got += (await reader.readexactly(size + 2))[:-2]
    assert told(got) == (expected or [])
    assert await get(address, "/mock/open?at_least=1") == {"open": 1}
    record = await last(address)
    assert (record["state"], record["status"]) == ("open", None if expected is None else 200)
    assert (record["bytes_sent"], record["frames_sent"]) == (len(got), len(expected or []))
    writer.close()
    await writer.wait_closed()
    assert await get(address, "/mock/open?at_most=0&timeout=5s") == {"open": 0}
    record = await last(address)
    billed = {"prompt_tokens": 1 if expected else 0, "completion_tokens": max(0, len(expected or []) - 1)}
    assert (record["state"], record["billed"]) == ("disconnected", billed)


async def test_plain_stall_sends_half_the_body(address: str) -> None:
    """Of a plain answer half is sent, then nothing."""
    body = {"model": "m@fault=stall-after-first-byte", "messages": HI}
    reader, writer = await connect(address, "/v1/chat/completions", body)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length is not None
    half = (int(length[1]) + 1) // 2
    assert len(await reader.readexactly(half)) == half
    assert (await last(address))["bytes_sent"] == half
    writer.close()
    await writer.wait_closed()
    assert await get(address, "/mock/open?at_most=0&timeout=5s") == {"open": 0}


async def test_every_fault_is_tested_and_documented() -> None:
    """No fault or directive without a test here, a row at the top of the script and a row in docs/mock.md."""
    tested = {name.removeprefix("fault=").partition(",")[0] for name in (*STREAM_FAULTS, *PLAIN_FAULTS, *STALLS)}
    tested -= {"latency=60s", "chunks=10"}
    assert tested | {"html", "disconnect"} == set(mock.FAULTS)
    for text in (str(mock.__doc__), (ROOT / "docs" / "mock.md").read_text()):
        words = set(re.findall(r"(?<![\w-])[a-z][a-z_-]*", text))
        assert {*mock.FAULTS, *mock.READERS} - words == set()


# ── records ──


async def test_request_is_recorded_whole(address: str) -> None:
    """Method, path with its query, lower-cased headers, body with its hash, and what was sent."""
    data = json.dumps({"model": "m", "messages": HI}).encode()
    answer = await raw(address, "/v1/chat/completions?a=1", data, {"X-Thing": "Yes", "Authorization": "Bearer k"})
    assert isinstance(answer, Raw)
    listed = await get(address, "/mock/requests")
    record = listed["requests"].pop()
    assert record.pop("started") <= record.pop("ended") <= time.time()
    assert record == {
        "id": 1,
        "method": "POST",
        "path": "/v1/chat/completions?a=1",
        "headers": {
            "host": "mock",
            "connection": "close",
            "content-length": str(len(data)),
            "x-thing": "Yes",
            "authorization": "Bearer k",
        },
        "body": data.decode(),
        "body_bytes": len(data),
        "body_sha256": hashlib.sha256(data).hexdigest(),
        "model": "m",
        "state": "finished",
        "status": 200,
        "bytes_sent": len(answer.body),
        "frames_sent": 1,
        "billed": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    totals = {"requests": 1, "finished": 1, "disconnected": 0, "prompt_tokens": 1, "completion_tokens": 2}
    assert listed == {"open": 0, "totals": totals, "requests": []}


async def test_long_body_is_recorded_in_part(address: str) -> None:
    """64 KiB are kept, with the length and the hash of the whole; the answer echoes 4,096 characters."""
    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 2_000_000}]}).encode()
    answer = await raw(address, "/v1/chat/completions", data)
    assert isinstance(answer, Raw)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "echo: " + "x" * 4096
    record = await last(address)
    assert (record["body"], record["body_bytes"]) == (data[:65536].decode(), len(data))
    assert record["body_sha256"] == hashlib.sha256(data).hexdigest()


async def test_records_are_bounded_and_forgotten_on_request(address: str) -> None:
    """The last 1,000 stay, the totals count all, DELETE clears both."""
    async with aiohttp.ClientSession() as session:
        for _ in range(1_005):
            async with session.get(f"{address}/v1/models") as response:
                assert response.status == 200
    listed = await get(address, "/mock/requests")
    assert [record["id"] for record in listed["requests"]] == list(range(6, 1_006))
    assert listed["totals"]["requests"] == 1_005
    empty = {"requests": 0, "finished": 0, "disconnected": 0, "prompt_tokens": 0, "completion_tokens": 0}
    assert await get(address, "/mock/requests", "DELETE") == {"open": 0, "totals": empty, "requests": []}
    assert await get(address, "/mock/requests") == {"open": 0, "totals": empty, "requests": []}


async def test_lone_surrogate_comes_back_as_it_came(address: str) -> None:
    """What JSON can say and UTF-8 cannot does not break the mock."""
    data = b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = await raw(address, "/v1/chat/completions", data)
    assert isinstance(answer, Raw)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "echo: \ud800"


# ── the process ──


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
async def test_process_ends_cleanly_on_a_signal_with_a_stream_open(name: signal.Signals) -> None:
    """One line says where it listens; a signal ends it at once with status 0 and nothing on stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), "--port", "0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    found = re.fullmatch(r"mock OpenAI listens on (http://127\.0\.0\.1:\d+)\n", line)
    assert found is not None
    body = {"model": "m@fault=stall-before-first-byte", "messages": HI, "stream": True}
    reader, writer = await connect(found[1], "/v1/chat/completions", body)
    await reader.readuntil(b"\r\n\r\n")
    process.send_signal(name)
    output, errors = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, output, errors) == (0, b"", b"")
    writer.close()
