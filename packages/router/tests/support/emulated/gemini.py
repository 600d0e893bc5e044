"""Gemini's generateContent and streamGenerateContent, v1beta."""

from collections.abc import Iterator
from typing import Any

from support.emulated.base import CITY, INPUT, OUTPUT, REASON, TEXT, WORDS, Emulator, sse
from support.scripted import Exchange

_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}
_CALL = {"functionCall": {"name": "get_weather", "args": CITY}}


class Gemini(Emulator):
    """`POST /v1beta/models/{model}:generateContent`."""

    litellm_provider = "gemini"
    model = "gemini-2.5-flash"
    secrets = (("GEMINI_KEY", "AIza-emulated"),)
    path = "/v1beta"

    def streams(self, exchange: Exchange) -> bool:
        """The path says so."""
        return ":streamGenerateContent" in exchange.path

    def answer(self) -> Any:
        """A text part."""
        return self._response({"text": TEXT}, "STOP")

    def tool_answer(self) -> Any:
        """A functionCall part."""
        return self._response(_CALL, "STOP")

    def events(self) -> Iterator[bytes]:
        """A response for each piece, the last with the reason and the usage."""
        for word in WORDS[:-1]:
            yield sse(self._response({"text": word}, None))
        yield sse(self._response({"text": WORDS[-1]}, "STOP"))

    def tool_events(self) -> Iterator[bytes]:
        """Function calls come whole."""
        yield sse(self._response(_CALL, None))
        yield sse(self._response({"text": ""}, "STOP"))

    def _response(self, part: Any, reason: str | None) -> Any:
        candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": 0}
        usage = {"promptTokenCount": INPUT, "totalTokenCount": INPUT}
        if reason:
            candidate["finishReason"] = reason
            usage |= {"candidatesTokenCount": OUTPUT, "totalTokenCount": INPUT + OUTPUT}
        return {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": self.model,
            "responseId": "response-1",
        }

    def error(self, status: int) -> tuple[Any, ...]:
        """A google.rpc.Status."""
        return ({"error": {"code": status, "message": REASON, "status": _STATUS.get(status, "UNKNOWN")}},)
