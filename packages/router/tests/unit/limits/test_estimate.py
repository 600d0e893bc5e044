"""How requests are sized before they are made: whole values, computed by hand beside each."""

import json
from typing import Any

import pytest
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.limits.estimate import (
    IMAGE_TOKENS,
    MINI_IMAGE_TOKENS,
    answer_tokens,
    count_tokens,
    countable,
    input_bound,
    input_estimate,
    output_bound,
    request_tokens,
)

PNG = "data:image/png;base64," + "iVBORw0KGgo" * 1_000
DEFAULT = 4_096
TEXT, O200K, CL100K = "你好世界", 2, 5
CHAT, COMPLETIONS, EMBEDDINGS = Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS

# The messages of OpenAI's cookbook on counting tokens, with what its API billed for them.
COOKBOOK = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into "
        "plain English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased "
        "leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]


def written(fields: dict[str, Any]) -> bytes:
    """A body as most clients write it."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def chat(*parts: dict[str, Any]) -> dict[str, Any]:
    """A chat of one message with these parts."""
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}


def picture(url: str) -> dict[str, Any]:
    """A part that shows a picture."""
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        # 11/64 a lower-case letter, 39/64 any other: (6 x 11 + 7 x 39) // 64, and one.
        (b'{"model":"m"}', 6),
        # Two gaps at 21/64: (3 x 11 + 2 x 21 + 8 x 39) // 64 = 6, and one.
        (b'{"a":"b c d"}'.replace(b"a", b"A"), 7),
        # Sixteen spaces in a row count as four: (2 x 11 + 4 x 21 + 8 x 39) // 64 = 6, and one.
        (b'{"A":"b                c"}', 7),
        # Nine words; by their weight (9 x 11 + 8 x 21 + 8 x 39) // 64 = 9 and one more for the name.
        (b'{"A":"a b c d e f g h i"}', 11),
        # Two characters of three bytes: (6 x 22 + 8 x 39) // 64 = 6, and one.
        ('{"A":"你好"}'.encode(), 7),
        # The same with \u: (2 x 28 - 2 x 96 + 4 x 11 + 14 x 39) // 64 = 7, and one.
        (rb'{"A":"\u4f60\u597d"}', 8),
    ],
)
def test_input_estimate(body: bytes, tokens: int) -> None:
    """Each byte has its weight, and a text's words are a lower bound."""
    assert input_estimate(body) == tokens


def test_estimate_of_a_picture_does_not_depend_on_its_bytes() -> None:
    """Base64 is no text: a picture counts 4,000 tokens, sent or linked."""
    rest = input_estimate(written(chat({"type": "text", "text": ""})))

    assert [
        abs(input_estimate(written(chat(picture(url)))) - rest - 4_000) < 30
        for url in (PNG, PNG.replace("/", r"\/"), "https://a.b/c")
    ] == [True, True, True]


def test_estimate_of_a_sound_goes_by_its_bytes() -> None:
    """A token is 200 characters of base64."""
    sounds = [
        chat({"type": "input_audio", "input_audio": {"data": "A" * size, "format": "mp3"}}) for size in (0, 40_000)
    ]

    assert input_estimate(written(sounds[1])) - input_estimate(written(sounds[0])) == 200


def test_text_beside_base64_is_counted() -> None:
    """Only a string that is base64 to its end is taken out, not one that says the word."""
    said = b'{"type":"text","text":"begin with data:image/png;base64,AAAA and go on ' + b"a b " * 100 + b'"}'

    # 206 gaps, four strings, and one.
    assert input_estimate(said) == 211


@pytest.mark.parametrize(
    ("model", "tokens"), [("gpt-4.1", IMAGE_TOKENS), ("openai/gpt-4o-mini", MINI_IMAGE_TOKENS), ("", MINI_IMAGE_TOKENS)]
)
def test_bound_of_a_picture(model: str, tokens: int) -> None:
    """A picture is one constant, and its base64 nothing; a link is a whole picture beside its own bytes."""
    inline = chat(picture(PNG), {"type": "text", "text": "what?"})
    linked = chat(picture("https://a.b/c"))

    assert input_bound(written(inline), model, inline) == len(written(inline)) - len(PNG) + tokens
    assert input_bound(written(linked), model, linked) == len(written(linked)) + tokens


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "https://a.b/c"},
        {"type": "image_url"},
        {"type": "x", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": {"url": "data:text/plain,a long text"}},
        {"type": "tool_result", "content": [picture("https://a.b/c")]},
    ],
)
def test_bound_of_an_odd_picture(part: dict[str, Any]) -> None:
    """What may be a picture counts as one, and its bytes count too unless they are surely a picture's."""
    fields = chat(part)

    assert input_bound(written(fields), "m", fields) == len(written(fields)) + IMAGE_TOKENS


