"""Cohere's chat, version 2."""

from collections.abc import Iterator
from typing import Any

from support.emulated.base import ARGUMENTS, INPUT, OUTPUT, REASON, TEXT, WORDS, Emulator, sse

_USAGE = {
    "billed_units": {"input_tokens": INPUT, "output_tokens": OUTPUT},
    "tokens": {"input_tokens": INPUT, "output_tokens": OUTPUT},
}


class Cohere(Emulator):
    """`POST /v2/chat`. LiteLLM's address of it is the whole one."""

    litellm_provider = "cohere_chat"
    model = "command-a-03-2025"
    secrets = (("COHERE_KEY", "co-emulated"),)
    path = "/v2/chat"

    def answer(self) -> Any:
        """A text."""
        return self._answer({"content": [{"type": "text", "text": TEXT}]}, "COMPLETE")

    def tool_answer(self) -> Any:
        """A plan, and a call."""
        function = {"name": "get_weather", "arguments": "".join(ARGUMENTS)}
        call = {"id": "get_weather_1", "type": "function", "function": function}
        return self._answer({"tool_plan": "I look it up.", "tool_calls": [call]}, "TOOL_CALL")

    @staticmethod
    def _answer(message: Any, reason: str) -> Any:
        return {
            "id": "c14c80c3",
            "finish_reason": reason,
            "message": {"role": "assistant", **message},
            "usage": _USAGE,
        }

    def events(self) -> Iterator[bytes]:
        """The events of a text."""
        yield self._start()
        yield self._event("content-start", {"content": {"type": "text", "text": ""}})
        for word in WORDS:
            yield self._event("content-delta", {"content": {"text": word}})
        yield sse({"type": "content-end", "index": 0}, "content-end")
        yield self._end("COMPLETE")

    def tool_events(self) -> Iterator[bytes]:
        """The events of a call."""
        yield self._start()
        yield self._event("tool-plan-delta", {"tool_plan": "I look it up."})
        call = {"id": "get_weather_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        yield self._event("tool-call-start", {"tool_calls": call})
        for piece in ARGUMENTS:
            yield self._event("tool-call-delta", {"tool_calls": {"function": {"arguments": piece}}})
        yield sse({"type": "tool-call-end", "index": 0}, "tool-call-end")
        yield self._end("TOOL_CALL")

    @staticmethod
    def _start() -> bytes:
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        return sse({"id": "29f14a5a", "type": "message-start", "delta": {"message": message}}, "message-start")

    @staticmethod
    def _event(kind: str, message: Any) -> bytes:
        return sse({"type": kind, "index": 0, "delta": {"message": message}}, kind)

    @staticmethod
    def _end(reason: str) -> bytes:
        return sse({"type": "message-end", "delta": {"finish_reason": reason, "usage": _USAGE}}, "message-end")

    def error(self, status: int) -> tuple[Any, ...]:
        """A message and an id."""
        return ({"id": "eeee-1", "message": REASON},)
