"""How many tokens a request may use, judged before it is made. docs/estimates.md has the measured errors.

Three figures of rising price: an estimate from the body's bytes, a bound that no tokenizer exceeds, and an exact count
for OpenAI's models.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import msgspec

from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.wire.json_text import members

LONG_BODY = 64 * 1024
"""Bytes from which on a body is looked through in a thread: estimating it takes 0.2 ms."""

IMAGE_TOKENS = 16_384
"""The most input tokens of one picture, however few its bytes: as many patches of 28 x 28 pixels (Qwen's limit).

OpenAI's dearest are 12,000 (10,000 patches times 1.2); tiles stay under 1,500, Claude under 5,000.
"""
MINI_IMAGE_TOKENS = 48_200
"""The same for gpt-4o-mini, which counts 33 times what gpt-4o does (48,169), and where no model is named."""

# For limits that a refund makes good soon: what the usual models make of a large picture at most.
_LIKELY_IMAGE_TOKENS = 4_000
_UNBOUNDED = 10**9
# Looking a member up on its enum is as dear as a call.
_EMBEDDINGS, _COMPLETIONS = Endpoint.EMBEDDINGS, Endpoint.COMPLETIONS
# Characters of base64 for a token of sound. mp3 has 1,000 bytes a second at the least, so 16 allow for 83 tokens a
# second, where OpenAI counts 10 and Gemini 32. At 200, speech in 16 kbit/s still has 13.
_SOUND, _LIKELY_SOUND = 16, 200

_LOWER = bytes(range(0x61, 0x7B))
_WIDE = bytes(range(0x80, 0x100))
# White space outside ASCII, by its UTF-8: U+0085 and U+00A0, U+1680, U+2000 to U+202F, U+205F, U+3000.
_WIDE_SPACES = (b"\xc2", b"\xe1\x9a\x80", b"\xe2\x80", b"\xe2\x81\x9f", b"\xe3\x80\x80")
_WIDE_SPACE_LEADS = b"\xc2\xe1\xe2\xe3"
_ESCAPED_SPACES = (b"\\u00", b"\\u16", b"\\u20", b"\\u30")

# A `provider/` before the name, `ft:` of a tuned model; a version, a date or an `@directive` after it.
_o200k = re.compile(r"(?:.*/)?(?:ft:)?(?:(?:chat)?gpt-4o|gpt-4\.[15]|gpt-5|o[134])(?![a-z0-9])").match
_cl100k = re.compile(r"(?:.*/)?(?:ft:)?(?:gpt-4|gpt-3\.?5|text-embedding-(?:3|ada-002))(?![a-z0-9.])").match
# Between these two characters every tokenizer in use cuts a text, so the parts can be counted each by itself.
_seam = re.compile(r"[A-Za-z0-9\u4e00-\u9fff](?=[ \n\"\\,.:;/+=，。、])").search
_CUT = 16_384  # characters that are counted at once, 0.6 ms: the tokenizer keeps other threads waiting
_ESCAPES = (("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"), ('\\"', '"'), ("\\/", "/"), ("\\b", "\b"), ("\\f", "\f"))


def input_estimate(body: bytes) -> int:
    """Input tokens of a request body, rather too many than too few; never fewer than its texts have words.

    The weights, in 64ths of a token, are fitted to English, code, JSON and Chinese (scripts/measure_estimates.py).
    """
    media = 0
    if b'"type"' in body:  # as every part has that is not text alone
        body, media = _without_media(body)
    size = len(body)
    others = len(body.translate(None, _LOWER))
    lower = size - others
    spaces = body.count(b" ")
    # Indentation costs little: of 1, 2, 4, 8 spaces in a row there count 1, 2, 1, 2. Never none of a run.
    gaps = spaces - 3 * body.count(b"    ")
    escapes = body.count(b"\\")
    others -= spaces + escapes
    wide = leads = 0
    if not body.isascii():
        wide = size - len(body.translate(None, _WIDE))
        leads = size - len(body.translate(None, _WIDE_SPACE_LEADS))
        others -= wide
    weight = 11 * lower + 21 * gaps + 39 * others + 28 * escapes + 22 * wide
    if escapes * 16 > size:  # many of them may be \u and four digits, which are one character
        weight -= 96 * body.count(b"\\u")
    quotes = body.count(b'"')
    words = gaps + escapes + leads + quotes // 2
    if words << 6 > weight:  # there are not so many, but that takes longer to see
        words = _most_words(body, gaps, escapes, quotes, leads)
    return max(weight >> 6, words) + 1 + media


def _most_words(body: bytes, words: int, escapes: int, quotes: int, leads: int) -> int:
    """No fewer than the words of all texts: one for each two quotes, and one for each white space in between."""
    if escapes:
        # No white space begins at a backslash before a quote, and of \u only at few.
        quoted = body.count(b'\\"')
        words += escapes - quoted - body.count(b"\\u") + sum(map(body.count, _ESCAPED_SPACES))
        quotes -= quoted
    if leads:
        words += sum(map(body.count, _WIDE_SPACES))
    return words + quotes // 2


def _without_media(body: bytes) -> tuple[bytes, int]:
    """`body` without the strings that are base64 and nothing else, and the likely tokens of its pictures and sounds."""
    # A part names its kind twice: as its type and as its key.
    media = (body.count(b'"image_url"') + 1) // 2 * _LIKELY_IMAGE_TOKENS
    if b";base64," in body:
        body, _ = _without_base64(body, b";base64,", b"")
    if b'"input_audio"' in body:
        body, sound = _without_base64(body, b'"data"', b'"')
        media += sound // _LIKELY_SOUND
    return body, media


def _without_base64(body: bytes, mark: bytes, opening: bytes) -> tuple[bytes, int]:
    """Take out the base64 that begins with `opening` after `mark`, up to the next quote; and how many bytes it had."""
    kept = []
    begin = at = taken = 0
    while (at := body.find(mark, at)) >= 0:
        start = body.find(opening, at + len(mark)) + len(opening)
        end = body.find(b'"', start)
        if start < at or end < 0:
            break
        at = end
        encoded = body[start:end]
        # What has a space or an escape, other than PHP's of a slash, is a text.
        if encoded.isascii() and b" " not in encoded and encoded.count(b"\\") == encoded.count(b"\\/"):
            kept.append(body[begin:start])
            begin = end
            taken += len(encoded)
    kept.append(body[begin:])
    return b"".join(kept), taken


def input_bound(body: bytes, model: str = "", fields: Mapping[str, Any] | None = None) -> int:
    """The most input tokens that any byte-level tokenizer makes of a request: one a byte, and pictures by their number.

    Pictures count as `model` counts them. An array of token ids has two bytes and more for each. What a part of the
    type `file` or `video_url` stands for cannot be known from here. Without `fields`, the body's, it is read again.
    """
    bound = len(body)
    if fields is None:
        fields = _read(body)
    for data, tokens in _media(fields, model):
        bound += tokens - len(data)
    return bound


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        fields, _ = members(body.decode())  # the careful way, as for the envelope
    return fields if type(fields) is dict else {}


def _media(fields: Mapping[str, Any], model: str) -> Iterable[tuple[str, int]]:
    """Each picture and sound of a chat: its base64, and the most input tokens of it.

    The messages are walked each time, because a search of the body for the types misses those with escapes in them,
    and takes longer.
    """
    messages = fields.get("messages")
    if type(messages) is list:
        for message in messages:
            if type(message) is dict and type(message.get("content")) is list:
                return _media_of(messages, model)
    return ()


def _media_of(messages: list[Any], model: str) -> Iterator[tuple[str, int]]:
    picture = IMAGE_TOKENS if model and "4o-mini" not in model else MINI_IMAGE_TOKENS
    for message in messages:
        content = message.get("content") if type(message) is dict else None
        if type(content) is list:
            for part in content:
                if type(part) is dict:
                    yield from _part(part, picture)


def _part(part: dict[str, Any], picture: int) -> Iterator[tuple[str, int]]:
    kind = part.get("type")
    if kind == "input_audio":
        sound = part.get("input_audio")
        data = sound.get("data") if type(sound) is dict else None
        if type(data) is str and data.isascii():
            yield data, len(data) // _SOUND + 1
    elif kind == "image_url" or "image_url" in part:
        image = part.get("image_url")
        url = image.get("url") if type(image) is dict else image
        if kind == "image_url" and type(url) is str and url.isascii() and url[:11].lower() == "data:image/":
            yield url, picture
        else:
            yield "", picture
    elif type(content := part.get("content")) is list:  # a tool's result
        for inner in content:
            if type(inner) is dict:
                yield from _part(inner, picture)


def output_bound(endpoint: Endpoint, fields: Mapping[str, Any], default: int) -> tuple[int, bool]:
    """The most output tokens of a request, and whether the client has bounded them; `default` is an answer's else.

    Of two bounds the larger counts: Ollama, for one, knows `max_tokens` only (its issue 7125). For completions
    `max_completion_tokens` is no bound at all, since it is not a field of theirs.
    """
    if endpoint is _EMBEDDINGS:
        return 0, True
    given = _count(fields["max_tokens"]) if "max_tokens" in fields else 0
    answers = _count(fields["n"]) or 1 if "n" in fields else 1
    if endpoint is _COMPLETIONS:
        answers = max(answers, _count(fields.get("best_of"))) * _prompts(fields.get("prompt"))
        return (given or default) * answers, given > 0
    if "max_completion_tokens" in fields:
        given = max(given, _count(fields["max_completion_tokens"]))
    predicted = _predicted(fields["prediction"]) if "prediction" in fields else 0
    return (given or default) * answers + predicted, given > 0


def _count(value: Any) -> int:
    """A whole number above zero, and 0 for all else: that is the upstream's to refuse. A billion is without bound."""
    if type(value) is not int or value < 0:
        return 0
    return value if value < _UNBOUNDED else _UNBOUNDED  # noqa: FURB136  # min() is a call


def _prompts(prompt: Any) -> int:
    """How many prompts there are: one text, one array of token ids, or an array of either."""
    if type(prompt) is not list or set(map(type, prompt)) <= {int}:
        return 1
    return len(prompt)


def _predicted(prediction: Any) -> int:
    """The bytes of a predicted answer: what of it turns out wrong is billed as output."""
    content = prediction.get("content") if type(prediction) is dict else None
    if type(content) is str:
        return len(content.encode(errors="replace"))
    parts = content if type(content) is list else ()
    texts = [part.get("text") for part in parts if type(part) is dict]
    return sum(len(text.encode(errors="replace")) for text in texts if type(text) is str)


def request_tokens(body: bytes, model: str, fields: Mapping[str, Any] | None = None) -> int | None:
    """The tokens of a whole request to OpenAI's `model`, never fewer than it bills for; None for other models.

    The body is counted as a text, with pictures by their number. JSON's own characters cost more than the three tokens
    that OpenAI adds to a message, the three for the answer's begin, and its rendering of tools.
    """
    if not countable(model):
        return None
    if fields is None:
        fields = _read(body)
    try:
        # Without \u: a token such as "\ufeff" could stand for a character of three.
        text = (msgspec.json.encode(fields) if b"\\u" in body else body).decode()
    except (OverflowError, UnicodeError):
        return input_bound(body, model, fields)
    if "\\" in text:
        # "\nu" is one token, a line's end and a "u" are two. No JSON has a NUL of its own.
        text = text.replace("\\\\", "\0")
        for escape, character in _ESCAPES:
            text = text.replace(escape, character)
        text = text.replace("\0", "\\")
    kept = []
    tokens = at = 0
    for data, most in _media(fields, model):
        # In the order of the text, so that a thousand pictures are not a thousand searches of it all.
        begin = text.find(data, at)
        if begin >= 0:
            kept.append(text[at:begin])
            at = begin + len(data)
        tokens += most
    kept.append(text[at:])
    counted = count_tokens("".join(kept), model)
    assert counted is not None
    return counted + tokens


def count_tokens(text: str, model: str) -> int | None:
    """The tokens of `text` as OpenAI's `model` counts them, special tokens as text; None for other models.

    The first call for an encoding loads it: 0.1 s, 67 MB. 64 KB take 2 ms; other threads run at each seam of the text.
    """
    name = _encoding_name(model)
    if name is None:
        return None
    count = _counter(name)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair: JSON may say it, UTF-8 may not
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    tokens = begin = 0
    while len(text) - begin > _CUT:
        seam = _seam(text, begin + _CUT)
        end = seam.end() if seam else len(text)
        tokens += count(text[begin:end])
        begin = end
    return tokens + count(text[begin:])


def countable(model: str) -> bool:
    """Whether the tokens of `model` can be counted here."""
    return _encoding_name(model) is not None


def _encoding_name(model: str) -> str | None:
    return "o200k_base" if _o200k(model) else "cl100k_base" if _cl100k(model) else None


@cache
def _counter(name: str) -> Callable[[str], int]:
    """The counting function of bpe-openai's compiled tokenizer, loaded once and only where something is to be counted.

    It is loaded without its package, whose import takes the tables of all encodings in Python as well (0.5 s, 67 MB),
    and whose own `encode` makes a list of all tokens and refuses long texts.
    """
    package = find_spec("bpe_openai")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0])
    file = next(path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_bindings{suffix}").exists())
    loader = ExtensionFileLoader("bpe_openai._bindings", str(file))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    bindings = module_from_spec(spec)
    loader.exec_module(bindings)
    count: Callable[[str], int] = bindings.tokenizer_for_encoding(name).count
    return count


def answer_tokens(text: str, model: str) -> int:
    """The tokens of an answer whose upstream did not count them: exact for OpenAI's models, else rather too many.

    Then a lower-case letter is half a token and every other byte a whole one, as random base64 comes to. Never fewer
    than words: o200k_base has tokens that hold two, such as `//`, a line's end and `//`.
    """
    counted = count_tokens(text, model)
    if counted is None:
        data = text.encode(errors="replace")
        others = len(data.translate(None, _LOWER))
        counted = others + (len(data) - others + 1) // 2
    return max(counted, len(text.split()))
