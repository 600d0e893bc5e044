"""A request on the OpenAI wire, made by LiteLLM, and its answer on the OpenAI wire again."""

import base64
from array import array
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import litellm
import msgspec

from stratmaster_router.domain.errors import InvalidRequest
from stratmaster_router.domain.routing import Endpoint, Provider
from stratmaster_router.litellm_bridge.completions import as_chat, as_completion
from stratmaster_router.litellm_bridge.errors import StreamTruncated, failure
from stratmaster_router.litellm_bridge.fields import Fields, allowed_fields
from stratmaster_router.litellm_bridge.mends import GeminiReader
from stratmaster_router.litellm_bridge.silence import Silence

_encode = msgspec.json.encode


def read_body(body: bytes) -> tuple[str, dict[str, Any]]:
    """The model and the fields of a request. Raises `InvalidRequest`."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("The body is not a JSON object.") from None
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model must be a text.", param="model")
    return model, fields


async def call(endpoint: Endpoint, provider: Provider, body: bytes) -> bytes | AsyncGenerator[bytes]:
    """Call `provider`: a whole answer, or its events once the first has come.

    Raises what `errors.failure` understands.
    """
    model, given = read_body(body)
    name = f"{provider.litellm_provider}/{model}"
    fields = allowed_fields(endpoint, given, lambda: _supported(provider.litellm_provider, model))
    stream = fields.get("stream") is True
    as_text = endpoint is Endpoint.COMPLETIONS
    if as_text:
        fields = as_chat(fields)
    call_type = "aembedding" if endpoint is Endpoint.EMBEDDINGS else "acompletion"
    order = {
        **fields,
        "model": name,
        "api_key": provider.api_key.value if provider.api_key else None,
        "api_base": provider.base_url or None,
        "timeout": provider.timeouts.total,
        "num_retries": 0,
        "max_retries": 0,
        "litellm_logging_obj": Silence(name, call_type, stream=stream, stream_options=fields.get("stream_options")),
    }
    if endpoint is Endpoint.EMBEDDINGS:
        return await _embed(order)
    answer = await litellm.acompletion(**order)
    return await _begun(answer, as_text) if stream else _whole(answer, as_text)


def _supported(litellm_provider: str | None, model: str) -> frozenset[str]:
    return frozenset(litellm.get_supported_openai_params(model=model, custom_llm_provider=litellm_provider) or ())


def _whole(answer: Any, as_text: bool) -> bytes:
    body: dict[str, Any] = answer.model_dump(exclude_none=True)
    for choice in body["choices"]:
        # Of some providers LiteLLM says "stop" where the model wants a tool called.
        if choice.get("finish_reason") == "stop" and choice.get("message", {}).get("tool_calls"):
            choice["finish_reason"] = "tool_calls"
    return _encode(as_completion(body) if as_text else body)


async def _embed(order: Fields) -> bytes:
    # The official clients ask for base64, which few providers know, so it is made here.
    encoding = order.pop("encoding_format", "float")
    answer = (await litellm.aembedding(**order)).model_dump(exclude_none=True)
    for item in answer["data"]:
        if encoding == "base64" and isinstance(item["embedding"], list):
            item["embedding"] = base64.b64encode(array("f", item["embedding"]).tobytes()).decode()
    return _encode(answer)


async def _begun(stream: Any, as_text: bool) -> AsyncGenerator[bytes]:
    """The events of `stream`, with the first one waited for, so that what fails before it fails with a status."""
    events = _events(stream, as_text)
    first = await anext(events)

    async def all_events() -> AsyncGenerator[bytes]:
        try:
            yield first
            async for event in events:
                yield event
        except Exception as error:  # noqa: BLE001  # whatever it is, the stream must not look complete
            yield _event(failure(error).body())
        finally:
            await events.aclose()

    return all_events()


async def _events(stream: Any, as_text: bool) -> AsyncGenerator[bytes]:
    reader = None
    try:
        async for chunk in stream:
            reader = stream.completion_stream or reader
            event = chunk.model_dump(exclude_none=True, exclude_unset=True)
            choices = event.get("choices", [])
            if any(choice.get("finish_reason") for choice in choices) and _invented(stream, reader):
                raise StreamTruncated
            if event.get("usage") and not any(_says_something(choice) for choice in choices):
                event["choices"] = []
            yield _event(_encode(as_completion(event) if as_text else event))
        yield _event(b"[DONE]")
    finally:
        # Closes the connection to the provider, which cancels what is under way there.
        await stream.aclose()


def _invented(stream: Any, reader: Any) -> bool:
    """Whether a finish reason is LiteLLM's own, made up because the provider's stream ended without one."""
    if isinstance(reader, GeminiReader):
        return not reader.saw_finish_reason
    return stream.received_finish_reason is None


def _says_something(choice: Mapping[str, Any]) -> bool:
    return bool(choice.get("finish_reason") or any((choice.get("delta") or {}).values()))


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data
