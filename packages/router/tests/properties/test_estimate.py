"""What holds of the sizes of requests, for any text in any way of writing JSON."""

import json
from typing import Any
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.limits import estimate
from stratmaster_router.limits.estimate import (
    answer_tokens,
    count_tokens,
    input_bound,
    input_estimate,
    output_bound,
    request_tokens,
)
from support.bodies import json_values, unhurried

SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"
# Words of few characters between all kinds of white space are the hardest for a count of bytes.
pieces = st.sampled_from(
    [*SPACES, *'aZ0"\\/é你。_', "  ", "    ", "\\u", "\\n", ";base64,", '"data"', "data:image/png"]
)
texts = st.one_of(st.text(), st.lists(pieces, max_size=60).map("".join))
styles = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.sampled_from([None, 1, 4, "\t"]),
        "separators": st.sampled_from([(",", ":"), (", ", ": ")]),
    }
)
bodies = st.builds(
    lambda texts, kind, style: (
        texts,
        fields := {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": text} for text in texts[1:]],
            "type": kind,
            "data": texts[0],
        },
        json.dumps(fields, **style).encode(),
    ),
    st.lists(texts, min_size=1, max_size=4),
    st.sampled_from(["image_url", "input_audio", "text"]),
    styles,
)
Body = tuple[list[str], dict[str, Any], bytes]


@unhurried
@given(bodies)
def test_the_estimate_is_no_less_than_the_words(made: Body) -> None:
    """Whoever counts words never counts more than was reserved."""
    texts, _, body = made

    assert input_estimate(body) >= sum(len(text.split()) for text in texts)


@unhurried
@given(bodies, st.sampled_from(["gpt-4o", "gpt-4"]))
def test_the_bound_is_no_less_than_the_count(made: Body, model: str) -> None:
    """No text has more tokens than the bytes that write it."""
    texts, fields, body = made
    counted = [count_tokens(text, model) for text in texts]

    assert input_bound(body, model, fields) >= sum(count or 0 for count in counted)


@unhurried
@given(bodies, st.sampled_from(["gpt-4.1", "gpt-4o-mini", "gpt-4"]), st.integers(0, 3), st.booleans())
def test_the_bound_is_no_less_than_the_request_count(made: Body, model: str, pictures: int, escaped: bool) -> None:
    """The dearer figure is the closer one, with pictures or without: who fits the bound fits the count."""
    fields = dict(made[1])
    links = [f"data:image/png;base64,{'Qk0/' * 9}{number}" for number in range(pictures)]
    shown = [{"type": "image_url", "image_url": {"url": link}} for link in links]
    fields["messages"] = [*fields["messages"], {"role": "user", "content": shown}]
    body = json.dumps(fields, ensure_ascii=escaped).encode()

    assert input_bound(body, model, fields) >= (request_tokens(body, model, fields) or 0)


@unhurried
@given(bodies, st.sampled_from(["gpt-4o", "gpt-4"]))
def test_the_request_count_is_no_less_than_what_is_billed(made: Body, model: str) -> None:
    """What is billed for messages: their text, a role, three tokens for each and three for the answer."""
    texts, fields, body = made
    billed = 3 + sum((count_tokens(text, model) or 0) + 4 for text in texts[1:])

    assert (request_tokens(body, model, fields) or 0) >= billed


@unhurried
@given(texts, st.sampled_from(["gpt-4o", "gpt-4"]), st.integers(1, 40))
@example("I'll've done's 1234,5678. x\n\n  y!/z\\n你好,世界。", "gpt-4o", 1)
def test_cutting_a_text_does_not_change_its_count(text: str, model: str, cut: int) -> None:
    """A long text is counted in parts, cut only where the tokenizer cuts too."""
    with patch.object(estimate, "_CUT", cut):
        in_parts = count_tokens(text, model)

    assert in_parts == count_tokens(text, model)


@unhurried
@given(texts, st.sampled_from(["gpt-4o", "gpt-4", "llama-3"]))
@example("//\n//" * 10, "gpt-4o")
def test_an_answer_has_no_fewer_tokens_than_words(text: str, model: str) -> None:
    """Whatever counted it."""
    assert answer_tokens(text, model) >= len(text.split())


@unhurried
@given(
    st.sampled_from(Endpoint),
    st.dictionaries(
        st.sampled_from(["max_tokens", "max_completion_tokens", "n", "best_of", "prompt", "prediction"]),
        json_values | st.integers(),
        max_size=4,
    ),
    st.integers(0, 10**6),
)
def test_the_output_bound_is_never_negative(endpoint: Endpoint, fields: dict[str, Any], default: int) -> None:
    """Whatever a client sends; and what it did not bound is bounded by the default at the least."""
    bound, chosen = output_bound(endpoint, fields, default)

    assert bound >= (0 if chosen else default)
