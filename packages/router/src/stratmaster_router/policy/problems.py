"""What is wrong with a policy file: where, and what would be right (policy.md, rule 9).

A problem never repeats a secret: under `api_key` neither values nor unexpected keys are shown, and elsewhere a
value that looks like a key is masked (rule 8).
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

Loc = tuple[str | int, ...]
"""A place in the document: mapping keys and list indexes from the root."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9._/:@-]{1,80}")
_SECRET_LIKE = re.compile(
    r"(?i)(?:^|[^a-z0-9])(?:sk|pk|rk|gsk|xai|ghp|bearer)[-_ ][A-Za-z0-9]|(?=[A-Za-z+_=]*[0-9])[A-Za-z0-9+_=]{24,}"
)
_SHOWN = 60


class Nothing(Enum):
    """What stands where the file gives no value (`limits:` and then nothing, `~`, `null`).

    No field of the policy takes it. It is not None, because None is how an optional field says "not written".
    """

    NOTHING = "nothing"


NOTHING = Nothing.NOTHING


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct: its path (`tenants.acme.limits.rpm`, empty for the file), its 1-based line, and advice."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.path}: {self.message}" if self.path else f"line {self.line}: {self.message}"


class PolicyInvalid(Exception):
    """The policy cannot take effect; `problems` holds every reason, by line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line, problem.path, problem.message)))
        super().__init__("\n".join(map(str, self.problems)))


def path_of(loc: Loc) -> str:
    """`loc` as one writes it. A key below `api_key` other than `env` and `file` is left out: it may be a secret."""
    if "api_key" in loc:
        end = loc.index("api_key") + 1
        loc = loc[: end + 1] if loc[end : end + 1] in (("env",), ("file",)) else loc[:end]
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + _key(part)
    return text


def _key(part: str) -> str:
    if _looks_secret(part):
        return "<hidden>"
    return part if _PLAIN_KEY.fullmatch(part) else shown(part)


def shown(value: object) -> str:
    """`value` for a message: one line, cut to 60 characters, control characters escaped, anything like a key masked."""
    if value is NOTHING:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)):
        text = str(value)
        return f"the number {text}" if len(text) <= _SHOWN else f"a number of {len(text)} characters"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = str(value)
    if _looks_secret(text):
        return "a text that looks like a secret"
    quoted = repr(text[:_SHOWN])
    return quoted if len(text) <= _SHOWN else f"{quoted[:-1]}…{quoted[-1]}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is likely a misspelling of."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word[:80].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` where `x` is the nearest of `known`, or an empty text when none is near."""
    near = nearest(word, known)
    return f", did you mean {near!r}?" if near else ""


def _looks_secret(text: str) -> bool:
    return _SECRET_LIKE.search(text) is not None
