"""What a self-service key looks like: found by a scanner, told apart from a typo, never shown by its hash."""

import hashlib
import hmac
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.auth.credentials import ID, LENGTH, Pepper, mistyped, new_key, visible_id, whole_key
from support.servers import REPOSITORY

CHARACTERS = string.ascii_letters + string.digits + "_-. "
IDS = st.text(string.digits + string.ascii_lowercase, min_size=12, max_size=12)
KEYS = st.builds(lambda key_id, secret: (key_id, whole_key(key_id, secret)), IDS, st.integers(0, 2**256 - 1))


def documented() -> re.Pattern[str]:
    """The expression for leak scanners, as docs/keys.md has it."""
    found = re.search(r"^    (\S*smr_\S+)$", (REPOSITORY / "docs" / "keys.md").read_text(), re.MULTILINE)
    assert found
    return re.compile(found[1])


@given(KEYS)
def test_new_key_has_its_shape(made: tuple[str, str]) -> None:
    """Prefix, id, secret and checksum, in characters that survive a double click and a shell."""
    key_id, text = made

    assert re.fullmatch(r"smr_[0-9a-z]{12}_[0-9A-Za-z]{49}", text)
    assert len(text) == LENGTH
    assert text[ID] == key_id
    assert visible_id(text.encode()) == key_id
    assert not mistyped(text.encode())


def test_no_two_keys_are_alike() -> None:
    """Not in their ids, and not in their secrets."""
    made = [new_key() for _ in range(1_000)]

    assert all(visible_id(text.encode()) == key_id for key_id, text in made)
    assert len({key_id for key_id, _ in made}) == 1_000
    assert len({text[17:60] for _, text in made}) == 1_000
    assert {character for _, text in made for character in text[18:60]} == {*string.ascii_letters, *string.digits}


@given(KEYS, st.integers(0, LENGTH - 1), st.sampled_from(CHARACTERS))
def test_any_other_character_is_seen(made: tuple[str, str], place: int, character: str) -> None:
    """Wherever it stands, the prefix, the id and the checksum included."""
    text = made[1]
    changed = text[:place] + character + text[place + 1 :]

    assert (visible_id(changed.encode()) == made[0]) == (changed == text)


@given(KEYS, st.integers(0, LENGTH - 2))
def test_neighbours_swapped_are_seen(made: tuple[str, str], place: int) -> None:
    """The most common mistake after one wrong character."""
    text = made[1]
    changed = text[:place] + text[place + 1] + text[place] + text[place + 2 :]

    assert (visible_id(changed.encode()) == made[0]) == (changed == text)


@given(KEYS, st.integers(0, LENGTH - 1))
def test_key_that_is_cut_off_is_seen(made: tuple[str, str], length: int) -> None:
    """At any place; from its prefix on it is known for what it was meant to be."""
    cut = made[1][:length].encode()

    assert visible_id(cut) is None
    assert mistyped(cut) == (length >= 4)


@given(st.binary(max_size=80))
def test_anything_else_is_no_key(text: bytes) -> None:
    """Whatever bytes come."""
    assert visible_id(text) is None
    assert mistyped(text) == text.startswith(b"smr_")


def test_known_key_keeps_its_meaning() -> None:
    """A checksum by hand: the format is a promise to scanners, and to keys that are out there."""
    text = b"smr_0123456789ab_0000000000000000000000000000000000000000000"
    number = 0
    crc = zlib_crc(text)
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    checksum = ""
    for _ in range(6):
        crc, number = divmod(crc, 62)
        checksum = digits[number] + checksum

    assert visible_id(text + checksum.encode()) == "0123456789ab"


def zlib_crc(text: bytes) -> int:
    """CRC-32 (IEEE 802.3), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in text:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@given(KEYS)
def test_scanner_finds_a_key_wherever_it_stands(made: tuple[str, str]) -> None:
    """With the documented expression, in code, in a header, in an address, and nothing beside it."""
    text = made[1]
    scanner = documented()
    for around in ("{}", 'api_key="{}"', "Bearer {}", "https://host/?key={}&x=1", "KEY={}\n", "-{}.", "[{}]"):
        assert [found[0] for found in scanner.finditer(around.format(text))] == [text]
    assert not scanner.search(f"x{text}")
    assert not scanner.search(f"{text}x")


@given(KEYS)
def test_hash_is_hmac_sha256(made: tuple[str, str]) -> None:
    """By the pepper: another pepper gives another hash."""
    text = made[1].encode()
    pepper = b"0123456789abcdef" * 2

    assert Pepper(pepper).digest(text) == hmac.new(pepper, text, hashlib.sha256).digest()
    assert Pepper(pepper + b"x").digest(text) != Pepper(pepper).digest(text)


def test_check_tells_peppers_apart_and_shows_none() -> None:
    """The same for the same secret; neither it nor a repr gives the secret away."""
    pepper = Pepper(b"very-secret" * 3)

    assert Pepper(b"very-secret" * 3).check == pepper.check
    assert Pepper(b"very-secret" * 4).check != pepper.check
    assert b"secret" not in pepper.check
    assert "secret" not in repr(pepper)


@pytest.mark.parametrize("text", [b"", b"smr", b"sk-acme", b"SMR_0123456789ab"])
def test_key_of_another_kind_is_not_mistyped(text: bytes) -> None:
    """What was never meant to be a self-service key."""
    assert not mistyped(text)
