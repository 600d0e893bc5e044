#!/usr/bin/env python3
"""The OpenAI API offline, with faults on demand: `python scripts/mock_openai.py --port 9001`. Needs aiohttp only.

POST /v1/chat/completions, /v1/completions, /v1/embeddings; GET /v1/models, /v1/models/{id}, /healthz.

Answers. Chat: `echo: ` + the last user message (its first 4,096 characters); a completion: the same of its prompt. With
`tools`, a last message from the user and a tool_choice other than "none": a call of the forced or first function, its
arguments made from the schema's required properties. Any model name is accepted; `logprobs` stay null.

Tokens are runs of non-blank characters (`len(text.split())`; an integer of a token-list input is one). Prompt tokens:
the text of all messages, or the input. Completion tokens: the answer's text, or the arguments of the tool call, summed
over the choices. Each chunk of a stream carries one token.

Directives come in headers, or in the model's name after its last `@`, since a gateway drops unknown headers but never
the model: `gpt-4o-mini@status=503,retry_after=3`. A header wins over the name. A tail without `=` is no directive.

    in the name              header                     effect
    status=503               x-mock-status: 503         OpenAI's error shape, 300 to 599 (3xx: to /mock/redirected)
    retry_after=3 | 1500ms   x-mock-retry-after: 3      with any answer: `retry-after: 3` | `retry-after-ms: 1500`
    latency=200ms | 1.5s     x-mock-latency: 200ms      a wait before the response's headers
    chunks=200               x-mock-chunks: 200         the answer is the 200 words `w1 w2 …`: 200 tokens, 200 chunks
    gap=20ms                 x-mock-chunk-gap: 20ms     event i of a stream is due i x gap after the first
    fault=cut                x-mock-fault: cut          see below
    at=5                     x-mock-at: 5               how many events (halves of a plain body) come before the fault
    times=2                  x-mock-times: 2            only the first 2 equal requests get the directives
    prompt_tokens=1000       x-mock-prompt-tokens: 1000 the usage reported, whatever is true; so completion_tokens,
                                                        cached_tokens, reasoning_tokens (parts of the first two)

    fault                    stream ([default of at])                    plain
    disconnect               closed, nothing sent                        same
    reset                    [half] the events, then RST                 half the body, then RST
    stall-before-headers     nothing is sent, ever                       same
    stall-before-first-byte  headers, then nothing, ever                 same
    stall-after-first-byte   headers, [1] event, then nothing, ever      half the body, then nothing, ever
    cut-before-first-event   headers, then closed                        same
    cut                      [half] the events, then closed              half of Content-Length, then closed
    truncated-content-length as cut, but with a Content-Length           as cut
    slow-body                an event is 8 writes, gap (20ms) apart      the body is
    error-first-event        the only event is an error                  200 with {"error": …}
    error-in-band            [half] the events, an error, a clean end    200 with {"error": …}
    malformed-json           event [half] is not JSON, then on           the body is not JSON
    half-json                ends cleanly in the JSON of event [half]    half the body, Content-Length to match
    no-usage                 no usage chunk                              no usage
    no-done                  no [DONE]                                   –
    no-finish                no finish chunk                             finish_reason null
    wrong-content-type       text/plain                                  text/plain
    html                     200 (or `status`) with a page of HTML       same
    ok-with-error            200 with {"error": …} as JSON               same
    empty-body               no event                                    Content-Length: 0
    comments                 a comment before each event                 –
    crlf                     lines end in CR LF                          –

For tests. GET /mock/requests: the last 1,000, with totals; `state` is open, finished or disconnected; `billed` counts
the tokens of what was sent: a stream's prompt and chunks, all of a plain answer. DELETE /mock/requests forgets all.
GET /mock/open?at_least=1&at_most=9&timeout=10s: the requests in flight, once they are within the bounds.
In process: `runner, address = await start(create_app())`.
"""

import argparse
import array
import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import json
import math
import re
import secrets
import signal
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from itertools import count, zip_longest
from typing import Any

from aiohttp import web

JSON = dict[str, Any]

