"""Rule 5 of policy.md: what counts as raw documents, and how long the longest text is."""

from typing import Any

import pytest
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.privacy.rawdocs import screen

CHAT, COMPLETIONS, EMBEDDINGS = Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS

HEADER = "the header X-Data-Class says raw-docs"
FIELD = "the request has a documents field"
UNKNOWN_PART = "a content part is of a type that may hold a document"
NOT_AN_IMAGE = "an image_url part holds data that is not an image"
NOT_TEXT = "a text part holds something other than text"
NOT_A_RESULT = "a tool result holds something other than text"
NOT_SOUND = "an input_audio part holds something other than sound"
MISSPELT = "a member's name differs from the API's by its case"
NOT_PREDICTED = "a prediction holds something other than text"
TEMPLATE = "the chat template is given documents"
EMBEDDED = "the prompt is given as embeddings, which may stand for any text"
NOT_A_SUFFIX = "the suffix is something other than text"
FILE_TO_EMBED = "an input is a data: URL of something other than an image"


def chat(*parts: Any, role: str = "user") -> dict[str, Any]:
    """A chat request with one message of these parts."""
    return {"model": "m", "messages": [{"role": role, "content": list(parts)}]}


def text(length: int) -> dict[str, Any]:
    """A text part of this many characters."""
    return {"type": "text", "text": "é" * length}


def result(content: Any) -> dict[str, Any]:
    """A tool result with this content."""
    return {"type": "tool_result", "tool_use_id": "t", "content": content}


