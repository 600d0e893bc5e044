"""The scalar types of the policy file: each checks strictly, says what would be right, and has its JSON Schema.

Strict means that nothing is converted: a quoted "1" is not 1, `true` is not 1, a bare 60 is not a duration.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from stratmaster_router.policy.problems import did_you_mean, shown

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MODEL_NAME = r"^[!-~]{1,256}$"
DURATION = r"^[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h)$"
ENV_NAME = r"^[A-Z_][A-Z0-9_]{0,127}$"
ABSOLUTE_PATH = r"^/[^\x00-\x1f\x7f]{0,4095}$"
HOST = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)$"

LONGEST_DURATION = 24 * 3600
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_MOST_USD = Decimal(1_000_000_000)
_NANO_DOLLARS = 9
_RETRY_WORDS = ("connect", "timeout", "5xx")
_RETRY_STATUSES = (408, 409, 425, 429, *range(500, 600))


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is found: exactly one of an environment variable or a file (policy.md, rule 8)."""

    env: str | None = None
    file: str | None = None


def fail(message: str) -> NoReturn:
    """Raises the error that becomes a Problem with exactly this message."""
    # A message with braces must not be taken for a template, hence no context.
    raise PydanticCustomError("policy", message)


def _expected(what: str, value: object) -> NoReturn:
    fail(f"expected {what}, got {shown(value)}")


def boolean(value: object) -> bool:
    """Exactly true or false."""
    if not isinstance(value, bool):
        _expected("true or false", value)
    return value


def version(value: object) -> int:
    """The version of the file's shape."""
    if isinstance(value, bool) or value != 1 or not isinstance(value, int):
        _expected("1, the only version", value)
    return value


def whole(least: int, most: int) -> Callable[[object], int]:
    """A validator of whole numbers within bounds, both included."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            _expected(f"a whole number from {least} to {most}", value)
        return value

    return check


def choice(*options: str) -> Callable[[object], str]:
    """A validator of one word out of `options`."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            near = did_you_mean(value, options) if isinstance(value, str) else ""
            fail(f"expected {' or '.join(options)}, got {shown(value)}{near}")
        return value

    return check


def matching(pattern: str, what: str) -> Callable[[object], str]:
    """A validator of texts that match `pattern`, described to the reader as `what`."""
    compiled = re.compile(pattern)

    def check(value: object) -> str:
        # fullmatch, because `$` also matches before a final newline.
        if not isinstance(value, str) or not compiled.fullmatch(value):
            hint = "; write it in quotes" if isinstance(value, (int, Decimal)) else ""
            fail(f"expected {what}, got {shown(value)}{hint}")
        return value

    return check


def name(value: object) -> str:
    """A name that can stand in a metric's label and in a header: of a tenant, a provider or a task."""
    if isinstance(value, str) and "/" in value:
        fail("a name may not contain '/', which separates a provider from a model")
    return _NAME(value)


_NAME = matching(NAME, "a name of letters, digits, '.', '_' and '-' (at most 64, beginning with a letter or digit)")


def usd(least_is_free: bool) -> Callable[[object], Decimal]:
    """A validator of dollars as an exact Decimal, at most 9 decimal places; zero is allowed for prices only."""
    bound = "of at least 0" if least_is_free else "above 0"

    def check(value: object) -> Decimal:
        what = f"a number of US dollars {bound} and at most {_MOST_USD}, with at most {_NANO_DOLLARS} decimal places"
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
            _expected(what, value)
        amount = Decimal(value)
        if not 0 <= amount <= _MOST_USD or (amount == 0 and not least_is_free):
            _expected(what, value)
        exponent = amount.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -_NANO_DOLLARS:
            _expected(what, value)
        return amount

    return check


