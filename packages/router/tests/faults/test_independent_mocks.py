import asyncio
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from support.calls import TIMEOUT, chat, events, eventually, stream_error
from support.independent import Katan, running_aimock, running_katan
from support.servers import ACME_KEY, RunningRouter, running_router

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "how is the weather"}]
WORDS = "one two three four"
PIECES = {"response": {"content": WORDS}, "chunkSize": 4}
# By model; what is in no fixture is answered with 404.
FIXTURES: dict[str, dict[str, Any]] = {
    "sound": {"response": {"content": WORDS, "usage": {"prompt_tokens": 7, "completion_tokens": 4}}},
    "tools": {"response": {"toolCalls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]}},
    "embedding": {"response": {"embedding": [0.25, -0.5, 1.0]}},
    "drop": {**PIECES, "chaos": {"dropRate": 1}},
    "malformed": {**PIECES, "chaos": {"malformedRate": 1}},
    "disconnect": {**PIECES, "chaos": {"disconnectRate": 1}},
    "limited": {**PIECES, "chaos": {"rateLimitRate": 1}},
    "late": {**PIECES, "chaos": {"latencyMs": 30_000}},
    "overloaded": {"response": {"error": {"message": "Overloaded", "type": "server_error"}, "status": 503}},
    # Each first event is sent well before the fault.
    "cut": {**PIECES, "latency": 200, "truncateAfterChunks": 3},
    "dropped": {**PIECES, "latency": 200, "disconnectAfterMs": 900},
    "stalled": {**PIECES, "streamingProfile": {"ttft": 0, "tps": 0.01}},
    "flaky": {
        **PIECES,
        "chaos": {"dropRate": 0.2, "malformedRate": 0.2, "disconnectRate": 0.2, "rateLimitRate": 0.2},
    },
}
# Model, and the attempt's status and code.
BEFORE: list[tuple[str, int | None, str]] = [
    ("drop", 500, "upstream_error"),
    ("malformed", 200, "upstream_invalid_response"),
    ("disconnect", None, "upstream_disconnected"),
    ("limited", 429, "upstream_rate_limited"),
    ("late", None, "upstream_timeout"),
    ("overloaded", 503, "upstream_error"),
    ("nowhere", 404, "upstream_not_found"),
]
DURING = [
    ("cut", "upstream_stream_truncated"),
    ("dropped", "upstream_stream_truncated"),
    ("stalled", "upstream_stream_stalled"),
]
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


class Policy:
    """A policy of acme's, provider by provider: each provider's tasks and their models."""

    def __init__(self, folder: Path) -> None:
        (folder / "katan.key").write_text("katan-key")
        self._key = {"api_key": {"file": f"{folder}/katan.key"}}
        self._providers: dict[str, Any] = {}
        self._models: dict[str, Any] = {}

    def add(self, name: str, url: str, models: Mapping[str, str], **timeouts: str) -> None:
        """A provider whose `models` are by task, tried after those that were added before."""
        self._providers[name] = {
            "base_url": f"{url}/v1",
            "timeouts": {"first_byte": "15s", "idle": "15s", "total": "60s", **timeouts},
            "retries": {"max": 0},  # so that attempts can be counted
            **(self._key if name.startswith("katan") else {}),
        }
        self._models[name] = {"models": {task: {"default": model} for task, model in models.items()}}

    def text(self) -> str:
        """It as YAML, of which JSON is a part."""
        return json.dumps({"providers": self._providers, "tenants": {"acme": {"providers": self._models}}})


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One aimock with all fixtures."""
    fixtures = [{"match": {"model": model}, **fixture} for model, fixture in FIXTURES.items()]
    with running_aimock(tmp_path_factory.mktemp("aimock"), fixtures) as url:
        yield url


@pytest.fixture(scope="module")
def katan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Katan]:
    """llm-katan without faults."""
    with running_katan(tmp_path_factory.mktemp("katan")) as ran:
        yield ran


@pytest.fixture
def router(aimock: str, katan: Katan, tmp_path: Path) -> Iterator[RunningRouter]:
    """A router over both: `MODEL` with llm-katan as the fallback, `only-MODEL` without, `echo` at llm-katan."""
    tasks = {task: model for model in (*FIXTURES, "nowhere") for task in (model, f"only-{model}")}
    late = {task: tasks.pop(task) for task in ("late", "only-late")}
    stalled = {task: tasks.pop(task) for task in ("stalled", "only-stalled")}
    policy = Policy(tmp_path)
    policy.add("aimock", aimock, tasks)
    policy.add("aimock-late", aimock, late, connect="500ms", first_byte="500ms")
    policy.add("aimock-stalled", aimock, stalled, idle="500ms")
    models = {model: "echo" for model in (*FIXTURES, "nowhere", "echo") if model not in ("sound", "tools", "embedding")}
    policy.add("katan", katan.url, models)
    with running_router(tmp_path, policy.text()) as running:
        yield running


def client(router: RunningRouter) -> OpenAI:
    """The official client, which does not try again by itself."""
    return OpenAI(**_options(router))


def _options(router: RunningRouter) -> dict[str, Any]:
    return {
        "base_url": f"{router.url}/v1",
        "api_key": ACME_KEY,
        "default_headers": {"X-Tenant-ID": "acme"},
        "max_retries": 0,
        "timeout": TIMEOUT,
    }


def metered(router: RunningRouter) -> list[tuple[int, int | None, int | None]]:
    """Status, input and output tokens of the access log's lines, once there is one."""
    lines = eventually(router.access_lines, bool)
    return [(line["status"], line.get("input_tokens"), line.get("output_tokens")) for line in lines]


@pytest.mark.parametrize(("model", "text", "prompt"), [("sound", WORDS, 7), ("echo", "User: how is the weather", 4)])
def test_answer_and_usage_pass(model: str, text: str, prompt: int, router: RunningRouter) -> None:
    """A plain answer of either mock is read by the official client, and metered as the mock counts."""
    with client(router) as openai_client:
        answer = openai_client.chat.completions.create(model=model, messages=ASK)
    content = answer.choices[0].message.content or ""
    assert content.endswith(text)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, len(content.split()))
    assert metered(router) == [(200, prompt, len(content.split()))]


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize(("model", "text", "prompt"), [("sound", WORDS, 7), ("echo", "User: how is the weather", 4)])
def test_stream_and_usage_pass(model: str, text: str, prompt: int, asked: bool, router: RunningRouter) -> None:
    """A stream adds up; aimock's chunk of usage comes where it is asked for, llm-katan's finish always has it."""
    options: Any = {"stream_options": {"include_usage": True}} if asked else {}
    with (
        client(router) as openai_client,
        openai_client.chat.completions.create(model=model, messages=ASK, stream=True, **options) as stream,
    ):
        chunks = list(stream)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    content = "".join(choice.delta.content or "" for choice in choices)
    assert content.endswith(text)
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    used = [(c.usage.prompt_tokens, c.usage.completion_tokens) for c in chunks if c.usage is not None]
    assert used == ([(prompt, len(content.split()))] if asked or model == "echo" else [])
    assert metered(router) == [(200, prompt, len(content.split()))]


def test_tool_calls_pass_plain_and_streamed(router: RunningRouter) -> None:
    """A call of a function arrives with its name and arguments, from both mocks."""
    with client(router) as openai_client:
        create = openai_client.chat.completions.create
        for model, arguments in (("tools", '{"city":"Paris"}'), ("echo", None)):
            choice = create(model=model, messages=ASK, tools=TOOLS).choices[0]
            assert choice.finish_reason == "tool_calls"
            (call,) = choice.message.tool_calls or []
            assert call.type == "function"
            assert call.function.name == "get_weather"
            assert list(json.loads(call.function.arguments)) == ["city"]
            assert arguments in (None, call.function.arguments)
        with create(model="tools", messages=ASK, tools=TOOLS, stream=True) as stream:
            deltas = [delta for chunk in stream for choice in chunk.choices for delta in choice.delta.tool_calls or []]
    functions = [delta.function for delta in deltas if delta.function is not None]
    assert "".join(function.name or "" for function in functions) == "get_weather"
    assert "".join(function.arguments or "" for function in functions) == '{"city":"Paris"}'


def test_embedding_passes(router: RunningRouter) -> None:
    """A vector arrives as the mock has it."""
    with client(router) as openai_client:
        answer = openai_client.embeddings.create(model="embedding", input="x", encoding_format="float")
    assert answer.data[0].embedding == [0.25, -0.5, 1.0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "status", "code"), BEFORE)
