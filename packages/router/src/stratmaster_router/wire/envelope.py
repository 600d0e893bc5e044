"""A request body, read once: the few fields that the router needs, and the bytes of all the others.

Source: wire.md, "Bodies pass through unchanged".
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from stratmaster_router.domain.errors import InvalidJson, InvalidRequest
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.wire.json_text import members, type_names

LONGEST_MODEL_NAME = 256

OutputBound = tuple[str, int]
"""The field that bounds an answer's tokens, and the bound."""

# Looking a member up on its enum is as dear as a call.
_EMBEDDINGS = Endpoint.EMBEDDINGS
# The API's own field names. What differs from one by its case only is that field to some upstreams (Go's JSON takes
# either, and the last one counts) and unknown to others: the request that policy judged would not be the one they read.
_NAMES = frozenset(
    {"model", "messages", "prompt", "input", "suffix", "documents", "prediction", "stream", "stream_options"}
    | {"max_tokens", "max_completion_tokens", "n", "best_of", "stop", "temperature", "top_p", "top_k", "seed", "user"}
    | {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format", "modalities"}
    | {"frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "reasoning_effort", "audio"}
    | {"encoding_format", "dimensions", "echo", "metadata", "store", "service_tier", "verbosity"}
    | {"chat_template", "chat_template_kwargs", "prompt_embeds"}
)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Envelope(Struct, frozen=True):
    """One request as the client sent it.

    `wants_usage` is the client's own `stream_options.include_usage`. `fields` holds every top-level field. `text` is
    None where writing `fields` gives `body` again; else it is the body as text, with its values at `places`.
    """

    model: str
    stream: bool
    wants_usage: bool
    fields: dict[str, Any]
    body: bytes
    text: str | None
    places: Mapping[str, tuple[int, int]]

    def for_upstream(self, model: str, bound: OutputBound | None = None) -> bytes:
        """The body to send for `model`: the client's bytes but for the model and, in a stream, the wish for usage.

        `bound` is the most output tokens, where policy sets it because the client did not.
        """
        if self.text is not None:
            return self._spliced(self.text, model, bound)
        member = b'"model":' + _encode(self.model)
        begin = self.body.find(member)
        if (
            begin != self.body.rfind(member)
            or "stream_options" in self.fields
            or (bound is not None and bound[0] in self.fields)
        ):
            return self._rewritten(model, bound)
        # A quote inside a string is escaped, so what stands here once is the member and nothing a prompt says.
        tail = self.body[begin + len(member) :]
        if self.stream:
            tail = tail[:-1] + b',"stream_options":{"include_usage":true}}'
        if bound is not None:
            tail = tail[:-1] + b',"%b":%d}' % (bound[0].encode(), bound[1])
        return self.body[:begin] + b'"model":' + _encode(model) + tail

    def _rewritten(self, model: str, bound: OutputBound | None) -> bytes:
        fields = {**self.fields, "model": model}
        if self.stream and not self.wants_usage:
            options = fields.get("stream_options") or {}
            if "include_usage" in options:
                fields["stream_options"] = {**options, "include_usage": True}
            else:
                fields["stream_options"] = {"include_usage": True, **options}
        if bound is not None:
            fields[bound[0]] = bound[1]
        return _encode(fields)

    def _spliced(self, text: str, model: str, bound: OutputBound | None) -> bytes:
        changes = [(*self.places["model"], _encode(model).decode())]
        if self.stream and not self.wants_usage:
            changes.append(self._ask_for_usage(text))
        if bound is not None:
            name, most = bound
            # Before the last brace: the object has a model, so a comma is right.
            end = text.rindex("}")
            changes.append((*self.places[name], f"{most}") if name in self.places else (end, end, f',"{name}":{most}'))
        changes.sort()
        parts: list[str] = []
        at = 0
        for begin, end, replacement in changes:
            parts += (text[at:begin], replacement)
            at = end
        parts.append(text[at:])
        return "".join(parts).encode()

    def _ask_for_usage(self, text: str) -> tuple[int, int, str]:
        if "stream_options" not in self.fields:
            end = text.rindex("}")
            return end, end, ',"stream_options":{"include_usage":true}'
        options = self.fields["stream_options"]
        begin, end = self.places["stream_options"]
        if not options:
            return begin, end, '{"include_usage":true}'
        if "include_usage" not in options:
            return begin + 1, begin + 1, '"include_usage":true,'
        _, inner = members(text[begin:end])
        return begin + inner["include_usage"][0], begin + inner["include_usage"][1], "true"


def read_envelope(endpoint: Endpoint, body: bytes) -> Envelope:
    """Read and check a request body.

    Raises `InvalidJson` for anything but one JSON object in UTF-8 without duplicate keys, `InvalidRequest` (with
    `param`) for a field that is missing, of the wrong type, or whose name differs from one of the API's by its case.
    Fields that the router does not need are not checked.
    """
    fields, text, places = _read(body)
    if not _NAMES.issuperset(fields):
        _check_spelling(fields)

    model = fields.get("model")
    if type(model) is not str:
        raise _wrong("model", fields, "a string: a task, a model of this tenant or provider/model")
    if not 0 < len(model) <= LONGEST_MODEL_NAME:
        raise InvalidRequest(f"'model' must have 1 to {LONGEST_MODEL_NAME} characters.", param="model")
    _CHECKS[endpoint](fields)

    stream = False
    wants_usage = False
    if endpoint is not _EMBEDDINGS:
        stream = _stream(fields)
        if stream:
            wants_usage = _wants_usage(fields)
    return Envelope(model, stream, wants_usage, fields, body, text, places)


def _read(body: bytes) -> tuple[dict[str, Any], str | None, Mapping[str, tuple[int, int]]]:
    """The fields of `body`, and its text and places where it cannot simply be written again.

    Most clients write the JSON that msgspec writes. Then reading it and writing it gives the same bytes, which also
    proves that no key came twice, and costs a quarter of the careful way.
    """
    try:
        fields = _decode(body)
        if type(fields) is dict and _encode(fields) == body:
            return fields, None, {}
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass  # the careful way says what is wrong
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The request body is not UTF-8: byte {error.start} cannot be read.") from None
    fields, places = members(text)
    return fields, text, places


def _check_spelling(fields: Mapping[str, Any]) -> None:
    for name in fields:
        meant = name.casefold()
        if meant in _NAMES and name not in _NAMES:
            raise InvalidRequest(
                f"A field's name differs from '{meant}' by its case. Upstreams read that differently: write '{meant}'.",
                param=meant,
            )


def _stream(fields: Mapping[str, Any]) -> bool:
    stream = fields.get("stream")
    if stream is None or stream is False:
        return False
    if stream is True:
        return True
    raise _wrong("stream", fields, "a boolean")


def _wants_usage(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if type(options) is not dict:
        raise _wrong("stream_options", fields, "an object")
    wants = options.get("include_usage")
    if wants is None or type(wants) is bool:
        return bool(wants)
    raise InvalidRequest("'stream_options.include_usage' must be a boolean.", param="stream_options.include_usage")


def _check_messages(fields: Mapping[str, Any]) -> None:
    messages = fields.get("messages")
    if type(messages) is not list or not messages:
        raise _wrong("messages", fields, "a non-empty array of messages")
    for index, message in enumerate(messages):
        if type(message) is not dict or type(message.get("role")) is not str:
            raise InvalidRequest(f"'messages[{index}]' must be an object with a 'role'.", param=f"messages[{index}]")
        content = message.get("content")
        if content is None or type(content) is str:
            continue
        if type(content) is not list or not all(type(part) is dict for part in content):
            raise InvalidRequest(
                f"'messages[{index}].content' must be a string, null or an array of content parts.",
                param=f"messages[{index}].content",
            )


def _check_prompt(fields: Mapping[str, Any]) -> None:
    if type(fields.get("prompt")) not in (str, list):
        raise _wrong("prompt", fields, "a string or an array")


def _check_input(fields: Mapping[str, Any]) -> None:
    if type(fields.get("input")) not in (str, list):
        raise _wrong("input", fields, "a string or an array")


_CHECKS = {
    Endpoint.CHAT: _check_messages,
    Endpoint.COMPLETIONS: _check_prompt,
    Endpoint.EMBEDDINGS: _check_input,
}


def _wrong(name: str, fields: Mapping[str, Any], expected: str) -> InvalidRequest:
    if name not in fields:
        return InvalidRequest(f"'{name}' is required: {expected}.", param=name)
    found = type_names.get(type(fields[name]), "a number")
    if fields[name] in ([], ""):
        found = "empty"
    return InvalidRequest(f"'{name}' must be {expected}; it is {found}.", param=name)
