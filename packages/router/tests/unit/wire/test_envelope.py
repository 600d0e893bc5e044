"""Reading a request body: the few fields that the router needs, and every other byte kept."""

import json
from typing import Any

import pytest
from stratmaster_router.domain.errors import InvalidJson, InvalidRequest
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.wire.envelope import read_envelope

CHAT, COMPLETIONS, EMBEDDINGS = Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS
USER = {"role": "user", "content": "hello"}
RIGHT: dict[Endpoint, dict[str, Any]] = {
    CHAT: {"model": "reasoning", "messages": [USER]},
    COMPLETIONS: {"model": "reasoning", "prompt": "once"},
    EMBEDDINGS: {"model": "embedding", "input": "twice"},
}
# As clients write it (which msgspec would write too), as Python writes it, and with escapes: each is read its own way.
WRITINGS = {
    "compact": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(),
    "spaced": lambda value: json.dumps(value, indent=1).encode(),
}


def body(endpoint: Endpoint, **fields: Any) -> bytes:
    """A right body of `endpoint` with these fields instead of its own."""
    return json.dumps({**RIGHT[endpoint], **fields}, separators=(",", ":")).encode()


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("endpoint", Endpoint)
def test_right_body_is_read(endpoint: Endpoint, writing: str) -> None:
    """The model is read, nothing streams unless asked for, and all fields are at hand."""
    fields = {**RIGHT[endpoint], "x_unknown": {"é": [1, None, 2.5]}}

    envelope = read_envelope(endpoint, WRITINGS[writing](fields))

    assert (envelope.model, envelope.stream, envelope.wants_usage) == (fields["model"], False, False)
    assert envelope.fields == fields


STREAMS: list[tuple[dict[str, Any], bool, bool]] = [
    ({}, False, False),
    ({"stream": None}, False, False),
    ({"stream": False}, False, False),
    ({"stream": False, "stream_options": {"include_usage": True}}, False, False),
    ({"stream": False, "stream_options": "not looked at"}, False, False),
    ({"stream": True}, True, False),
    ({"stream": True, "stream_options": None}, True, False),
    ({"stream": True, "stream_options": {}}, True, False),
    ({"stream": True, "stream_options": {"include_usage": None}}, True, False),
    ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
    ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
    ({"stream": True, "stream_options": {"x": 1, "include_usage": True}}, True, True),
]


@pytest.mark.parametrize(("fields", "stream", "wants_usage"), STREAMS)
@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_stream_and_its_options_are_read(
    endpoint: Endpoint, fields: dict[str, Any], stream: bool, wants_usage: bool
) -> None:
    """A stream is asked for by `true` alone, and its usage by `stream_options.include_usage: true` alone."""
    envelope = read_envelope(endpoint, body(endpoint, **fields))

    assert (envelope.stream, envelope.wants_usage) == (stream, wants_usage)


@pytest.mark.parametrize(
    "fields", [{"stream": True}, {"stream": "yes"}, {"stream": True, "stream_options": [1]}], ids=str
)
def test_embeddings_never_stream(fields: dict[str, Any]) -> None:
    """Embeddings have no stream: the field is one that the router does not know."""
    envelope = read_envelope(EMBEDDINGS, body(EMBEDDINGS, **fields))

    assert (envelope.stream, envelope.wants_usage) == (False, False)


