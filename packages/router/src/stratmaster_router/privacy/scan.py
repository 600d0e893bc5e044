r"""Looking for personal data in lines of a log: where it stands, never what. Pure.

A line that is a JSON object is searched value by value, as its reader sees them: with escapes resolved, so that a
number behind `\n` or an address with `\u0040` is found. Any other line is searched as text.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from stratmaster_router.privacy.detect import Detector

_token = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]|-?[0-9][0-9.eE+-]*')
# What stands for one character in a JSON string; a pair of surrogates does.
_unit = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^\\]", re.DOTALL)
_plain_name = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,63}").fullmatch
_HIDDEN = "<a name>"


class Place(NamedTuple):
    """Something of `kind` begins at `column`, counted from 1 in characters, in the value of `field`.

    `field` is such as `messages[0].content`; empty for a line that is no JSON object.
    """

    column: int
    field: str
    kind: str


def places(line: str, detector: Detector) -> Iterator[Place]:
    """What `detector` finds in a line, in the order of its places."""
    if not _is_object(line):
        for kind, begin, _ in detector.find(line):
            yield Place(begin + 1, "", kind)
        return
    # Of each object around the value the name of its member, None before there is one; of each array the index.
    around: list[str | int | None] = []
    for token in _token.finditer(line):
        text = token[0]
        if text == "{":
            around.append(None)
        elif text == "[":
            around.append(0)
        elif text in "}]":
            around.pop()
        elif text == ",":
            last = around[-1]
            around[-1] = last + 1 if isinstance(last, int) else None
        elif text[0] == '"':
            value = json.loads(text, strict=False)
            found = detector.find(value)
            is_name = around[-1] is None
            if is_name:
                # A name that is personal data itself, or that might be anything, is not shown.
                around[-1] = value if _plain_name(value) and not found else _HIDDEN
            for kind, begin, _ in found:
                column = token.start() + 2 + (begin if "\\" not in text else _written(text[1:-1], begin))
                yield Place(column, _field(around), kind)
        else:
            for kind, begin, _ in detector.find(text):
                yield Place(token.start() + 1 + begin, _field(around), kind)


def _is_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return type(msgspec.json.decode(line)) is dict
    except (msgspec.DecodeError, RecursionError):
        return False


def _written(raw: str, characters: int) -> int:
    """The place in a JSON string as it is written of the character that has `characters` before it."""
    at = 0
    for _ in range(characters):
        unit = _unit.match(raw, at)
        assert unit is not None, "it is valid JSON"
        at = unit.end()
    return at


def _field(around: list[str | int | None]) -> str:
    text = ""
    for part in around:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else f"{part}"
    return text
