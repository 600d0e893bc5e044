"""Laws of redaction on the way to a provider and back, for any request, any answer and any way to cut it."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.domain.redaction import KINDS
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.outgoing import Redacted, redact
from stratmaster_router.privacy.placeholders import restored
from stratmaster_router.privacy.restore import StreamRestorer, restore_answer
from stratmaster_router.wire.envelope import read_envelope
from support.bodies import json_writings, pieces, unhurried
from support.corpus import samples

DETECTOR = Detector()
DATA = [
    "ann@example.com",
    "bob.b+x@mail.example.org",
    "4111111111111111",
    "5555 5555 5555 4444",
    "DE89370400440532013000",
    "192.0.2.17",
    "-----BEGIN PRIVATE KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQEFAASCAUAwggE8AgEAAkEA\n-----END PRIVATE KEY-----",
]
# What is found, what looks like a placeholder, and what JSON escapes.
fragments = st.one_of(
    st.sampled_from(DATA),
    st.sampled_from(["[EMAIL_1]", "[EMAIL_A1]", "[", "]", "[EMAIL_", "1]", "CARD", '"', "\\", "\n", "{", ", ", " "]),
    st.text(st.characters(codec="utf-8"), max_size=4),
)
texts = st.lists(fragments, max_size=6).map("".join)
values = st.recursive(
    texts | st.none() | st.booleans() | st.integers(-1000, 1000),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
ids = st.sampled_from(["call_1", "4111111111111111", "ann@example.com"])
messages = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "critic"]), "content": texts | st.none()}),
    st.fixed_dictionaries(
        {"role": st.just("user"), "content": st.lists(texts.map(lambda t: {"type": "text", "text": t}))}
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": ids, "content": values.map(json.dumps)}),
)
chats = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(messages, min_size=1, max_size=3)},
    optional={"user": texts, "metadata": values, "stop": st.lists(texts, max_size=2), "tools": values},
)


def sent(body: str) -> Redacted:
    """What becomes of a body."""
    return redact(Endpoint.CHAT, read_envelope(Endpoint.CHAT, body.encode()), DETECTOR)


def scalars(value: Any) -> Iterator[Any]:
    """Every scalar in a value, in order, names of members included."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from scalars(each)
    elif isinstance(value, list):
        for each in value:
            yield from scalars(each)
    else:
        yield value


def strings(value: Any) -> Iterator[str]:
    """Every string among them."""
    return (each for each in scalars(value) if isinstance(each, str))


def meant(text: str) -> Any:
    """A text, or where it is JSON the value that it is."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return text
    return value if isinstance(value, dict | list) else text


@unhurried
@given(json_writings(chats))
def test_nothing_that_can_be_found_is_sent(body: str) -> None:
    """Of the strings that are sent, and of the JSON in them, none has anything found but placeholders."""
    made = sent(body)

    for text in strings(json.loads(made.envelope.for_upstream("gpt-4.1"))):
        for each in {text, *strings(meant(text))}:
            for _, start, end in DETECTOR.find(each):
                assert f"[{each[start:end].strip('[]')}]" in made.values


@unhurried
@given(json_writings(chats))
def test_model_that_repeats_what_it_was_sent_gives_the_original_back(body: str) -> None:
    """Restoring each string that was sent gives the string that the client wrote; JSON in it means the same."""
    made = sent(body)
    original, changed = json.loads(body), made.envelope.fields

    for text, redacted in zip(strings(original), strings(changed), strict=True):
        back = meant(restored(redacted, made.values, in_json=isinstance(meant(redacted), dict | list)))
        assert back == meant(text) or restored(redacted, made.values) == text


@unhurried
@given(json_writings(chats), st.data())
def test_streamed_answer_is_restored_like_a_whole_one(body: str, data: st.DataObject) -> None:
    """However a text is cut into events, and the events into chunks, the client reads the same text."""
    made = sent(body)
    text = "".join(strings(made.envelope.fields))
    parts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    cuts = [text[begin:end] for begin, end in zip([0, *parts], [*parts, len(text)], strict=True)]
    events = b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": cut}}]}).encode() + b"\n\n"
        for cut in cuts
    )
    stream = events + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    answer = json.dumps({"choices": [{"index": 0, "message": {"content": text}}]}).encode()

    def read(chunks: list[bytes]) -> bytes:
        restorer = StreamRestorer(made.values, json_content=False)
        return b"".join([restorer.feed(chunk) for chunk in chunks]) + restorer.end()

    whole = read([stream])
    split = read(list(data.draw(pieces(stream))))

    assert split == whole
    *said, done, end = whole.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    deltas = [json.loads(each.removeprefix(b"data: "))["choices"][0]["delta"] for each in said]
    expected = json.loads(restore_answer(answer, made.values, json_content=False))["choices"][0]["message"]["content"]
    assert "".join(delta.get("content", "") for delta in deltas) == expected == restored(text, made.values)


def test_data_of_every_kind_and_locale_stays_here_and_comes_back() -> None:
    """Of generated texts (prose, JSON, code, logs, tables) nothing that is found is sent, and all of it is restored."""
    kinds = set()
    for sample in samples(seed=7, count=1000):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": sample.text}]}, ensure_ascii=False)
        made = sent(body)
        text = made.envelope.fields["messages"][0]["content"]
        kinds |= set(made.found)

        assert DETECTOR.find(sample.text) == [] or text != sample.text
        assert [value for value in made.values.values() if value in text] == []
        back = restored(text, made.values, in_json=isinstance(meant(text), dict | list))
        # A number of a JSON text is restored as a string.
        assert list(map(str, scalars(meant(back)))) == list(map(str, scalars(meant(sample.text))))
    assert kinds == set(KINDS)