MODEL = "a string: a task, a model of this tenant or provider/model"
MESSAGES = "a non-empty array of messages"
LEFT_OUT = object()
NOT_STRINGS: list[tuple[Any, str]] = [
    (None, "null"),
    (7, "a number"),
    (7.5, "a number"),
    (True, "a boolean"),
    ([], "empty"),
    (["x"], "an array"),
    ({}, "an object"),
]
NOT_MESSAGES: list[Any] = [
    None,
    "hello",
    1,
    [],
    [USER],
    {},
    {"content": "x"},
    {"role": None},
    {"role": 1},
    {"role": [""]},
]
NOT_CONTENT: list[Any] = [1, True, {}, {"type": "text"}, ["x"], [{"type": "text"}, None], [[]]]
NOT_WISHES: list[Any] = [1, 0, "true", [], {}]
WRONG: list[tuple[Endpoint, dict[str, Any], str, str]] = [
    *((e, {"model": LEFT_OUT}, "model", f"'model' is required: {MODEL}.") for e in Endpoint),
    *(
        (e, {"model": v}, "model", f"'model' must be {MODEL}; it is {found}.")
        for e in Endpoint
        for v, found in NOT_STRINGS
    ),
    *((e, {"model": "m" * 257}, "model", "'model' must have 1 to 256 characters.") for e in Endpoint),
    *((e, {"model": ""}, "model", "'model' must have 1 to 256 characters.") for e in Endpoint),
    (CHAT, {"messages": LEFT_OUT}, "messages", f"'messages' is required: {MESSAGES}."),
    (CHAT, {"messages": None}, "messages", f"'messages' must be {MESSAGES}; it is null."),
    (CHAT, {"messages": []}, "messages", f"'messages' must be {MESSAGES}; it is empty."),
    (CHAT, {"messages": ""}, "messages", f"'messages' must be {MESSAGES}; it is empty."),
    (CHAT, {"messages": "hello"}, "messages", f"'messages' must be {MESSAGES}; it is a string."),
    (CHAT, {"messages": {"role": "user"}}, "messages", f"'messages' must be {MESSAGES}; it is an object."),
    (CHAT, {"messages": 1}, "messages", f"'messages' must be {MESSAGES}; it is a number."),
    *(
        (CHAT, {"messages": [USER, v]}, "messages[1]", "'messages[1]' must be an object with a 'role'.")
        for v in NOT_MESSAGES
    ),
    *(
        (
            CHAT,
            {"messages": [USER, USER, {"role": "user", "content": v}]},
            "messages[2].content",
            "'messages[2].content' must be a string, null or an array of content parts.",
        )
        for v in NOT_CONTENT
    ),
    (COMPLETIONS, {"prompt": LEFT_OUT}, "prompt", "'prompt' is required: a string or an array."),
    (COMPLETIONS, {"prompt": None}, "prompt", "'prompt' must be a string or an array; it is null."),
    (COMPLETIONS, {"prompt": 1}, "prompt", "'prompt' must be a string or an array; it is a number."),
    (COMPLETIONS, {"prompt": False}, "prompt", "'prompt' must be a string or an array; it is a boolean."),
    (COMPLETIONS, {"prompt": {"a": 1}}, "prompt", "'prompt' must be a string or an array; it is an object."),
    (EMBEDDINGS, {"input": LEFT_OUT}, "input", "'input' is required: a string or an array."),
    (EMBEDDINGS, {"input": None}, "input", "'input' must be a string or an array; it is null."),
    (EMBEDDINGS, {"input": 0}, "input", "'input' must be a string or an array; it is a number."),
    (EMBEDDINGS, {"input": {}}, "input", "'input' must be a string or an array; it is an object."),
    *(
        (e, {"stream": v}, "stream", f"'stream' must be a boolean; it is {found}.")
        for e in (CHAT, COMPLETIONS)
        for v, found in ((1, "a number"), (0, "a number"), ("true", "a string"), ("", "empty"), ([], "empty"))
    ),
    *(
        (
            e,
            {"stream": True, "stream_options": v},
            "stream_options",
            f"'stream_options' must be an object; it is {found}.",
        )
        for e in (CHAT, COMPLETIONS)
        for v, found in ((True, "a boolean"), ("", "empty"), ([], "empty"), ([1], "an array"), (1, "a number"))
    ),
    *(
        (
            e,
            {"stream": True, "stream_options": {"include_usage": v}},
            "stream_options.include_usage",
            "'stream_options.include_usage' must be a boolean.",
        )
        for e in (CHAT, COMPLETIONS)
        for v in NOT_WISHES
    ),
]


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize(("endpoint", "fields", "param", "message"), WRONG)
def test_wrong_field_is_named_with_what_would_be_right(
    endpoint: Endpoint, fields: dict[str, Any], param: str, message: str, writing: str
) -> None:
    """A field that is missing or of the wrong type is refused by name, whichever way the body is written."""
    given = {name: value for name, value in {**RIGHT[endpoint], **fields}.items() if value is not LEFT_OUT}

    with pytest.raises(InvalidRequest) as raised:
        read_envelope(endpoint, WRITINGS[writing](given))

    assert (raised.value.message, raised.value.param, raised.value.details) == (message, param, {})


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Model", "model"),
        ("MESSAGES", "messages"),
        ("me\u017f\u017fages", "messages"),
        ("Prompt", "prompt"),
        ("Input", "input"),
        ("Documents", "documents"),
        ("\u017ftream", "stream"),
        ("Stream_Options", "stream_options"),
        ("max_to\u212aens", "max_tokens"),
        ("N", "n"),
        ("Suffix", "suffix"),
    ],
)
def test_name_in_another_case_is_refused(endpoint: Endpoint, name: str, meant: str, writing: str) -> None:
    """Go's JSON takes it for the field, other parsers do not: what was judged might not be what the upstream reads."""
    with pytest.raises(InvalidRequest) as raised:
        read_envelope(endpoint, WRITINGS[writing]({**RIGHT[endpoint], name: "x"}))

    assert raised.value.param == meant
    assert raised.value.message == (
        f"A field's name differs from '{meant}' by its case. Upstreams read that differently: write '{meant}'."
    )


