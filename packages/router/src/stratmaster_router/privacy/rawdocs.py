"""Does a request carry raw documents? Pure; source: policy.md, rule 5.

Whatever is not known to be harmless counts as a raw document. Where the rule leaves room this module is strict:

- the URL of an `image_url` part must be http, https or an image's data, and no `format` may say otherwise: LiteLLM
  takes that for the type of the data;
- a role that is not the operator's or the model's counts as the user's, and a tool result as a tool's in any of them;
- a prediction, a suffix and what a chat template is given are judged like messages: they reach the model as well;
- an embedding input that is a data: URL is a file, as LiteLLM reads it; embeddings of a prompt may stand for any text;
- a token of a pre-tokenised input counts as the longest text that one token can stand for;
- a name that differs by its case only is that name to some upstreams (Go's JSON), and the last of them is what counts.
"""

import re
from collections.abc import Mapping
from typing import Any

from stratmaster_router.domain.routing import Endpoint

# Looking a member up on its enum is as dear as a call.
_CHAT, _COMPLETIONS = Endpoint.CHAT, Endpoint.COMPLETIONS
# Roles whose text is the operator's or the model's own; the text of every other role is measured.
_UNMEASURED_ROLES = frozenset({"system", "developer", "assistant"})
# The longest token of the vocabularies in use (cl100k, o200k) stands for 128 characters.
_CHARS_PER_TOKEN = 128

# The usual members. Only where there is another one are names compared without their case, which takes longer.
_MESSAGE = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call", "reasoning_content"}
)
_PART = frozenset({"type", "text", "refusal", "image_url", "input_audio", "content", "tool_use_id", "cache_control"})
_IMAGE = frozenset({"url", "detail", "format"})

_data_url = re.compile(r"data:(?!image/)[^\s,]*,", re.IGNORECASE).match

_MISSPELT = "a member's name differs from the API's by its case"

_Judged = tuple[str | None, int]
"""Why there are raw documents or None, and the length of the longest text that counts, in characters."""


def screen(endpoint: Endpoint, fields: Mapping[str, Any], data_class: str | None) -> _Judged:
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
        if "prediction" in fields or "chat_template_kwargs" in fields:
            also, length = _beside_messages(fields)
            found, longest = found or also, max(longest, length)
    elif endpoint is _COMPLETIONS:
        found, longest = _prompt(fields)
    else:
        found, longest = _input(fields["input"])
        found = found or _file_among(fields["input"])
    return reason or found, longest


def _messages(messages: list[dict[str, Any]]) -> _Judged:
    reason: str | None = None
    longest = 0
    for message in messages:
        content = message.get("content")
        if type(content) is str:
            if len(content) > longest and message["role"] not in _UNMEASURED_ROLES:
                longest = len(content)
            if len(message) > 2 and _misspelt(message, _MESSAGE):
                reason = reason or _MISSPELT
            continue
        if _misspelt(message, _MESSAGE):
            reason = reason or _MISSPELT
        if content is not None:
            found, length, of_tools = _parts(content)
            reason = reason or found
            if message["role"] in _UNMEASURED_ROLES:
                length = of_tools
            longest = max(longest, length)
    return reason, longest


def _parts(parts: list[Any]) -> tuple[str | None, int, int]:
    """Why they are raw documents or None, the length of their longest text, and of the longest that is a tool's.

    Results of tools within each other are judged one after the other, so that no depth is too deep.
    """
    results: list[Any] = []
    reason, longest = _judged(parts, results)
    of_tools = 0
    for content in results:
        found: str | None = None
        length = 0
        if type(content) is list:
            found, length = _judged(content, results)
        elif type(content) is str:
            length = len(content)
        elif content is not None:
            found = "a tool result holds something other than text"
        reason = reason or found
        of_tools = max(of_tools, length)
    return reason, max(longest, of_tools), of_tools


def _judged(parts: list[Any], results: list[Any]) -> _Judged:
    """Judge and measure parts; what tool results among them hold is left to be judged in `results`."""
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
            results.append(part.get("content"))
        elif kind == "input_audio":
            if type(part.get("input_audio")) is not dict:
                reason = reason or "an input_audio part holds something other than sound"
        else:
            reason = reason or "a content part is of a type that may hold a document"
        if reason is None and (len(part) > 2 or kind == "tool_result") and _misspelt(part, _PART):
            reason = _MISSPELT
    return reason, longest


def _is_image(image: Any) -> bool:
    if type(image) is dict:
        declared = image.get("format", "image/")
        if type(declared) is not str or not declared.lower().startswith("image/") or _misspelt(image, _IMAGE):
            return False
        image = image.get("url")
    return type(image) is str and image.lstrip()[:11].lower().startswith(("https://", "http://", "data:image/"))


def _beside_messages(fields: Mapping[str, Any]) -> _Judged:
    """Judge what else of a chat request reaches the model: a predicted answer, and what its template is given."""
    template = fields.get("chat_template_kwargs")
    reason = None
    if type(template) is dict and any(name.casefold() == "documents" for name in template):
        reason = "the chat template is given documents"
    prediction = fields.get("prediction")
    if prediction is None:
        return reason, 0
    content = prediction.get("content") if type(prediction) is dict else None
    if type(content) is str:
        return reason, len(content)
    if type(content) is not list:
        return reason or "a prediction holds something other than text", 0
    found, length, _ = _parts(content)
    return reason or found, length


def _prompt(fields: Mapping[str, Any]) -> _Judged:
    """Judge the texts of a legacy completion: before and after what is to be written."""
    reason, longest = _input(fields["prompt"])
    if "prompt_embeds" in fields:
        reason = reason or "the prompt is given as embeddings, which may stand for any text"
    suffix = fields.get("suffix")
    if type(suffix) is str:
        longest = max(longest, len(suffix))
    elif suffix is not None:
        reason = reason or "the suffix is something other than text"
    return reason, longest


def _input(value: Any) -> _Judged:
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


def _file_among(value: Any) -> str | None:
    """Why one of the inputs to embed is a file."""
    for text in [value] if type(value) is str else value:
        if type(text) is str and text[4:5] == ":" and _data_url(text):
            return "an input is a data: URL of something other than an image"
    return None


def _misspelt(members: Mapping[str, Any], names: frozenset[str]) -> bool:
    """Whether a member has one of `names` but for its case."""
    return not names.issuperset(members) and any(name.casefold() in names and name not in names for name in members)
