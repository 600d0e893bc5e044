"""Reading a JSON object with the places of its values; anything two parsers could read differently is refused."""

from typing import Any

import pytest
from stratmaster_router.domain.errors import InvalidJson
from stratmaster_router.wire.json_text import members

READ: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "{}": ({}, {}),
    " \t\r\n{ \t\r\n} \t\r\n": ({}, {}),
    '{"a":1}': ({"a": 1}, {"a": "1"}),
    ' { "a" : 1 , "b" : [ 1 , 2 ] } ': ({"a": 1, "b": [1, 2]}, {"a": "1", "b": "[ 1 , 2 ]"}),
    '{"a":"}","b":"\\"","c":{"d":"{"}}': (
        {"a": "}", "b": '"', "c": {"d": "{"}},
        {"a": '"}"', "b": '"\\""', "c": '{"d":"{"}'},
    ),
    '{"\\u0061":null,"":true,"é":false}': (
        {"a": None, "": True, "é": False},
        {"a": "null", "": "true", "é": "false"},
    ),
    '{"a":-0,"b":1.50,"c":1E+2,"d":0.0}': (
        {"a": 0, "b": 1.5, "c": 100.0, "d": 0.0},
        {"a": "-0", "b": "1.50", "c": "1E+2", "d": "0.0"},
    ),
    '{"a":"\\ud83d\\ude00","b":"\\ud83d"}': (
        {"a": "😀", "b": "\ud83d"},
        {"a": '"\\ud83d\\ude00"', "b": '"\\ud83d"'},
    ),
    '{"a":{"x":1},"b":{"x":2},"x":3}': (
        {"a": {"x": 1}, "b": {"x": 2}, "x": 3},
        {"a": '{"x":1}', "b": '{"x":2}', "x": "3"},
    ),
}


@pytest.mark.parametrize("text", READ)
def test_members_gives_each_value_and_the_text_it_stands_at(text: str) -> None:
    """Values are those of JSON, places are exactly the value's own characters, in the order of the text."""
    values, places = members(text)

    expected, written = READ[text]
    assert values == expected
    assert {name: text[begin:end] for name, (begin, end) in places.items()} == written
    assert list(values) == list(places) == list(expected)


TWICE = "an object has the same key twice"
NO_NUMBER = "NaN and Infinity are not JSON"
REFUSED = {
    "": "it ends too early",
    " \n": "it ends too early",
    "{": "it ends too early",
    '{"a"': "it ends too early",
    '{"a":': "it ends too early",
    '{"a": ': "a value is expected at character 6",
    '{"a":1': "it ends too early",
    '{"a":1,': "it ends too early",
    '{"a":1 ': "it ends too early",
    "[]": "it does not begin with '{'",
    '"a"': "it does not begin with '{'",
    "null": "it does not begin with '{'",
    "\ufeff{}": "it does not begin with '{'",
    "\xa0{}": "it does not begin with '{'",
    "{1:2}": "a key is expected at character 1",
    "{,}": "a key is expected at character 1",
    "{ a:1}": "a key is expected at character 2",
    '{"a":1,}': "a key is expected at character 7",
    '{"a":1, }': "a key is expected at character 8",
    '{"a" 1}': "a ':' is expected at character 5",
    '{"a"}': "a ':' is expected at character 4",
    '{"a"::1}': "a value is expected at character 5",
    '{"a":}': "a value is expected at character 5",
    '{"a":tru}': "a value is expected at character 5",
    '{"a":True}': "a value is expected at character 5",
    '{"a":-}': "a value is expected at character 5",
    '{"a":.5}': "a value is expected at character 5",
    '{"a":+1}': "a value is expected at character 5",
    '{"a":[1,]}': "a value is expected at character 8",
    "{\"a\":'b'}": "a value is expected at character 5",
    '{"a":1 "b":2}': "a ',' or '}' is expected at character 7",
    '{"a":01}': "a ',' or '}' is expected at character 6",
    '{"a":0x1}': "a ',' or '}' is expected at character 6",
    '{"a":1]': "a ',' or '}' is expected at character 6",
    '{"a":[1 2]}': "expecting ',' delimiter at character 8",
    '{"a":{b}}': "expecting property name enclosed in double quotes at character 6",
    '{"a":{"b" 1}}': "expecting ':' delimiter at character 10",
    '{"a":"x': "unterminated string starting at character 5",
    '{"a': "unterminated string starting at character 1",
    '{"a":"\x01"}': "invalid control character at character 6",
    '{"a":"\n"}': "invalid control character at character 6",
    '{"a":"\\q"}': "invalid \\escape at character 6",
    '{"a":"\\u12"}': "invalid \\uXXXX escape at character 7",
    "{}x": "there is more after its end, at character 2",
    '{"a":1}{"a":1}': "there is more after its end, at character 7",
    '{"a":1} \n,': "there is more after its end, at character 7",
    '{"a":1}\x00': "there is more after its end, at character 7",
    '{"a":1,"a":1}': TWICE,
    '{"a":1,"\\u0061":2}': TWICE,
    '{"a":{"b":1,"b":1}}': TWICE,
    '{"a":[[{"b":{"c":0,"c":1}}]]}': TWICE,
    '{"a":{"b":1,"\\u0062":2}}': TWICE,
    '{"a":NaN}': NO_NUMBER,
    '{"a":Infinity}': NO_NUMBER,
    '{"a":[-Infinity]}': NO_NUMBER,
    '{"a":' + "9" * 4301 + "}": "a number in it has too many digits",
    '{"a":[-' + "9" * 4301 + "]}": "a number in it has too many digits",
    '{"a":' + "[" * 10_000 + "]" * 10_000 + "}": "it is nested too deeply",
    '{"a":' * 10_000 + "1" + "}" * 10_000: "it is nested too deeply",
    '{"a":' + "[" * 10_000: "it is nested too deeply",
    '{"a":' * 10_000: "it is nested too deeply",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:20]))
def test_members_refuses_and_says_what_is_wrong_and_where(text: str) -> None:
    """The message tells what is wrong and at which character, and nothing of what the text says."""
    with pytest.raises(InvalidJson) as raised:
        members(text)

    assert raised.value.message == f"The request body is not a JSON object: {REFUSED[text]}."
    assert raised.value.param is None
    assert raised.value.details == {}


def test_members_reads_numbers_up_to_the_longest() -> None:
    """An integer of 4300 digits and a number beyond a double are still JSON."""
    digits = "9" * 4300

    values, places = members('{"a":' + digits + ',"b":1e999}')

    assert values == {"a": int(digits), "b": float("inf")}
    assert places == {"a": (5, 4305), "b": (4310, 4315)}
