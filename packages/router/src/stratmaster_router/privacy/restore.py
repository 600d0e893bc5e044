"""An answer with the data that its placeholders stand for, whole or in events, however they were split. Pure.

Restored are the texts of the model: each string of `message`, `delta` and `text`, also the arguments of tool calls,
where a value is escaped for the JSON that they are. Left as they are: `logprobs`, whose tokens are the provider's own,
and all that stands outside of the choices. An answer or event without a placeholder keeps its bytes.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from stratmaster_router.privacy.placeholders import Restorer, restored
from stratmaster_router.wire.sse import EventSplitter, event_data, with_data

_NO_TEXT = frozenset({"id", "index", "role", "type"})
# What an event of our own has in common with those of its stream.
_FRAME = ("id", "object", "created", "model", "system_fingerprint")

_Path = tuple[str | int, ...]
"""Where a text stands in a choice: a number is the `index` of a list's item, or if negative its place, from -1."""

_Restore = Callable[[str, _Path, bool], str]


def answers_in_json(fields: Mapping[str, Any]) -> bool:
    """Whether a request wants the content of its answer to be JSON."""
    wanted = fields.get("response_format")
    return type(wanted) is dict and wanted.get("type") in ("json_object", "json_schema")


def restore_answer(body: bytes, values: Mapping[str, str], *, json_content: bool) -> bytes:
    """A whole answer, restored; `values` has what each placeholder stands for."""

    def restore(text: str, _: _Path, in_json: bool) -> str:
        return restored(text, values, in_json=in_json)

    try:
        answer = json.loads(body)
        changed = [choice for choice in _choices(answer) if _walk(choice, restore, json_content)]
    except (ValueError, RecursionError):
        return body
    return _encoded(answer) if changed else body


class StreamRestorer:
    """Restores a stream of events, each choice and each text in it by itself.

    What could still become a placeholder is held back, and comes at the latest with the choice's finish reason.
    """

    def __init__(self, values: Mapping[str, str], *, json_content: bool) -> None:
        self._restorer = Restorer(values)
        self._json_content = json_content
        self._splitter = EventSplitter()
        self._held: dict[tuple[Any, _Path], str] = {}
        self._frame: Mapping[str, Any] = {}

    def feed(self, events: bytes) -> bytes:
        """The events that `events` completes, restored."""
        return b"".join([self._event(event) for event in self._splitter.feed(events)])

    def end(self) -> bytes:
        """What is left at the end of the stream."""
        rest, self._splitter = self._splitter.rest(), EventSplitter()
        last = self._event(rest) if rest else b""
        held = self.flush()
        return last + b"\n\n" + held if last and held else last + held

    def flush(self) -> bytes:
        """What is held back, in events of its own: nothing more will come that it could belong to."""
        return self._flushed(list(self._held))

    def _event(self, event: bytes) -> bytes:
        data = event_data(event)
        if data is None:
            return event
        if data.strip() == b"[DONE]":
            return self.flush() + event
        if not self._held and data.count(b"[") < 2 and b"\\u005" not in data:
            return event  # the bracket of its choices is the only one
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            return event
        choices = _choices(chunk)
        if not choices:
            # The usage comes when all has been said.
            return self.flush() + event if type(chunk) is dict and chunk.get("usage") else event
        self._frame = chunk
        changed = False
        before: list[tuple[Any, _Path]] = []
        for choice in choices:
            index = choice.get("index")
            last = choice.get("finish_reason") is not None
            changed |= _walk(choice, self._text(index, last=last), self._json_content)
            if last:
                before += [place for place in self._held if place[0] == index]
        held = self._flushed(before)
        return held + (with_data(event, _encoded(chunk)) if changed else event)

    def _text(self, index: Any, *, last: bool) -> _Restore:
        def restore(piece: str, path: _Path, in_json: bool) -> str:
            place = (index, path)
            text, held = self._restorer.feed(self._held.pop(place, "") + piece, in_json=in_json)
            if last:
                return text + held
            if held:
                self._held[place] = held
            return text

        return restore

    def _flushed(self, places: list[tuple[Any, _Path]]) -> bytes:
        """Events with what is held at `places`."""
        events = b""
        for place in places:
            index, path = place
            choice: dict[str, Any] = {
                "index": index or 0,
                **_nested(path, self._held.pop(place)),
                "finish_reason": None,
            }
            chunk = {name: self._frame[name] for name in _FRAME if name in self._frame}
            events += b"data: " + _encoded({**chunk, "choices": [choice]}) + b"\n\n"
        return events


def _choices(answer: Any) -> list[dict[str, Any]]:
    choices = answer.get("choices") if type(answer) is dict else None
    return [choice for choice in choices if type(choice) is dict] if type(choices) is list else []


def _walk(choice: dict[str, Any], restore: _Restore, json_content: bool) -> bool:
    """Restore the texts of a choice where they stand; whether there was anything to restore."""
    changed = False
    for name in ("message", "delta"):
        if type(choice.get(name)) is dict:
            changed |= _walk_members(choice[name], (name,), restore, json_content, in_json=False)
    text = choice.get("text")
    if type(text) is str:
        choice["text"] = restore(text, ("text",), False)
        changed |= choice["text"] != text
    return changed


def _walk_members(value: dict[str, Any], path: _Path, restore: _Restore, json_content: bool, *, in_json: bool) -> bool:
    changed = False
    for name, each in value.items():
        if name in _NO_TEXT:
            continue
        inside = in_json or name == "arguments" or (json_content and name == "content")
        if type(each) is str:
            if each:
                value[name] = restore(each, (*path, name), inside)
                changed |= value[name] != each
        elif type(each) is dict:
            changed |= _walk_members(each, (*path, name), restore, json_content, in_json=inside)
        elif type(each) is list:
            for place, item in enumerate(each):
                if type(item) is dict:
                    index = item.get("index")
                    number = index if type(index) is int and index >= 0 else -1 - place
                    changed |= _walk_members(item, (*path, name, number), restore, json_content, in_json=inside)
    return changed


def _nested(path: _Path, text: str) -> dict[str, Any]:
    """The members of a choice that have `text` at `path` and nothing else."""
    value: Any = text
    for part in reversed(path):
        value = {part: value} if isinstance(part, str) else [{"index": part, **value} if part >= 0 else value]
    members: dict[str, Any] = value
    return members


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
