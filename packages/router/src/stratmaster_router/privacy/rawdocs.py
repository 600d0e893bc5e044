"""Does a request carry raw documents? Pure; source: policy.md, rule 5.

Whatever is not known to be harmless counts as a raw document. Where the rule leaves room this module is strict: the
URL of an `image_url` part must be http, https or an image's data; a role that is not the operator's or the model's
counts as the user's; a token of a pre-tokenised input counts as the longest text that one token can stand for.
"""

from collections.abc import Mapping
from typing import Any

from stratmaster_router.domain.routing import Endpoint

# Looking a member up on its enum is as dear as a call.
_CHAT, _COMPLETIONS = Endpoint.CHAT, Endpoint.COMPLETIONS
# Roles whose text is the operator's or the model's own; the text of every other role is measured.
_UNMEASURED_ROLES = frozenset({"system", "developer", "assistant"})
# The longest token of the vocabularies in use (cl100k, o200k) stands for 128 characters.
_CHARS_PER_TOKEN = 128


def screen(endpoint: Endpoint, fields: Mapping[str, Any], data_class: str | None) -> tuple[str | None, int]:
    """Return (why the request carries raw documents or None, length of its longest text in characters).

    `data_class` is the value of the header `X-Data-Class`. The reason never repeats what the client wrote.
    """
    reason: str | None = None
    if data_class is not None and "raw-docs" in data_class.lower():
        reason = "the header X-Data-Class says raw-docs"
    elif "documents" in fields:
        reason = "the request has a documents field"
    if endpoint is _CHAT:
        found, longest = _messages(fields["messages"])
        return reason or found, longest
    found, longest = _input(fields["prompt" if endpoint is _COMPLETIONS else "input"])
    return reason or found, longest


def _messages(messages: list[dict[str, Any]]) -> tuple[str | None, int]:
    reason: str | None = None
    longest = 0
    for message in messages:
        content = message.get("content")
        if type(content) is str:
            if len(content) > longest and message["role"] not in _UNMEASURED_ROLES:
                longest = len(content)
        elif content is not None:
            found, length = _parts(content)
            reason = reason or found
            if length > longest and message["role"] not in _UNMEASURED_ROLES:
                longest = length
    return reason, longest


def _parts(parts: list[Any]) -> tuple[str | None, int]:
    reason: str | None = None
    longest = 0
    for part in parts:
        kind = part.get("type") if type(part) is dict else None
        if kind in ("text", "refusal"):
            text = part.get(kind)
            if type(text) is str:
                longest = max(longest, len(text))
            else:
                reason = reason or "a text part holds something other than text"
        elif kind == "image_url":
            if not _is_image(part.get("image_url")):
                reason = reason or "an image_url part holds data that is not an image"
        elif kind == "tool_result":
            content = part.get("content")
            if type(content) is list:
                found, length = _parts(content)
                reason = reason or found
                longest = max(longest, length)
            elif type(content) is str:
                longest = max(longest, len(content))
            elif content is not None:
                reason = reason or "a tool result holds something other than text"
        elif kind != "input_audio":
            reason = reason or "a content part is of a type that may hold a document"
    return reason, longest


def _is_image(image: Any) -> bool:
    url = image.get("url") if type(image) is dict else image
    return type(url) is str and url.lstrip()[:11].lower().startswith(("https://", "http://", "data:image/"))


def _input(value: Any) -> tuple[str | None, int]:
    """Judge and measure a prompt or an embedding input; token arrays by their upper bound."""
    if type(value) is str:
        return None, len(value)
    longest = 0
    tokens = 0
    for item in value:
        if type(item) is str:
            longest = max(longest, len(item))
        elif type(item) is list and all(type(token) is int for token in item):
            longest = max(longest, len(item) * _CHARS_PER_TOKEN)
        elif type(item) is int:
            tokens += 1
        else:
            return "an input is neither text nor tokens", longest
    return None, max(longest, tokens * _CHARS_PER_TOKEN)
