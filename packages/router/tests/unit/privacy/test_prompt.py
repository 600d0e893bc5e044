"""Which text of a request is its prompt, and what its fingerprint is taken of."""

from typing import Any

import pytest
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.privacy.prompt import prompt_content, prompt_text

PARTS = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "https://x"}}, {"type": "text"}]


@pytest.mark.parametrize(
    ("endpoint", "fields", "text"),
    [
        (Endpoint.CHAT, {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}, "u"),
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": [*PARTS, {"type": "text", "text": "2"}]}]}, "one\n2"),
        (Endpoint.CHAT, {"messages": [{"role": "assistant", "content": None}]}, ""),
        (Endpoint.COMPLETIONS, {"prompt": "p"}, "p"),
        (Endpoint.COMPLETIONS, {"prompt": ["p", "q"]}, "q"),
        (Endpoint.COMPLETIONS, {"prompt": [1, 2]}, ""),
        (Endpoint.COMPLETIONS, {"prompt": []}, ""),
        (Endpoint.EMBEDDINGS, {"input": ["a", "b"]}, "b"),
        (Endpoint.EMBEDDINGS, {"input": [[1, 2], [3]]}, ""),
        (Endpoint.EMBEDDINGS, {"input": [["x"]]}, ""),
    ],
)
def test_text_is_that_of_the_last_message_prompt_or_input(
    endpoint: Endpoint, fields: dict[str, Any], text: str
) -> None:
    """What was asked last says most; tokens and files are no text."""
    assert prompt_text(endpoint, fields) == text


def test_content_is_all_that_is_said_and_nothing_else() -> None:
    """Two requests that say the same are the same, whatever model they ask for; one more message is another prompt."""
    said = [{"role": "user", "content": "u"}]
    one = prompt_content(Endpoint.CHAT, {"messages": said, "model": "a", "stream": True})

    assert one == prompt_content(Endpoint.CHAT, {"model": "b", "messages": [dict(said[0])]})
    assert one != prompt_content(Endpoint.CHAT, {"messages": said * 2})


def test_content_with_a_lone_surrogate_is_content() -> None:
    """What JSON can smuggle in has a fingerprint too."""
    assert prompt_content(Endpoint.COMPLETIONS, {"prompt": "\ud800"}) == b'"\\ud800"'
