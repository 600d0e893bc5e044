"""LiteLLM's translation of each provider's wire, there and back."""

import contextlib
import json
from typing import Any

import pytest
from support.bridge import HELLO, TOOLS, Bridge
from support.calls import eventually
from support.emulated.base import CITY, INPUT, OUTPUT, REASON, TEXT, Emulator, Fault


def usage(answer: Any) -> tuple[int, int, int]:
    """Tokens in, out and together."""
    counted = answer["usage"]
    return counted["prompt_tokens"], counted["completion_tokens"], counted["total_tokens"]


def chat(emulator: Emulator, **fields: Any) -> dict[str, Any]:
    """A request for the emulated provider's model."""
    return {"model": emulator.model, "messages": HELLO, "max_tokens": 50, **fields}


def said(events: list[Any]) -> str:
    """The text of a stream."""
    return "".join(choice["delta"].get("content") or "" for event in events[:-1] for choice in event["choices"])


def reasons(events: list[Any]) -> list[str]:
    """The finish reasons of a stream."""
    found = [choice.get("finish_reason") for event in events[:-1] for choice in event["choices"]]
    return [reason for reason in found if reason]


def test_whole_answer(bridge: Bridge, emulator: Emulator) -> None:
    """Text, finish reason and usage are the provider's."""
    status, answer = bridge.post(emulator.litellm_provider, chat(emulator))

    assert status == 200
    [choice] = answer["choices"]
    assert (choice["index"], choice["message"]["role"], choice["message"]["content"]) == (0, "assistant", TEXT)
    assert choice["finish_reason"] == "stop"
    assert usage(answer) == (INPUT, OUTPUT, INPUT + OUTPUT)
    assert answer["object"] == "chat.completion"


def test_stream(bridge: Bridge, emulator: Emulator) -> None:
    """The words come in pieces, then one reason, then the usage by itself, and the end."""
    events = bridge.stream(emulator.litellm_provider, chat(emulator, stream_options={"include_usage": True}))

    assert events[-1] == "[DONE]"
    assert said(events) == TEXT
    assert len([event for event in events[:-1] if said([event, None])]) >= 2
    assert reasons(events) == ["stop"]
    assert events[-2]["choices"] == []
    assert usage(events[-2]) == (INPUT, OUTPUT, INPUT + OUTPUT)
    assert [event for event in events[:-2] if "usage" in event] == []
    assert {event["object"] for event in events[:-1]} == {"chat.completion.chunk"}


def test_stream_without_usage_asked_for(bridge: Bridge, emulator: Emulator) -> None:
    """Nobody gets a usage that was not asked for."""
    events = bridge.stream(emulator.litellm_provider, chat(emulator))

    assert (said(events), reasons(events), events[-1]) == (TEXT, ["stop"], "[DONE]")
    assert [event for event in events[:-1] if "usage" in event or not event["choices"]] == []


def test_tools(bridge: Bridge, emulator: Emulator) -> None:
    """A call of a tool comes back as OpenAI has it, its arguments as text."""
    status, answer = bridge.post(emulator.litellm_provider, chat(emulator, tools=TOOLS))

    assert status == 200
    [choice] = answer["choices"]
    [call] = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == CITY
    assert len(call["id"]) > 5
    assert choice["finish_reason"] == "tool_calls"
    assert usage(answer) == (INPUT, OUTPUT, INPUT + OUTPUT)


def test_tools_in_a_stream(bridge: Bridge, emulator: Emulator) -> None:
    """The pieces of the arguments add up, under one index, with the id and the name at first."""
    events = bridge.stream(
        emulator.litellm_provider, chat(emulator, tools=TOOLS, stream_options={"include_usage": True})
    )

    assert events[-1] == "[DONE]"
    deltas = [choice["delta"] for event in events[:-1] for choice in event["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or []]
    assert {call["index"] for call in calls} == {0}
    assert calls[0]["function"]["name"] == "get_weather"
    assert len(calls[0]["id"]) > 5
    assert json.loads("".join(call["function"].get("arguments") or "" for call in calls)) == CITY
    assert reasons(events) == ["tool_calls"]
    assert usage(events[-2]) == (INPUT, OUTPUT, INPUT + OUTPUT)


def test_conversation_with_a_tools_result_is_understood(bridge: Bridge, emulator: Emulator) -> None:
    """What a tool answered reaches the provider."""
    call = {"id": "call_123456789", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_123456789", "content": "RAINY-IN-OSLO"},
    ]
    status, _ = bridge.post(emulator.litellm_provider, chat(emulator, messages=messages, tools=TOOLS))

    assert status == 200
    assert b"RAINY-IN-OSLO" in emulator.last.body


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [(429, "upstream_rate_limited", True), (401, "upstream_auth_failed", False), (500, "upstream_error", True)],
)
def test_error(bridge: Bridge, emulator: Emulator, status: int, code: str, retryable: bool, stream: bool) -> None:
    """A provider's refusal keeps its status, says truly whether to retry, and tries once only."""
    emulator.fault = Fault(status=status)
    before = len(emulator.scripted.exchanges)

    answer = bridge.ask(emulator.litellm_provider, chat(emulator, stream=stream))

    error = answer.json()["error"]
    # LiteLLM turns some providers' 500 into a 503; either is one that another try may cure.
    assert answer.status == status or (status, answer.status) == (500, 503)
    assert (error["code"], error["retryable"]) == (code, retryable)
    assert answer.headers["x-should-retry"] == str(retryable).lower()
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
    assert REASON not in error["message"]
    assert len(emulator.scripted.exchanges) == before + 1


def test_rejected_request_has_the_providers_reason(bridge: Bridge, emulator: Emulator) -> None:
    """Who sent a wrong request reads the provider's own words, without LiteLLM's wrapping."""
    emulator.fault = Fault(status=400)

    status, answer = bridge.post(emulator.litellm_provider, chat(emulator))

    assert status == 400
    assert answer == {
        "error": {
            "message": REASON,
            "type": "invalid_request_error",
            "param": None,
            "code": "upstream_rejected",
            "retryable": False,
        }
    }


def test_cut_stream_never_looks_complete(bridge: Bridge, emulator: Emulator) -> None:
    """A provider that ends without a finish reason is a failure; LiteLLM would make one up."""
    emulator.fault = Fault(cut=True)

    events = bridge.stream(emulator.litellm_provider, chat(emulator, stream_options={"include_usage": True}))

    assert events[-1]["error"]["code"] == "upstream_stream_truncated"
    assert events[-1]["error"]["retryable"] is True
    assert reasons(events) == []
    assert "[DONE]" not in events


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_caller_that_goes_away_cancels_the_call(bridge: Bridge, emulator: Emulator, stream: bool) -> None:
    """The provider sees its connection closed."""
    emulator.fault = Fault(stall=True)
    before, cancelled = len(emulator.scripted.exchanges), emulator.cancelled

    with contextlib.closing(bridge.begin(emulator.litellm_provider, chat(emulator, stream=stream))):
        assert eventually(lambda: len(emulator.scripted.exchanges), lambda seen: seen == before + 1) == before + 1

    assert eventually(lambda: emulator.cancelled, lambda seen: seen == cancelled + 1) == cancelled + 1
