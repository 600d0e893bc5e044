"""The `usage` object of the OpenAI wire, read leniently: providers leave members out or set them to null."""

import msgspec
from msgspec import Raw, Struct

from stratmaster_router.domain.usage import Usage


class _InputDetails(Struct):
    cached_tokens: int | None = None


class _OutputDetails(Struct):
    reasoning_tokens: int | None = None


class _WireUsage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


_decode = msgspec.json.Decoder(_WireUsage | None).decode


def read_usage(raw: Raw) -> Usage | None:
    """The usage in `raw`, or None where there is none that could be billed: empty, null, negative, of another shape."""
    if not raw:
        return None
    try:
        wire = _decode(raw)
    except msgspec.ValidationError:
        return None
    if wire is None:
        return None
    counted_input = wire.prompt_tokens
    counted_output = wire.completion_tokens
    if counted_input is None and wire.total_tokens is not None:
        counted_input = wire.total_tokens - (counted_output or 0)
    if counted_input is None or counted_input < 0 or (counted_output or 0) < 0:
        return None
    cached = wire.prompt_tokens_details.cached_tokens if wire.prompt_tokens_details else None
    reasoning = wire.completion_tokens_details.reasoning_tokens if wire.completion_tokens_details else None
    return Usage(counted_input, counted_output or 0, max(0, cached or 0), max(0, reasoning or 0))