def test_fault_before_the_first_byte_falls_back(
    model: str, status: int | None, code: str, stream: bool, router: RunningRouter
) -> None:
    """Where there is a second provider the client sees only its answer; where there is none, a structured 503."""
    answer = chat(router, model=model, stream=stream)
    assert (answer.status, answer.headers["x-router-provider"], answer.headers["x-router-attempts"]) == (
        200,
        "katan",
        "2",
    )
    assert (b"User: hello" in answer.body, answer.body.endswith(b"data: [DONE]\n\n")) == (not stream, stream)

    answer = chat(router, model=f"only-{model}", stream=stream)
    error = answer.error()
    (attempt,) = error.pop("attempts")
    assert attempt.pop("ms") > 0
    assert attempt == {
        "provider": "aimock-late" if model == "late" else "aimock",
        "model": model,
        "status": status,
        "code": code,
    }
    assert error.pop("fallback")["action"] == "use_cached_recommendations"
    assert (answer.status, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (503, "1", "true")
    assert error == {
        "type": "api_error",
        "param": None,
        "code": "all_providers_unavailable",
        "retryable": True,
        "request_id": answer.headers["x-request-id"],
    }


@pytest.mark.parametrize("prefix", ["", "only-"])
@pytest.mark.parametrize(("model", "code"), DURING)
def test_fault_after_the_first_event_ends_the_stream_with_an_error(
    model: str, code: str, prefix: str, router: RunningRouter
) -> None:
    """With or without a second provider: no other answer is mixed in, and it does not look complete."""
    answer = chat(router, model=prefix + model, stream=True)
    assert (answer.status, answer.headers["x-router-attempts"]) == (200, "1")
    assert b"[DONE]" not in answer.body
    *passed, last = events(answer.body)
    contents = [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in passed]
    assert WORDS.startswith("".join(contents))
    assert len(contents) >= 1
    error = stream_error(last)
    assert error["code"] == code

    with client(router) as openai_client, pytest.raises(openai.APIError) as raised:
        list(openai_client.chat.completions.create(model=prefix + model, messages=ASK, stream=True))
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("option", "sound", "status", "code"),
    [
        ("--error-rate=1", 0, 500, "upstream_error"),
        ("--rate-limit-after=1", 1, 429, "upstream_rate_limited"),
        ("--timeout-after=1", 1, 504, "upstream_error"),
    ],
)
def test_faults_of_katan_fall_back(
    option: str, sound: int, status: int, code: str, aimock: str, tmp_path: Path
) -> None:
    """After as many sound answers as it gives, the second provider's; without one, a 503 that names the attempt."""
    with running_katan(tmp_path, option) as failing:
        policy = Policy(tmp_path)
        policy.add("katan", failing.url, {"both": "echo", "alone": "echo"})
        policy.add("aimock", aimock, {"both": "sound"})
        with running_router(tmp_path, policy.text()) as router:
            answers = [chat(router, model="both", stream=bool(number % 2)) for number in range(4)]
            providers = [(answer.status, answer.headers["x-router-provider"]) for answer in answers]
            assert providers == [(200, "katan")] * sound + [(200, "aimock")] * (4 - sound)
            answer = chat(router, model="alone")
    assert answer.status == 503
    assert [(a["status"], a["code"]) for a in answer.error()["attempts"]] == [(status, code)]


