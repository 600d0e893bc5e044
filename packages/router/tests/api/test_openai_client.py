import base64
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from support.policies import one_hop
from support.servers import ACME_KEY, GLOBEX_KEY, Mock, RunningRouter, load_mock, running_mock, running_router

POLICY = """
providers:
  first: {{base_url: "{mock}/v1", retries: {{max: 0}}}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1, fallbacks: [gpt-4o-mini]}}
          embedding: {{default: text-embedding-3-small}}
          broken: {{default: "gpt-4.1@status=503,retry_after=10ms"}}
          rejecting: {{default: "gpt-4.1@status=400"}}
  globex:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
"""
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three"}]
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "find_paper",
            "parameters": {
                "type": "object",
                "properties": {"title": {"type": "string"}, "year": {"type": "integer", "minimum": 1900}},
                "required": ["title", "year"],
            },
        },
    }
]
LISTED = [
    ("reasoning", "stratmaster-router"),
    ("embedding", "stratmaster-router"),
    ("broken", "stratmaster-router"),
    ("rejecting", "stratmaster-router"),
    ("gpt-4.1", "first"),
    ("gpt-4o-mini", "first"),
    ("text-embedding-3-small", "first"),
    ("gpt-4.1@status=503,retry_after=10ms", "first"),
    ("gpt-4.1@status=400", "first"),
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Mock]:
    """One mocked provider for the module."""
    with running_mock() as mock:
        yield mock


@pytest.fixture(scope="module")
def serving(upstream: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """One router for the module."""
    with running_router(tmp_path_factory.mktemp("router"), POLICY.format(mock=upstream.url)) as router:
        yield router


def _options(router: RunningRouter, key: str = ACME_KEY, tenant: str = "acme", retries: int = 0) -> dict[str, Any]:
    return {
        "base_url": f"{router.url}/v1",
        "api_key": key,
        "default_headers": {"X-Tenant-ID": tenant},
        "max_retries": retries,
    }


@pytest.fixture
def client(serving: RunningRouter) -> Iterator[OpenAI]:
    """The official client as acme."""
    with OpenAI(**_options(serving)) as client:
        yield client


def test_chat_has_its_usage(client: OpenAI) -> None:
    """A chat completion is parsed whole, with the upstream's usage."""
    answer = client.chat.completions.create(model="reasoning", messages=ASK)

    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason, answer.model) == ("echo: one two three", "stop", "gpt-4.1")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)


def test_stream_gives_its_tokens_and_no_usage_that_was_not_asked_for(client: OpenAI) -> None:
    """A stream's chunks are tokens and a finish reason, each chunk with a choice."""
    chunks = list(client.chat.completions.create(model="reasoning", messages=ASK, stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "echo: one two three"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert [chunk.usage for chunk in chunks] == [None] * 6


def test_stream_gives_the_usage_that_was_asked_for(client: OpenAI) -> None:
    """With `include_usage` the last chunk has the usage and no choices."""
    chunks = list(
        client.chat.completions.create(
            model="reasoning", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )

    usage = chunks[-1].usage
    assert chunks[-1].choices == []
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 4)


def test_tool_call_comes_whole(client: OpenAI) -> None:
    """A tool call reaches the client with its name and arguments."""
    answer = client.chat.completions.create(model="reasoning", messages=ASK, tools=TOOLS)

    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("find_paper", '{"title": "text", "year": 1900}')
    assert answer.choices[0].finish_reason == "tool_calls"


def test_streamed_tool_call_is_put_together_by_the_client(client: OpenAI) -> None:
    """The pieces of a tool call in a stream add up, by the client's own helper."""
    with client.chat.completions.stream(model="reasoning", messages=ASK, tools=TOOLS) as stream:
        answer = stream.get_final_completion()

    (call,) = answer.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("find_paper", '{"title": "text", "year": 1900}')
    assert answer.choices[0].finish_reason == "tool_calls"


def test_answer_to_a_tool_result_is_text(client: OpenAI) -> None:
    """A conversation with a tool's result in it goes through, its fields untouched."""
    call = {"id": "call_1", "type": "function", "function": {"name": "find_paper", "arguments": "{}"}}
    messages: list[Any] = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "found"},
    ]

    answer = client.chat.completions.create(model="reasoning", messages=messages, tools=TOOLS)

    assert answer.choices[0].message.content == "echo: one two three"


def test_structured_output_is_made_to_its_schema(client: OpenAI) -> None:
    """`response_format` reaches the upstream unchanged."""
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3}},
        "required": ["n"],
    }
    answer = client.chat.completions.create(
        model="reasoning",
        messages=ASK,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    )

    assert answer.choices[0].message.content == '{"n": 3}'


@pytest.mark.parametrize("shape", ["float", "base64"])
def test_embeddings_come_in_either_encoding(client: OpenAI, shape: Any) -> None:
    """An embedding is the upstream's vector, as numbers or as little-endian base64."""
    answer = client.embeddings.create(model="embedding", input=["a b", "c"], encoding_format=shape, dimensions=8)

    found: list[Any] = [item.embedding for item in answer.data]
    if shape == "base64":
        found = [list(struct.unpack("<8f", base64.b64decode(text))) for text in found]
    assert found == [load_mock().vector(text, 8).tolist() for text in ("a b", "c")]
    assert (answer.usage.prompt_tokens, answer.model) == (3, "text-embedding-3-small")


def test_embeddings_without_an_encoding_are_decoded_by_the_client(client: OpenAI) -> None:
    """By default the client asks for base64 and gives back numbers."""
    answer = client.embeddings.create(model="text-embedding-3-small", input="a b")

    assert answer.data[0].embedding == load_mock().vector("a b", 1536).tolist()


