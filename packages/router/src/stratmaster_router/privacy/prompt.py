"""What of a request's content is its prompt. Pure."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from stratmaster_router.domain.routing import Endpoint

_CONTENT = {Endpoint.CHAT: "messages", Endpoint.COMPLETIONS: "prompt", Endpoint.EMBEDDINGS: "input"}
_encode = msgspec.json.Encoder().encode


def prompt_text(endpoint: Endpoint, fields: Mapping[str, Any]) -> str:
    """The text that a snippet is taken of: the last message, prompt or input; empty where it is none, as of tokens."""
    content = fields[_CONTENT[endpoint]]
    if type(content) is list and content:
        content = content[-1]
        if type(content) is dict:  # a message
            content = content.get("content")
    if type(content) is list:  # its parts
        texts = [part.get("text") for part in content if type(part) is dict and part.get("type") == "text"]
        content = "\n".join(text for text in texts if type(text) is str)
    return content if type(content) is str else ""


def prompt_content(endpoint: Endpoint, fields: Mapping[str, Any]) -> bytes:
    """All that the request says to the model, as bytes: the same for the same messages, prompt or input."""
    content = fields[_CONTENT[endpoint]]
    try:
        return _encode(content)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can hold and UTF-8 cannot
        return json.dumps(content, separators=(",", ":")).encode()
