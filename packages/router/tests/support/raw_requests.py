"""Requests with a raw document somewhere, in every form of policy.md's rule 5 and written in every way of JSON's."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from stratmaster_router.domain.routing import Endpoint

CANARY = "canary-6f1d"
SNIPPET = 20
"""Characters of the longest text that is no document where `max_snippet_chars` is this."""

Fields = dict[str, Any]


@dataclass(frozen=True)
class Planted:
    """A request. `raw`: no provider without `send_raw_docs` may have it; else none with `max_snippet_chars` may."""

    endpoint: Endpoint
    fields: Fields
    raw: bool
    headers: dict[str, str] = field(default_factory=dict)


_KNOWN = {"text", "refusal", "image_url", "input_audio", "tool_result"}
_roles = st.sampled_from(["system", "developer", "assistant", "user", "tool", "function", "User", "x"])
_short = st.text(max_size=8)
_harmless = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, _short),
    st.just({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}),
    st.just({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    st.builds(lambda text: {"type": "tool_result", "tool_use_id": "t", "content": text}, _short),
)
_messages = st.lists(
    st.fixed_dictionaries({"role": _roles, "content": _short | st.none() | st.lists(_harmless, max_size=2)}), max_size=2
)
_kinds = st.one_of(
    st.sampled_from(
        ["file", "document", "input_file", "document_url", "container_upload", "File", "TEXT", "text ", ""]
    ),
    st.sampled_from([None, True, 7, 1.5, ["text"], {"type": "text"}, [["text"]]]),
    st.text().filter(lambda kind: kind not in _KNOWN),
)
_raw_parts = st.one_of(
    st.builds(lambda kind: {"type": kind, "file": {"file_data": CANARY}, "text": CANARY}, _kinds),
    st.sampled_from(
        [
            {"text": CANARY},
            {},
            {"type": "text", "text": [CANARY]},
            {"type": "text", "text": {"value": CANARY}},
            {"type": "text", "content": CANARY},
            {"type": "text", "text": "x", "Type": "file", "File": {"file_data": CANARY}},
            {"type": "text", "text": "x", "TEXT": CANARY * 9},
            {"type": "refusal", "text": CANARY},
            {"type": "image_url", "image_url": {"url": f"data:application/pdf;base64,{CANARY}"}},
            {"type": "image_url", "image_url": f"\tDATA:text/plain,{CANARY}"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "format": "application/pdf"}},
            {"type": "image_url", "image_url": {"url": "https://x.example/", "URL": f"data:text/csv,{CANARY}"}},
            {"type": "image_url", "file": {"file_data": CANARY}},
            {"type": "input_audio", "input_audio": CANARY * 9},
            {"type": "tool_result", "content": {"type": "text", "text": CANARY}},
            {"type": "tool_result", "content": [CANARY]},
            {"type": "tool_result", "content": [[{"type": "text", "text": CANARY}]]},
            {"type": "tool_result", "Content": [{"type": "file"}]},
        ]
    ),
)


@st.composite
def _among(draw: st.DrawFn, part: Fields) -> list[Fields]:
    """Content parts with `part` among them, perhaps within results of tools within each other."""
    for _ in range(draw(st.integers(0, 3))):
        part = {"type": "tool_result", "tool_use_id": "t", "content": draw(_among_harmless(part))}
    return draw(_among_harmless(part))


@st.composite
def _among_harmless(draw: st.DrawFn, part: Fields) -> list[Fields]:
    parts = draw(st.lists(_harmless, max_size=2))
    parts.insert(draw(st.integers(0, len(parts))), part)
    return parts


@st.composite
def _said(draw: st.DrawFn, message: Fields) -> list[Fields]:
    """A conversation with `message` in it."""
    messages: list[Fields] = draw(_messages)
    messages.insert(draw(st.integers(0, len(messages))), message)
    return messages


_ANYTHING: list[Any] = [None, [], {}, "x", [{"text": CANARY}], {"text": CANARY}, 0, False]
_HELLO: dict[Endpoint, Fields] = {
    Endpoint.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    Endpoint.COMPLETIONS: {"prompt": "hi"},
    Endpoint.EMBEDDINGS: {"input": "hi"},
}
_NAMES = {Endpoint.COMPLETIONS: "prompt", Endpoint.EMBEDDINGS: "input"}
_NO_TEXTS: list[Any] = [
    [{"text": CANARY}],
    [{"type": "file", "file": {"file_data": CANARY}}],
    ["hi", {"image": CANARY}],
    [[CANARY]],
    [[1, CANARY]],
    [[[1, 2]]],
    [True],
    [1.5],
    [None],
    [[{"text": CANARY}]],
]
_BESIDE: dict[Endpoint, list[Fields]] = {
    Endpoint.CHAT: [
        {"prediction": CANARY},
        {"prediction": {"type": "content", "content": [{"type": "file", "file": {"file_data": CANARY}}]}},
        {"chat_template_kwargs": {"documents": [{"text": CANARY}]}},
        {"messages": [{"role": "user", "content": "hi", "Content": [{"type": "file"}]}]},
        {"messages": [{"role": "user", "CONTENT": CANARY * 9}]},
    ],
    Endpoint.COMPLETIONS: [{"suffix": [CANARY]}, {"suffix": {"text": CANARY}}, {"prompt_embeds": CANARY}],
    Endpoint.EMBEDDINGS: [
        {"input": f"data:application/pdf;base64,{CANARY}"},
        {"input": ["hi", f"DATA:text/plain,{CANARY}"]},
    ],
}


@st.composite
def raw_documents(draw: st.DrawFn) -> Planted:
    """A request with a raw document, whatever its length."""
    endpoint = draw(st.sampled_from(Endpoint))
    hello = _HELLO[endpoint]
    form = draw(st.sampled_from(["header", "documents", "content", "beside"]))
    if form == "header":
        said = draw(st.sampled_from(["raw-docs", "RAW-DOCS", "public, raw-docs", "raw-docs;v=1", " Raw-Docs "]))
        return Planted(endpoint, hello, True, {"X-Data-Class": said})
    if form == "documents":
        return Planted(endpoint, {**hello, "documents": draw(st.sampled_from(_ANYTHING))}, True)
    if form == "beside":
        return Planted(endpoint, {**hello, **draw(st.sampled_from(_BESIDE[endpoint]))}, True)
    if endpoint is not Endpoint.CHAT:
        return Planted(endpoint, {_NAMES[endpoint]: draw(st.sampled_from(_NO_TEXTS))}, True)
    message = {"role": draw(_roles), "content": draw(_among(draw(_raw_parts)))}
    return Planted(endpoint, {"messages": draw(_said(message))}, True)


@st.composite
def long_texts(draw: st.DrawFn) -> Planted:
    """A request with a text of more than `SNIPPET` characters that counts, and no other raw document."""
    endpoint = draw(st.sampled_from(Endpoint))
    text = CANARY + draw(st.text(min_size=SNIPPET, max_size=30))
    if endpoint is not Endpoint.CHAT:
        long = st.sampled_from([text, ["hi", text], [[1]], [1], [[], [7, 8]]])
        fields = {_NAMES[endpoint]: draw(long)}
        if endpoint is Endpoint.COMPLETIONS and draw(st.booleans()):
            fields = {"prompt": "hi", "suffix": text}
        return Planted(endpoint, fields, False)
    form = draw(st.sampled_from(["string", "part", "result", "prediction"]))
    spoken = draw(st.sampled_from(["user", "tool", "function", "User", "x"]))
    if form == "prediction":
        predicted: Any = draw(st.sampled_from([text, [{"type": "text", "text": text}]]))
        prediction = {"type": "content", "content": predicted}
        return Planted(endpoint, {**_HELLO[endpoint], "prediction": prediction}, False)
    if form == "string":
        message: Fields = {"role": spoken, "content": text}
    elif form == "part":
        message = {"role": spoken, "content": draw(_among({"type": "text", "text": text}))}
    else:
        result = {"type": "tool_result", "content": draw(st.sampled_from([text, [{"type": "text", "text": text}]]))}
        message = {"role": draw(_roles), "content": draw(_among(result))}
    return Planted(endpoint, {"messages": draw(_said(message))}, False)


def written(value: Any, chance: random.Random) -> str:
    """A text of `value`, with white space and escapes wherever JSON allows them."""
    if isinstance(value, dict):
        members = [f"{_string(name, chance)}{_white(chance)}:{written(item, chance)}" for name, item in value.items()]
        return _white(chance) + "{" + ",".join(_white(chance) + member for member in members) + _white(chance) + "}"
    if isinstance(value, list):
        return _white(chance) + "[" + ",".join(written(item, chance) for item in value) + "]" + _white(chance)
    return _white(chance) + (_string(value, chance) if isinstance(value, str) else json.dumps(value)) + _white(chance)


def _white(chance: random.Random) -> str:
    return chance.choice(["", "", "", " ", "\n", "\t\r "])


def _string(text: str, chance: random.Random) -> str:
    """A JSON string, some of its letters as escapes with digits in either case."""
    if chance.random() < 0.5:
        return json.dumps(text, ensure_ascii=chance.random() < 0.5)
    escaped = [
        chance.choice([f"\\u{ord(letter):04x}", f"\\u{ord(letter):04X}"])
        if ord(letter) < 0x1_0000 and chance.random() < 0.5
        else json.dumps(letter)[1:-1]
        for letter in text
    ]
    return '"' + "".join(escaped) + '"'
