"""Anthropic's Messages, version 2023-06-01."""

from collections.abc import Iterator
from typing import Any

from support.emulated.base import ARGUMENTS, CITY, INPUT, OUTPUT, REASON, TEXT, WORDS, Emulator, sse

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error"}


class Anthropic(Emulator):
    """`POST /v1/messages`."""

    litellm_provider = "anthropic"
    model = "claude-sonnet-4-5"
    secrets = (("ANTHROPIC_KEY", "sk-ant-emulated"),)

    def answer(self) -> Any:
        """A message."""
        return self._message([{"type": "text", "text": TEXT}], "end_turn", OUTPUT)

    def tool_answer(self) -> Any:
        """A message with a `tool_use` block."""
        return self._message(
            [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": CITY}], "tool_use", OUTPUT
        )

    def _message(self, content: list[Any], stop_reason: str | None, output: int) -> Any:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": INPUT, "output_tokens": output},
        }

    def events(self) -> Iterator[bytes]:
        """The events of a message."""
        return self._events(
            {"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in WORDS], "end_turn"
        )

    def tool_events(self) -> Iterator[bytes]:
        """The events of a `tool_use` block."""
        return self._events(
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
            [{"type": "input_json_delta", "partial_json": piece} for piece in ARGUMENTS],
            "tool_use",
        )

    def _events(self, block: Any, deltas: list[Any], stop_reason: str) -> Iterator[bytes]:
        yield self._event("message_start", message=self._message([], None, 1))
        yield self._event("content_block_start", index=0, content_block=block)
        yield self._event("ping")
        for delta in deltas:
            yield self._event("content_block_delta", index=0, delta=delta)
        yield self._event("content_block_stop", index=0)
        stop = {"stop_reason": stop_reason, "stop_sequence": None}
        yield self._event("message_delta", delta=stop, usage={"output_tokens": OUTPUT})
        yield self._event("message_stop")

    @staticmethod
    def _event(kind: str, **fields: Any) -> bytes:
        return sse({"type": kind, **fields}, kind)

    def error(self, status: int) -> tuple[Any, ...]:
        """An error object."""
        return ({"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": REASON}},)


OVERLOADED = sse({"type": "error", "error": {"type": "overloaded_error", "message": REASON}}, "error")
