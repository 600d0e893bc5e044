"""Reads YAML 1.2 into a tree in which everything knows its line and every number is exact.

Works on ruamel's event stream, so that all duplicate keys are seen, `on` stays a text, `0.15` never passes through a
float, and an alias bomb is met by a count before anything is expanded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from stratmaster_router.policy.problems import NOTHING, Loc, Nothing, PolicyInvalid, Problem, path_of, shown

MAX_CHARACTERS = 4 * 1024 * 1024
MAX_NODES = 200_000
"""Nodes of the whole document with every alias expanded."""
MAX_DEPTH = 32

Scalar = str | int | Decimal | bool | Nothing

_TEXT_TAG = "tag:yaml.org,2002:str"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WHOLE = re.compile(r"[-+]?[0-9]+")
_FRACTION = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 100


@dataclass(frozen=True, slots=True)
class Node:
    """A value, the 1-based line on which it is written, and how many nodes it stands for."""

    line: int
    value: "Scalar | dict[str, Node] | list[Node]"
    size: int = 1

    def plain(self) -> object:
        """The value without lines: dict, list, str, int, Decimal, bool or NOTHING; nothing in it is shared."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def line_of(self, loc: Loc) -> int:
        """The line of the deepest part of `loc` that is written."""
        node = self
        for part in loc:
            # A place that is not written: a required field that is missing, or a value of the wrong kind above it.
            if isinstance(node.value, dict):
                child = node.value.get(str(part))
            else:
                child = node.value[part] if isinstance(node.value, list) and isinstance(part, int) else None
            if child is None:
                break
            node = child
        return node.line


def read(text: str) -> tuple[Node, list[Problem]]:
    """The tree of one YAML document, and the duplicate or unusable keys and tags in it.

    Raises PolicyInvalid when there is no tree to speak of: broken syntax, an empty file, more than one document,
    an alias that contains itself, or a document beyond the bounds above.
    """
    if len(text) > MAX_CHARACTERS:
        raise PolicyInvalid([Problem("", 1, f"the file is larger than {MAX_CHARACTERS} characters")])
    try:
        return _Reader(text).document()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise PolicyInvalid(
            [Problem("", line, f"not YAML: character U+{error.character:04X} is not allowed")]
        ) from None
    except MarkedYAMLError as error:
        raise PolicyInvalid([_syntax(error)]) from None
    except YAMLError:
        raise PolicyInvalid([Problem("", 1, "not YAML")]) from None


def _syntax(error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    message = f"not YAML: {' '.join(str(error.problem).split())}"
    if "<block end>" in message:
        message += "; check the indentation"
    if error.context and error.context_mark:
        message += f" ({error.context} that starts on line {error.context_mark.line + 1})"
    return Problem("", line, message)


class _Reader:
    def __init__(self, text: str) -> None:
        self._events: Iterator[Event] = iter(YAML(typ="safe", pure=True).parse(text))
        self._anchors: dict[str, Node | None] = {}
        self._problems: list[Problem] = []
        self._nodes = 0

    def document(self) -> tuple[Node, list[Problem]]:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise self._fatal(event, (), "a second document starts here; a policy is one document")
                root = self._node(next(self._events), ())
        if root is None or root.value is NOTHING:
            raise PolicyInvalid([Problem("", 1, "the file is empty; a policy has at least `tenants:`")])
        return root, self._problems

    def _node(self, event: Event, loc: Loc) -> Node:
        if isinstance(event, AliasEvent):
            return self._alias(event, loc)
        assert isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent)
        if len(loc) > MAX_DEPTH:
            raise self._fatal(event, (), f"nested more than {MAX_DEPTH} levels deep")
        anchor: str | None = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        self._count(event, 1)
        if event.tag not in (None, _TEXT_TAG) or (event.tag and not isinstance(event, ScalarEvent)):
            self._problem(_line(event), loc, "tags are not supported; write the plain value")
        if isinstance(event, ScalarEvent):
            resolved = event.implicit[0] and event.tag is None
            node = Node(_line(event), _resolve(event.value) if resolved else event.value)
        elif isinstance(event, MappingStartEvent):
            node = self._mapping(event, loc)
        else:
            node = self._sequence(event, loc)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _alias(self, event: AliasEvent, loc: Loc) -> Node:
        if event.anchor not in self._anchors:
            raise self._fatal(event, loc, f"alias to an anchor that is not written above: {shown(event.anchor)}")
        target = self._anchors[event.anchor]
        if target is None:
            raise self._fatal(event, loc, f"alias inside its own anchor: {shown(event.anchor)}")
        self._count(event, target.size)
        return target

    def _mapping(self, start: MappingStartEvent, loc: Loc) -> Node:
        entries: dict[str, Node] = {}
        size = 1
        while not isinstance(event := next(self._events), MappingEndEvent):
            merge = isinstance(event, ScalarEvent) and event.value == "<<" and event.implicit[0]
            key = self._node(event, loc)
            name = "<<" if merge else self._key_name(key)
            inner = (*loc, name)
            value = self._node(next(self._events), inner)
            size += key.size + value.size
            if merge:
                self._problem(
                    key.line, inner, "merge keys are not supported; repeat the fields, or alias a whole value"
                )
            elif not isinstance(key.value, str):
                self._problem(key.line, inner, self._key_advice(key))
            elif name in entries:
                self._problem(key.line, inner, f"duplicate key, first written on line {entries[name].line}")
            else:
                # An entry is looked for where its key stands, which is not always where its value begins.
                entries[name] = Node(key.line, value.value, value.size)
        return Node(_line(start), entries, size)

    def _sequence(self, start: SequenceStartEvent, loc: Loc) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._node(event, (*loc, len(items))))
        return Node(_line(start), items, 1 + sum(item.size for item in items))

    @staticmethod
    def _key_name(key: Node) -> str:
        if isinstance(key.value, (dict, list)):
            return "?"
        return shown(key.value) if isinstance(key.value, (bool, Nothing)) else str(key.value)

    @staticmethod
    def _key_advice(key: Node) -> str:
        quotes = "; write it in quotes" if isinstance(key.value, (bool, int, Decimal)) else ""
        return f"a key must be a text, got {shown(key.value)}{quotes}"

    def _problem(self, line: int, loc: Loc, message: str) -> None:
        self._problems.append(Problem(path_of(loc), line, message))

    def _fatal(self, event: Event, loc: Loc, message: str) -> PolicyInvalid:
        return PolicyInvalid([*self._problems, Problem(path_of(loc), _line(event), message)])

    def _count(self, event: Event, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._fatal(event, (), f"more than {MAX_NODES} nodes, with aliases expanded")


def _line(event: Event) -> int:
    line: int = event.start_mark.line
    return line + 1


def _resolve(text: str) -> Scalar:
    """A plain scalar by YAML 1.2's core schema, with exact numbers (policy.md, rule 7)."""
    if text in _NULLS:
        return NOTHING
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) <= _LONGEST_NUMBER:
        if _WHOLE.fullmatch(text):
            return int(text)
        if _FRACTION.fullmatch(text):
            try:
                return Decimal(text)
            except InvalidOperation:  # an exponent beyond what Decimal holds
                return text
    return text