RECORDS_KEPT, BODY_KEPT, ECHO_KEPT, BODY_LIMIT = 1_000, 64 * 1024, 4_096, 64 * 1024 * 1024
VECTOR_SIZES = {"text-embedding-3-large": 3072}  # any other model: 1536
MODELS = (
    "gpt-4.1",
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-3.5-turbo-instruct",
    "text-embedding-3-large",
    "text-embedding-3-small",
)
# What OpenAI sends and a gateway must not pass on as its own: limits, the organisation, a cookie.
HEADERS = {
    "openai-organization": "mock-org",
    "openai-processing-ms": "1",
    "openai-version": "2020-10-01",
    "set-cookie": "__cf_bm=mock; path=/; HttpOnly",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-reset-requests": "6ms",
}
ROLES = ("developer", "system", "user", "assistant", "tool", "function")
ERROR_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
MARK = "\0"  # stands for the text in the template of a chunk, where it is the last one


class Problem(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = {429: "requests"}.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.status = status
        self.body: JSON = {"error": {"message": message, "type": kind, "param": param, "code": code}}


# ── directives ──


@dataclasses.dataclass(frozen=True)
class Script:
    """What a request asked the mock to do; the docstring above is its reference. Times are in seconds."""

    status: int | None = None
    retry_after: str = ""
    latency: float = 0.0
    chunks: int | None = None
    gap: float = 0.0
    fault: str = ""
    at: int | None = None
    times: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0


def _duration(text: str) -> float:
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text, re.ASCII)):
        raise ValueError("a duration such as 200ms or 1.5s is needed")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def _count(text: str, low: int = 0, high: int = 1_000_000_000) -> int:
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or not low <= int(text) <= high:
        raise ValueError(f"an integer from {low} to {high} is needed")
    return int(text)


def _fault(text: str) -> str:
    if text not in FAULTS:
        raise ValueError(f"one of {', '.join(sorted(FAULTS))} is needed")
    return text


READERS: dict[str, Callable[[str], Any]] = {
    **{field.name: _count for field in dataclasses.fields(Script)},
    "status": lambda text: _count(text, 300, 599),
    "chunks": lambda text: _count(text, 0, 100_000),
    "retry_after": str,
    "latency": _duration,
    "gap": _duration,
    "fault": _fault,
}


def read_script(headers: Mapping[str, str], model: object) -> Script:
    """Raises `Problem` on an unknown directive: a typing mistake must not pass as an answer without a fault."""
    raw: dict[str, str] = {}
    _, at, tail = model.rpartition("@") if isinstance(model, str) else ("", "", "")
    if at and "=" in tail:
        raw = {key: value for key, _, value in (part.partition("=") for part in tail.split(","))}
    for name, value in headers.items():
        if name.lower().startswith("x-mock-"):
            raw[name.lower().removeprefix("x-mock-").replace("chunk-gap", "gap").replace("-", "_")] = value
    script: JSON = {}
    for key, value in raw.items():
        try:
            script[key] = READERS[key](value)
        except (KeyError, ValueError) as error:
            why = "no such directive" if isinstance(error, KeyError) else str(error)
            raise Problem(400, f"mock: {key}={value}: {why}", "model", "invalid_mock_directive") from None
    return Script(**script)


# ── answers ──


@dataclasses.dataclass(frozen=True)
class Answer:
    """`frames` are the events of a stream, or the one body. `openers`: how many frames come before the first token."""

    frames: list[bytes]
    stream: bool = False
    status: int = 200
    content_type: str = "application/json"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    openers: int = 0


@dataclasses.dataclass(frozen=True)
class Reply:
    """One choice: its tokens and how it ends. With `tool` the tokens are the arguments of a call of that function."""

    pieces: list[str]
    finish: str
    tool: str | None = None
    call_id: str = dataclasses.field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


# index, reply, part (open, piece, end or whole), text, finish reason
ChoiceMaker = Callable[[int, Reply, str, str, str | None], JSON]


def _encode(value: object, indent: int | None = None) -> bytes:
    # A lone surrogate cannot be UTF-8; written back as \udXXX it is what the client sent.
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _event(value: object) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _body(value: object, **facts: Any) -> Answer:
    return Answer([_encode(value, 2) + b"\n"], **facts)


