"""Request bodies for the property tests: JSON objects, written in every way that JSON allows."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Json = Any

# A busy machine is no failure: nothing here is judged by time.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

_keys = st.text(st.characters(codec="utf-8"), max_size=6)
# Exact doubles and integers of any length; text with every character that UTF-8 can carry.
scalars: st.SearchStrategy[Json] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=12),
)
json_values: st.SearchStrategy[Json] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=3)),
    max_leaves=8,
)
white = st.text(" \t\n\r", max_size=2)


def json_objects(min_size: int = 0) -> st.SearchStrategy[dict[str, Json]]:
    """Any JSON object of a few members."""
    return st.dictionaries(_keys, json_values, min_size=min_size, max_size=4)


@st.composite
def json_writings(draw: st.DrawFn, objects: st.SearchStrategy[dict[str, Json]]) -> str:
    """A text of one of `objects`: random white space, escapes or none, as many programs write JSON."""
    value = draw(objects)
    if draw(st.integers(0, 3)) == 0:
        # As most clients write it, which takes the router's fast way.
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return draw(white) + _written(draw, value) + draw(white)


def _written(draw: st.DrawFn, value: Json) -> str:
    if type(value) is dict:
        members = [
            f"{draw(white)}{_string(draw, key)}{draw(white)}:{draw(white)}{_written(draw, item)}{draw(white)}"
            for key, item in value.items()
        ]
        return "{" + (",".join(members) or draw(white)) + "}"
    if type(value) is list:
        items = [draw(white) + _written(draw, item) + draw(white) for item in value]
        return "[" + (",".join(items) or draw(white)) + "]"
    return _string(draw, value) if type(value) is str else json.dumps(value)


def _string(draw: st.DrawFn, text: str) -> str:
    return json.dumps(text, ensure_ascii=draw(st.booleans()))


@st.composite
def pieces(draw: st.DrawFn, data: bytes) -> Sequence[bytes]:
    """`data` in random pieces, empty ones among them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
