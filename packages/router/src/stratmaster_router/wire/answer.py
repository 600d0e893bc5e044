"""What an upstream answered: is it whole, is it an error in disguise, what did it use? Pure.

Sources: wire.md ("Streams", "Bodies pass through unchanged"); field.md (in-band errors taken for success, cut streams
that nobody notices, usage that is never billed).
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from stratmaster_router.domain.errors import StreamBroken
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.domain.usage import Usage
from stratmaster_router.wire.sse import EventSplitter, EventTooLong, event_data
from stratmaster_router.wire.usage import read_usage

# Looking a member up on its enum is as dear as a call.
_EMBEDDINGS = Endpoint.EMBEDDINGS
# msgspec keeps a null as raw bytes too, so there are two ways of not being there.
_ABSENT = Raw()
_NULL = Raw(b"null")


# Invalid UTF-8 in a text that is read is a UnicodeDecodeError, which is no DecodeError of msgspec's.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_surrogate = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

_T = TypeVar("_T")


def _lenient(decode: Callable[[bytes], _T], data: bytes) -> _T:
    """Decode; msgspec refuses an escaped half of a character, which JSON and the clients allow (RFC 8259, 8.2)."""
    try:
        return decode(data)
    except msgspec.DecodeError:
        return decode(_surrogate.sub(rb"\\ufffd", data))


class BadAnswer(Exception):
    """An answer with status 200 that is none; `code` is the attempt's code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Whole(Struct):
    choices: list[Raw] | None = None
    data: list[Raw] | None = None
    usage: Raw = _ABSENT
    error: Raw = _ABSENT


_decode_whole = msgspec.json.Decoder(_Whole).decode


def read_answer(endpoint: Endpoint, body: bytes) -> Usage | None:
    """Check a whole answer and return what it used, where it says so. Raises `BadAnswer`."""
    try:
        answer = _lenient(_decode_whole, body)
    except UNREADABLE:
        raise BadAnswer(
            "upstream_invalid_response", "The provider's answer is not the JSON that it should be."
        ) from None
    if answer.error and answer.error != _NULL:
        raise BadAnswer("upstream_error_in_body", "The provider answered with an error in a success.")
    if (answer.data if endpoint is _EMBEDDINGS else answer.choices) is None:
        raise BadAnswer("upstream_invalid_response", "The provider's answer lacks its result.")
    return read_usage(answer.usage)


class _Choice(Struct):
    index: int | None = None
    finish_reason: str | None = None
    # Kept as they are, of whatever shape: only their size is read, and their texts where the usage is missing.
    delta: Raw = _ABSENT
    text: Raw = _ABSENT


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = _ABSENT
    error: Raw = _ABSENT


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


# `{}` and `null` say nothing; `{"content":""}` is what stands around a text; no usual token is longer than 16 bytes.
_EMPTY = 4
_FRAME = 14
_NO_TEXTS = (b'""', b"null")
_LONGEST_TOKEN = 16


def answer_text(endpoint: Endpoint, body: bytes) -> str:
    """All texts of a whole answer that `read_answer` has accepted; an embedding has none."""
    if endpoint is _EMBEDDINGS:
        return ""
    found: list[str] = []
    for choice in _lenient(msgspec.json.Decoder(_Texts).decode, body).choices:
        _texts(choice.message, found)
        _texts(choice.text, found)
    return " ".join(found)


class _Text(Struct):
    message: Any = None
    text: Any = None


class _Texts(Struct):
    choices: list[_Text] = []


# Members of a message that are no text of the model's.
_NO_TEXT = frozenset({"role", "id", "type", "index", "audio", "logprobs"})


def _texts(value: Any, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, list):
        for each in value:
            _texts(each, found)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name not in _NO_TEXT:
                _texts(each, found)


