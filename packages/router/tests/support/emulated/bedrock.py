"""Amazon Bedrock's Converse and ConverseStream; the latter in the binary framing of AWS event streams."""

import json
import struct
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from support.emulated.base import ARGUMENTS, CITY, INPUT, OUTPUT, REASON, TEXT, WORDS, Emulator
from support.scripted import Exchange, head

_USAGE = {"inputTokens": INPUT, "outputTokens": OUTPUT, "totalTokens": INPUT + OUTPUT}
_ERRORS = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    429: "ThrottlingException",
    500: "InternalServerException",
}


class Bedrock(Emulator):
    """`POST /model/{model}/converse`; requests are signed (SigV4), which is not verified."""

    litellm_provider = "bedrock"
    model = "anthropic.claude-3-5-sonnet-20240620-v1:0"
    secrets = (
        ("AWS_ACCESS_KEY_ID", "AKIAEMULATED"),
        ("AWS_SECRET_ACCESS_KEY", "emulated-secret"),
        ("AWS_REGION_NAME", "eu-north-1"),
    )
    one_key = False

    def stream_head(self) -> bytes:
        """The media type of event streams."""
        return head("application/vnd.amazon.eventstream", "Transfer-Encoding: chunked")

    def streams(self, exchange: Exchange) -> bool:
        """The path says so."""
        return exchange.path.endswith("/converse-stream")

    def answer(self) -> Any:
        """A text block."""
        return self._answer({"text": TEXT}, "end_turn")

    def tool_answer(self) -> Any:
        """A toolUse block."""
        return self._answer({"toolUse": {"toolUseId": "tooluse_1", "name": "get_weather", "input": CITY}}, "tool_use")

    @staticmethod
    def _answer(block: Any, reason: str) -> Any:
        return {
            "output": {"message": {"role": "assistant", "content": [block]}},
            "stopReason": reason,
            "usage": _USAGE,
            "metrics": {"latencyMs": 5},
        }

    def events(self) -> Iterator[bytes]:
        """The frames of a text."""
        return self._events({}, [{"text": word} for word in WORDS], "end_turn")

    def tool_events(self) -> Iterator[bytes]:
        """The frames of a toolUse block."""
        return self._events(
            {"toolUse": {"toolUseId": "tooluse_1", "name": "get_weather"}},
            [{"toolUse": {"input": piece}} for piece in ARGUMENTS],
            "tool_use",
        )

    @staticmethod
    def _events(start: Any, deltas: list[Any], reason: str) -> Iterator[bytes]:
        yield frame("messageStart", {"role": "assistant"})
        if start:
            yield frame("contentBlockStart", {"contentBlockIndex": 0, "start": start})
        for delta in deltas:
            yield frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta})
        yield frame("contentBlockStop", {"contentBlockIndex": 0})
        yield frame("messageStop", {"stopReason": reason})
        yield frame("metadata", {"usage": _USAGE, "metrics": {"latencyMs": 5}})

    def error(self, status: int) -> tuple[Any, ...]:
        """The message, and its kind in a header."""
        return {"message": REASON}, f"x-amzn-ErrorType: {_ERRORS.get(status, 'InternalServerException')}"


def frame(event: str, payload: Any) -> bytes:
    """One message of an event stream: lengths, their checksum, headers, payload, the checksum of all."""
    headers = b"".join(
        struct.pack("!B", len(name)) + name + b"\x07" + struct.pack("!H", len(value)) + value
        for name, value in (
            (b":event-type", event.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack("!I", crc32(prelude)) + headers + body
    return message + struct.pack("!I", crc32(message))
