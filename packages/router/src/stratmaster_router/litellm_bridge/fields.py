"""Which fields of a request may reach LiteLLM. Pure.

LiteLLM takes its own orders (where to call, with whose key, what to log, what to mock) by the same names as the fields
of a request, so what passes is listed here, and the rest is refused. A field that is dropped would change the meaning
of the request without a word; only hints are, where a provider does not know them.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stratmaster_router.domain.errors import InvalidRequest
from stratmaster_router.domain.routing import Endpoint

Fields = dict[str, Any]

_HINTS = frozenset(
    {
        "frequency_penalty",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "service_tier",
        "user",
        "verbosity",
    }
)
"""What tunes an answer and does not change its form."""

_NEVER = frozenset({"metadata", "store"})
"""What asks OpenAI to keep something. To LiteLLM `metadata` is an order."""

_TEXT = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "max_tokens",
        "n",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "user",
    }
)
_ALLOWED: Mapping[Endpoint, frozenset[str]] = {
    Endpoint.CHAT: _HINTS
    | _TEXT
    | {
        "audio",
        "function_call",
        "functions",
        "logprobs",
        "max_completion_tokens",
        "messages",
        "modalities",
        "response_format",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "web_search_options",
    },
    Endpoint.COMPLETIONS: _TEXT | {"prompt", "top_k"},
    Endpoint.EMBEDDINGS: frozenset({"dimensions", "encoding_format", "input", "user"}),
}
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_DATA = re.compile(r"data:", re.IGNORECASE)


def allowed_fields(endpoint: Endpoint, body: Mapping[str, Any], supported: Callable[[], frozenset[str]]) -> Fields:
    """The fields of `body` to call LiteLLM with, without `model`. `supported` are those that the provider knows.

    Raises `InvalidRequest`.
    """
    fields = {name: value for name, value in body.items() if value is not None and name not in _NEVER | {"model"}}
    for name in fields.keys() - _ALLOWED[endpoint]:
        raise InvalidRequest("The LiteLLM bridge does not pass this field on.", param=name)
    if endpoint is Endpoint.CHAT:
        _check_tools(fields.get("tools"))
        _check_messages(fields.get("messages"))
    if endpoint is not Endpoint.EMBEDDINGS and not fields.keys().isdisjoint(_HINTS):
        known = supported()
        fields = {name: value for name, value in fields.items() if name not in _HINTS or name in known}
    return fields


def _check_tools(tools: Any) -> None:
    """Only functions: LiteLLM runs or fetches other tools itself (MCP servers, vector stores)."""
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise InvalidRequest("The LiteLLM bridge passes tools of type function only.", param=f"tools[{index}].type")


def _check_messages(messages: Any) -> None:
    """No addresses in parts of messages: LiteLLM would fetch them from here, inside the operator's network."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest("messages must be a list of objects.", param="messages")
    for index, message in enumerate(messages):
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            if not isinstance(part, dict):
                raise InvalidRequest("A part of a message must be an object.", param=f"messages[{index}].content")
            if part.get("type") != "text" and any(_fetched(name, text) for name, text in _texts("", part)):
                raise InvalidRequest(
                    "The LiteLLM bridge takes images and files as data: URLs only, so that nothing is fetched.",
                    param=f"messages[{index}].content",
                )


def _fetched(name: str, text: str) -> bool:
    if _DATA.match(text):
        return False
    return name in {"url", "image_url"} or _ADDRESS.match(text) is not None


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text below `value`, with the name of the field that holds it."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key, item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(name, item)
