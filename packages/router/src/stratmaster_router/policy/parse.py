"""From the text of a policy file to a valid document, or to every reason why it is not one (policy.md, rule 9)."""

import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stratmaster_router.policy import semantics, yamltree
from stratmaster_router.policy.problems import Loc, PolicyInvalid, Problem, nearest, path_of, shown
from stratmaster_router.policy.removed import Removed
from stratmaster_router.policy.schema import PolicyDocument

MAX_PROBLEMS = 1000
"""A file with more is broken in one way, many times: no reader wants them all, and looking further would take long."""


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
    removed = Removed()
    document: PolicyDocument | None
    try:
        document = PolicyDocument.model_validate(root.plain())
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        problems += [_problem(root, loc, message) for loc, message in _described(errors[:MAX_PROBLEMS])]
        if len(errors) > MAX_PROBLEMS:
            problems.append(Problem("", root.line, f"{len(errors) - MAX_PROBLEMS} more problems are not listed"))
            raise PolicyInvalid(problems) from None
        document = _valid_part(root.plain(), errors, removed)
    if document is not None:
        found = semantics.check(document, removed)
        problems += [_problem(root, removed.in_file(loc), message) for loc, message in found]
    if document is None or problems:
        raise PolicyInvalid(problems)
    return document


def _problem(root: yamltree.Node, loc: Loc, message: str) -> Problem:
    return Problem(path_of(loc), root.line_of(loc), message)


def _described(errors: list[ErrorDetails]) -> Iterator[tuple[Loc, str]]:
    suggested: set[Loc] = set()
    for error in errors:
        if error["type"] == "extra_forbidden":
            loc = error["loc"]
            known = _fields_at(loc[:-1])
            near = nearest(str(loc[-1]), known)
            suggested.add((*loc[:-1], near or ""))
            yield loc, f"unknown field, {f'did you mean {near!r}?' if near else 'known here: ' + ', '.join(known)}"
    for error in errors:
        loc, value = error["loc"], error["input"]
        match error["type"]:
            case "extra_forbidden":
                continue
            case "missing":
                if loc not in suggested:  # else it is there, but misspelt
                    yield loc, "is required"
            case "policy":
                yield _place(loc), error["msg"]
            case "model_type" | "dict_type":
                yield loc, f"expected a mapping, got {shown(value)}"
            case _:
                yield loc, f"expected a list, got {shown(value)}"


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


def _valid_part(plain: object, errors: Iterable[ErrorDetails], removed: Removed) -> PolicyDocument | None:
    """The document without its invalid places, which are added to `removed`; None when the whole is invalid."""
    while True:
        # All places of one round are those of one rest, so they are translated before any is taken out.
        for loc in [removed.in_file(_to_remove(error)) for error in errors]:
            removed.add(loc)
        if removed.everything():
            return None
        try:
            return PolicyDocument.model_validate(removed.rest_of(plain))
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False)


def _to_remove(error: ErrorDetails) -> Loc:
    return error["loc"][:-1] if error["type"] == "missing" else _place(error["loc"])
