"""What all finders share: the text as they read it, and what they give."""

from functools import cached_property
from typing import NamedTuple

from stratmaster_router.privacy.fold import as_bytes
from stratmaster_router.privacy.words import Words


class Finding(NamedTuple):
    """`text[start:end]` is of `kind`: one of `KINDS`, or the name of a custom pattern."""

    kind: str
    start: int
    end: int


class Folded:
    """A text in which look-alikes are ASCII (`privacy.fold`), and the same with one byte for each character."""

    def __init__(self, folded: str) -> None:
        self.folded = folded
        self.data = as_bytes(folded)

    @cached_property
    def words(self) -> Words:
        """Its words that announce a number."""
        return Words(self.folded, self.data)
