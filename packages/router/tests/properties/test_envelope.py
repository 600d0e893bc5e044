"""Of a request only the model and the wish for usage are changed, whatever else is in it and however it is written."""

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.domain.errors import InvalidJson, InvalidRequest, RouterError
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.wire.envelope import read_envelope
from stratmaster_router.wire.json_text import members
from support.bodies import json_objects, json_values, json_writings, unhurried

NEEDED: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": [{"role": "user", "content": 'héllo "{}"'}]},
    Endpoint.COMPLETIONS: {"prompt": "once"},
    Endpoint.EMBEDDINGS: {"input": ["twice"]},
}
options = st.one_of(
    st.none(),
    json_objects(),
    st.builds(
        lambda before, wish, after: {**before, "include_usage": wish, **after},
        json_objects(),
        st.sampled_from([True, False, None]),
        json_objects(),
    ),
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Endpoint, dict[str, Any], str]:
    """An endpoint, a right body for it with its fields in any order, and one way to write it."""
    endpoint = draw(st.sampled_from(Endpoint))
    fields: dict[str, Any] = {
        **draw(json_objects().filter(lambda fields: "N" not in fields)),  # which is refused: it is not `n`
        **NEEDED[endpoint],
        "model": draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)),
    }
    if draw(st.booleans()):
        fields["stream"] = draw(st.sampled_from([True, True, False, None]))
    if draw(st.booleans()):
        fields["stream_options"] = draw(options)
    body = dict(draw(st.permutations(list(fields.items()))))
    return endpoint, body, draw(json_writings(st.just(body)))


def expected(endpoint: Endpoint, body: dict[str, Any], model: str) -> dict[str, Any]:
    """What the upstream must be asked."""
    changed = {**body, "model": model}
    if endpoint is not Endpoint.EMBEDDINGS and body.get("stream") is True:
        changed["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return changed


@unhurried
@given(requests(), st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20))
def test_upstream_is_asked_the_same_but_for_the_model_and_the_wish_for_usage(
    request: tuple[Endpoint, dict[str, Any], str], model: str
) -> None:
    """The body that is sent reads as the client's with those two changed."""
    endpoint, body, text = request

    sent = read_envelope(endpoint, text.encode()).for_upstream(model)

    assert json.loads(sent) == expected(endpoint, body, model)
    # Not only equal values: also no second key hides in the text.
    assert members(sent.decode())[0] == expected(endpoint, body, model)


@unhurried
@given(requests())
def test_every_other_byte_stays(request: tuple[Endpoint, dict[str, Any], str]) -> None:
    """With the changed spans taken out, what is sent and what came are the same bytes."""
    endpoint, body, text = request

    sent = read_envelope(endpoint, text.encode()).for_upstream("gpt-4.1").decode()

    asks = endpoint is not Endpoint.EMBEDDINGS and body.get("stream") is True
    came, went = _without(text, "model"), _without(sent, "model")
    if asks and "stream_options" not in body:
        assert went == came[: came.rindex("}")] + ',"stream_options":{"include_usage":true}' + came[came.rindex("}") :]
    elif asks and not body["stream_options"]:
        assert _without(went, "stream_options") == _without(came, "stream_options")
    elif asks and "include_usage" not in body["stream_options"]:
        assert went.replace('{"include_usage":true,', "{", 1) == came
        assert _without(went, "stream_options") == _without(came, "stream_options")
    elif asks:
        assert _without(went, "stream_options", "include_usage") == _without(came, "stream_options", "include_usage")
    else:
        assert went == came


def _without(text: str, name: str, inner: str | None = None) -> str:
    """`text` with the value of a member (or of a member's member) replaced by `0`."""
    begin, end = members(text)[1][name]
    value = "0" if inner is None else _without(text[begin:end], inner)
    return text[:begin] + value + text[end:]


wild_parts = st.lists(
    st.one_of(json_values, st.dictionaries(st.sampled_from(["type", "text"]), json_values)), max_size=2
)
wild_messages = st.one_of(
    json_values,
    st.lists(
        st.fixed_dictionaries({"role": st.one_of(st.just("user"), json_values)}, optional={"content": wild_parts}),
        max_size=2,
    ),
)
wild = st.fixed_dictionaries(
    {},
    optional={
        "model": st.one_of(st.just("m"), json_values),
        "messages": wild_messages,
        "prompt": json_values,
        "input": json_values,
        "stream": st.one_of(st.just(True), json_values),
        "stream_options": json_values,
    },
)


@unhurried
@given(st.sampled_from(Endpoint), json_writings(wild))
def test_any_json_object_is_read_or_refused_by_name(endpoint: Endpoint, text: str) -> None:
    """No JSON object makes the reader fail: it is read, or `InvalidRequest` names the field at fault."""
    fields = json.loads(text)
    try:
        envelope = read_envelope(endpoint, text.encode())
    except InvalidRequest as refused:
        param = refused.param
    else:
        assert (envelope.fields, envelope.model) == (fields, fields["model"])
        return
    names = "model|messages|prompt|input|stream|stream_options"
    assert re.fullmatch(rf"({names})(\[\d+\])?(\.content|\.include_usage)?", param or "")


@unhurried
@given(st.sampled_from(Endpoint), st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_are_refused_in_order(endpoint: Endpoint, body: bytes) -> None:
    """Bytes that are no request raise `InvalidJson` or `InvalidRequest`, and nothing else."""
    refused: RouterError | None = None
    try:
        read_envelope(endpoint, body)
    except (InvalidJson, InvalidRequest) as error:
        refused = error

    assert type(refused) in (InvalidJson, InvalidRequest)