def test_bound_sees_through_escapes() -> None:
    """A type that is written with escapes is the same type."""
    body = rb'{"messages":[{"role":"user","content":[{"type":"im\u0061ge_url","image_ur\u006c":{"url":"http://a"}}]}]}'

    assert input_bound(body, "m", json.loads(body)) == len(body) + IMAGE_TOKENS


def test_bound_of_a_sound() -> None:
    """A token is 16 characters of base64, and one for what is left."""
    fields = chat({"type": "input_audio", "input_audio": {"data": "A" * 1_000, "format": "wav"}})

    assert input_bound(written(fields), "m", fields) == len(written(fields)) - 1_000 + 63


@pytest.mark.parametrize("messages", [None, "x", [None, 1, {"content": None}, {"content": ["x", None]}]])
def test_bound_of_odd_messages(messages: Any) -> None:
    """What is no message is bytes."""
    fields = {"messages": messages}

    assert input_bound(written(fields), fields=fields) == len(written(fields))


@pytest.mark.parametrize(
    ("endpoint", "fields", "bound"),
    [
        (CHAT, {}, (DEFAULT, False)),
        (CHAT, {"max_tokens": 5}, (5, True)),
        (CHAT, {"max_completion_tokens": 7}, (7, True)),
        (CHAT, {"max_completion_tokens": 7, "max_tokens": 9}, (9, True)),
        (CHAT, {"max_completion_tokens": 7, "max_tokens": None}, (7, True)),
        (CHAT, {"max_tokens": 5, "n": 3}, (15, True)),
        (CHAT, {"n": 2}, (2 * DEFAULT, False)),
        (CHAT, {"max_tokens": 10**30}, (10**9, True)),
        (CHAT, {"max_tokens": 5, "best_of": 9}, (5, True)),
        (CHAT, {"max_tokens": 5, "prediction": {"type": "content", "content": "née"}}, (5 + 4, True)),
        (CHAT, {"max_tokens": 5, "prediction": {"content": [{"text": "ab"}, {"text": "c"}, {}, None]}}, (8, True)),
        (CHAT, {"max_tokens": 5, "prediction": None}, (5, True)),
        (CHAT, {"max_tokens": 5, "prediction": {"content": 7}}, (5, True)),
        *((CHAT, {"max_tokens": odd, "n": odd}, (DEFAULT, False)) for odd in ("5", True, -5, 0, 5.0, [5], None)),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 5, "n": 2, "best_of": 4}, (20, True)),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 5, "n": 2}, (10, True)),
        (COMPLETIONS, {"prompt": ["a", "b", "c"], "max_tokens": 5, "n": 2}, (30, True)),
        (COMPLETIONS, {"prompt": [[1, 2], [3]], "max_tokens": 5}, (10, True)),
        (COMPLETIONS, {"prompt": [1, 2, 3], "max_tokens": 5}, (5, True)),
        (COMPLETIONS, {"prompt": [1, "a", [2]], "max_tokens": 5}, (15, True)),
        (COMPLETIONS, {"prompt": [], "max_tokens": 5}, (5, True)),
        (COMPLETIONS, {"prompt": "a", "max_completion_tokens": 5}, (DEFAULT, False)),
        (EMBEDDINGS, {"input": "a", "max_tokens": 5}, (0, True)),
    ],
)
def test_output_bound(endpoint: Endpoint, fields: dict[str, Any], bound: tuple[int, bool]) -> None:
    """The client's bound or the default, for each answer that is asked for."""
    assert output_bound(endpoint, fields, DEFAULT) == bound


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        # O200K and CL100K are what TEXT has in the two vocabularies.
        *((name, O200K) for name in ("gpt-4o", "gpt-4o-mini-2024-07-18", "gpt-4.1-nano", "gpt-4.5-preview", "gpt-5")),
        *((name, O200K) for name in ("gpt-5.1-codex", "o1", "o3-mini", "o4-mini", "chatgpt-4o-latest", "a/gpt-4o")),
        *((name, O200K) for name in ("gpt-4o@fast", "a/b/o1@x", "ft:gpt-4o-mini:acme::1")),
        *((name, CL100K) for name in ("gpt-4", "gpt-4-turbo", "gpt-4@x", "gpt-3.5-turbo", "gpt-35-turbo")),
        *((name, CL100K) for name in ("a/gpt-4-32k", "text-embedding-3-small", "text-embedding-ada-002")),
        *((name, None) for name in ("", "gpt-4.2", "gpt-oss-120b", "o1x", "o2", "olmo-1", "gpt-50", "my-gpt-4o")),
    ],
)
def test_count_tokens_of_models(model: str, tokens: int | None) -> None:
    """The tokenizer goes by the model's name, whatever is before or behind it."""
    assert count_tokens(TEXT, model) == tokens
    assert countable(model) is (tokens is not None)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("hello world", 2), ("<|endoftext|>", 7), ("a<|fim_prefix|>b", 8), ("\ud800", 1), ("x" * 80_000, 10_000)],
)
def test_count_tokens_of_texts(text: str, tokens: int) -> None:
    """Special tokens are text, half a surrogate pair is a replacement character, and long texts are counted whole."""
    assert count_tokens(text, "gpt-4o") == tokens