def _field(body: JSON, key: str, kinds: type | tuple[type, ...], default: Any = None, low: int | None = None) -> Any:
    """A field of the right type, or its default when absent or null; for OpenAI `true` is no integer either."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise Problem(400, f"Invalid type for '{key}'.", key, "invalid_type")
    if low is not None and body[key] < low:
        raise Problem(400, f"Invalid value for '{key}': at least {low} is needed.", key, "integer_below_min_value")
    return value


def _many(body: JSON) -> range:
    if (number := _field(body, "n", int, 1, 1)) > 128:
        raise Problem(400, "Invalid value for 'n': at most 128.", "n", "integer_above_max_value")
    return range(number)


def _required(body: JSON, key: str, kinds: type | tuple[type, ...]) -> Any:
    if (value := _field(body, key, kinds)) is None:
        raise Problem(400, f"Missing required parameter: '{key}'.", key, "missing_required_parameter")
    if not value and key != "prompt":
        raise Problem(400, f"Invalid '{key}': it is empty.", key, "empty_array" if value == [] else "invalid_value")
    return value


def _text(message: JSON) -> str:
    content = _field(message, "content", (str, list), "")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))


def sample(schema: Any, root: Any, depth: int = 16) -> Any:
    """A value that fits a JSON schema's types, constants, minima and required properties; null below `depth` levels."""
    if not isinstance(schema, dict) or depth == 0:
        return None
    if "$ref" in schema:
        target = root
        for step in schema["$ref"].split("/")[1:]:
            target = target[step]
        return sample(target, root, depth - 1)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return sample(options[0], root, depth - 1)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: sample(properties.get(name, {}), root, depth - 1) for name in schema.get("required", [])}
    if kind == "array":
        return [sample(schema.get("items"), root, depth - 1)] * min(schema.get("minItems", 0), 100)
    low = schema.get("minimum", 0)
    return {"string": "text", "integer": low, "number": low, "boolean": True}.get(kind)


def _made_from(schema: Any, param: str) -> str:
    try:
        return json.dumps(sample(schema, schema))
    except (AttributeError, IndexError, KeyError, TypeError):
        raise Problem(400, f"Invalid schema in '{param}'.", param, "invalid_function_parameters") from None


def _reply(body: JSON, script: Script, text: str, tool: str | None = None) -> Reply:
    """Cuts the answer at `stop`, then at the token limit."""
    limit = _field(body, "max_completion_tokens", int, _field(body, "max_tokens", int, None, 1), 1)
    stops = _field(body, "stop", (str, list), [])
    if tool is None:
        if script.chunks is not None:
            text = " ".join(f"w{number}" for number in range(1, script.chunks + 1))
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.partition(stop)[0] if isinstance(stop, str) and stop else text
    pieces = re.findall(r"\s*\S+", text)
    if limit is not None and len(pieces) > limit:
        return Reply(pieces[:limit], "length", tool)
    return Reply(pieces, "tool_calls" if tool else "stop", tool)


def _chat_choice(index: int, reply: Reply, part: str, text: str, finish: str | None) -> JSON:
    end = {"logprobs": None, "finish_reason": finish}
    if part == "whole":
        content = None if reply.tool else text
        message: JSON = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        if reply.tool:
            function = {"name": reply.tool, "arguments": text}
            message["tool_calls"] = [{"id": reply.call_id, "type": "function", "function": function}]
        return {"index": index, "message": message, **end}
    delta: JSON = {}
    if part == "open" and reply.tool:
        call = {"index": 0, "id": reply.call_id, "type": "function", "function": {"name": reply.tool, "arguments": ""}}
        delta = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}
    elif part == "open":
        delta = {"role": "assistant", "content": "", "refusal": None}
    elif part == "piece":
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]} if reply.tool else {"content": text}
    return {"index": index, "delta": delta, **end}


