"""From the text of a policy file to a valid document, or to every reason why it is not one (policy.md, rule 9)."""

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stratmaster_router.policy import semantics, yamltree
from stratmaster_router.policy.problems import Loc, PolicyInvalid, Problem, did_you_mean, path_of, shown
from stratmaster_router.policy.schema import PolicyDocument

MAX_PROBLEMS = 1000


def decode(content: bytes) -> str:
    """The text of a policy file, which is UTF-8 with or without a byte order mark; raises PolicyInvalid."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PolicyInvalid([Problem("", line, f"not UTF-8: byte 0x{content[error.start]:02x}")]) from None


def parse(text: str) -> PolicyDocument:
    """The document that `text` holds. Raises PolicyInvalid with all problems, sorted by line."""
    root, problems = yamltree.read(text)
    plain = root.plain()
    document: PolicyDocument | None
    try:
        document, removed = PolicyDocument.model_validate(plain), semantics.Removed(())
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        problems += [_problem(root, *_described(error)) for error in errors[:MAX_PROBLEMS]]
        if len(errors) > MAX_PROBLEMS:
            problems.append(Problem("", root.line_of(()), f"{len(errors) - MAX_PROBLEMS} more problems are not listed"))
        document, removed = _valid_part(plain, errors)
    if document is not None:
        problems += [_problem(root, loc, message) for loc, message in semantics.check(document, removed)]
    if problems or document is None:
        raise PolicyInvalid(problems)
    return document


def _problem(root: yamltree.Node, loc: Loc, message: str) -> Problem:
    return Problem(path_of(loc), root.line_of(loc), message)


def _described(error: ErrorDetails) -> tuple[Loc, str]:
    loc, value = error["loc"], error["input"]
    match error["type"]:
        case "extra_forbidden":
            known = _fields_at(loc[:-1])
            return (loc, f"unknown field{did_you_mean(str(loc[-1]), known) or '; known here: ' + ', '.join(known)}")
        case "missing":
            return loc, "is required"
        case "policy":
            return _place(loc), error["msg"]
        case "model_type" | "dict_type":
            return loc, f"expected a mapping, got {shown(value)}"
        case _:
            return loc, f"expected a list, got {shown(value)}"


def _place(loc: Loc) -> Loc:
    """Pydantic marks an error in a key by a last part of its own."""
    return loc[:-1] if loc[-1:] == ("[key]",) else loc


def _fields_at(loc: Loc) -> list[str]:
    """The fields of the model that stands at `loc` of a document."""
    kind: Any = PolicyDocument
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        else:  # dict[key, value] or tuple[item, ...]
            arguments = typing.get_args(kind)
            kind = arguments[1] if typing.get_origin(kind) is dict else arguments[0]
        if isinstance(kind, types.UnionType):  # X | None
            kind = typing.get_args(kind)[0]
    return list(kind.model_fields)


def _valid_part(plain: Any, errors: Iterable[ErrorDetails]) -> tuple[PolicyDocument | None, semantics.Removed]:
    """The document without its invalid places, and these places; no document when nothing is left to validate."""
    removed: set[Loc] = set()
    while True:
        for loc in sorted(map(_to_remove, errors), key=len, reverse=True):
            if not loc:
                return None, semantics.Removed(removed)
            removed.add(loc)
            _remove(plain, loc)
        try:
            return PolicyDocument.model_validate(plain), semantics.Removed(removed)
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False)


def _to_remove(error: ErrorDetails) -> Loc:
    loc = _place(error["loc"])
    if error["type"] == "missing":
        loc = loc[:-1]
    # An item is never taken out of its list, since those after it would move: the list goes whole.
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    return loc


def _remove(plain: Any, loc: Loc) -> None:
    for part in loc[:-1]:
        plain = plain.get(part) if isinstance(plain, Mapping) else plain[part]
        if plain is None:  # a place above it is out already
            return
    plain.pop(loc[-1], None)
