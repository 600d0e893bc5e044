"""Whatever a body holds that its reader accepts, the screen judges it, and no unknown part slips through."""

import copy
import json
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from stratmaster_router.domain.errors import InvalidJson, InvalidRequest
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.privacy.rawdocs import screen
from stratmaster_router.wire.envelope import read_envelope
from support.bodies import json_values, unhurried

KNOWN = {"text", "refusal", "image_url", "input_audio", "tool_result"}

texts = st.text(max_size=30)
harmless: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, texts),
        st.builds(lambda text: {"type": "refusal", "refusal": text}, texts),
        st.just({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}),
        st.just({"type": "input_audio", "input_audio": {"data": ""}}),
        st.builds(lambda text: {"type": "tool_result", "content": text}, texts),
    ),
    lambda inner: st.builds(lambda parts: {"type": "tool_result", "content": parts}, st.lists(inner, max_size=3)),
    max_leaves=6,
)
roles = st.sampled_from(["system", "developer", "assistant", "user", "tool", "function", "x"])
messages = st.lists(
    st.fixed_dictionaries({"role": roles, "content": st.one_of(texts, st.none(), st.lists(harmless, max_size=3))}),
    min_size=1,
    max_size=4,
)
unknown_types = st.one_of(st.text().filter(lambda kind: kind not in KNOWN), json_values).filter(
    lambda kind: not (isinstance(kind, str) and kind in KNOWN)
)


def part_lists(given_messages: list[dict[str, Any]]) -> list[list[Any]]:
    """Every list of content parts, at any depth."""
    found: list[list[Any]] = []
    waiting = [message["content"] for message in given_messages]
    while waiting:
        content = waiting.pop()
        if isinstance(content, list):
            found.append(content)
            waiting += [part.get("content") for part in content]
    return found


def longest(given_messages: list[dict[str, Any]]) -> int:
    """The longest text of those whose role counts, and of all tool results, found in a way of its own."""
    counted = [m["content"] for m in given_messages if m["role"] not in ("system", "developer", "assistant")]
    for message in given_messages:
        if isinstance(message["content"], list):
            counted += [part["content"] for part in message["content"] if part["type"] == "tool_result"]
    lengths = [0]
    while counted:
        item = counted.pop()
        if isinstance(item, str):
            lengths.append(len(item))
        elif isinstance(item, list):
            counted += [part.get("text") or part.get("refusal") or part.get("content") for part in item]
    return max(lengths)


@unhurried
@given(messages)
def test_harmless_parts_pass_with_their_longest_text(given_messages: list[dict[str, Any]]) -> None:
    """Known parts at any depth are no documents, and the longest text of them is measured."""
    assert screen(Endpoint.CHAT, {"messages": given_messages}, None) == (None, longest(given_messages))


@unhurried
@given(messages, unknown_types, st.dictionaries(st.sampled_from(["text", "content", "url"]), json_values), st.data())
def test_unknown_part_is_found_wherever_it_is(
    given_messages: list[dict[str, Any]], kind: Any, more: dict[str, Any], data: st.DataObject
) -> None:
    """A part of a type that nobody knows makes the request raw documents, in any message and any tool result."""
    changed = copy.deepcopy(given_messages)
    lists = part_lists(changed)
    assume(lists)
    parts = data.draw(st.sampled_from(lists))
    parts.insert(data.draw(st.integers(0, len(parts))), {"type": kind, **more})

    reason, length = screen(Endpoint.CHAT, {"messages": changed}, None)

    assert reason == "a content part is of a type that may hold a document"
    assert length == longest(given_messages)


part_types = st.one_of(st.sampled_from(sorted(KNOWN)), json_values)
any_part = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": part_types,
            "text": json_values,
            "refusal": json_values,
            "content": json_values,
            "image_url": st.one_of(json_values, st.fixed_dictionaries({"url": json_values})),
        },
    ),
    lambda inner: st.builds(lambda parts: {"type": "tool_result", "content": parts}, st.lists(inner, max_size=2)),
    max_leaves=4,
)
any_message = st.fixed_dictionaries(
    {"role": st.one_of(roles, st.text())}, optional={"content": st.one_of(json_values, st.lists(any_part, max_size=2))}
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "messages": st.lists(any_message, min_size=1, max_size=2),
        "prompt": st.one_of(json_values, st.lists(json_values)),
        "input": st.one_of(json_values, st.lists(json_values)),
        "documents": json_values,
    },
)


@unhurried
@given(st.sampled_from(Endpoint), bodies, st.one_of(st.none(), st.text()))
def test_screen_never_fails_on_a_body_that_was_accepted(
    endpoint: Endpoint, body: dict[str, Any], data_class: str | None
) -> None:
    """Any JSON that the reader lets through is judged: a reason or none, and a length that is a number."""
    try:
        envelope = read_envelope(endpoint, json.dumps(body).encode())
    except (InvalidRequest, InvalidJson):
        return

    reason, length = screen(endpoint, envelope.fields, data_class)

    assert reason is None or type(reason) is str
    assert type(length) is int
    assert length >= 0


@unhurried
@given(st.integers(1, 3000), harmless)
def test_screen_never_fails_on_deeply_nested_results(depth: int, part: dict[str, Any]) -> None:
    """As deep as the reader reads, the screen judges: no depth is too deep for one and not for the other."""
    nested = json.dumps(part)
    for _ in range(depth):
        nested = '{"type":"tool_result","content":[' + nested + "]}"
    text = '{"model":"m","messages":[{"role":"user","content":[' + nested + "]}]}"
    try:
        envelope = read_envelope(Endpoint.CHAT, text.encode())
    except InvalidJson:
        return

    assert screen(Endpoint.CHAT, envelope.fields, None) == screen(
        Endpoint.CHAT, {"messages": [{"role": "user", "content": [part]}]}, None
    )