ACCEPTED: list[tuple[Endpoint, dict[str, Any]]] = [
    (CHAT, {"model": "m" * 256}),
    (CHAT, {"X-Anything": 1, "models": [], "Documents2": "x"}),
    (CHAT, {"model": 'é/"\\\n'}),
    (CHAT, {"messages": [{"role": ""}]}),
    (CHAT, {"messages": [{"role": "user", "content": None}]}),
    (CHAT, {"messages": [{"role": "user", "content": ""}]}),
    (CHAT, {"messages": [{"role": "user", "content": []}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{}]}]}),
    (COMPLETIONS, {"prompt": [1, 2]}),
    (COMPLETIONS, {"prompt": [[1, 2], [3]]}),
    (EMBEDDINGS, {"input": ["a", "b"]}),
]


@pytest.mark.parametrize(("endpoint", "fields"), ACCEPTED)
def test_unusual_body_is_accepted(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    """What the router does not need to understand is the upstream's to judge."""
    envelope = read_envelope(endpoint, body(endpoint, **fields))

    assert envelope.fields == {**RIGHT[endpoint], **fields}


NOT_JSON = {
    b"": "it ends too early",
    b"[]": "it does not begin with '{'",
    b'{"model":"m"': "it ends too early",
    b'{"model":"m","model":"m"}': "an object has the same key twice",
    b'{"model":"m","\\u006dodel":"n","messages":[]}': "an object has the same key twice",
    b'{"model":"m","x":{"a":1,"a":1}}': "an object has the same key twice",
    b'{"model":NaN}': "NaN and Infinity are not JSON",
    b'{"model":"m","x":-Infinity}': "NaN and Infinity are not JSON",
    b'{"model":"m"} {}': "there is more after its end, at character 13",
    b'{"model":"m","x":' + b"9" * 5000 + b"}": "a number in it has too many digits",
    b'{"model":"m","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}": "it is nested too deeply",
    b'{"model":"m","x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}": "it is nested too deeply",
    b"\xef\xbb\xbf{}": "it does not begin with '{'",
}


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("endpoint", Endpoint)
def test_body_that_is_not_one_json_object_is_refused(endpoint: Endpoint, text: bytes) -> None:
    """Two parsers could read such a body differently, so nothing reads it."""
    with pytest.raises(InvalidJson) as raised:
        read_envelope(endpoint, text)

    assert raised.value.message == f"The request body is not a JSON object: {NOT_JSON[text]}."


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"\xff", 0),
        (b'{"model":"\xe9"}', 10),
        (b'{"model":"m","x":"\xed\xa0\x80"}', 18),
        (b'{"model":"m","x":"\xc0\xaf"}', 18),
        ('{"model":"m"}'.encode("utf-16-le") + b"\x80", 26),
        (b'{"model":"m"}\xf0\x9f', 13),
    ],
)
def test_body_that_is_not_utf8_is_refused(text: bytes, place: int) -> None:
    """JSON is UTF-8; the message names the first byte that is not."""
    with pytest.raises(InvalidJson) as raised:
        read_envelope(CHAT, text)

    assert raised.value.message == f"The request body is not UTF-8: byte {place} cannot be read."


@pytest.mark.parametrize(
    "number",
    ["18446744073709551615", "18446744073709551616", "-9223372036854775809", "1" + "0" * 400, "1e999", "-0", "1.50"],
    ids=lambda number: number[:24],
)
def test_numbers_travel_as_they_are_written(number: str) -> None:
    """No number is too large or too oddly written to reach the upstream with its own digits."""
    text = f'{{"model":"reasoning","messages":[{{"role":"user"}}],"seed":{number}}}'

    envelope = read_envelope(CHAT, text.encode())

    assert envelope.for_upstream("gpt-4.1").decode() == text.replace("reasoning", "gpt-4.1")