def _text_choice(index: int, reply: Reply, part: str, text: str, finish: str | None) -> JSON:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _generation(
    body: JSON, script: Script, head: JSON, make: ChoiceMaker, replies: list[Reply], prompt_tokens: int
) -> Answer:
    """The answer of both completion endpoints, whole or as events."""
    stream = _field(body, "stream", bool, False)
    options = _field(body, "stream_options", dict)
    if options is not None and not stream:
        raise Problem(400, "The 'stream_options' parameter is for streams only.", "stream_options", "invalid_value")
    prompt = prompt_tokens if script.prompt_tokens is None else script.prompt_tokens
    made = sum(len(reply.pieces) for reply in replies) if script.completion_tokens is None else script.completion_tokens
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": script.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": script.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    head = {**head, "created": int(time.time()), "model": body["model"]}
    if make is _chat_choice:
        head |= {"service_tier": "default", "system_fingerprint": "fp_mock"}
    ends = [None if script.fault == "no-finish" else reply.finish for reply in replies]
    if not stream:
        choices = [make(i, reply, "whole", "".join(reply.pieces), ends[i]) for i, reply in enumerate(replies)]
        whole = {**head, "choices": choices, **({} if script.fault == "no-usage" else {"usage": usage})}
        return _body(whole, prompt_tokens=prompt, completion_tokens=made)

    with_usage = (options or {}).get("include_usage") is True
    tail = {"usage": None} if with_usage else {}

    def event(index: int, part: str, text: str = "", finish: str | None = None) -> bytes:
        return _event({**head, "choices": [make(index, replies[index], part, text, finish)], **tail})

    frames = [event(i, "open") for i in range(len(replies))] if make is _chat_choice else []
    openers = len(frames)
    # Only the text differs from chunk to chunk: encoding the rest once makes a long stream ten times cheaper.
    halves = [event(i, "piece", MARK).rpartition(_encode(MARK)) for i in range(len(replies))]
    for row in zip_longest(*(reply.pieces for reply in replies)):
        frames += [halves[i][0] + _encode(piece) + halves[i][2] for i, piece in enumerate(row) if piece is not None]
    frames += [event(i, "end", "", end) for i, end in enumerate(ends) if end]
    if with_usage and script.fault != "no-usage":
        frames.append(_event({**head, "choices": [], "usage": usage}))
    if script.fault != "no-done":
        frames.append(b"data: [DONE]\n\n")
    facts = {"prompt_tokens": prompt, "completion_tokens": made, "openers": openers}
    return Answer(frames, True, content_type="text/event-stream; charset=utf-8", **facts)


def _called_tool(body: JSON) -> JSON | None:
    """The function that the answer calls: the forced one, else the first."""
    choice = _field(body, "tool_choice", (str, dict), "auto")
    listed = _field(body, "tools", list, [])
    tools = [tool["function"] for tool in listed if isinstance(tool, dict) and isinstance(tool.get("function"), dict)]
    if isinstance(choice, dict):
        name = choice["function"].get("name") if isinstance(choice.get("function"), dict) else None
        tools = [tool for tool in tools if tool.get("name") == name]
        if not tools:
            raise Problem(400, "Invalid 'tool_choice': no such tool.", "tool_choice", "invalid_value")
    return tools[0] if tools and choice != "none" and body["messages"][-1]["role"] == "user" else None


def chat(body: JSON, script: Script) -> Answer:
    messages = _required(body, "messages", list)
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise Problem(
                400, f"Invalid role: one of {', '.join(ROLES)}.", f"messages[{position}].role", "invalid_value"
            )
    asked = next((_text(message) for message in reversed(messages) if message["role"] == "user"), "")[:ECHO_KEPT]
    wanted = _field(body, "response_format", dict, {})
    if tool := _called_tool(body):
        text = _made_from(tool.get("parameters") or {}, "tools")
    elif wanted.get("type") == "json_schema":
        text = _made_from(_field(wanted, "json_schema", dict, {}).get("schema"), "response_format")
    elif wanted.get("type") == "json_object":
        text = json.dumps({"echo": asked}, ensure_ascii=False)
    else:
        text = f"echo: {asked}"
    name = str(tool.get("name")) if tool else None
    replies = [_reply(body, script, text, name) for _ in _many(body)]
    head = {"id": f"chatcmpl-{secrets.token_hex(14)}"}
    head["object"] = "chat.completion.chunk" if body.get("stream") else "chat.completion"
    prompt_tokens = sum(len(_text(message).split()) for message in messages)
    return _generation(body, script, head, _chat_choice, replies, prompt_tokens)


