"""What one request used, in tokens."""

from msgspec import Struct


class Usage(Struct, frozen=True):
    """Tokens as the upstream counted them; `cached_input` is part of `input`, `reasoning` is part of `output`."""

    input: int
    output: int
    cached_input: int = 0
    reasoning: int = 0
