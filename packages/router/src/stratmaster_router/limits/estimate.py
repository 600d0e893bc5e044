"""How many tokens a request may use, judged before it is made. docs/estimates.md has the measured errors."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from stratmaster_router.domain.routing import Endpoint

LONG_BODY = 64 * 1024
"""Bytes from which on a body is looked through in a thread, not on the event loop."""

# Of the usual rules for pictures the dearest: 36 tiles of 170 tokens, or 4,784 for a large one. `gpt-4o-mini`, which
# multiplies them by 33, costs by its own price 1/16 of the others', so its pictures count more here.
IMAGE_TOKENS = 6_200
_MINI_IMAGE_TOKENS = 48_200

_LETTERS = bytes((*range(0x41, 0x5B), *range(0x61, 0x7B)))
_MEDIA = (b'"image_url"', b'"input_audio"')
# Base64 that stands in a body as text would be counted as text: only members that carry media are taken out.
_media_part = re.compile(rb'"(?:url|data)"\s*:\s*"([^"\\]{64,})"')
_picture = re.compile(rb'"image_url"\s*:')
_o200k = re.compile(r"(?:.*/)?(?:gpt-4o|gpt-4\.|gpt-[5-9]|chatgpt-4o|o[1-9])").match
_cl100k = re.compile(r"(?:.*/)?(?:gpt-4(?:-|$|@)|gpt-3\.5|text-embedding-)").match
_CUT = 20_000  # characters that are encoded at once; other threads run in between


def input_estimate(body: bytes) -> int:
    """Input tokens of a request body, rather too many than too few; never fewer than its texts have words.

    Four letters and a space, or two of other characters, are about a token; indentation costs little. The weights, in
    56ths of a token, are fitted to English, code, JSON and Chinese (scripts/measure_estimates.py).
    """
    media = 0
    if any(mark in body for mark in _MEDIA):
        body, media = _without_media(body)
    rest = len(body.translate(None, _LETTERS))
    spaces = body.count(b" ")
    # A run of spaces counts once for the most part: of 1, 2, 4, 8 there remain 1, 1, 1, 2.
    gaps = spaces - body.count(b"  ") - body.count(b"    ")
    escapes = body.count(b"\\")
    return (8 * (len(body) - rest) + 49 * gaps + 28 * (rest - spaces + escapes)) // 56 + 1 + media


def input_bound(body: bytes, model: str) -> int:
    """The most input tokens that any byte-level tokenizer makes of a body: one a byte, and pictures by their number."""
    if not any(mark in body for mark in _MEDIA):
        return len(body)
    rest, media = _without_media(body)
    if "4o-mini" in model:
        media += len(_picture.findall(body)) * (_MINI_IMAGE_TOKENS - IMAGE_TOKENS)
    return len(rest) + media


def _without_media(body: bytes) -> tuple[bytes, int]:
    """`body` without the bytes of pictures and sounds, and the most tokens that those are."""
    sounds = 0
    if _MEDIA[1] in body:
        # A token of sound is a tenth of a second at the least: 200 bytes even of strongly compressed speech.
        sounds = sum(len(found) for found in _media_part.findall(body)) // 200
    return _media_part.sub(b"", body), len(_picture.findall(body)) * IMAGE_TOKENS + sounds


def output_bound(endpoint: Endpoint, fields: Mapping[str, Any], default: int) -> tuple[int, bool]:
    """The most output tokens of a request, and whether the client has bounded them; `default` is an answer's else."""
    if endpoint is Endpoint.EMBEDDINGS:
        return 0, True
    given = _count(fields.get("max_completion_tokens")) or _count(fields.get("max_tokens"))
    answers = max(_count(fields.get("n")), 1)
    predicted = 0
    if endpoint is Endpoint.COMPLETIONS:
        answers = max(answers, _count(fields.get("best_of"))) * _prompts(fields.get("prompt"))
    elif "prediction" in fields:
        predicted = len(str(fields["prediction"]).encode(errors="replace"))  # what of it is wrong is billed as output
    return (given or default) * answers + predicted, bool(given)


def _count(value: Any) -> int:
    """A whole number above zero as it is, and 0 for all else: that is the upstream's to refuse."""
    return value if type(value) is int and value > 0 else 0


def _prompts(prompt: Any) -> int:
    if type(prompt) is list and prompt and type(prompt[0]) is not int:
        return len(prompt)
    return 1


def request_tokens(body: bytes, model: str) -> int | None:
    """The tokens of a whole body, pictures by their number: at least what is billed. None for an unknown tokenizer.

    JSON's own characters cost more than what OpenAI adds to a message, which is three tokens and three for the answer.
    """
    media = 0
    if any(mark in body for mark in _MEDIA):
        body, _ = _without_media(body)
        media = input_bound(body, model) - len(body)
    counted = count_tokens(body.decode(errors="replace"), model)
    return None if counted is None else counted + media


def count_tokens(text: str, model: str) -> int | None:
    """The tokens of `text` as OpenAI's `model` counts them; None for others."""
    name = "o200k_base" if _o200k(model) else "cl100k_base" if _cl100k(model) else None
    if name is None:
        return None
    count: Callable[[str], int] = _tokenizer(name).count
    text = text.encode(errors="replace").decode()  # halves of characters have no tokens
    # A cut can only add to the count.
    return sum(count(text[begin : begin + _CUT]) for begin in range(0, len(text), _CUT))


@cache
def _tokenizer(name: str) -> Any:
    """The compiled tokenizer of bpe-openai: 75 ms and 70 MB, once and only where something has to be counted.

    It is loaded without its package, whose import takes all encodings and their tables in Python: twice that.
    """
    package = find_spec("bpe_openai")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0])
    file = next(path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_bindings{suffix}").exists())
    loader = ExtensionFileLoader("bpe_openai._bindings", str(file))
    bindings = module_from_spec(spec_from_loader(loader.name, loader))  # type: ignore[arg-type]  # a loader gives one
    loader.exec_module(bindings)
    return bindings.tokenizer_for_encoding(name)


def answer_tokens(text: str, model: str) -> int:
    """The tokens of an answer whose upstream did not count them: exact where the tokenizer is known, else estimated."""
    counted = count_tokens(text, model)
    return input_estimate(text.encode(errors="replace")) if counted is None else counted