def _inputs(value: str | list[Any], key: str) -> list[tuple[str, int]]:
    """The inputs as (text, tokens): a string, a list of strings, a list of token ids, or a list of such lists."""
    if isinstance(value, str):
        return [(value, len(value.split()))]
    lists = [value] if any(type(item) is int for item in value) else value
    pairs: list[tuple[str, int]] = []
    for item in lists:
        if isinstance(item, str):
            pairs.append((item, len(item.split())))
        elif isinstance(item, list) and item and all(type(token) is int for token in item):
            pairs.append((" ".join(map(str, item)), len(item)))
        else:
            raise Problem(400, f"Invalid type for '{key}'.", key, "invalid_type")
    return pairs


def completions(body: JSON, script: Script) -> Answer:
    prompts = _inputs(_required(body, "prompt", (str, list)), "prompt")
    replies = [_reply(body, script, f"echo: {text[:ECHO_KEPT]}") for text, _ in prompts for _ in _many(body)]
    head = {"id": f"cmpl-{secrets.token_hex(14)}", "object": "text_completion"}
    return _generation(body, script, head, _text_choice, replies, sum(tokens for _, tokens in prompts))


def vector(text: str, size: int) -> "array.array[float]":  # quoted: not subscriptable before Python 3.12
    """A unit vector made of the text alone; a shorter one is the start of a longer one, scaled again."""
    words = struct.unpack(f"<{size}i", hashlib.shake_256(text.encode("utf-8", "backslashreplace")).digest(4 * size))
    length = math.sqrt(math.fsum(word * word for word in words))
    return array.array("f", (word / length for word in words))


def embeddings(body: JSON, script: Script) -> Answer:
    inputs = _inputs(_required(body, "input", (str, list)), "input")
    most = VECTOR_SIZES.get(body["model"].partition("@")[0], 1536)
    size = _field(body, "dimensions", int, most, 1)
    shape = body.get("encoding_format") or "float"
    if size > most or shape not in ("float", "base64"):
        param = "dimensions" if size > most else "encoding_format"
        raise Problem(400, f"Invalid value for '{param}'.", param, "invalid_value")
    data: list[JSON] = []
    for index, (text, _) in enumerate(inputs):
        values = vector(text, size)
        if shape == "base64" and sys.byteorder == "big":
            values.byteswap()  # the wire is little-endian
        shown = base64.b64encode(values.tobytes()).decode() if shape == "base64" else values.tolist()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    tokens = sum(count for _, count in inputs) if script.prompt_tokens is None else script.prompt_tokens
    usage = {} if script.fault == "no-usage" else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return _body({"object": "list", "data": data, "model": body["model"], **usage}, prompt_tokens=tokens)


def models(name: str) -> Answer:
    listed = [{"id": name, "object": "model", "created": 1735689600, "owned_by": "openai"} for name in MODELS]
    if not name:
        return _body({"object": "list", "data": listed})
    if name not in MODELS:
        raise Problem(404, f"The model '{name}' does not exist.", "model", "model_not_found")
    return _body(listed[MODELS.index(name)])


ENDPOINTS = {"/v1/chat/completions": chat, "/v1/completions": completions, "/v1/embeddings": embeddings}


def scripted_error(status: int) -> JSON:
    return Problem(status, f"The mock was asked to fail with {status}.", None, ERROR_CODES.get(status)).body


# ── faults ──

# Faults of the connection: how many frames come before it (None: half of them), and what happens then.
STOPS: dict[str, tuple[int | None, str]] = {
    "disconnect": (0, "close"),
    "reset": (None, "reset"),
    "stall-before-headers": (0, "stall"),
    "stall-before-first-byte": (0, "stall"),
    "stall-after-first-byte": (1, "stall"),
    "cut-before-first-event": (0, "close"),
    "cut": (None, "close"),
    "truncated-content-length": (None, "close"),
}
SILENT = {"disconnect", "stall-before-headers"}  # not even headers
EDITS = {"error-first-event", "error-in-band", "malformed-json", "half-json", "no-usage", "no-done", "no-finish"}
EDITS |= {"wrong-content-type", "html", "ok-with-error", "empty-body", "comments", "crlf"}
FAULTS = STOPS.keys() | EDITS | {"slow-body"}
HTML = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n"


