"""What is found and what is not, by example; the figures over generated texts are held by `test_detection_figures`."""

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from stratmaster_router.domain.redaction import KINDS
from stratmaster_router.policy.patterns import compiled
from stratmaster_router.privacy.detect import Detector, Finding
from support import personal
from support.personal import LETTERS, drawn

EVERYTHING = Detector()
RANDOM = Random(5)
TOKEN = drawn(RANDOM, LETTERS, 40)


def found(text: str, detector: Detector = EVERYTHING) -> list[tuple[str, str]]:
    """The findings, each as its kind and its text."""
    return [(kind, text[start:end]) for kind, start, end in detector.find(text)]


FOUND: Mapping[str, list[tuple[str, str]]] = {
    "Write to jane.o'hara+x@mail.example.co.uk, please": [("email", "jane.o'hara+x@mail.example.co.uk")],
    "user=jürgen@example.com&x=1": [("email", "jürgen@example.com")],
    "邮箱foo@bar.com。": [("email", "foo@bar.com")],
    "<mailto:a@b.io>": [("email", "a@b.io")],
    "pay 4111 1111 1111 1111 123 now": [("card", "4111 1111 1111 1111")],
    "4111-1111-1111-1111": [("card", "4111-1111-1111-1111")],
    "3782 822463 10005": [("card", "3782 822463 10005")],
    "电话4111111111111111是": [("card", "4111111111111111")],
    "DE89 3704 0044 0532 0130 00 BIC COBADEFF": [("iban", "DE89 3704 0044 0532 0130 00")],
    "gb82west12345698765432": [("iban", "gb82west12345698765432")],
    "SSN 123-45-6789": [("ssn", "123-45-6789")],
    "his ssn: 123456789.": [("ssn", "123456789")],
    "+44 (0)20 7946 0958": [("phone", "+44 (0)20 7946 0958")],
    "(415) 555-2671 or 415.555.2671": [("phone", "(415) 555-2671"), ("phone", "415.555.2671")],
    "0049 170 1234567": [("phone", "0049 170 1234567")],
    "06 12 34 56 78": [("phone", "06 12 34 56 78")],
    "06\u202f12\u202f34\u202f56\u202f78": [("phone", "06\u202f12\u202f34\u202f56\u202f78")],
    '{"mobile_phone": "612345678"}': [("phone", "612345678")],
    "Tel.:\n0171 1234567": [("phone", "0171 1234567")],
    "peer 10.1.2.3:443": [("ip", "10.1.2.3")],
    "from 2001:db8::8a2e:370:7334.": [("ip", "2001:db8::8a2e:370:7334")],
    "12345678Z": [("national_id", "12345678Z")],
    "AB 12 34 56 C": [("national_id", "AB 12 34 56 C")],
    "CPF 529.982.247-25": [("national_id", "529.982.247-25")],
    "756.9217.0769.85": [("national_id", "756.9217.0769.85")],
    "４１１１ １１１１ １１１１ １１１１": [("card", "４１１１ １１１１ １１１１ １１１１")],
    "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏": [("card", "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏")],
    "jane＠example．com": [("email", "jane＠example．com")],
    "41\u200b1111\u200d1111111111x 4111\u00ad111111111111 ": [("card", "4111\u00ad111111111111")],
    f"key smr_{TOKEN}.": [("secret", f"smr_{TOKEN}")],
    f"Authorization: Bearer {TOKEN}": [("secret", TOKEN)],
    f'"client_secret": "{TOKEN}"': [("secret", TOKEN)],
    "DB_PASSWORD=hunter2hunter2 next": [("secret", "hunter2hunter2")],
    "see postgres://app:s3cret@db:5432/x?y=z now": [("secret", "postgres://app:s3cret@db:5432/x?y=z")],
    "redis://:s3cret@cache/0": [("secret", "redis://:s3cret@cache/0")],
}


@pytest.mark.parametrize(("text", "expected"), FOUND.items(), ids=list(FOUND))
def test_found(text: str, expected: list[tuple[str, str]]) -> None:
    """Each is found as its kind, from its first character to its last, with nothing of what stands around it."""
    assert found(text) == expected


