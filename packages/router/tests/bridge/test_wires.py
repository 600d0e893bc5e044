"""What each emulated provider is asked: its own paths, headers and words, so that what is answered means something."""

from typing import Any

from support.bridge import HELLO, TOOLS, Bridge
from support.emulated.base import Emulator

TOOL: dict[str, Any] = TOOLS[0]["function"]
PATHS = {
    "anthropic": ("/v1/messages", "/v1/messages"),
    "gemini": (
        "/v1beta/models/gemini-2.5-flash:generateContent",
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
    ),
    "bedrock": (
        "/model/anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse",
        "/model/anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse-stream",
    ),
    "cohere_chat": ("/v2/chat", "/v2/chat"),
    "mistral": ("/v1/chat/completions", "/v1/chat/completions"),
}


def test_path_and_credential_are_the_providers(bridge: Bridge, emulator: Emulator) -> None:
    """Each has its own place for both, and nobody sees the bridge's token."""
    name = emulator.litellm_provider
    for stream, path in zip((False, True), PATHS[name], strict=True):
        bridge.ask(name, {"model": emulator.model, "messages": HELLO, "stream": stream})
        headers = emulator.last.headers
        assert emulator.last.path == path
        key = emulator.secrets[0][1]
        credential = {"anthropic": headers.get("x-api-key"), "gemini": headers.get("x-goog-api-key")}
        if name == "bedrock":
            assert f"Credential={key}/" in headers["authorization"]
        else:
            assert credential.get(name, headers.get("authorization", "").removeprefix("Bearer ")) == key
        assert "bridge-token" not in str(headers)


def test_request_is_in_the_providers_words(bridge: Bridge, emulator: Emulator) -> None:
    """System message, bound, stop words and tools stand where this provider has them."""
    body = {"model": emulator.model, "messages": HELLO, "max_tokens": 50, "temperature": 0.5, "tools": TOOLS}
    bridge.ask(emulator.litellm_provider, body)

    assert WORDS[emulator.litellm_provider](emulator.asked) == (
        "Be brief.",
        "Say hello.",
        50,
        0.5,
        (TOOL["name"], TOOL["description"], "string"),
    )


def _tool(name: str, description: str, schema: Any) -> tuple[str, str, str]:
    return name, description, schema["properties"]["city"]["type"]


def _anthropic(asked: Any) -> tuple[Any, ...]:
    [tool], [message] = asked["tools"], asked["messages"]
    return (
        asked["system"][0]["text"],
        message["content"][0]["text"],
        asked["max_tokens"],
        asked["temperature"],
        _tool(tool["name"], tool["description"], tool["input_schema"]),
    )


def _gemini(asked: Any) -> tuple[Any, ...]:
    [content], [declared] = asked["contents"], asked["tools"][0]["function_declarations"]
    bounds = asked["generationConfig"]
    return (
        asked["system_instruction"]["parts"][0]["text"],
        content["parts"][0]["text"],
        bounds["max_output_tokens"],
        bounds["temperature"],
        _tool(declared["name"], declared["description"], declared["parameters"]),
    )


def _bedrock(asked: Any) -> tuple[Any, ...]:
    [message], [tool] = asked["messages"], asked["toolConfig"]["tools"]
    bounds, spec = asked["inferenceConfig"], tool["toolSpec"]
    return (
        asked["system"][0]["text"],
        message["content"][0]["text"],
        bounds["maxTokens"],
        bounds["temperature"],
        _tool(spec["name"], spec["description"], spec["inputSchema"]["json"]),
    )


def _openai_like(asked: Any) -> tuple[Any, ...]:
    system, user = asked["messages"]
    [tool] = asked["tools"]
    function = tool["function"]
    return (
        system["content"],
        user["content"],
        asked["max_tokens"],
        asked["temperature"],
        _tool(function["name"], function["description"], function["parameters"]),
    )


WORDS = {
    "anthropic": _anthropic,
    "gemini": _gemini,
    "bedrock": _bedrock,
    "cohere_chat": _openai_like,
    "mistral": _openai_like,
}
