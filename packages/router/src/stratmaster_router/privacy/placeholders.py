"""What stands for found data in one request to a provider, and the way back. Pure.

A placeholder is `[KIND_n]`, such as `[EMAIL_1]`: words in brackets are copied by models as they stand, and JSON never
escapes them. Numbers are given in the order of the texts, so that a conversation that grows keeps its beginning, and
with it the provider's prompt cache; the same value has the same placeholder in the whole request, so that a model can
reason about it. Where the request's own text has something alike, all placeholders carry a tag that it has not
(`[EMAIL_A1]`): what a caller writes is never taken for another's data, and no placeholder outlives its request.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import count, product
from string import ascii_uppercase

placeholder = re.compile(r"\[[A-Z0-9_]+\]")
"""All that could be a placeholder; whether it is one, the request's values tell."""

_alike = re.compile(r"\[[A-Z0-9_]*_([A-Z]*)[0-9]+\]")
_escape = re.compile(r"\\u([0-9a-fA-F]{4})")
_unnamed = re.compile(r"[^A-Z0-9]+")


def unused_tag(texts: Iterable[str]) -> str:
    """The first tag that no text has in anything like a placeholder; mostly the empty one."""
    used: set[str] = set()
    for text in texts:
        if "\\u" in text:  # of JSON in a text
            used.update(_alike.findall(_escape.sub(lambda match: chr(int(match[1], 16)), text)))
        if "[" in text:
            used.update(_alike.findall(text))
    return next(tag for tag in _tags() if tag not in used)


def _tags() -> Iterable[str]:
    for length in count():
        for letters in product(ascii_uppercase, repeat=length):
            yield "".join(letters)


class Placeholders:
    """The placeholders of one request, made as its data is found.

    `values` has what each stands for; `found` how many different values there are of each kind.
    """

    __slots__ = ("_by_value", "_tag", "found", "values")

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._by_value: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.found: Counter[str] = Counter()

    def of(self, kind: str, value: str) -> str:
        """What stands for `value`. Where it has placeholders in it, what they stand for is meant."""
        value = restored(value, self.values)
        known = self._by_value.get(value)
        if known is None:
            self.found[kind] += 1
            label = _unnamed.sub("_", kind.upper())
            known = self._by_value[value] = f"[{label}_{self._tag}{self.found[kind]}]"
            self.values[known] = value
        return known


def restored(text: str, values: Mapping[str, str], *, in_json: bool = False) -> str:
    """`text` with the values of its placeholders; `in_json`: the text is JSON, in whose strings they stand."""
    if "[" not in text:
        return text

    def value(match: re.Match[str]) -> str:
        found = values.get(match[0])
        if found is None:
            return match[0]
        return json.dumps(found, ensure_ascii=False)[1:-1] if in_json else found

    return placeholder.sub(value, text)


class Restorer:
    """Restores texts that come in pieces, holding back only what could still become one of the placeholders."""

    __slots__ = ("_beginnings", "_longest", "_values")

    def __init__(self, values: Mapping[str, str]) -> None:
        """`values` has what each placeholder stands for."""
        self._values = values
        self._beginnings = frozenset(each[:end] for each in values for end in range(1, len(each)))
        self._longest = max(map(len, values), default=0)

    def feed(self, text: str, *, in_json: bool) -> tuple[str, str]:
        """What of `text` can be passed on, restored, and the end of it that must stand before the next piece.

        What is held and never completed is no placeholder: it is passed on as it is.
        """
        held = ""
        begin = text.rfind("[", max(0, len(text) - self._longest + 1))
        if begin >= 0 and text[begin:] in self._beginnings:
            text, held = text[:begin], text[begin:]
        return restored(text, self._values, in_json=in_json), held
