"""The operator's own patterns of what is personal or secret: what may be written, and their compiled form.

RE2 takes time in proportion to the text whatever the pattern, so no pattern can hang the router. Their matches are
bounded too, because a stream cannot be held back without end to see how one goes on.
"""

import re
from re import _parser  # type: ignore[attr-defined]  # the one part of Python that knows how long a match can be

import re2

from stratmaster_router.domain.redaction import KINDS, LONGEST_CUSTOM
from stratmaster_router.policy.fields import fail, matching
from stratmaster_router.policy.problems import shown

PATTERN_NAME = r"^[a-z][a-z0-9_]{0,31}$"
LONGEST_PATTERN = 512

_name = matching(PATTERN_NAME, "a name of lower-case letters, digits and '_' (at most 32, beginning with a letter)")


def compiled(pattern: str) -> "re2._Regexp":
    """`pattern` over bytes, each a character of Latin-1. Raises `re2.error`."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return re2.compile(pattern.encode("latin-1"), options)


def pattern_name(value: object) -> str:
    """What a pattern's findings are called; none of the kinds that are found anyway."""
    name = _name(value)
    if name in KINDS:
        fail(f"{name!r} is found without a pattern; choose another name")
    return name


def pattern(value: object) -> str:
    """A regular expression that both RE2 and Python read, whose matches are neither empty nor unbounded."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_PATTERN or not value.isascii():
        fail(f"expected a regular expression of ASCII characters (at most {LONGEST_PATTERN}), got {shown(value)}")
    try:
        compiled(value)
    except re2.error as error:
        fail(f"RE2 does not take this pattern: {_reason(error)}")
    try:
        least, most = _parser.parse(value).getwidth()
    except (re.error, RecursionError, OverflowError) as error:
        fail(f"this pattern is not read alike everywhere: {error}; write it in simpler terms")
    if least == 0:
        fail("this pattern matches an empty text, which is everywhere")
    if most > LONGEST_CUSTOM:
        fail(f"a match may have at most {LONGEST_CUSTOM} characters; write a bound such as {{1,40}} instead of + or *")
    return value


def _reason(error: Exception) -> str:
    [reason] = error.args
    return reason.decode("ascii", "replace") if isinstance(reason, bytes) else str(reason)