def test_key_that_katan_refuses_is_not_told_to_the_client(aimock: str, katan: Katan, tmp_path: Path) -> None:
    """Its 401 repeats the key; the client gets the code of the failed hop, and neither the key nor the message."""
    policy = Policy(tmp_path)
    policy.add("katan", katan.url, {"both": "echo", "alone": "echo"})
    policy.add("aimock", aimock, {"both": "sound"})
    (tmp_path / "katan.key").write_text("sk-wrong-secret")
    with running_router(tmp_path, policy.text()) as router:
        assert chat(router, model="both").headers["x-router-provider"] == "aimock"
        answer = chat(router, model="alone")
    assert answer.status == 503
    assert [(a["status"], a["code"]) for a in answer.error()["attempts"]] == [(401, "upstream_auth_failed")]
    assert b"secret" not in answer.body
    assert b"katan-key" not in answer.body


def test_tools_that_katan_does_not_stream_fall_back(aimock: str, katan: Katan, tmp_path: Path) -> None:
    """It answers a stream with tools in plain JSON, which is no stream: the next provider is asked."""
    policy = Policy(tmp_path)
    policy.add("katan", katan.url, {"both": "echo"})
    policy.add("aimock", aimock, {"both": "tools"})
    with running_router(tmp_path, policy.text()) as router:
        answer = chat(router, model="both", stream=True, tools=TOOLS)
    assert (answer.status, answer.headers["x-router-provider"]) == (200, "aimock")
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_killed_katan_ends_its_stream_with_an_error_and_the_next_request_falls_back(
    aimock: str, tmp_path: Path
) -> None:
    """A provider that dies in the middle of a stream is one that cut it, and then one that is not there."""
    with running_katan(tmp_path, "--itl-ms=30000") as dying:
        policy = Policy(tmp_path)
        policy.add("katan", dying.url, {"both": "echo"})
        policy.add("aimock", aimock, {"both": "sound"})
        with running_router(tmp_path, policy.text()) as router, client(router) as openai_client:
            with openai_client.chat.completions.create(model="both", messages=ASK, stream=True) as stream:
                assert next(stream).choices[0].delta.role == "assistant"
                dying.signal(signal.SIGKILL)
                with pytest.raises(openai.APIError) as raised:
                    next(stream)
            assert raised.value.code == "upstream_stream_truncated"
            answer = chat(router, model="both")
    assert (answer.status, answer.headers["x-router-provider"]) == (200, "aimock")
    assert answer.json()["choices"][0]["message"]["content"] == WORDS


async def test_storm_of_faults_hangs_nobody(router: RunningRouter) -> None:
    """More than half of the first provider's answers fail, in four ways: every client still gets a whole answer."""
    async with AsyncOpenAI(**_options(router)) as openai_client:

        async def ask(number: int) -> str:
            create = openai_client.chat.completions.create
            if number % 2:
                return (await create(model="flaky", messages=ASK)).choices[0].message.content or ""
            stream = await create(model="flaky", messages=ASK, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

        answers = await asyncio.gather(*(ask(number) for number in range(120)))
    whole = [answer for answer in answers if answer == WORDS or answer.endswith("\nUser: how is the weather")]
    assert len(whole) == 120
    lines = await asyncio.to_thread(eventually, router.access_lines, lambda seen: len(seen) == 120)
    assert {(line["status"], line.get("code")) for line in lines} == {(200, None)}
    assert {line["provider"] for line in lines} == {"aimock", "katan"}
