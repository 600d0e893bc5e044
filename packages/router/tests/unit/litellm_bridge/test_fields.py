"""Which fields of a request may reach LiteLLM, which takes orders by the same names."""

from typing import Any

import pytest
from stratmaster_router.domain.errors import InvalidRequest
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.litellm_bridge.fields import allowed_fields

HELLO = [{"role": "user", "content": "hello"}]
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def allowed(endpoint: Endpoint = Endpoint.CHAT, known: frozenset[str] = frozenset(), **fields: Any) -> dict[str, Any]:
    """What passes of a request."""
    return allowed_fields(endpoint, {"model": "m", **fields}, lambda: known)


def refused(endpoint: Endpoint = Endpoint.CHAT, **fields: Any) -> str | None:
    """The `param` of the refusal."""
    with pytest.raises(InvalidRequest) as raised:
        allowed(endpoint, **fields)
    return raised.value.param


@pytest.mark.parametrize(
    "order",
    [
        "api_base",
        "api_key",
        "api_version",
        "aws_access_key_id",
        "aws_role_name",
        "aws_sts_endpoint",
        "azure_ad_token",
        "base_url",
        "cache",
        "callbacks",
        "context_window_fallback_dict",
        "custom_llm_provider",
        "drop_params",
        "extra_body",
        "extra_headers",
        "fallbacks",
        "headers",
        "litellm_credential_name",
        "litellm_logging_obj",
        "litellm_params",
        "max_retries",
        "mock_response",
        "mock_tool_calls",
        "model_list",
        "no-log",
        "num_retries",
        "organization",
        "prompt_id",
        "shared_session",
        "ssl_verify",
        "success_callback",
        "timeout",
        "vertex_credentials",
        "whatever_comes_next",
    ],
)
@pytest.mark.parametrize("endpoint", Endpoint)
def test_orders_to_litellm_are_refused(endpoint: Endpoint, order: str) -> None:
    """No caller chooses where the provider's key is sent, or what is answered, retried or recorded."""
    needed: dict[Endpoint, dict[str, Any]] = {
        Endpoint.CHAT: {"messages": HELLO},
        Endpoint.COMPLETIONS: {"prompt": "p"},
        Endpoint.EMBEDDINGS: {},
    }
    assert refused(endpoint, **needed[endpoint], **{order: "x"}) == order


def test_usual_fields_pass_unchanged() -> None:
    """What a chat is made of reaches the provider."""
    fields: dict[str, Any] = {
        "messages": HELLO,
        "max_completion_tokens": 5,
        "temperature": 0.1,
        "top_k": 3,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    assert allowed(**fields) == fields


def test_hints_are_dropped_where_the_provider_does_not_know_them() -> None:
    """A hint changes nothing of an answer's form, and a fallback shall not fail for it."""
    known = frozenset({"seed"})

    assert allowed(known=known, messages=HELLO, seed=1, user="u", service_tier="auto") == {"messages": HELLO, "seed": 1}


def test_what_asks_openai_to_keep_something_never_passes() -> None:
    """`metadata` would be an order to LiteLLM."""
    assert allowed(messages=HELLO, metadata={"prompt_id": "x"}, store=True) == {"messages": HELLO}


def test_null_is_absent() -> None:
    """As OpenAI has it."""
    assert allowed(messages=HELLO, stop=None, api_base=None) == {"messages": HELLO}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": " FILE:///etc/passwd"}},
        {"type": "file", "file": {"file_data": "https://example.com/a.pdf"}},
        {"type": "file", "file": {"file_id": "gs://bucket/a.pdf"}},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com"}},
        {"type": "unheard-of", "deep": [{"list": ["s3://bucket/key"]}]},
    ],
)
def test_addresses_in_parts_are_refused(part: dict[str, Any]) -> None:
    """LiteLLM would fetch them, from inside the operator's network."""
    messages = [HELLO[0], {"role": "user", "content": [{"type": "text", "text": "see"}, part]}]

    assert refused(messages=messages) == "messages[1].content"


def test_data_and_texts_with_addresses_pass() -> None:
    """Data is fetched from nowhere, and who speaks of an address does not ask for it."""
    content = [
        {"type": "text", "text": "https://example.com"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ]
    messages = [{"role": "user", "content": content}, {"role": "user", "content": "http://h"}]

    assert allowed(messages=messages) == {"messages": messages}


@pytest.mark.parametrize("messages", [None, "hello", {}, ["hello"], [{"role": "user", "content": ["x"]}]])
def test_messages_of_another_shape_are_refused(messages: Any) -> None:
    """What cannot be looked through does not pass."""
    assert (refused(messages=messages) or "").startswith("messages")


@pytest.mark.parametrize("tool", [{"type": "mcp", "server_url": "http://h"}, {"type": "file_search"}, {}, "x"])
def test_tools_that_litellm_would_run_itself_are_refused(tool: Any) -> None:
    """Only functions, which the caller runs."""
    function = {"type": "function", "function": {"name": "f"}}

    assert refused(messages=HELLO, tools=[function, tool]) == "tools[1].type"
