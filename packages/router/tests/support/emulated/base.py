"""Emulated providers: each answers on its own wire, by a script on raw sockets, and keeps what it was asked.

All say the same, so that one expectation holds for all: "Hello there", or where tools were sent a call of
`get_weather` for Oslo; 11 tokens in, 7 out.
"""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from support.scripted import Exchange, Scripted, running_scripted, stream_head

WORDS = ("Hel", "lo ", "there")
TEXT = "".join(WORDS)
CITY = {"city": "Oslo"}
ARGUMENTS = ('{"city": ', '"Oslo"}')
INPUT, OUTPUT = 11, 7
REASON = "the provider's own reason"


@dataclass
class Fault:
    """What goes wrong instead of an answer: an error of this status, or a stream cut after its first words."""

    status: int | None = None
    cut: bool = False
    broken: bytes = b""
    """What a stream that is cut sends as its last."""
    stall: bool = False


class Emulator(ABC):
    """One kind of provider.

    `litellm_provider` and `model` are its names, `secrets` the variables that its client needs; a policy names the
    first as `api_key` where it is `one_key`. `cancelled` counts the requests that it left
    waiting until their connection was closed.
    """

    litellm_provider: str
    model: str
    secrets: tuple[tuple[str, str], ...]
    one_key = True
    path = ""
    """What a policy's `base_url` has after the address."""

    def __init__(self) -> None:
        self.fault = Fault()
        self.cancelled = 0
        self.scripted: Scripted

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Listen; `policy_entry` is valid meanwhile."""
        with running_scripted(self._script) as self.scripted:
            yield

    @property
    def policy_entry(self) -> str:
        """The provider as a policy names it, on one line."""
        key = f", api_key: {{env: {self.secrets[0][0]}}}" if self.one_key else ""
        base_url = f"{self.scripted.url}{self.path}"
        return f"{{wire: litellm, litellm_provider: {self.litellm_provider}, base_url: '{base_url}'{key}}}"

    @property
    def last(self) -> Exchange:
        """The latest request."""
        return self.scripted.exchanges[-1]

    @property
    def asked(self) -> Any:
        """The body of the latest request."""
        return json.loads(self.last.body)

    def _script(self, exchange: Exchange) -> None:
        if self.fault.stall:
            exchange.wait_closed()
            self.cancelled += 1
        elif self.fault.status is not None:
            body, *lines = self.error(self.fault.status)
            wait = ["Retry-After: 7"] if self.fault.status == 429 else []
            status = f"{self.fault.status} Refused"
            exchange.answer(json.dumps(body).encode(), "application/json", *wait, *lines, status=status)
        elif self.streams(exchange):
            self._stream(exchange)
        else:
            body = self.tool_answer() if self.has_tools(exchange) else self.answer()
            exchange.answer(json.dumps(body).encode())

    def _stream(self, exchange: Exchange) -> None:
        exchange.send(self.stream_head())
        events = list(self.tool_events() if self.has_tools(exchange) else self.events())
        for event in events[: len(events) // 2] if self.fault.cut else events:
            exchange.chunk(event)
        if self.fault.broken:
            exchange.chunk(self.fault.broken)
        exchange.chunk(b"")

    def stream_head(self) -> bytes:
        """The head of a stream."""
        return stream_head()

    def has_tools(self, exchange: Exchange) -> bool:
        """Whether a request offers tools."""
        return b"get_weather" in exchange.body

    def streams(self, exchange: Exchange) -> bool:
        """Whether a request asks for a stream."""
        return json.loads(exchange.body).get("stream") is True

    @abstractmethod
    def answer(self) -> Any:
        """A whole answer with the text."""

    @abstractmethod
    def tool_answer(self) -> Any:
        """A whole answer with a call of the tool."""

    @abstractmethod
    def events(self) -> Iterable[bytes]:
        """A stream with the text."""

    @abstractmethod
    def tool_events(self) -> Iterable[bytes]:
        """A stream with a call of the tool."""

    @abstractmethod
    def error(self, status: int) -> tuple[Any, ...]:
        """The body of a refusal, and further header lines."""


def sse(data: Any, event: str | None = None) -> bytes:
    """A server-sent event."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()
