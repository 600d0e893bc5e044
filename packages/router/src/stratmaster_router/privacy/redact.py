"""Writes texts without what the detector finds: whole ones, streams, and the snippets that a log may hold."""

import hashlib
import hmac
from collections.abc import Callable
from typing import NamedTuple

from stratmaster_router.privacy.detect import CONTEXT, ENDING, HORIZON, Detector
from stratmaster_router.privacy.fold import without_invisible

# A snippet looks no further, however much of what it has seen is one long secret.
_FURTHEST = 16 * 1024
_ELLIPSIS = "…"
# A stream is looked at once it has so many new characters: what it holds back is looked at each time.
_STEP = 128


class Piece(NamedTuple):
    """A part of a redacted text. A mark stands for what was found, and is never cut."""

    text: str
    mark: bool


def mark(kind: str) -> str:
    """What stands in the place of a finding."""
    return f"[{kind}]"


class StreamRedactor:
    """Redacts a text that comes in parts. Whatever the parts, their pieces joined are those of the whole text.

    It holds back `HORIZON` characters and a few, because they may be the beginning of something. Of a secret that goes
    on the mark is given at once, and the rest is forgotten as it comes.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._text = ""  # what is not decided, after the context that deciding it needs
        self._begin = 0
        self._new = 0  # characters since it was looked at
        self._marked = False  # the mark of what begins at `_begin` has been given

    def feed(self, part: str) -> list[Piece]:
        """Pieces that no further part can change."""
        seen = without_invisible(part)
        self._text += seen
        self._new += len(seen)
        if self._new < _STEP:
            return []
        self._new = 0
        return self._pieces(len(self._text) - HORIZON, len(self._text) - ENDING)

    def end(self) -> list[Piece]:
        """What is left."""
        return self._pieces(len(self._text), len(self._text))

    def _pieces(self, decided: int, ended: int) -> list[Piece]:
        """Pieces up to `decided`; a finding whose end is past `ended` may go on."""
        pieces: list[Piece] = []
        if decided <= self._begin:
            return pieces
        at = self._begin
        for finding in self._detector.scan(self._text, at):
            if finding.start >= decided:
                break
            if finding.start > at:
                pieces.append(Piece(self._text[at : finding.start], False))
            if not (self._marked and finding.start == self._begin):
                pieces.append(Piece(mark(finding.kind), True))
            self._marked = False
            at = finding.end
            if finding.kind == "secret" and finding.end > ended:
                self._keep_open(finding.start)
                return pieces
        if at < decided:
            pieces.append(Piece(self._text[at:decided], False))
            at = decided
        self._keep(at)
        return pieces

    def _keep(self, at: int) -> None:
        keep = max(0, at - CONTEXT)
        self._text = self._text[keep:]
        self._begin = at - keep

    def _keep_open(self, start: int) -> None:
        """Keep what tells that a secret begins at `start`, and its last characters: the middle says nothing more."""
        self._keep(start)
        self._marked = True
        core = self._begin + HORIZON
        if len(self._text) > core + 2 * ENDING:
            # The letter keeps the two parts from being read as one thing.
            self._text = f"{self._text[:core]}A{self._text[-2 * ENDING :]}"


def redact(detector: Detector, text: str) -> str:
    """`text` with a mark such as `[email]` in the place of each finding, and without invisible characters."""
    seen = without_invisible(text)
    parts: list[str] = []
    at = 0
    for kind, start, end in detector.scan(seen):
        parts += (seen[at:start], mark(kind))
        at = end
    parts.append(seen[at:])
    return "".join(parts)


class Redactor:
    """The one redactor before every sink. `detector` gives the current one, which the policy's patterns belong to."""

    def __init__(self, detector: Callable[[], Detector], key: bytes) -> None:
        """`key` is for fingerprints: who has it can tell whether a prompt is the one that was fingerprinted."""
        self._detector = detector
        self._key = key

    def redact(self, text: str) -> str:
        """As the function `redact`."""
        return redact(self._detector(), text)

    def snippet(self, text: str, most: int) -> str:
        """The beginning of the redacted text: at most `most` characters, no mark cut; `…` at its end where it is cut.

        Only as much of the text is redacted as it takes.
        """
        stream = StreamRedactor(self._detector())
        taken = 0
        size = most + 1 + HORIZON
        pieces: list[Piece] = []
        while taken < len(text) and taken < _FURTHEST + most and _length(pieces) <= most:
            pieces += stream.feed(text[taken : taken + size])
            taken += size
        whole = taken >= len(text)
        if whole and _length(pieces) <= most:
            pieces += stream.end()
        # A lone surrogate, which JSON can smuggle in, cannot be written to any sink.
        return _cut(pieces, most, whole=whole).encode("utf-8", "replace").decode()

    def fingerprint(self, content: bytes) -> str:
        """32 hexadecimal characters of the keyed hash of `content`: equal for equal contents, and nothing else."""
        return hmac.digest(self._key, content, hashlib.sha256).hex()[:32]


def _length(pieces: list[Piece]) -> int:
    return sum(len(piece.text) for piece in pieces)


def _cut(pieces: list[Piece], most: int, *, whole: bool) -> str:
    if whole and _length(pieces) <= most:
        return "".join(piece.text for piece in pieces)
    left = most - len(_ELLIPSIS)
    parts: list[str] = []
    for piece in pieces:
        if len(piece.text) > left:
            if not piece.mark:
                parts.append(piece.text[:left])
            break
        parts.append(piece.text)
        left -= len(piece.text)
    return "".join(parts) + _ELLIPSIS
