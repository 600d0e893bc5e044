"""`/v1/completions` by way of a chat. Pure.

LiteLLM does the same for providers that only chat, but hides the stream underneath, so that one which was cut could not
be told from a whole one.
"""

from typing import Any

from stratmaster_router.domain.errors import InvalidRequest


def as_chat(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a completion as those of a chat with one message. Raises `InvalidRequest`."""
    fields = dict(fields)
    prompt = fields.pop("prompt", None)
    if isinstance(prompt, list) and len(prompt) == 1:
        [prompt] = prompt
    if not isinstance(prompt, str):
        raise InvalidRequest("The LiteLLM bridge takes one text as the prompt.", param="prompt")
    return {**fields, "messages": [{"role": "user", "content": prompt}]}


def as_completion(chat: dict[str, Any]) -> dict[str, Any]:
    """A chat's answer, or a chunk of it, as that of a completion."""
    choices = []
    for choice in chat["choices"]:
        said = choice.get("message") or choice.get("delta") or {}
        choices.append(
            {
                "index": choice.get("index", 0),
                "text": said.get("content") or "",
                "logprobs": None,
                "finish_reason": choice.get("finish_reason"),
            }
        )
    return {**chat, "object": "text_completion", "choices": choices}