def image(url: Any, **more: Any) -> dict[str, Any]:
    """An image part as the OpenAI wire writes it."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


PARTS: list[tuple[dict[str, Any], str | None, int]] = [
    # A content part, why it is a raw document, and how long its text is.
    (text(5), None, 5),
    ({"type": "text", "text": ""}, None, 0),
    ({"type": "refusal", "refusal": "no way"}, None, 6),
    ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, None, 0),
    (image("https://example.com/cat.png"), None, 0),
    (image("data:image/png;base64,AAAA"), None, 0),
    (image(" DATA:Image/png;base64,AAAA"), None, 0),
    ({"type": "image_url", "image_url": "data:image/jpeg;base64,AAAA"}, None, 0),
    (result("found"), None, 5),
    (result([text(7), {"type": "refusal", "refusal": "no"}]), None, 7),
    (result(None), None, 0),
    ({"type": "tool_result", "tool_use_id": "t"}, None, 0),
    (result([]), None, 0),
    (result([result([result([text(9)])])]), None, 9),
    ({"type": "file", "file": {"file_data": "AAAA"}}, UNKNOWN_PART, 0),
    ({"type": "document", "source": {"type": "text", "data": "x"}}, UNKNOWN_PART, 0),
    ({"type": "input_file", "file_id": "f"}, UNKNOWN_PART, 0),
    ({"type": "input_text", "text": "x"}, UNKNOWN_PART, 0),
    ({"type": "search_result", "content": []}, UNKNOWN_PART, 0),
    ({"type": "Text", "text": "x"}, UNKNOWN_PART, 0),
    ({"type": "text ", "text": "x"}, UNKNOWN_PART, 0),
    ({"type": "", "text": "x"}, UNKNOWN_PART, 0),
    ({"type": None, "text": "x"}, UNKNOWN_PART, 0),
    ({"type": ["text"], "text": "x"}, UNKNOWN_PART, 0),
    ({"type": {"text": 1}}, UNKNOWN_PART, 0),
    ({"text": "x"}, UNKNOWN_PART, 0),
    ({}, UNKNOWN_PART, 0),
    ({"type": "text"}, NOT_TEXT, 0),
    ({"type": "text", "text": None}, NOT_TEXT, 0),
    ({"type": "text", "text": {"value": "x"}}, NOT_TEXT, 0),
    ({"type": "text", "text": ["x"]}, NOT_TEXT, 0),
    ({"type": "refusal", "text": "x"}, NOT_TEXT, 0),
    ({"type": "refusal", "refusal": 1}, NOT_TEXT, 0),
    (image("data:application/pdf;base64,AAAA"), NOT_AN_IMAGE, 0),
    (image("\n\tData:application/pdf;base64,AAAA"), NOT_AN_IMAGE, 0),
    (image("data:,hello"), NOT_AN_IMAGE, 0),
    (image("data:imagex/png,"), NOT_AN_IMAGE, 0),
    (image(None), NOT_AN_IMAGE, 0),
    (image(["data:image/png,"]), NOT_AN_IMAGE, 0),
    ({"type": "image_url"}, NOT_AN_IMAGE, 0),
    ({"type": "image_url", "image_url": {}}, NOT_AN_IMAGE, 0),
    ({"type": "image_url", "image_url": ["x"]}, NOT_AN_IMAGE, 0),
    ({"type": "image_url", "image_url": 1}, NOT_AN_IMAGE, 0),
    # LiteLLM takes `format` for the type of the data, whatever its URL says.
    (image("data:image/png;base64,AAAA", format="application/pdf"), NOT_AN_IMAGE, 0),
    (image("https://example.com/a", format="text/plain"), NOT_AN_IMAGE, 0),
    (image("https://example.com/a", format=None), NOT_AN_IMAGE, 0),
    (image("https://example.com/a", format=["image/png"]), NOT_AN_IMAGE, 0),
    (image("https://example.com/a", format="Image/PNG"), None, 0),
    (image("https://example.com/a", detail="low"), None, 0),
    (image("https://example.com/a", URL="data:application/pdf;base64,AAAA"), NOT_AN_IMAGE, 0),
    (image("https://example.com/a", Format="application/pdf"), NOT_AN_IMAGE, 0),
    ({"type": "input_audio"}, NOT_SOUND, 0),
    ({"type": "input_audio", "input_audio": "x" * 99}, NOT_SOUND, 0),
    ({"type": "input_audio", "input_audio": [{"type": "file"}]}, NOT_SOUND, 0),
    # Go's JSON does not mind the case of a name, and the last one wins.
    ({"type": "text", "text": "abc", "Type": "file"}, MISSPELT, 3),
    ({"type": "text", "text": "abc", "TEXT": "x" * 99}, MISSPELT, 3),
    ({"type": "text", "text": "abc", "content": "d"}, None, 3),
    ({"type": "text", "text": "abc", "cache_control": {"type": "ephemeral"}}, None, 3),
    ({"type": "text", "text": "abc", "Anything": 1}, None, 3),
    ({"type": "tool_result", "Content": "x" * 99}, MISSPELT, 0),
    ({"type": "tool_result", "content": "abc", "\u0063ONTENT": [{"type": "file"}]}, MISSPELT, 3),
    ({"type": "image_url", "image_url": "https://x.example/", "Image_URL": "data:text/csv,x"}, MISSPELT, 0),
    (result([{"type": "text", "text": "abc", "tYpe": "file"}]), MISSPELT, 3),
    (result({"type": "text", "text": "x"}), NOT_A_RESULT, 0),
    (result(7), NOT_A_RESULT, 0),
    (result(["x"]), UNKNOWN_PART, 0),
    (result([None]), UNKNOWN_PART, 0),
    (result([[text(1)]]), UNKNOWN_PART, 0),
    (result([text(3), {"type": "document"}]), UNKNOWN_PART, 3),
    (result([result([result([{"type": "file"}])])]), UNKNOWN_PART, 0),
    (result([image("data:text/html,x")]), NOT_AN_IMAGE, 0),
]


@pytest.mark.parametrize(("part", "reason", "length"), PARTS, ids=lambda value: str(value)[:50])
@pytest.mark.parametrize("role", ["user", "tool", "function", "critic"])
def test_part_of_a_message_is_judged_and_measured(
    part: dict[str, Any], reason: str | None, length: int, role: str
) -> None:
    """Text, refusals, images, audio and tool results may pass; every other type may hold a document."""
    assert screen(CHAT, chat(part, role=role), None) == (reason, length)


@pytest.mark.parametrize(("part", "reason", "length"), PARTS, ids=lambda value: str(value)[:50])
@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_part_of_the_operators_or_the_models_message_is_judged_but_not_measured(
    part: dict[str, Any], reason: str | None, length: int, role: str
) -> None:
    """A document is one whoever says it; a length counts only for what the user says, and for a tool's result."""
    expected = length if part.get("type") == "tool_result" else 0
    assert screen(CHAT, chat(part, role=role), None) == (reason, expected)


