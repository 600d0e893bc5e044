"""Finds personal data and secrets in a text. Pure; what is found and what is not: docs/redaction.md."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from stratmaster_router.domain.redaction import KINDS

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_FIRST = {
    "email": re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"),
    "card": re.compile(r"(?<![0-9A-Za-z])[3-6][0-9]{3}(?:[ -]?[0-9]{4}){3}(?![0-9A-Za-z])"),
}


class Finding(NamedTuple):
    """`text[start:end]` is of `kind`: one of `KINDS`, or the name of a custom pattern."""

    kind: str
    start: int
    end: int


class Detector:
    """Finds `kinds`, and what the compiled RE2 patterns in `custom` match, by their names."""

    def __init__(self, kinds: frozenset[str] = frozenset(KINDS), custom: Mapping[str, Any] = _NOTHING) -> None:
        self._patterns = {kind: _FIRST[kind] for kind in _FIRST if kind in kinds} | dict(custom)

    def find(self, text: str) -> list[Finding]:
        """All findings, in order of their places, none overlapping another."""
        found = [
            Finding(kind, *match.span()) for kind, pattern in self._patterns.items() for match in pattern.finditer(text)
        ]
        found.sort(key=lambda finding: (finding.start, -finding.end))
        kept: list[Finding] = []
        for finding in found:
            if not kept or finding.start >= kept[-1].end:
                kept.append(finding)
        return kept
