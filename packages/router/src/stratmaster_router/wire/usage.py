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


class _WireCounts(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


_MOST = 10**12  # tokens; what claims more cannot be believed

_decode = msgspec.json.Decoder(_WireUsage | None).decode
_decode_counts = msgspec.json.Decoder(_WireCounts).decode


def read_usage(raw: Raw) -> Usage | None:
    """The usage in `raw`, or None where there is none that could be billed: empty, null, negative, of another shape."""
    if not raw:
        return None
    try:
        wire = _decode(raw)
    except msgspec.ValidationError:
        try:
            # Details of another shape do not make the tokens free.
            counts = _decode_counts(raw)
        except msgspec.ValidationError:
            return None
        wire = _WireUsage(counts.prompt_tokens, counts.completion_tokens, counts.total_tokens)
    if wire is None:
        return None
    counted_input = wire.prompt_tokens
    counted_output = wire.completion_tokens
    if wire.total_tokens is not None:
        if counted_input is None:
            counted_input = wire.total_tokens - (counted_output or 0)
        elif counted_output is None:
            counted_output = max(0, wire.total_tokens - counted_input)
    if counted_input is None or not 0 <= counted_input <= _MOST or not 0 <= (counted_output or 0) <= _MOST:
        return None
    cached = wire.prompt_tokens_details.cached_tokens if wire.prompt_tokens_details else None
    reasoning = wire.completion_tokens_details.reasoning_tokens if wire.completion_tokens_details else None
    return Usage(counted_input, counted_output or 0, max(0, cached or 0), max(0, reasoning or 0))