@pytest.mark.parametrize(
    ("role", "length"),
    [
        ("user", 6),
        ("tool", 6),
        ("function", 6),
        ("USER", 6),
        ("", 6),
        ("system", 0),
        ("developer", 0),
        ("assistant", 0),
    ],
)
def test_plain_text_is_measured_by_role(role: str, length: int) -> None:
    """A message that is a string counts like one text part: in characters, not bytes."""
    assert screen(CHAT, {"messages": [{"role": role, "content": "é€😀abc"}]}, None) == (None, length)


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"role": "user", "content": None}, {"role": "user", "content": []}]
)
def test_message_without_content_holds_nothing(message: dict[str, Any]) -> None:
    """An assistant's tool call has no content, and neither reason nor length."""
    assert screen(CHAT, {"messages": [message]}, None) == (None, 0)


@pytest.mark.parametrize(
    ("message", "reason", "length"),
    [
        ({"role": "user", "content": "abc", "Content": [{"type": "file"}]}, MISSPELT, 3),
        ({"role": "user", "content": [text(3)], "CONTENT": "x" * 99}, MISSPELT, 3),
        ({"role": "user", "Content": "x" * 99}, MISSPELT, 0),
        ({"role": "assistant", "content": None, "cOntent": "x" * 99}, MISSPELT, 0),
        ({"role": "system", "content": "abc", "Role": "user"}, MISSPELT, 0),
        ({"role": "tool", "content": "abc", "tool_call_id": "t"}, None, 3),
        ({"role": "user", "content": "abc", "name": "n", "X-Anything": {}}, None, 3),
    ],
    ids=lambda value: str(value)[:50],
)
def test_name_in_another_case_is_not_overlooked(message: dict[str, Any], reason: str | None, length: int) -> None:
    """A name that some upstreams take for the API's own could hide a document from the screen."""
    assert screen(CHAT, {"messages": [message]}, None) == (reason, length)


HELLO = [{"role": "user", "content": "abc"}]


