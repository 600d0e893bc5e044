"""Writes a text so that byte patterns can judge it: look-alikes as ASCII, one byte a character, places unchanged.

Full-width and mathematical letters, the digits of all scripts, odd spaces and dashes are what copying from PDFs and
phones leaves, and what hides a number from a pattern. A character that is none of these and not Latin-1 becomes `?`.
"""

import re
import unicodedata
from collections.abc import Iterator

# Soft hyphen, zero-width and direction marks: they are not seen, and would split what is looked for.
_INVISIBLE = "\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
_invisible = re.compile(f"[{_INVISIBLE}]+")
_visible = re.compile(f"[^{_INVISIBLE}]")

# Unicode's blocks of decimal digits, each by its zero.
_ZEROS = (
    *(0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66, 0x0DE6, 0x0E50),
    *(0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50),
    *(0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0),
)
# Blocks whose characters NFKC turns into single ASCII ones: super- and subscripts, enclosed, mathematical, full-width.
_COMPATIBLE = ((0x2070, 0x209D), (0x2460, 0x2469), (0x24B6, 0x24EA), (0x1D400, 0x1D800), (0xFF01, 0xFF5F))
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63"
_OTHERS = {"\u2024": ".", "\u2044": "/", "\u2215": "/", "\ufe6b": "@", "\ufe52": ".", "\ufe55": ":"}


def _twins() -> Iterator[tuple[str, str]]:
    for zero in _ZEROS:
        yield from ((chr(zero + digit), str(digit)) for digit in range(10))
    for first, end in _COMPATIBLE:
        for character in map(chr, range(first, end)):
            twin = unicodedata.normalize("NFKC", character)
            if len(twin) == 1 and twin.isascii():
                yield character, twin
    yield from ((space, " ") for space in _SPACES)
    yield from ((dash, "-") for dash in _DASHES)
    yield from _OTHERS.items()


_TABLE = {ord(character): twin for character, twin in _twins()}
# Those beyond the first plane as one range: each by itself would be compared with each character of a text.
_has_twin = re.compile(f"[{re.escape(''.join(chr(code) for code in _TABLE if code < 0x10000))}\U0001d400-\U0001d7ff]+")


def without_invisible(text: str) -> str:
    """`text` without the characters that nobody sees."""
    if text.isascii():
        return text
    return text.replace("\u00ad", "") if _is_latin(text) else _invisible.sub("", text)


def visible_places(text: str) -> list[int]:
    """Where the characters that `without_invisible` keeps stand in `text`."""
    return [match.start() for match in _visible.finditer(text)]


def fold(text: str) -> str:
    """`text` with look-alikes of ASCII characters as those: as many characters, each at its place."""
    if text.isascii():
        return text
    if _is_latin(text):
        return text.replace("\u00a0", " ")
    return _has_twin.sub(lambda match: match[0].translate(_TABLE), text)


def _is_latin(text: str) -> bool:
    """Whether all is Latin-1, which has one invisible character and one odd space; a search costs ten times more."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def as_bytes(folded: str) -> bytes:
    """One byte for each character."""
    return folded.encode("latin-1", "replace")