NOT_FOUND = (
    "nobody here",
    "logo@2x.png @app.route left-pad@1.3.0 root@localhost",
    "4111 1111 1111 1112",
    "9999 9999 9999 9995",
    "0.4111111111111111",
    "DE88 3704 0044 0532 0130 00",
    "000-12-3456 666-12-3456 987-65-4321 123-00-4567 123-45-0000",
    "order 1234567890 of 2026-11-24 16:20:03, 1764000000000 ms",
    "call me.\nOrder 612345678",
    "phone 2026-11-24 16",
    "version 1.2.3.4 nginx/1.2.3.4 v1.2.3.4 1.2.3.4.5 999.1.1.1 127.0.0.1 0.0.0.0",
    "std::vector dead::beef 16:20:03 aa:bb:cc:dd:ee:ff ::1",
    "12345678A",
    "550e8400-e29b-41d4-a716-446655440000",
    "sk-circle-fade-dot-animation",
    "password: string",
    "token = next_token2(x)",
    "api_key: ${API_KEY_1} /run/secrets/key1",
    "max_tokens: 4096abcdefgh",
    "https://example.com/a?b=c:d@e",
    "basic understanding of things",
    "978-3-16-148410-0",
)


@pytest.mark.parametrize("text", NOT_FOUND)
def test_not_found(text: str) -> None:
    """What only looks like personal data or a secret is left alone."""
    assert found(text) == []


@pytest.mark.parametrize("seed", range(20))
def test_secret_is_found_to_its_end(seed: int) -> None:
    """However long a private key or a token is, nothing of it is left over, with its line ends written out or not."""
    random = Random(seed)
    key, token = personal.private_key(random), personal.jwt(random)
    escaped = key.replace("\n", "\\n")

    assert found(f"a {key}\nb") == [("secret", key)]
    assert found(f'{{"key": "{escaped}"}}') == [("secret", escaped)]
    assert found(f"a {token} b") == [("secret", token)]


def test_private_key_without_its_end_is_found_as_far_as_it_could_be_one() -> None:
    """A key that was cut is still a key."""
    key = personal.private_key(Random(1))
    cut = key[: len(key) // 2]

    assert found(f'"{cut}" is cut') == [("secret", cut)]


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_asked_for_is_found(kind: str) -> None:
    """A detector of one kind finds that kind's values and no others."""
    detector = Detector(frozenset({kind}))

    for text, expected in FOUND.items():
        assert {name for name, _ in found(text, detector)} <= {kind}
        assert [(name, value) for name, value in found(text, detector) if name == kind] >= [
            (name, value) for name, value in expected if name == kind
        ]


def test_custom_pattern_is_found_and_comes_first() -> None:
    """The operator's pattern finds what we do not know, and names what we would name otherwise."""
    custom = {"employee_id": compiled(r"\bE\d{6}\b"), "internal_mail": compiled(r"[a-z]{1,20}@corp\.example\.com")}
    detector = Detector(custom=custom)

    assert found("E123456 E1234567 a@corp.example.com b@example.com", detector) == [
        ("employee_id", "E123456"),
        ("internal_mail", "a@corp.example.com"),
        ("email", "b@example.com"),
    ]


def test_custom_pattern_looks_around_itself_and_counts_characters() -> None:
    """A word's border is one also where an earlier finding ended; what is beyond ASCII counts as one character."""
    detector = Detector(custom={"badge": compiled(r"\bB.\d{3}")})

    assert detector.find("äöü漢字 Bé123 BB456 xB7890") == [Finding("badge", 6, 11), Finding("badge", 12, 17)]


def test_findings_are_values() -> None:
    """Who redacts elsewhere builds on this shape."""
    finding = EVERYTHING.find("x a@b.io")[0]

    assert (finding.kind, finding.start, finding.end) == ("email", 2, 8)


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800 4111111111111111 \udfff", "@" * 50, "-" * 50, "+" * 50])
def test_any_text_is_taken(text: str) -> None:
    """Lone surrogates and the like are no reason to fail."""
    result: list[Any] = [finding.kind for finding in EVERYTHING.find(text)]

    assert result == (["card"] if "4111" in text else [])