class StreamReader:
    """Follows a stream of events: what may be passed on, what was used, and whether it came to its end.

    `started` is true once an event with data has come whole, `complete` once `[DONE]` has: nothing can go wrong with
    the answer after that. `usage` is the last that the upstream reported. `least` is how many output tokens there must
    have been, whatever the tokenizer.
    """

    __slots__ = (
        "_broken",
        "_finished",
        "_pieces",
        "_show_usage",
        "_splitter",
        "_unfinished",
        "complete",
        "least",
        "started",
        "usage",
    )

    def __init__(self, show_usage: bool) -> None:
        self.started = False
        self.usage: Usage | None = None
        self.least = 0
        self._pieces = bytearray()
        self._show_usage = show_usage
        self._splitter = EventSplitter()
        self._unfinished: set[int | None] = set()
        self._finished = False
        self.complete = False
        self._broken: StreamBroken | None = None

    def feed(self, data: bytes) -> bytes:
        """The whole events that the client may have now, byte for byte.

        Raises `StreamBroken` at an event that is an error or cannot be read. Where events stand before it that a
        started stream may pass on, they are returned, and the next call raises: how the bytes were cut into chunks
        makes no difference to the client.
        """
        self.check()
        started = self.started
        passed = b""
        try:
            for event in self._splitter.feed(data):
                if self._passes(event):
                    passed = passed + event if passed else event
        except EventTooLong:
            if not self.complete:
                self._broken = StreamBroken("upstream_stream_invalid", "The provider sent an event that does not end.")
        except StreamBroken as broken:
            self._broken = broken
        if self._broken is not None and not (started and passed):
            raise self._broken
        return passed

    def check(self) -> None:
        """Raises the `StreamBroken` that the last `feed` put off."""
        if self._broken is not None:
            raise self._broken

    def end(self) -> bytes:
        """The upstream closed the stream: what is left to pass on. Raises `StreamBroken` where the stream was cut."""
        self.check()
        rest = self._splitter.rest()
        tail = b""
        if rest.strip() and not self.complete:
            # Some servers leave out the last empty line. What can be read whole is taken; half an event is a cut.
            tail = rest if self._passes(rest) else b""
        if not (self.complete or (self._finished and not self._unfinished)):
            raise self.truncated()
        return tail

    @staticmethod
    def truncated() -> StreamBroken:
        """The failure of a stream that ended before its end."""
        return StreamBroken("upstream_stream_truncated", "The provider's stream ended before the answer was complete.")

    def text(self) -> str:
        """All texts of the answer so far: contents, reasoning, refusals, arguments of calls, one after another."""
        found: list[str] = []
        for line in bytes(self._pieces).splitlines():
            # A piece that the upstream wrote over several lines, or in no JSON that can be read, counts as it stands.
            try:
                _texts(_lenient(msgspec.json.decode, line), found)
            except UNREADABLE:
                found.append(line.decode(errors="replace"))
        return "".join(found)

    def _passes(self, event: bytes) -> bool:
        if self.complete:
            return False  # nothing that follows belongs to the answer
        data = event_data(event)
        if data is None:
            return True
        if data.strip() == b"[DONE]":
            self.started = self.complete = True
            return True
        try:
            chunk = _lenient(_decode_chunk, data)
        except UNREADABLE:
            raise StreamBroken("upstream_stream_invalid", "The provider sent an event that cannot be read.") from None
        if chunk.error and chunk.error != _NULL:
            raise StreamBroken("upstream_stream_error", "The provider reported an error inside its stream.")
        self.started = True
        choices = chunk.choices
        if choices:
            for choice in choices:
                piece = choice.delta or choice.text
                if len(piece) > _EMPTY or (choice.text and piece not in _NO_TEXTS):
                    self._pieces += piece
                    self._pieces += b"\n"
                    if choice.index in self._unfinished or choice.text:  # a chat's first chunk often only opens it
                        self.least += max(1, (len(piece) - _FRAME) // _LONGEST_TOKEN)
                if choice.finish_reason is None:
                    self._unfinished.add(choice.index)
                else:
                    self._unfinished.discard(choice.index)
                    self._finished = True
        if chunk.usage:
            usage = read_usage(chunk.usage)
            if usage is not None:
                self.usage = usage
                return self._show_usage or bool(choices)
        return True
