"""What all finders share: the text as they read it, and what they give."""

from typing import NamedTuple


class Finding(NamedTuple):
    """`text[start:end]` is of `kind`: one of `KINDS`, or the name of a custom pattern."""

    kind: str
    start: int
    end: int


class Folded(NamedTuple):
    """A text in which look-alikes are ASCII (`privacy.fold`), and the same with one byte for each character."""

    folded: str
    data: bytes
