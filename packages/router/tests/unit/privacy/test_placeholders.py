"""What stands for found data, and the way back, in texts that come whole or in pieces."""

import pytest
from stratmaster_router.privacy.placeholders import Placeholders, Restorer, restored, unused_tag

VALUES = {"[EMAIL_1]": "ann@example.com", "[EMAIL_12]": "bob@example.com", "[SECRET_1]": 'a "b"\n\\c'}


def test_value_has_one_placeholder() -> None:
    """The same value has the same placeholder, whatever it was found as; others are numbered by kind."""
    placeholders = Placeholders("")

    found = [
        placeholders.of(kind, value)
        for kind, value in (("email", "a@b.co"), ("card", "4111"), ("email", "c@d.co"), ("phone", "4111"))
    ]

    assert found == ["[EMAIL_1]", "[CARD_1]", "[EMAIL_2]", "[CARD_1]"]
    assert placeholders.values == {"[EMAIL_1]": "a@b.co", "[CARD_1]": "4111", "[EMAIL_2]": "c@d.co"}
    assert placeholders.found == {"email": 2, "card": 1}


def test_placeholder_in_a_value_is_what_it_stands_for() -> None:
    """What is found around a placeholder has the original in it, so that restoring once is enough."""
    placeholders = Placeholders("")
    placeholders.of("email", "a@b.co")

    assert placeholders.of("secret", "to:[EMAIL_1]") == "[SECRET_1]"
    assert placeholders.values["[SECRET_1]"] == "to:a@b.co"
    assert placeholders.of("secret", "[EMAIL_1]") == "[EMAIL_1]"


def test_label_is_plain_whatever_the_kind_is_called() -> None:
    """The name of a policy's own pattern becomes letters, digits and underscores."""
    assert Placeholders("").of("staff-id.v2", "x") == "[STAFF_ID_V2_1]"


@pytest.mark.parametrize(
    ("texts", "tag"),
    [
        ([], ""),
        (["nothing", "[1]", "[EMAIL_]", "EMAIL_1", "[email_1]", "[EMAIL_x1]"], ""),
        (["see [EMAIL_1]"], "A"),
        (["see [CARD_77]", "[EMAIL_A1] and [X_B2]"], "C"),
        ([f"[EMAIL_{letter}1]" for letter in ["", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]], "AA"),
        (['{"said": "\\u005bEMAIL_1\\u005d"}'], "A"),
    ],
)
def test_tag_is_one_that_no_text_has(texts: list[str], tag: str) -> None:
    """A text that has placeholders of its own, also escaped, keeps them apart from the request's."""
    assert unused_tag(texts) == tag


def test_only_the_requests_own_placeholders_are_restored() -> None:
    """What looks like one and is none stays; what a value says is not read again."""
    values = {"[EMAIL_1]": "[EMAIL_2]", "[EMAIL_2]": "x"}

    assert restored("[EMAIL_1] [EMAIL_3] [EMAIL_02] [email_1] [[EMAIL_2]] EMAIL_1]", values) == (
        "[EMAIL_2] [EMAIL_3] [EMAIL_02] [email_1] [x] EMAIL_1]"
    )


def test_value_in_json_is_escaped() -> None:
    """In a text that is JSON a value's quotes, backslashes and line ends are written as JSON has them."""
    assert restored('{"a":"[SECRET_1]"}', VALUES, in_json=True) == '{"a":"a \\"b\\"\\n\\\\c"}'
    assert restored("[SECRET_1]", VALUES) == 'a "b"\n\\c'


@pytest.mark.parametrize(
    ("text", "ready", "held"),
    [
        ("", "", ""),
        ("plain", "plain", ""),
        ("a [", "a ", "["),
        ("a [EMA", "a ", "[EMA"),
        ("a [EMAIL_1", "a ", "[EMAIL_1"),
        ("a [EMAIL_1]", "a ann@example.com", ""),
        ("[EMAIL_1][EMAIL_12", "ann@example.com", "[EMAIL_12"),
        ("[EMAIL_13", "[EMAIL_13", ""),
        ("[EMAX", "[EMAX", ""),
        ("[[", "[", "["),
        ("[a, [EMAIL_1", "[a, ", "[EMAIL_1"),
        ("[EMAIL_1 ", "[EMAIL_1 ", ""),
        ("[IP_", "[IP_", ""),
    ],
)
def test_only_what_could_become_a_placeholder_is_held_back(text: str, ready: str, held: str) -> None:
    """The end of a text is held only where it begins one of the request's placeholders."""
    assert Restorer(VALUES).feed(text, in_json=False) == (ready, held)