@pytest.mark.parametrize(("model", "billed", "counted"), [("gpt-4o", 124, 160), ("gpt-4", 129, 163)])
def test_request_tokens_of_the_cookbook(model: str, billed: int, counted: int) -> None:
    """What the API billed for the cookbook's messages is less than their JSON has."""
    fields = {"model": model, "messages": COOKBOOK}
    tokens = request_tokens(written(fields), model, fields)

    assert tokens == counted
    assert tokens >= billed


def test_the_body_is_read_where_its_fields_are_not_at_hand() -> None:
    """The same numbers, also for what only the careful reader takes."""
    fields = chat(picture(PNG))
    body = written(fields)[:-1] + b',"n":1e400}'

    assert input_bound(body, "gpt-4o") == input_bound(body, "gpt-4o", fields) == len(body) - len(PNG) + IMAGE_TOKENS
    assert request_tokens(body, "gpt-4o") == request_tokens(body, "gpt-4o", fields)
    assert input_bound(b"[]") == 2


def test_request_tokens_of_an_unknown_model() -> None:
    """There is no count then."""
    assert request_tokens(b"{}", "llama-3", {}) is None


def test_request_tokens_of_a_picture() -> None:
    """Its base64 is not counted, its tokens are."""
    empty, full = chat(picture("")), chat(picture(PNG))
    rest = count_tokens(written(empty).decode(), "gpt-4.1")
    tokens = [request_tokens(written(fields), "gpt-4.1", fields) for fields in (empty, full)]

    assert rest == 29
    assert tokens == [rest + IMAGE_TOKENS] * 2


def test_request_tokens_counts_characters_not_escapes() -> None:
    r"""`\nu` is a token, a line's end and a `u` are two: what is billed is the text, however it is written."""
    texts = ["\nu" * 1_000, "\ufeff" * 1_000, "\\nu" * 1_000]
    for text in texts:
        fields = {"messages": [{"role": "user", "content": text}]}
        plain = count_tokens(text, "gpt-4o")
        assert plain is not None
        for body in (written(fields), json.dumps(fields).encode()):
            tokens = request_tokens(body, "gpt-4o", fields)
            assert tokens is not None
            assert 0 <= tokens - plain - 7 < 12


def test_request_tokens_of_what_cannot_be_written() -> None:
    """Half a surrogate pair has no UTF-8; then the bound stands in."""
    body = rb'{"messages":[{"role":"user","content":"\ud800"}]}'

    assert request_tokens(body, "gpt-4o", json.loads(body)) == len(body)


@pytest.mark.parametrize(
    ("text", "model", "tokens"),
    [
        ("hello world", "gpt-4o", 2),
        # Ten letters and a space.
        ("hello world", "llama-3", 6),
        ("", "llama-3", 0),
        ("你好", "llama-3", 6),
        ("A1!\ud800", "llama-3", 4),
    ],
)
def test_answer_tokens(text: str, model: str, tokens: int) -> None:
    """Exact where the tokenizer is known; else half a token a letter and one for every other byte."""
    assert answer_tokens(text, model) == tokens
