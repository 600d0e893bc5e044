"""For any text at all, and for any JSON object that anybody may write."""

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.domain.errors import InvalidJson
from stratmaster_router.wire.json_text import members
from support.bodies import json_objects, json_writings, unhurried

# Text made of JSON's own pieces gets further into the reader than arbitrary text does.
PIECES = ['"', "\\", "\\u", "d800", "{", "}", "[", "]", ":", ",", " ", "\n", "1", "-", "e9", ".", "NaN", "null", "a"]
almost_json = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@unhurried
@given(st.one_of(st.text(), almost_json, almost_json.map(lambda text: '{"a":' + text)))
def test_members_raises_nothing_but_invalid_json(text: str) -> None:
    """Whatever the text, it is read as JSON reads it or refused with `InvalidJson`."""
    try:
        values, places = members(text)
    except InvalidJson as refused:
        message = refused.message
    else:
        assert values == json.loads(text)
        assert values.keys() == places.keys()
        return
    assert re.fullmatch(r"The request body is not a JSON object: .{1,80}\.", message)


@unhurried
@given(json_writings(json_objects()))
def test_members_reads_what_json_reads_and_knows_where_it_stands(text: str) -> None:
    """Values are those of `json.loads`, and each place holds exactly its value."""
    values, places = members(text)

    expected = json.loads(text)
    assert values == expected
    assert {name: json.loads(text[begin:end]) for name, (begin, end) in places.items()} == expected
    assert all(text[begin:end] == text[begin:end].strip() for begin, end in places.values())


@unhurried
@given(json_writings(json_objects(min_size=1)), st.data())
def test_members_refuses_a_key_that_comes_again(text: str, data: st.DataObject) -> None:
    """Any object is refused once one of its keys is written a second time, in any spelling."""
    key = data.draw(st.sampled_from(sorted(json.loads(text))))
    spelling = json.dumps(key, ensure_ascii=data.draw(st.booleans()))
    again = text.rstrip()[:-1] + f",{spelling}:0}}"

    refusal: Any = None
    try:
        members(again)
    except InvalidJson as refused:
        refusal = refused.message

    assert refusal == "The request body is not a JSON object: an object has the same key twice."


@unhurried
@given(st.integers(0, 300), json_writings(json_objects(min_size=1)))
def test_members_refuses_a_repeated_key_at_any_depth(depth: int, text: str) -> None:
    """A key that comes twice deep inside is refused like one at the top."""
    inner = text.strip()[1:-1]
    doubled = "{" + inner + "," + inner + "}"
    body = '{"a":[' * depth + doubled + "]}" * depth

    refusal: Any = None
    try:
        members(body)
    except InvalidJson as refused:
        refusal = refused.message

    assert refusal == "The request body is not a JSON object: an object has the same key twice."
