"""Redaction of whole texts, of streams and of snippets, by example; the properties are in `test_redaction`."""

from random import Random

import pytest
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.redact import Piece, Redactor, StreamRedactor
from support import personal

DETECTOR = Detector()
REDACTOR = Redactor(lambda: DETECTOR, b"key of fingerprints")
MAIL = "jane@example.com"


def test_marks_stand_in_the_place_of_findings() -> None:
    """The rest of the text is as it was, but for what nobody sees."""
    text = f"Dear\u200b {MAIL}, pay 4111 1111 1111 1111 or call +49 170 1234567."

    assert REDACTOR.redact(text) == "Dear [email], pay [card] or call [phone]."


def test_redacted_text_stays_as_it_is() -> None:
    """Marks are nothing that is found."""
    once = REDACTOR.redact(f"{MAIL} 4111111111111111 password=hunter2hunter2 10.1.2.3")

    assert once == "[email] [card] password=[secret] [ip]"
    assert REDACTOR.redact(once) == once


@pytest.mark.parametrize(
    ("text", "most", "snippet"),
    [
        ("", 5, ""),
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        (f"to {MAIL}", 10, "to [email]"),
        (f"to {MAIL} now", 11, "to [email]…"),
        (f"to {MAIL} now", 10, "to …"),
        (f"to {MAIL} now", 9, "to …"),
        (MAIL, 3, "…"),
        ("a\ud800b", 5, "a?b"),
    ],
)
def test_snippet_is_cut_after_redaction_and_cuts_no_mark(text: str, most: int, snippet: str) -> None:
    """The number of characters is that of what is written; `…` is one of them, and says that there was more."""
    assert REDACTOR.snippet(text, most) == snippet


@pytest.mark.parametrize("before", range(0, 260, 7))
def test_snippet_holds_no_part_of_a_secret_that_its_end_cuts(before: int) -> None:
    """Where the text is cut in the middle of a secret, none of it is there."""
    key = personal.private_key(Random(before))
    text = "x " * before + key + " y" * 1000

    snippet = REDACTOR.snippet(text, 200)

    assert set(snippet) <= set("x y[secret]…")
    assert len(snippet) <= 200


def test_snippet_behind_a_long_secret_is_found_but_not_without_end() -> None:
    """A long secret takes little room, so what stands behind it is there; one of a megabyte is not read to its end."""
    token = personal.jwt(Random(1)) + "a" * 8000

    assert REDACTOR.snippet(f"{token} and {MAIL} " + "z" * 300, 30) == "[secret] and [email] zzzzzzzz…"
    assert REDACTOR.snippet(token + "a" * 1_000_000 + MAIL, 30) == "[secret]…"


def test_stream_gives_the_mark_of_a_secret_before_its_end() -> None:
    """A secret that goes on and on is neither waited for nor kept."""
    stream = StreamRedactor(DETECTOR)
    pieces = stream.feed("key eyJhbGciOiJSUzI1NiJ9." + "a" * 1000)
    for _ in range(1000):
        pieces += stream.feed("b" * 1000)
    pieces += stream.feed(f" then {MAIL}")

    assert [*pieces, *stream.end()] == [
        Piece("key ", False),
        Piece("[secret]", True),
        Piece(" then ", False),
        Piece("[email]", True),
    ]


def test_fingerprint_tells_equal_prompts_and_needs_the_key() -> None:
    """The same content has the same fingerprint under the same key, and no other does."""
    prints = [
        Redactor(lambda: DETECTOR, key).fingerprint(content)
        for key in (b"one", b"two")
        for content in (b"a prompt", b"a prompt", b"another prompt")
    ]

    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    assert {len(one) for one in prints} == {32}