@pytest.mark.parametrize(
    ("endpoint", "fields", "reason", "length"),
    [
        (CHAT, {"prediction": None}, None, 3),
        (CHAT, {"prediction": {"type": "content", "content": "x" * 99}}, None, 99),
        (CHAT, {"prediction": {"type": "content", "content": [text(99), text(5)]}}, None, 99),
        (CHAT, {"prediction": {"type": "content", "content": [{"type": "file"}]}}, UNKNOWN_PART, 3),
        (CHAT, {"prediction": {"type": "content"}}, NOT_PREDICTED, 3),
        (CHAT, {"prediction": {"Content": "x" * 99}}, NOT_PREDICTED, 3),
        (CHAT, {"prediction": "x" * 99}, NOT_PREDICTED, 3),
        (CHAT, {"chat_template_kwargs": {"enable_thinking": False}}, None, 3),
        (CHAT, {"chat_template_kwargs": {"documents": []}}, TEMPLATE, 3),
        (CHAT, {"chat_template_kwargs": {"Documents": [{"text": "x"}]}}, TEMPLATE, 3),
        (COMPLETIONS, {"suffix": None}, None, 3),
        (COMPLETIONS, {"suffix": "x" * 99}, None, 99),
        (COMPLETIONS, {"suffix": ["x" * 99]}, NOT_A_SUFFIX, 3),
        (COMPLETIONS, {"prompt_embeds": "AAAA"}, EMBEDDED, 3),
        (EMBEDDINGS, {"input": "data:application/pdf;base64,AAAA"}, FILE_TO_EMBED, 32),
        (EMBEDDINGS, {"input": ["abc", "Data:text/csv,a"]}, FILE_TO_EMBED, 15),
        (EMBEDDINGS, {"input": ["data:image/png;base64,AAAA"]}, None, 26),
        (EMBEDDINGS, {"input": ["data:,hello", [1, 2]]}, FILE_TO_EMBED, 256),
        (EMBEDDINGS, {"input": ["data: so far, so good", "see data:text/csv,a"]}, None, 21),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_else_reaches_the_model_is_judged_and_measured(
    endpoint: Endpoint, fields: dict[str, Any], reason: str | None, length: int
) -> None:
    """Predicted answers, what stands after a gap, what templates are given, and files among inputs to embed."""
    given = {"messages": HELLO, "prompt": "abc", "input": "abc", **fields}
    assert screen(endpoint, given, None) == (reason, length)


def test_document_is_found_behind_others_and_the_longest_text_wins() -> None:
    """Every part of every message is looked at, and the first reason is told."""
    fields = {
        "messages": [
            {"role": "system", "content": "s" * 500},
            {"role": "user", "content": [text(3), text(40)]},
            {"role": "assistant", "content": [text(100)]},
            {"role": "tool", "content": "t" * 50},
            {"role": "user", "content": [text(20), image("data:text/csv,a"), {"type": "file"}, text(60), text(7)]},
        ]
    }

    assert screen(CHAT, fields, None) == (NOT_AN_IMAGE, 60)


@pytest.mark.parametrize("documents", [["x"], [], None, "x", {}])
@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "abc"}]}),
        (COMPLETIONS, {"prompt": "abc"}),
        (EMBEDDINGS, {"input": "abc"}),
    ],
)
def test_documents_field_is_raw_documents(endpoint: Endpoint, fields: dict[str, Any], documents: Any) -> None:
    """A top-level `documents` counts whatever it holds; the same word further in does not."""
    assert screen(endpoint, {**fields, "documents": documents}, None) == (FIELD, 3)
    assert screen(endpoint, {**fields, "metadata": {"documents": documents}}, None) == (None, 3)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("raw-docs", HEADER),
        ("Raw-Docs", HEADER),
        (" raw-docs ", HEADER),
        ("public, raw-docs", HEADER),
        ("raw-docs;v=1", HEADER),
        ("raw_docs", None),
        ("public", None),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "abc"}]}),
        (COMPLETIONS, {"prompt": "abc"}),
        (EMBEDDINGS, {"input": "abc"}),
    ],
)
def test_header_says_raw_documents(
    endpoint: Endpoint, fields: dict[str, Any], value: str | None, reason: str | None
) -> None:
    """The client's own word counts on every endpoint, in any case and among other classes."""
    assert screen(endpoint, fields, value) == (reason, 3)


INPUTS: list[tuple[Any, str | None, int]] = [
    ("", None, 0),
    ("é€😀", None, 3),
    ([], None, 0),
    (["a", "bcd", "ef"], None, 3),
    # One token may stand for 128 characters.
    ([1, 2, 3], None, 384),
    ([[1, 2], [3, 4, 5], []], None, 384),
    ([[1, 2], "x" * 300, "y"], None, 300),
]
STRANGE_INPUTS: list[Any] = [
    [{"text": "x" * 5000}],
    [{"type": "document"}],
    ["short", {"image": "AAAA"}],
    [["x" * 5000]],
    [[1, "x" * 5000]],
    [[["x" * 5000]]],
    [[{"text": "x"}]],
]


@pytest.mark.parametrize(("value", "reason", "length"), INPUTS, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize(("endpoint", "name"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
def test_prompt_and_input_are_measured(
    endpoint: Endpoint, name: str, value: Any, reason: str | None, length: int
) -> None:
    """The longest text counts; tokens count as the longest text that they can stand for."""
    assert screen(endpoint, {name: value}, None) == (reason, length)


@pytest.mark.parametrize("value", STRANGE_INPUTS, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize(("endpoint", "name"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
def test_input_of_a_kind_that_nobody_knows_is_a_raw_document(endpoint: Endpoint, name: str, value: Any) -> None:
    """Some servers take objects and nested texts as inputs: what is not known to be harmless fails closed."""
    reason, _ = screen(endpoint, {name: value}, None)

    assert reason is not None


def test_reason_never_repeats_what_the_client_wrote() -> None:
    """A type that the client made up reaches no trace and no message."""
    assert screen(CHAT, chat({"type": "sk-secret"}), "raw-docs sk-secret")[0] == HEADER
    assert screen(CHAT, chat({"type": "sk-secret"}), None)[0] == UNKNOWN_PART
