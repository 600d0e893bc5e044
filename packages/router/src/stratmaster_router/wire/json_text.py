"""Reading a JSON object so that its bytes can be kept.

`members` gives each member of an object with the place of its value in the text, so that one value can be replaced and
every other byte stays as the client wrote it. It refuses what two parsers could read differently, because then the
request that policy judged might not be the request that the upstream sees: duplicate keys at any depth, NaN and
Infinity, text after the object.
"""

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in all but the type stubs
from typing import Any, NoReturn

from stratmaster_router.domain.errors import InvalidJson

_WHITE = " \t\n\r"
_spaces = re.compile(r"[ \t\n\r]*").match

type_names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class _Unreadable(ValueError):
    """What is wrong with the text, without any of the text in it."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Unreadable("an object has the same key twice")
    return result


def _no_constant(_: str) -> NoReturn:
    raise _Unreadable("NaN and Infinity are not JSON")


_scan = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant).scan_once  # type: ignore[attr-defined]


def members(text: str) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """Read `text`, which must be one JSON object and nothing else, into its values and their places.

    The value of a member `name` with place `(begin, end)` stands at `text[begin:end]`.
    Raises `InvalidJson`; its message tells what is wrong and where, never what the text says.
    """
    try:
        return _members(text)
    except RecursionError:
        reason = "it is nested too deeply"
    except StopIteration as stop:
        reason = f"a value is expected at character {stop.value}"
    except IndexError:
        reason = "it ends too early"
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')} at character {error.pos}"
    except _Unreadable as error:
        reason = str(error)
    except ValueError:
        reason = "a number in it has too many digits"
    raise InvalidJson(f"The request body is not a JSON object: {reason}.")


def _members(text: str) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    values: dict[str, Any] = {}
    places: dict[str, tuple[int, int]] = {}
    at = _next(text, 0)
    if text[at] != "{":
        raise _Unreadable("it does not begin with '{'")
    at = _next(text, at + 1)
    if text[at] == "}":
        _expect_end(text, at + 1)
        return values, places
    # Most bodies are written without white space, so each step looks before it calls `_next`: this runs per request.
    while True:
        if text[at] != '"':
            at = _next(text, at)
            if text[at] != '"':
                raise _Unreadable(f"a key is expected at character {at}")
        name, at = scanstring(text, at + 1, True)
        if text[at] != ":":
            at = _next(text, at)
            if text[at] != ":":
                raise _Unreadable(f"a ':' is expected at character {at}")
        begin = at + 1
        if text[begin] in _WHITE:
            begin = _next(text, begin)
        if name in values:
            raise _Unreadable("an object has the same key twice")
        values[name], at = _scan(text, begin)
        places[name] = (begin, at)
        mark = text[at]
        if mark in _WHITE:
            at = _next(text, at)
            mark = text[at]
        if mark == ",":
            at += 1
        elif mark == "}":
            _expect_end(text, at + 1)
            return values, places
        else:
            raise _Unreadable(f"a ',' or '}}' is expected at character {at}")


def _next(text: str, at: int) -> int:
    """The first place from `at` on that is not white space; reading there may raise IndexError."""
    return _spaces(text, at).end()  # type: ignore[union-attr]  # the pattern matches everywhere


def _expect_end(text: str, at: int) -> None:
    if at != len(text) and _next(text, at) != len(text):
        raise _Unreadable(f"there is more after its end, at character {at}")