def duration(value: object) -> float:
    """Seconds from `250ms`, `2s`, `5m` or `1h`."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        fail(f"{shown(value)} has no unit; write {value}s for seconds (units: ms, s, m, h)")
    match = re.fullmatch(DURATION, value) if isinstance(value, str) else None
    if match is None:
        _expected("a duration such as 250ms, 2s, 5m or 1h", value)
    seconds = Decimal(match[0].removesuffix(match[2])) * _SECONDS[match[2]]
    if not 0 < seconds <= LONGEST_DURATION:
        _expected("a duration above 0 and at most 24h", value)
    return float(seconds)


def secret(value: object) -> SecretRef:
    """A reference to a secret; nothing of what was written is ever repeated."""
    advice = "write {env: NAME} or {file: /path}; a secret itself is never written in the policy"
    if not isinstance(value, dict) or not value.keys() <= {"env", "file"}:
        fail(advice)
    if len(value) != 1:
        fail("write exactly one of env and file")
    [(kind, place)] = value.items()
    if kind == "env":
        if not isinstance(place, str) or not re.fullmatch(ENV_NAME, place):
            fail("env must be the name of an environment variable in upper case, such as OPENAI_API_KEY")
        return SecretRef(env=place)
    if not isinstance(place, str) or not re.fullmatch(ABSOLUTE_PATH, place):
        fail("file must be an absolute path, such as /var/run/secrets/upstream/openai")
    return SecretRef(file=place)


def base_url(value: object) -> str:
    """An http or https address without user, query or fragment, and without a slash at its end."""
    what = "an http:// or https:// address such as https://api.example.com/v1"
    if not isinstance(value, str):
        _expected(what, value)
    if "@" in value or "?" in value or "#" in value:  # each may carry a secret, so the value is not shown
        fail("an address may not carry a user, a query or a fragment; a key belongs in api_key")
    if not re.fullmatch(r"[!-~]{1,2048}", value):
        _expected(what, value)
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        _expected(what, value)
    if parts.scheme not in ("http", "https") or not host or port == 0:
        _expected(what, value)
    if not re.fullmatch(HOST, f"[{host}]" if ":" in host else host) or max(map(len, host.split("."))) > 63:
        _expected(what, value)
    return value.rstrip("/")


def https_url(value: object) -> str:
    """An address as `base_url`, with TLS."""
    url = base_url(value)
    if not url.startswith("https://"):
        fail(f"expected an https:// address, got {shown(value)}")
    return url


def retry_on(value: object) -> str:
    """One entry of `retries.on`, as a text."""
    if isinstance(value, str) and value in _RETRY_WORDS:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value in _RETRY_STATUSES:
        return str(value)
    near = did_you_mean(value, _RETRY_WORDS) if isinstance(value, str) else ""
    fail(f"expected connect, timeout, 5xx, 408, 409, 425, 429 or a status from 500 to 599, got {shown(value)}{near}")


Boolean = Annotated[bool, PlainValidator(boolean), WithJsonSchema({"type": "boolean"})]
Version = Annotated[int, PlainValidator(version), WithJsonSchema({"const": 1})]
Count = Annotated[
    int, PlainValidator(whole(1, 10**12)), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 10**12})
]
Weight = Annotated[
    int, PlainValidator(whole(1, 1000)), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 1000})
]
RetryCount = Annotated[
    int, PlainValidator(whole(0, 10)), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 10})
]
RetryOn = Annotated[
    str,
    PlainValidator(retry_on),
    WithJsonSchema(
        {"anyOf": [{"enum": [*_RETRY_WORDS, 408, 409, 425, 429]}, {"type": "integer", "minimum": 500, "maximum": 599}]}
    ),
]
_USD_SCHEMA = {"type": "number", "maximum": int(_MOST_USD)}
Price = Annotated[Decimal, PlainValidator(usd(True)), WithJsonSchema({**_USD_SCHEMA, "minimum": 0})]
Budget = Annotated[Decimal, PlainValidator(usd(False)), WithJsonSchema({**_USD_SCHEMA, "exclusiveMinimum": 0})]
Duration = Annotated[
    float,
    PlainValidator(duration),
    WithJsonSchema({"type": "string", "pattern": DURATION, "examples": ["250ms", "2s", "5m", "1h"]}),
]
Name = Annotated[str, PlainValidator(name), WithJsonSchema({"type": "string", "pattern": NAME})]
ModelName = Annotated[
    str,
    PlainValidator(matching(MODEL_NAME, "a model name of printable ASCII without spaces (at most 256 characters)")),
    WithJsonSchema({"type": "string", "pattern": MODEL_NAME}),
]
Host = Annotated[
    str,
    PlainValidator(matching(HOST, "a host name without scheme, port or path")),
    WithJsonSchema({"type": "string", "pattern": HOST}),
]
BaseUrl = Annotated[
    str,
    PlainValidator(base_url),
    WithJsonSchema({"type": "string", "pattern": r"^https?://[^\s@?#]+$", "format": "uri"}),
]
HttpsUrl = Annotated[
    str,
    PlainValidator(https_url),
    WithJsonSchema({"type": "string", "pattern": r"^https://[^\s@?#]+$", "format": "uri"}),
]
FilePath = Annotated[
    str,
    PlainValidator(matching(r"^[^\x00-\x1f\x7f]{1,4096}$", "the path of a file")),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 4096}),
]
Word = Annotated[
    str,
    PlainValidator(matching(MODEL_NAME, "a text of printable ASCII without spaces (at most 256 characters)")),
    WithJsonSchema({"type": "string", "pattern": MODEL_NAME}),
]
Secret = Annotated[
    SecretRef,
    PlainValidator(secret),
    WithJsonSchema(
        {
            "description": "Where the secret is found; it is never written here itself.",
            "oneOf": [
                {
                    "type": "object",
                    "properties": {key: {"type": "string", "pattern": pattern, "description": text}},
                    "required": [key],
                    "additionalProperties": False,
                }
                for key, pattern, text in (
                    ("env", ENV_NAME, "Name of an environment variable, in upper case."),
                    ("file", ABSOLUTE_PATH, "Absolute path of a file, read again when it changes."),
                )
            ],
        }
    ),
]
