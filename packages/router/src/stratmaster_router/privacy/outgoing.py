"""A request as a provider may see it: found data replaced by placeholders, in every string of the body. Pure.

It fails closed. Every string is searched, also those of fields that nobody knows, and the names of members; what cannot
be searched (pictures, sound, files, token ids) makes the request unfit for such a provider. Left as they are: the
model's name, which the router writes itself, and the ids of tool calls, which the provider made.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.privacy.detect import Detector, Finding
from stratmaster_router.privacy.placeholders import Placeholders, placeholder, unused_tag
from stratmaster_router.wire.envelope import Envelope
from stratmaster_router.wire.json_text import members

PARTS = "the request has a picture, sound, a file or a part of an unknown type"
TOKENS = "the request has token ids instead of text"

# Words of the protocol, as names and as values: they are nobody's data, and looking through them takes time.
_WORDS = frozenset(
    """
    additionalProperties anyOf arguments array assistant auto boolean content default description developer enum
    format frequency_penalty function function_call functions include_usage input integer items json_object json_schema
    logit_bias logprobs max_completion_tokens max_tokens maximum messages metadata minimum n name none null number
    object parallel_tool_calls parameters presence_penalty prompt properties reasoning_content reasoning_effort refusal
    required response_format role schema seed stop store stream stream_options strict string suffix system temperature
    text title tool tool_call_id tool_calls tool_choice tools top_logprobs top_p type user
    """.split()  # noqa: SIM905  # one a line would fill a page
)
_TEXT_PARTS = frozenset({"text", "refusal"})
_MEDIA = frozenset({"image_url", "input_audio", "file", "file_data", "video_url"})
# A number of fewer digits is nothing that could be found.
_LEAST_NUMBER = 10**6
# A text in which each thing found lays open another is made to take time.
_MOST_ROUNDS = 8

_Change = tuple[int, int, str]
"""A place in a text, and what is to stand there."""

# A client may have written JSON in a string with bare line ends in it.
_decode = json.JSONDecoder(strict=False).decode
_begins_json = re.compile(r"[ \t\n\r]*[\[{]").match
_string = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
# With a letter: digits alone may be anything.
_id = re.compile(r"(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{1,128}").fullmatch


class Unsearchable(Exception):
    """A part of a request can be neither searched nor replaced; the message says what to do, not what it holds."""


class Redacted(Struct, frozen=True):
    """A request with placeholders; `values` has what each stands for, `found` how many there are of each kind."""

    envelope: Envelope
    values: Mapping[str, str]
    found: Mapping[str, int]


def unsearchable(endpoint: Endpoint, fields: Mapping[str, Any]) -> str | None:
    """What a request has that cannot be searched, or None."""
    if endpoint is Endpoint.CHAT:
        contents = (message.get("content") for message in fields["messages"])
        return None if all(map(_searchable, contents)) else PARTS
    value = fields["prompt" if endpoint is Endpoint.COMPLETIONS else "input"]
    return None if type(value) is str or all(type(item) is str for item in value) else TOKENS


def _searchable(content: Any) -> bool:
    if type(content) is not list:
        return True
    for part in content:
        kind = part.get("type") if type(part) is dict else None
        if kind == "tool_result":
            if not _searchable(part.get("content")):
                return False
        elif kind not in _TEXT_PARTS:
            return False
        if not _MEDIA.isdisjoint(part):
            return False
    return True


def redact(endpoint: Endpoint, envelope: Envelope, detector: Detector) -> Redacted:
    """`envelope` with a placeholder for each thing that `detector` finds; the same one where it finds nothing.

    Raises `Unsearchable`, and whatever the detector raises: nothing may be sent then.
    """
    fields = envelope.fields
    unfit = unsearchable(endpoint, fields)
    if unfit is not None:
        raise Unsearchable(f"{unfit}, which cannot be searched")
    texts: dict[str, None] = {}
    for name, value in fields.items():
        if name not in _WORDS and detector.find(name):
            raise Unsearchable("the name of a field is data that the policy redacts; write it as a value")
        # A number at the top is a parameter. The model is written anew for each hop.
        if name != "model" and type(value) not in (int, float):
            _collect(value, texts, detector)
    search = _Search(detector, Placeholders(unused_tag(texts)))
    changes = {}
    for text in texts:
        changed = search.replaced(text)
        if changed != text:
            changes[text] = changed
    if not changes:
        return Redacted(envelope, {}, {})
    new = {name: value if name == "model" else _rewritten(value, changes) for name, value in fields.items()}
    return Redacted(_written(envelope, new), search.placeholders.values, search.placeholders.found)


def _collect(value: Any, texts: dict[str, None], detector: Detector) -> None:
    """Add every string in `value`, names of members included, but words of the protocol."""
    kind = type(value)
    if kind is str:
        if value not in _WORDS:
            texts[value] = None
    elif kind is dict:
        for name, each in value.items():
            if name not in _WORDS:
                texts[name] = None
            if not (_names_a_call(name, value) and type(each) is str and _id(each)):
                _collect(each, texts, detector)
    elif kind is list:
        for each in value:
            _collect(each, texts, detector)
    elif kind in (int, float) and abs(value) >= _LEAST_NUMBER and detector.find(_digits(value)):
        raise Unsearchable("a number in it may be data that the policy redacts; write it as a text")


def _digits(number: float) -> str:
    return str(abs(number)) if type(number) is int else f"{abs(number):.0f}"


def _names_a_call(name: str, members: Mapping[str, Any]) -> bool:
    return name == "tool_call_id" or (name == "id" and "function" in members)


class _Search:
    """Replaces what is found in one text after another."""

    def __init__(self, detector: Detector, placeholders: Placeholders) -> None:
        self._find = detector.find
        self.placeholders = placeholders

    def replaced(self, text: str) -> str:
        """`text` with placeholders, in which nothing more is found.

        One that is JSON, as a tool's arguments and results mostly are, stays JSON, and what it has escaped is searched
        as it is meant.
        """
        if "\\" in text and _is_json(text):
            text = _string.sub(self._unescaped, text)
        # Again, because what was found may have hidden what it touched.
        for _ in range(_MOST_ROUNDS):
            found = self._fresh(text)
            if not found:
                return text
            changes = self._in_json(text, found) if _is_json(text) else self._named(text, found)
            text = _spliced(text, sorted(changes))
        raise Unsearchable("in a text of it, data runs into data; separate them")

    def _fresh(self, text: str) -> list[Finding]:
        """What is found in `text`, but for parts of placeholders: each grows by what it cuts."""
        found = self._find(text)
        if not found or not self.placeholders.values:
            return found
        taken = [match.span() for match in placeholder.finditer(text) if match[0] in self.placeholders.values]
        fresh = []
        place = 0
        for kind, start, end in found:
            while place < len(taken) and taken[place][1] <= start:
                place += 1
            first, last, within = start, end, False
            at = place
            while at < len(taken) and taken[at][0] < last:
                begin, stop = taken[at]
                within = begin <= first and last <= stop
                first, last = min(first, begin), max(last, stop)
                at += 1
            if not within:
                fresh.append(Finding(kind, first, last))
        return fresh

    def _named(self, text: str, found: list[Finding]) -> set[_Change]:
        return {(start, end, self.placeholders.of(kind, text[start:end])) for kind, start, end in found}

    def _unescaped(self, match: re.Match[str]) -> str:
        """A string of a JSON text, replaced by what is found in what it means."""
        written = match[0]
        if "\\" not in written:
            return written
        value = _decode(written)
        changed = self.replaced(value)
        return written if changed == value else json.dumps(changed, ensure_ascii=written.isascii())

    def _in_json(self, text: str, found: list[Finding]) -> set[_Change]:
        """Changes of a JSON text: within its strings, and to strings in the place of its numbers."""
        strings = [match.span() for match in _string.finditer(text)]
        changes = set()
        for kind, start, end in found:
            place = bisect_right(strings, (start, len(text))) - 1
            begin, stop = strings[place] if place >= 0 else (0, 0)
            if start >= stop:
                changes.add((start, end, f'"{self.placeholders.of(kind, text[start:end])}"'))
            elif "\\" in text[begin:stop]:
                # A part of it might cut an escape in two.
                value = _decode(text[begin:stop])
                changes.add((begin, stop, f'"{self.placeholders.of(kind, value)}"'))
            else:
                changes.add((start, end, self.placeholders.of(kind, text[start:end])))
        return changes


def _spliced(text: str, changes: list[_Change]) -> str:
    parts: list[str] = []
    at = 0
    for start, end, changed in changes:
        parts += (text[at:start], changed)
        at = max(at, end)
    parts.append(text[at:])
    return "".join(parts)


def _is_json(text: str) -> bool:
    """Whether `text` is a JSON object or array."""
    if not _begins_json(text):
        return False
    try:
        _decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _rewritten(value: Any, changes: Mapping[str, str]) -> Any:
    kind = type(value)
    if kind is str:
        return changes.get(value, value)
    if kind is dict:
        return {changes.get(name, name): _rewritten(each, changes) for name, each in value.items()}
    if kind is list:
        return [_rewritten(each, changes) for each in value]
    return value


def _written(envelope: Envelope, fields: dict[str, Any]) -> Envelope:
    """The envelope of `fields`, which have the same names: what has not changed keeps its bytes."""
    if envelope.text is None:
        body = msgspec.json.encode(fields)
        return msgspec.structs.replace(envelope, fields=fields, body=body)
    text = envelope.text
    parts: list[str] = []
    at = 0
    for name, (begin, end) in sorted(envelope.places.items(), key=lambda member: member[1]):
        if fields[name] != envelope.fields[name]:
            parts += (text[at:begin], json.dumps(fields[name], separators=(",", ":"), allow_nan=False))
            at = end
    parts.append(text[at:])
    text = "".join(parts)
    fields, places = members(text)
    return msgspec.structs.replace(envelope, fields=fields, body=text.encode(), text=text, places=places)
