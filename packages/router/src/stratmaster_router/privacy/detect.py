"""Finds personal data and secrets in a text. Pure; what is found and what is not: docs/redaction.md.

The laws, on which the same findings under every split of a stream rest:

- whether something is found at a place is decided by the `CONTEXT` characters before it and the `HORIZON` characters
  from it on, and by nothing else; only how far a secret goes on may take more;
- of what is found, the first comes first: then the search goes on at its end. Where two begin at one place the
  operator's own pattern comes before ours, then the more certain kind, which is the order of the finders.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Protocol

import re2

from stratmaster_router.domain.redaction import KINDS, LONGEST_CUSTOM
from stratmaster_router.privacy.addresses import Emails, IPv6Addresses
from stratmaster_router.privacy.credentials import Secrets
from stratmaster_router.privacy.finding import Finding, Folded
from stratmaster_router.privacy.fold import fold, visible_places, without_invisible
from stratmaster_router.privacy.numbers import Numbers

__all__ = ["CONTEXT", "ENDING", "HORIZON", "Detector", "Finding"]

HORIZON = 384
CONTEXT = 64
ENDING = 96
"""Characters after the end of a secret that decide whether it is one: those of the line that ends a private key."""

_ALL = frozenset(KINDS)
_IN_DIGITS = frozenset({"phone", "card", "iban", "ssn", "national_id", "ip"})
_NOTHING: Mapping[str, "re2._Regexp"] = MappingProxyType({})


class Finder(Protocol):
    """Finds one family of kinds."""

    def next(self, text: Folded, begin: int) -> Finding | None:
        """The first finding that starts at `begin` or later; a function of the text alone."""


class Custom:
    """What a pattern of the operator's own matches; it sees ASCII, with one character for each of the text."""

    def __init__(self, name: str, pattern: "re2._Regexp") -> None:
        self._name = name
        self._pattern = pattern

    def next(self, text: Folded, begin: int) -> Finding | None:
        """The first finding that starts at `begin` or later."""
        match = self._pattern.search(text.data, begin)
        while match is not None:
            start = match.start()
            # Judged within a window, so that a stream need not be known to its end.
            whole = self._pattern.match(text.data, start, min(len(text.data), start + LONGEST_CUSTOM))
            if whole is not None and whole.end() > start:
                return Finding(self._name, start, whole.end())
            match = self._pattern.search(text.data, start + 1)
        return None


class Detector:
    """Finds `kinds`, and what the patterns in `custom` match, by their names.

    A pattern is compiled by `policy.patterns`: RE2 over bytes, never longer than `LONGEST_CUSTOM`.
    """

    def __init__(self, kinds: frozenset[str] = _ALL, custom: Mapping[str, "re2._Regexp"] = _NOTHING) -> None:
        finders: list[Finder] = [Custom(name, pattern) for name, pattern in custom.items()]
        if "secret" in kinds:
            finders.append(Secrets())
        if "email" in kinds:
            finders.append(Emails())
        if not kinds.isdisjoint(_IN_DIGITS):
            finders.append(Numbers(kinds))
        if "ip" in kinds:
            finders.append(IPv6Addresses())
        self._finders = tuple(finders)

    def find(self, text: str) -> list[Finding]:
        """All findings, in order of their places, none overlapping another."""
        seen = without_invisible(text)
        findings = list(self.scan(seen))
        if len(seen) != len(text):
            places = visible_places(text)
            findings = [Finding(kind, places[start], places[end - 1] + 1) for kind, start, end in findings]
        return findings

    def scan(self, text: str, begin: int = 0) -> Iterator[Finding]:
        """The findings from `begin` on, in a text without invisible characters; what is before it is only context."""
        view = Folded(fold(text))
        upcoming = [finder.next(view, begin) for finder in self._finders]
        while True:
            first: Finding | None = None
            for finding in upcoming:
                if finding is not None and (first is None or finding.start < first.start):
                    first = finding
            if first is None:
                return
            yield first
            for index, finding in enumerate(upcoming):
                if finding is not None and finding.start < first.end:
                    upcoming[index] = self._finders[index].next(view, first.end)
