"""Detection and redaction of any text, cut anywhere."""

import re
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from stratmaster_router.policy.patterns import compiled
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.fold import without_invisible
from stratmaster_router.privacy.redact import Piece, Redactor, StreamRedactor
from support.corpus import KINDS, negative

DETECTOR = Detector(custom={"employee_id": compiled(r"\bE\d{6}\b"), "long": compiled("<x[a-z ]{1,250}>")})
REDACTOR = Redactor(lambda: DETECTOR, b"key")

values = st.builds(
    lambda kind, seed: kind.label.strip("*") + kind.make(Random(seed)), st.sampled_from(KINDS), st.integers(0, 999)
)
harmless = st.builds(lambda seed: negative(Random(seed)), st.integers(0, 999))
# What borders on a value, begins one, or nearly does.
glue = st.sampled_from(
    [
        *(
            " ",
            "\n",
            ", ",
            "",
            "",
            '"',
            "'",
            ":",
            "/",
            "-",
            ".",
            "@",
            "+",
            "(",
            ")",
            "0",
            "12",
            "E123456",
            "tel ",
            "BSN ",
        ),
        *("password=", "token: ", "sk-", "eyJhbGciOi", "-----", "-----BEGIN ", "PRIVATE KEY-----", "-----END ", "://"),
        *("u:p@", "<x", ">", "\u200b", "\u00ad", "１２", "x" * 70, "a1B" * 200, "Bearer ", "A", "=", "\\n", "é", "漢"),
    ]
)
texts = st.lists(st.one_of(values, harmless, glue, glue, st.text(max_size=8)), max_size=14).map("".join)
cuts = st.lists(st.integers(0, 5000), max_size=8)


def parts(text: str, places: list[int]) -> list[str]:
    """`text` cut at `places`."""
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


def streamed(pieces: list[str]) -> list[Piece]:
    """What a stream of these gives."""
    stream = StreamRedactor(DETECTOR)
    return [piece for part in pieces for piece in stream.feed(part)] + stream.end()


@given(texts, cuts)
def test_stream_gives_the_same_wherever_it_is_cut(text: str, places: list[int]) -> None:
    """What comes of a text's parts is what comes of the text."""
    assert "".join(piece.text for piece in streamed(parts(text, places))) == REDACTOR.redact(text)


@settings(deadline=None)  # thousands of calls
@given(texts, st.integers(1, 40))
def test_stream_gives_the_same_in_small_steps(text: str, step: int) -> None:
    """Tokens of a few characters, as a model writes, are no exception."""
    pieces = [text[at : at + step] for at in range(0, len(text), step)]

    assert "".join(piece.text for piece in streamed(pieces)) == REDACTOR.redact(text)


@given(texts)
def test_findings_are_in_order_and_apart(text: str) -> None:
    """Findings are not empty, lie in the text, and none overlaps another."""
    findings = DETECTOR.find(text)

    places = [place for finding in findings for place in (finding.start, finding.end)]
    assert places == sorted(places)
    assert all(0 <= finding.start < finding.end <= len(text) for finding in findings)


@given(texts)
def test_findings_say_the_same_of_the_visible_text(text: str) -> None:
    """Invisible characters change places, and nothing else."""
    seen = without_invisible(text)

    assert [
        (finding.kind, without_invisible(text[finding.start : finding.end])) for finding in DETECTOR.find(text)
    ] == [(finding.kind, seen[finding.start : finding.end]) for finding in DETECTOR.find(seen)]


@given(texts, st.integers(1, 300))
def test_snippet_is_a_beginning_of_the_redacted_text(text: str, most: int) -> None:
    """A snippet is no longer than it may be, ends before a mark rather than in it, and has nothing unredacted."""
    whole = REDACTOR.redact(text).encode("utf-8", "replace").decode()

    snippet = REDACTOR.snippet(text, most)

    if len(whole) <= most:
        assert snippet == whole
        return
    assert len(snippet) <= most
    assert snippet.endswith("…")
    assert whole.startswith(snippet[:-1])
    rest = whole[len(snippet) - 1 :]
    marks = "|".join((*{kind.group for kind in KINDS}, "employee_id", "long"))
    for length in range(1, 14):
        begun = re.fullmatch(rf".*(\[[a-z_]{{{length}}})", snippet[:-1], re.DOTALL)
        if begun and re.match(rf"\[(?:{marks})\]", begun[1] + rest):
            # Only text that the client wrote may look like half a mark.
            assert begun[1] + rest[: 14 - length] in text