def _edited(answer: Answer, script: Script) -> Answer:
    """The answer with a fault of its content; `no-usage`, `no-done` and `no-finish` were heeded when it was made."""
    frames, stream, fault, error = answer.frames, answer.stream, script.fault, scripted_error(script.status or 500)
    at = len(frames) // 2 if script.at is None else script.at
    at = max(0, min(at, len(frames) - 2))  # the [DONE] is no event to damage
    made = max(0, min(answer.completion_tokens, at - answer.openers)) if stream else answer.completion_tokens
    if fault == "ok-with-error" or (not stream and fault in ("error-first-event", "error-in-band")):
        return _body(error)
    if fault == "html":
        return Answer([HTML], status=answer.status, content_type="text/html; charset=utf-8")
    if fault == "wrong-content-type":
        return dataclasses.replace(answer, content_type="text/plain; charset=utf-8")
    if fault == "empty-body":
        return dataclasses.replace(answer, frames=[], prompt_tokens=0, completion_tokens=0)
    if fault == "error-first-event":
        return dataclasses.replace(answer, frames=[_event(error)], prompt_tokens=0, completion_tokens=0)
    if fault == "error-in-band":
        return dataclasses.replace(answer, frames=[*frames[:at], _event(error)], completion_tokens=made)
    if fault == "malformed-json":
        damaged = frames[at].rstrip()[:-1] + (b"]\n\n" if stream else b"]\n")
        return dataclasses.replace(answer, frames=[*frames[:at], damaged, *frames[at + 1 :]])
    if fault == "half-json":
        damaged = _parts(frames[at], 2)[0] + (b"\n\n" if stream else b"")
        return dataclasses.replace(answer, frames=[*frames[:at], damaged], completion_tokens=made)
    if fault == "comments" and stream:
        return dataclasses.replace(answer, frames=[b": mock\n\n" + frame for frame in frames])
    if fault == "crlf" and stream:
        return dataclasses.replace(answer, frames=[frame.replace(b"\n", b"\r\n") for frame in frames])
    return answer


