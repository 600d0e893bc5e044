"""Where personal data stands in a line of a log."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.scan import Place, places
from support.bodies import json_objects, json_writings, unhurried

EMAIL = "jo.doe@example.com"
CARD = "4111 1111 1111 1111"


def found(line: str) -> list[Place]:
    """All places in a line."""
    return list(places(line, Detector()))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("nothing to see", []),
        (f"from {EMAIL} to you", [Place(6, "", "email")]),
        (f"{{not json {EMAIL}", [Place(11, "", "email")]),
        (f'{{"a":"{EMAIL}"}}', [Place(7, "a", "email")]),
        (f'{{"a":{{"b":[1,{{"c":"x {EMAIL}"}}]}}}}', [Place(22, "a.b[1].c", "email")]),
        ('{"a":4111111111111111}', [Place(6, "a", "card")]),
        (f'  {{ "a" : [ "{CARD}" , "{EMAIL}" ] }}', [Place(14, "a[0]", "card"), Place(38, "a[1]", "email")]),
        ('{"a":"jo\\u002edoe\\u0040example.com"}', [Place(7, "a", "email")]),
        (f'{{"a":"one\\n{CARD}"}}', [Place(12, "a", "card")]),
        (f'{{"a":"\\ud83d\\ude00 😀 {EMAIL}"}}', [Place(22, "a", "email")]),
        (f'{{"{EMAIL}":"{EMAIL}"}}', [Place(3, "<a name>", "email"), Place(24, "<a name>", "email")]),
        (f'{{"some thing":"{EMAIL}"}}', [Place(16, "<a name>", "email")]),
        (f'["{EMAIL}"]', [Place(3, "", "email")]),
        (f'{{"":["",{{}},[],"{EMAIL}"]}}', [Place(16, "<a name>[3]", "email")]),
    ],
)
def test_place_is_that_of_the_line_as_it_is_written(line: str, expected: list[Place]) -> None:
    """With the field it is in; a field's name is told only where it is plainly one."""
    assert found(line) == expected


@unhurried
@given(json_writings(json_objects()))
def test_any_object_can_be_searched(line: str) -> None:
    """However it is written, every value is seen: those of its strings in which something is are told of."""
    for place in places(line, Detector()):
        assert 1 <= place.column <= len(line)


@st.composite
def hidden(draw: st.DrawFn) -> tuple[str, str]:
    """An object with an address somewhere in it, as JSON; and the field it is in."""
    path = draw(st.lists(st.one_of(st.sampled_from(["a", "bc", "d_1"]), st.integers(0, 3)), min_size=1, max_size=5))
    before = draw(st.text(st.characters(codec="utf-8"), max_size=9))
    value: Any = f"{before} {EMAIL}"
    for part in reversed(path):
        value = [0] * part + [value] if isinstance(part, int) else {"x": before, part: value}
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    if isinstance(path[0], int):
        value, field = {"top": value}, f".top{field}"
    return json.dumps(value, ensure_ascii=draw(st.booleans())), field[1:]


@unhurried
@given(hidden())
def test_what_is_there_is_found_in_its_field(log: tuple[str, str]) -> None:
    """At the column where it is written."""
    line, field = log

    assert Place(line.index(EMAIL) + 1, field, "email") in found(line)
