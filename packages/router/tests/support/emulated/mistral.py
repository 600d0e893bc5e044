"""Mistral's chat completions: OpenAI's shapes, with its own ids, errors and place of the usage."""

import json
from collections.abc import Iterator
from typing import Any

from support.emulated.base import ARGUMENTS, INPUT, OUTPUT, REASON, TEXT, WORDS, Emulator, sse
from support.scripted import Exchange

VECTOR = (0.5, -0.25, 1.0)
_USAGE = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}


class Mistral(Emulator):
    """`POST /v1/chat/completions`."""

    litellm_provider = "mistral"
    model = "mistral-small-latest"
    secrets = (("MISTRAL_KEY", "mistral-emulated"),)
    path = "/v1"

    def _script(self, exchange: Exchange) -> None:
        if exchange.path.endswith("/embeddings") and self.fault.status is None:
            data = [{"object": "embedding", "index": 0, "embedding": list(VECTOR)}]
            usage = {"prompt_tokens": INPUT, "total_tokens": INPUT, "completion_tokens": 0}
            answer = {"id": "e1", "object": "list", "model": "mistral-embed", "data": data, "usage": usage}
            exchange.answer(json.dumps(answer).encode())
        else:
            super()._script(exchange)

    def answer(self) -> Any:
        """A text."""
        return self._answer({"content": TEXT, "tool_calls": None}, "stop")

    def tool_answer(self) -> Any:
        """A call."""
        return self._answer({"content": "", "tool_calls": [_call("".join(ARGUMENTS))]}, "tool_calls")

    def _answer(self, message: Any, reason: str) -> Any:
        return {
            "id": "b5bad1d4",
            "object": "chat.completion",
            "created": 1_764_000_000,
            "model": self.model,
            "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}],
            "usage": _USAGE,
        }

    def events(self) -> Iterator[bytes]:
        """The role, the words, and with the last the reason and the usage."""
        yield self._chunk({"role": "assistant", "content": ""}, None)
        for word in WORDS[:-1]:
            yield self._chunk({"content": word}, None)
        yield self._chunk({"content": WORDS[-1]}, "stop")
        yield b"data: [DONE]\n\n"

    def tool_events(self) -> Iterator[bytes]:
        """Calls come whole."""
        yield self._chunk({"role": "assistant", "content": ""}, None)
        yield self._chunk({"content": "", "tool_calls": [_call("".join(ARGUMENTS)) | {"index": 0}]}, "tool_calls")
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: Any, reason: str | None) -> bytes:
        chunk: dict[str, Any] = {
            "id": "b5bad1d4",
            "object": "chat.completion.chunk",
            "created": 1_764_000_000,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        return sse(chunk | {"usage": _USAGE} if reason else chunk)

    def error(self, status: int) -> tuple[Any, ...]:
        """An error object, flat."""
        return ({"object": "error", "message": REASON, "type": "error", "param": None, "code": str(status)},)


def _call(arguments: str) -> dict[str, Any]:
    return {"id": "D681PevKs", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