def _stop(frames: list[bytes], script: Script) -> tuple[int, str]:
    """How many frames are sent, and what happens then: close, reset, stall, or nothing but the end."""
    if script.fault not in STOPS:
        return len(frames), ""
    default, deed = STOPS[script.fault]
    if default != 0 and script.at is not None:
        default = script.at
    return min(len(frames) // 2 if default is None else default, len(frames) - 1), deed


def _parts(frame: bytes, number: int) -> list[bytes]:
    size = max(1, math.ceil(len(frame) / number))
    return [frame[start : start + size] for start in range(0, len(frame), size)]


# ── the server ──


@dataclasses.dataclass(eq=False)
class Record:
    """One request as a test sees it. Times are seconds since the epoch."""

    id: int
    method: str
    path: str
    headers: dict[str, str]
    body: str = ""
    body_bytes: int = 0
    body_sha256: str = ""
    model: str | None = None
    state: str = "open"
    started: float = dataclasses.field(default_factory=time.time)
    ended: float | None = None
    status: int | None = None  # null until it is sent
    bytes_sent: int = 0
    frames_sent: int = 0
    billed: dict[str, int] = dataclasses.field(default_factory=lambda: {"prompt_tokens": 0, "completion_tokens": 0})

    def sent(self, answer: Answer, frames: int, size: int) -> None:
        self.frames_sent, self.bytes_sent = frames, self.bytes_sent + size
        self.billed["prompt_tokens"] = answer.prompt_tokens
        made = answer.completion_tokens
        if answer.stream and frames < len(answer.frames):
            made = max(0, min(made, frames - answer.openers))
        self.billed["completion_tokens"] = made


class Mock:
    """The state of one application."""

    def __init__(self, api_key: str | None) -> None:
        self.api_key = api_key
        self.numbers = count(1)
        self.forget()
        self.open: dict[Record, web.Request] = {}
        self.changed = asyncio.Event()

    def forget(self) -> None:
        self.times: Counter[tuple[str, str | None, Script]] = Counter()
        self.records: deque[Record] = deque(maxlen=RECORDS_KEPT)
        self.totals = {"requests": 0, "finished": 0, "disconnected": 0, "prompt_tokens": 0, "completion_tokens": 0}

    def _changed(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Records a request from its headers to its last byte, or to the client's going away."""
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        record = Record(next(self.numbers), request.method, request.path_qs, headers)
        self.records.append(record)
        self.totals["requests"] += 1
        self.open[record] = request
        self._changed()
        end = "disconnected"  # a client that leaves cancels this task (`handler_cancellation`) or fails its next write
        try:
            response = await self._answer(request, record)
            end = "finished"
            return response
        finally:
            record.state, record.ended = end, time.time()
            self.totals[end] += 1
            for kind, tokens in record.billed.items():
                self.totals[kind] += tokens
            del self.open[record]
            self._changed()

    async def _answer(self, request: web.Request, record: Record) -> web.StreamResponse:
        try:
            raw = await request.read()
            record.body, record.body_bytes = raw[:BODY_KEPT].decode("utf-8", "replace"), len(raw)
            record.body_sha256 = hashlib.sha256(raw).hexdigest()
            answer, script = await self._decide(request, record, raw)
        except (Problem, web.HTTPRequestEntityTooLarge) as error:
            problem = error if isinstance(error, Problem) else Problem(413, "The request is too large.")
            answer, script = _body(problem.body, status=problem.status), Script()
        return await self._send(request, record, answer, script)

    async def _decide(self, request: web.Request, record: Record, raw: bytes) -> tuple[Answer, Script]:
        path, post = request.path, request.path in ENDPOINTS
        if not post and path != "/v1/models" and not path.startswith("/v1/models/"):
            raise Problem(404, f"Invalid URL ({request.method} {path})", None, "unknown_url")
        if request.method != ("POST" if post else "GET"):
            raise Problem(405, f"Not allowed to {request.method} on {path}.", None, "method_not_supported")
        self._authenticate(request.headers.get("authorization"))
        try:
            body = json.loads(raw) if post else {}
        except (ValueError, RecursionError):
            body = None
        record.model = body["model"] if isinstance(body, dict) and isinstance(body.get("model"), str) else None
        script = read_script(request.headers, record.model)
        if script.times is not None:
            same = (path, record.model, script)
            if len(self.times) >= RECORDS_KEPT:
                self.times.clear()  # names come from clients: memory stays bounded, whatever they send
            self.times[same] += 1
            script = script if self.times[same] <= script.times else Script()
        await asyncio.sleep(script.latency)
        if script.status is not None:
            return _body(scripted_error(script.status), status=script.status), script
        if not post:
            return models(path.removeprefix("/v1/models").removeprefix("/")), script
        if not isinstance(body, dict):
            raise Problem(400, "The body of the request is not a JSON object.")
        if not _field(body, "model", str):
            raise Problem(400, "A model parameter is required.")
        return ENDPOINTS[path](body, script), script

    def _authenticate(self, header: str | None) -> None:
        if self.api_key is not None and header is None:
            raise Problem(401, "No API key was provided: send it as `Authorization: Bearer KEY`.")
        if self.api_key is not None and header != f"Bearer {self.api_key}":
            raise Problem(401, "Incorrect API key provided.", None, "invalid_api_key")

    async def _send(self, request: web.Request, record: Record, answer: Answer, script: Script) -> web.StreamResponse:
        answer = _edited(answer, script)
        frames = answer.frames
        if not answer.stream and script.fault in STOPS:
            frames = _parts(frames[0], 2)
        stop, deed = _stop(frames, script)
        headers = {**HEADERS, "content-type": answer.content_type, "x-request-id": f"req_{record.id:032x}"}
        if script.retry_after:
            unit = "-ms" if script.retry_after.endswith("ms") else ""
            headers[f"retry-after{unit}"] = script.retry_after.removesuffix("ms")
        if 300 <= answer.status < 400:
            headers["location"] = "/mock/redirected"

        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        if script.fault not in SILENT:
            record.status = answer.status
        if not answer.stream and not deed and script.fault != "slow-body":
            whole = web.Response(status=answer.status, headers=headers, body=b"".join(frames))
            await whole.prepare(request)
            await whole.write_eof()  # headers and body in one write
            record.sent(answer, len(frames), sum(map(len, frames)))
            return whole
        response = web.StreamResponse(status=answer.status, headers=headers)
        if not answer.stream or script.fault == "truncated-content-length":
            response.content_length = sum(map(len, frames))
        if script.fault not in SILENT:
            await response.prepare(request)
        await self._write(response, record, answer, frames[:stop], script)
        if deed == "stall":
            await asyncio.get_running_loop().create_future()
        elif deed == "reset":
            # Closing with a linger of zero seconds sends RST instead of FIN.
            request.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        elif deed == "close":
            transport.close()
        else:
            await response.write_eof()
        return response

    async def _write(
        self, response: web.StreamResponse, record: Record, answer: Answer, frames: list[bytes], script: Script
    ) -> None:
        """Paced by the clock, so that lateness does not add up; yields at each write, so that none starves."""
        slow = script.fault == "slow-body"
        gap = script.gap or (0.02 if slow else 0.0)
        due = time.monotonic()
        for number, frame in enumerate(frames, 1):
            for part in _parts(frame, 8) if slow else (frame,):
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await response.write(part)
                due += gap
            record.sent(answer, number, len(frame))

    # ── the tests' own endpoints, which are not recorded ──

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def list_requests(self, request: web.Request) -> web.Response:
        kept = [dataclasses.asdict(record) for record in self.records]
        return web.json_response({"open": len(self.open), "totals": self.totals, "requests": kept})

    async def clear_requests(self, request: web.Request) -> web.Response:
        self.forget()
        return web.json_response({"open": len(self.open), "totals": self.totals, "requests": []})

    async def count_open(self, request: web.Request) -> web.Response:
        try:
            low, high = (_count(request.query.get(*bound)) for bound in (("at_least", "0"), ("at_most", "1000000")))
            limit = _duration(request.query.get("timeout", "10s"))
        except ValueError as error:
            return web.json_response(Problem(400, f"mock: {error}").body, status=400)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not low <= len(self.open) <= high:
                    await self.changed.wait()
        return web.json_response({"open": len(self.open)})

    async def drop_open(self, app: web.Application) -> None:
        """A server that ends does not wait for streams that never end."""
        for request in list(self.open.values()):
            if request.transport is not None:
                request.transport.abort()


def create_app(api_key: str | None = None) -> web.Application:
    """Works under any runner: what it needs of aiohttp's server is set here."""
    mock = Mock(api_key)
    app = web.Application(client_max_size=BODY_LIMIT, handler_args={"handler_cancellation": True, "access_log": None})
    app.router.add_get("/healthz", mock.health)
    app.router.add_get("/mock/requests", mock.list_requests)
    app.router.add_delete("/mock/requests", mock.clear_requests)
    app.router.add_get("/mock/open", mock.count_open)
    app.router.add_route("*", "/{path:.*}", mock.serve)
    app.on_shutdown.append(mock.drop_open)
    return app


async def start(app: web.Application, host: str = "127.0.0.1", port: int = 0) -> tuple[web.AppRunner, str]:
    """Serves in this event loop; returns what to `cleanup()` and the base address."""
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    # No Nagle delay: asyncio and uvloop both set TCP_NODELAY on every connection they accept.
    await web.TCPSite(runner, host, port, backlog=4096).start()
    bound = runner.addresses[0][1]
    return runner, f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"


async def _serve(host: str, port: int, api_key: str | None) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    runner, address = await start(create_app(api_key), host, port)
    print(f"mock OpenAI listens on {address}", flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="The OpenAI API offline, with faults on demand.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="0 picks a free one")
    parser.add_argument("--api-key", help="refuse any other bearer key")
    given = parser.parse_args()
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        run = uvloop.run
    run(_serve(given.host, given.port, given.api_key))


if __name__ == "__main__":
    main()