def test_legacy_completion_works_whole_and_streamed(client: OpenAI) -> None:
    """The old endpoint is served like the new one."""
    whole = client.completions.create(model="reasoning", prompt="one two")
    chunks = list(client.completions.create(model="reasoning", prompt="one two", stream=True))

    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("echo: one two", "stop")
    assert "".join(chunk.choices[0].text for chunk in chunks) == "echo: one two"
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)


def test_models_are_the_tenants_own(client: OpenAI, serving: RunningRouter) -> None:
    """The list has the tenant's tasks and models in the policy's order, and nothing of another tenant."""
    with OpenAI(**_options(serving, GLOBEX_KEY, "globex")) as other:
        theirs = list(other.models.list())
    ours = list(client.models.list())

    assert [(model.id, model.owned_by) for model in ours] == LISTED
    assert [(model.id, model.owned_by) for model in theirs] == [
        ("reasoning", "stratmaster-router"),
        ("gpt-4.1", "first"),
    ]
    assert {(model.object, model.created) for model in [*ours, *theirs]} == {("model", 0)}


@pytest.mark.parametrize(("name", "owner"), LISTED)
def test_each_listed_model_can_be_retrieved(client: OpenAI, name: str, owner: str) -> None:
    """What the list shows can be asked for one by one."""
    model = client.models.retrieve(name)

    assert (model.id, model.object, model.created, model.owned_by) == (name, "model", 0, owner)


def test_model_of_another_tenant_cannot_be_retrieved(serving: RunningRouter) -> None:
    """A model that only another tenant has is not found, as one that nobody has."""
    with OpenAI(**_options(serving, GLOBEX_KEY, "globex")) as other:
        with pytest.raises(openai.NotFoundError) as existing:
            other.models.retrieve("gpt-4o-mini")
        with pytest.raises(openai.NotFoundError) as invented:
            other.models.retrieve("gpt-99")

    assert existing.value.code == invented.value.code == "model_not_found"
    assert (existing.value.param, existing.value.message.replace("gpt-4o-mini", "")) == (
        "model",
        invented.value.message.replace("gpt-99", "").replace(
            str(invented.value.request_id), str(existing.value.request_id)
        ),
    )


@pytest.mark.parametrize(
    ("change", "model", "kind", "code"),
    [
        ({"api_key": "sk-wrong"}, "reasoning", openai.AuthenticationError, "invalid_api_key"),
        ({"default_headers": {}}, "reasoning", openai.BadRequestError, "tenant_required"),
        ({"default_headers": {"X-Tenant-ID": "globex"}}, "reasoning", openai.PermissionDeniedError, "tenant_mismatch"),
        ({}, "unknown", openai.NotFoundError, "model_not_found"),
        ({}, "rejecting", openai.BadRequestError, "upstream_rejected"),
        ({}, "broken", openai.InternalServerError, "all_providers_unavailable"),
    ],
)
def test_error_is_the_clients_own_exception(
    serving: RunningRouter, change: dict[str, Any], model: str, kind: type[openai.APIStatusError], code: str
) -> None:
    """Each error is the exception that a user of the client expects, with code and request id at hand."""
    with OpenAI(**{**_options(serving), **change}) as client, pytest.raises(kind) as raised:
        client.chat.completions.create(model=model, messages=ASK, extra_headers={"x-request-id": "mine"})

    assert (raised.value.code, raised.value.request_id) == (code, "mine")


def test_client_retries_what_is_worth_it_and_nothing_else(mock: Mock, tmp_path: Any) -> None:
    """A 503 is tried again, after the wait that the upstream itself asked for; a 400 is not tried again."""
    with (
        running_router(tmp_path, POLICY.format(mock=mock.url)) as router,
        OpenAI(**_options(router, retries=2)) as client,
    ):
        with pytest.raises(openai.InternalServerError) as unavailable:
            client.chat.completions.create(model="broken", messages=ASK)
        tries = len(mock.requests())
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="rejecting", messages=ASK)

    headers = unavailable.value.response.headers
    assert (headers["retry-after-ms"], headers["retry-after"], headers["x-should-retry"]) == ("10", "1", "true")
    assert (tries, len(mock.requests()) - tries) == (3, 1)


def test_client_recovers_when_the_provider_does(mock: Mock, tmp_path: Any) -> None:
    """A provider that fails once is no failure for a client that retries."""
    policy = one_hop(mock.url, "gpt-4.1@status=503,retry_after=10ms,times=1")
    with running_router(tmp_path, policy) as router, OpenAI(**_options(router, retries=2)) as client:
        answer = client.chat.completions.create(model="reasoning", messages=ASK)

    assert answer.choices[0].message.content == "echo: one two three"


async def test_async_client_does_all_of_it(serving: RunningRouter) -> None:
    """The asynchronous client: chat, a stream, tools, embeddings, legacy completions and models."""
    async with AsyncOpenAI(**_options(serving)) as client:
        whole = await client.chat.completions.create(model="reasoning", messages=ASK)
        stream = await client.chat.completions.create(model="reasoning", messages=ASK, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        async with client.chat.completions.stream(model="reasoning", messages=ASK, tools=TOOLS) as events:
            called = (await events.get_final_completion()).choices[0].message.tool_calls or []
        vector = await client.embeddings.create(model="embedding", input="a b", dimensions=4)
        legacy = await client.completions.create(model="reasoning", prompt="one")
        listed = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("reasoning")

    assert whole.choices[0].message.content == text == "echo: one two three"
    assert [call.function.arguments for call in called] == ['{"title": "text", "year": 1900}']
    assert vector.data[0].embedding == load_mock().vector("a b", 4).tolist()
    assert legacy.choices[0].text == "echo: one"
    assert listed == [name for name, _ in LISTED]
    assert one.owned_by == "stratmaster-router"