M = '"messages":[{"role":"user"}]'
ASKED = '"stream_options":{"include_usage":true}'
REWRITTEN = [
    # What the client wrote, and what the upstream `gpt-4.1` is sent.
    (f'{{"model":"reasoning",{M}}}', f'{{"model":"gpt-4.1",{M}}}'),
    (f'{{{M},"model":"reasoning"}}', f'{{{M},"model":"gpt-4.1"}}'),
    (f' {{ "\\u006dodel" :\t"reasoning"\n, {M} }} ', f' {{ "\\u006dodel" :\t"gpt-4.1"\n, {M} }} '),
    (
        f'{{"model":"reasoning","x":{{"model":"reasoning"}},{M}}}',
        f'{{"model":"gpt-4.1","x":{{"model":"reasoning"}},{M}}}',
    ),
    (f'{{"model":"reasoning","stream":false,{M}}}', f'{{"model":"gpt-4.1","stream":false,{M}}}'),
    (f'{{"model":"reasoning","stream":true,{M}}}', f'{{"model":"gpt-4.1","stream":true,{M},{ASKED}}}'),
    (f'{{"stream":true,{M},"model":"reasoning"}}', f'{{"stream":true,{M},"model":"gpt-4.1",{ASKED}}}'),
    (f'{{"model":"reasoning","stream":true,{M} }}\n', f'{{"model":"gpt-4.1","stream":true,{M} ,{ASKED}}}\n'),
    (
        f'{{"model":"reasoning","stream":true,{M},"x":"}}"}}  ',
        f'{{"model":"gpt-4.1","stream":true,{M},"x":"}}",{ASKED}}}  ',
    ),
    (
        f'{{"model":"reasoning","stream":true,"stream_options":null,{M}}}',
        f'{{"model":"gpt-4.1","stream":true,{ASKED},{M}}}',
    ),
    (
        f'{{"stream_options":{{}},"stream":true,{M},"model":"reasoning"}}',
        f'{{{ASKED},"stream":true,{M},"model":"gpt-4.1"}}',
    ),
    (
        f'{{"stream_options": {{ }} ,"stream":true,{M},"model":"reasoning"}}',
        f'{{"stream_options": {{"include_usage":true}} ,"stream":true,{M},"model":"gpt-4.1"}}',
    ),
    (
        f'{{"model":"reasoning","stream":true,{M},"stream_options":{{"x":[1]}}}}',
        f'{{"model":"gpt-4.1","stream":true,{M},"stream_options":{{"include_usage":true,"x":[1]}}}}',
    ),
    (
        f'{{"model":"reasoning","stream":true,{M},"stream_options":{{ "x":[1] }}}}',
        f'{{"model":"gpt-4.1","stream":true,{M},"stream_options":{{"include_usage":true, "x":[1] }}}}',
    ),
    (
        f'{{"model":"reasoning","stream":true,{M},"stream_options":{{"x":1,"include_usage":false,"y":2}}}}',
        f'{{"model":"gpt-4.1","stream":true,{M},"stream_options":{{"x":1,"include_usage":true,"y":2}}}}',
    ),
    (
        f'{{"model":"reasoning","stream":true,{M},"stream_options":{{"include_usage" : null }}}}',
        f'{{"model":"gpt-4.1","stream":true,{M},"stream_options":{{"include_usage" : true }}}}',
    ),
    (
        f'{{"model":"reasoning","stream":true,{M},"stream_options":{{"x":{{"include_usage":false}}}}}}',
        f'{{"model":"gpt-4.1","stream":true,{M},"stream_options":{{"include_usage":true,"x":{{"include_usage":false}}}}}}',
    ),
    (
        f'{{"model":"reasoning","stream":true,{M},"stream_options":{{"include_usage":true}}}}',
        f'{{"model":"gpt-4.1","stream":true,{M},"stream_options":{{"include_usage":true}}}}',
    ),
    (
        f'{{"model":"reasoning","stream":false,{M},"stream_options":{{"include_usage":false}}}}',
        f'{{"model":"gpt-4.1","stream":false,{M},"stream_options":{{"include_usage":false}}}}',
    ),
]


@pytest.mark.parametrize(("written", "sent"), REWRITTEN)
def test_upstream_gets_the_clients_bytes_but_for_the_model_and_the_wish_for_usage(written: str, sent: str) -> None:
    """Only what policy must change is changed; order, white space and escapes stay."""
    assert read_envelope(CHAT, written.encode()).for_upstream("gpt-4.1").decode() == sent


@pytest.mark.parametrize("writing", WRITINGS)
def test_each_hop_gets_its_own_model_from_the_same_envelope(writing: str) -> None:
    """Writing a body for one hop leaves the envelope as it was for the next one."""
    text = WRITINGS[writing]({**RIGHT[CHAT], "stream": True})
    envelope = read_envelope(CHAT, text)

    sent = [json.loads(envelope.for_upstream(model)) for model in ("first", "second", "first")]

    expected = {**RIGHT[CHAT], "stream": True, "stream_options": {"include_usage": True}}
    assert sent == [{**expected, "model": model} for model in ("first", "second", "first")]
    assert envelope.fields == {**RIGHT[CHAT], "stream": True}


@pytest.mark.parametrize("writing", WRITINGS)
def test_model_with_quotes_is_escaped(writing: str) -> None:
    """A policy may name a model with any printable character, and the body stays JSON."""
    envelope = read_envelope(CHAT, WRITINGS[writing](RIGHT[CHAT]))

    assert json.loads(envelope.for_upstream('a"b\\c/d'))["model"] == 'a"b\\c/d'
