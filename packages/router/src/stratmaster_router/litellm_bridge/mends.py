"""What LiteLLM 1.108.5 reads wrongly of two providers' streams, put right.

Without this a stream of Cohere's fails at its first event, its end and its usage are not seen; and a stream of Gemini's
that was cut looks complete. A test for each fails where a new LiteLLM moves what is replaced here.
"""

import json
from collections.abc import Mapping
from typing import Any

from litellm.llms.cohere.chat import v2_transformation
from litellm.llms.cohere.common_utils import CohereV2ModelResponseIterator
from litellm.llms.vertex_ai.gemini import vertex_and_google_ai_studio_gemini as gemini

_COHERE_REASONS = {"MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}


def mend() -> None:
    """Let LiteLLM use the readers below."""
    v2_transformation.CohereV2ModelResponseIterator = CohereReader
    gemini.ModelResponseIterator = GeminiReader


class CohereReader(CohereV2ModelResponseIterator):  # type: ignore[misc]  # LiteLLM has no types here
    """Reads the events of Cohere's chat v2, of which LiteLLM knows another shape."""

    def convert_str_chunk_to_generic_chunk(self, chunk: str | bytes) -> dict[str, Any]:
        """A line of the stream: `event: …`, `data: …` or nothing."""
        line = chunk.decode() if isinstance(chunk, bytes) else chunk
        data = line.removeprefix("data:").strip()
        return self.chunk_parser(json.loads(data) if data.startswith("{") else {})

    def chunk_parser(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """An event in LiteLLM's own terms."""
        kind = chunk.get("type")
        delta = chunk.get("delta") or {}
        message = delta.get("message") or {}
        read: dict[str, Any] = {"text": "", "is_finished": False, "finish_reason": "", "usage": None, "index": 0}
        if kind == "content-delta":
            read["text"] = (message.get("content") or {}).get("text") or ""
        elif kind in {"tool-call-start", "tool-call-delta"}:
            read["tool_use"] = _tool_call(message.get("tool_calls") or {}, int(chunk.get("index") or 0))
        elif kind == "message-end":
            reason = delta.get("finish_reason") or ""
            if reason in {"ERROR", "TIMEOUT"}:
                raise ValueError("The provider ended the stream with an error.")
            tokens = (delta.get("usage") or {}).get("tokens") or {}
            read |= {
                "is_finished": bool(reason),
                "finish_reason": _COHERE_REASONS.get(reason, "stop"),
                "usage": _usage(int(tokens.get("input_tokens") or 0), int(tokens.get("output_tokens") or 0)),
            }
        return read


def _tool_call(call: Mapping[str, Any], index: int) -> dict[str, Any]:
    function = call.get("function") or {}
    return {
        "id": call.get("id"),
        "type": "function",
        "index": index,
        "function": {"name": function.get("name"), "arguments": function.get("arguments") or ""},
    }


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class GeminiReader(gemini.ModelResponseIterator):  # type: ignore[misc]  # LiteLLM has no types here
    """Notes whether Gemini itself gave a reason for the end; LiteLLM gives each chunk the reason `stop`."""

    saw_finish_reason = False

    def chunk_parser(self, chunk: dict[str, Any]) -> Any:
        """A chunk, as LiteLLM reads it."""
        if any(candidate.get("finishReason") for candidate in chunk.get("candidates") or ()) or chunk.get(
            "promptFeedback"
        ):
            self.saw_finish_reason = True
        return super().chunk_parser(chunk)
