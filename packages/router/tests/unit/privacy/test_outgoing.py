"""What a provider that redacts may see of a request."""

import json
from typing import Any

import pytest
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.privacy.detect import Detector, Finding
from stratmaster_router.privacy.outgoing import PARTS, TOKENS, Redacted, Unsearchable, redact, unsearchable
from stratmaster_router.wire.envelope import read_envelope

ANN, BOB, CARD = "ann@example.com", "bob@example.com", "4111111111111111"
DETECTOR = Detector(frozenset({"email", "card"}))


def sent(fields: dict[str, Any] | bytes, endpoint: Endpoint = Endpoint.CHAT) -> Redacted:
    """What is made of a request, given by its fields or its bytes."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields, separators=(",", ":")).encode()
    return redact(endpoint, read_envelope(endpoint, body), DETECTOR)


def chat(content: Any, **fields: Any) -> dict[str, Any]:
    """A chat of one user message."""
    return {"model": "reasoning", "messages": [{"role": "user", "content": content}], **fields}


def test_every_string_of_a_chat_is_redacted() -> None:
    """All of a body is searched, fields that nobody knows and names of members included."""
    made = sent(
        {
            "model": "reasoning",
            "messages": [
                {"role": "system", "content": f"Write to {ANN}."},
                {"role": "user", "name": ANN, "content": [{"type": "text", "text": f"{BOB}, {CARD}"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "mail", "arguments": json.dumps({"to": BOB})},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": f"sent to {BOB}"},
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "mail",
                        "description": f"Ask {ANN}",
                        "parameters": {"type": "object", "properties": {ANN: {"enum": [BOB]}}, "required": [ANN]},
                    },
                }
            ],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": CARD}}},
            "user": ANN,
            "metadata": {"card": CARD},
            "stop": [BOB],
            "x-unknown": {"deep": [[{"er": f"<{ANN}>"}]]},
        }
    )

    assert made.envelope.fields == {
        "model": "reasoning",
        "messages": [
            {"role": "system", "content": "Write to [EMAIL_1]."},
            {"role": "user", "name": "[EMAIL_1]", "content": [{"type": "text", "text": "[EMAIL_2], [CARD_1]"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "mail", "arguments": '{"to": "[EMAIL_2]"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sent to [EMAIL_2]"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "mail",
                    "description": "Ask [EMAIL_1]",
                    "parameters": {
                        "type": "object",
                        "properties": {"[EMAIL_1]": {"enum": ["[EMAIL_2]"]}},
                        "required": ["[EMAIL_1]"],
                    },
                },
            }
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "[CARD_1]"}}},
        "user": "[EMAIL_1]",
        "metadata": {"card": "[CARD_1]"},
        "stop": ["[EMAIL_2]"],
        "x-unknown": {"deep": [[{"er": "<[EMAIL_1]>"}]]},
    }
    assert json.loads(made.envelope.body) == made.envelope.fields
    assert made.values == {"[EMAIL_1]": ANN, "[EMAIL_2]": BOB, "[CARD_1]": CARD}
    assert made.found == {"email": 2, "card": 1}


@pytest.mark.parametrize(
    ("endpoint", "fields", "redacted"),
    [
        (Endpoint.COMPLETIONS, {"prompt": ANN, "suffix": BOB}, {"prompt": "[EMAIL_1]", "suffix": "[EMAIL_2]"}),
        (Endpoint.COMPLETIONS, {"prompt": ["a", BOB, ANN]}, {"prompt": ["a", "[EMAIL_1]", "[EMAIL_2]"]}),
        (Endpoint.EMBEDDINGS, {"input": f"a {ANN}"}, {"input": "a [EMAIL_1]"}),
        (Endpoint.EMBEDDINGS, {"input": [ANN, "b"]}, {"input": ["[EMAIL_1]", "b"]}),
    ],
)
def test_other_endpoints_are_redacted_alike(
    endpoint: Endpoint, fields: dict[str, Any], redacted: dict[str, Any]
) -> None:
    """Prompts and inputs, one or several."""
    assert sent({"model": "m", **fields}, endpoint).envelope.fields == {"model": "m", **redacted}


def test_request_without_anything_to_find_is_the_same_one() -> None:
    """Where nothing is found nothing is changed, whatever the spelling."""
    envelope = read_envelope(Endpoint.CHAT, b' {"model": "m", "messages": [{"role":"user","content":"hi"}], "x": 1.50}')

    assert redact(Endpoint.CHAT, envelope, DETECTOR) == Redacted(envelope, {}, {})


def test_bytes_of_what_has_nothing_in_it_are_kept() -> None:
    """In a spelling of its own only the members with something found are written anew."""
    made = sent(
        b'{ "temperature" : 0.70, "model":"m" , "user": "\\u0061nn@example.com","n":1e0, "stop" : [ "\\u0041" ],'
        b'\n"messages":[{"role":"user","content":"caf\xc3\xa9"}]}'
    )

    assert made.envelope.for_upstream("gpt-4.1") == (
        b'{ "temperature" : 0.70, "model":"gpt-4.1" , "user": "[EMAIL_1]","n":1e0, "stop" : [ "\\u0041" ],'
        b'\n"messages":[{"role":"user","content":"caf\xc3\xa9"}]}'
    )


def test_stream_of_a_redacted_request_asks_for_usage() -> None:
    """What the router itself writes into a body is written into this one too."""
    made = sent(chat(ANN, stream=True))

    assert made.envelope.for_upstream("gpt-4.1", ("max_tokens", 5)) == (
        b'{"model":"gpt-4.1","messages":[{"role":"user","content":"[EMAIL_1]"}],"stream":true,'
        b'"stream_options":{"include_usage":true},"max_tokens":5}'
    )


def test_text_with_placeholders_of_its_own_keeps_them() -> None:
    """What the caller writes in brackets is not taken for what was found."""
    made = sent(chat(f"Print [EMAIL_1] and {ANN}."))

    assert made.envelope.fields["messages"][0]["content"] == "Print [EMAIL_1] and [EMAIL_A1]."
    assert made.values == {"[EMAIL_A1]": ANN}


def test_longer_conversation_keeps_its_beginning() -> None:
    """Earlier messages keep their placeholders when others follow, so that a provider's cache still knows them."""
    first = [{"role": "user", "content": f"{ANN} {CARD}"}, {"role": "assistant", "content": BOB}]
    more = [*first, {"role": "user", "content": f"{BOB} carl@example.com"}]

    short, long = (sent({"model": "m", "messages": messages}).envelope.fields["messages"] for messages in (first, more))

    assert long == [*short, {"role": "user", "content": "[EMAIL_2] [EMAIL_3]"}]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        # A line's end before an address is none of its letters; an escaped one is an address too.
        (r'{"body":"Hi\nann@example.com"}', r'{"body":"Hi\n[EMAIL_1]"}'),
        (r'{"body":"ann\u0040example.com","x":"\u00e9"}', r'{"body":"[EMAIL_1]","x":"\u00e9"}'),
        (r'{"a":"{\"b\":\"ann\\u0040example.com\"}"}', r'{"a":"{\"b\":\"[EMAIL_1]\"}"}'),
        ('{"card": 4111111111111111, "n": 1}', '{"card": "[CARD_1]", "n": 1}'),
        ('[ "ann@example.com" ]', '[ "[EMAIL_1]" ]'),
        ('{"é": "ann@example.com\\n"}', '{"é": "[EMAIL_1]\\n"}'),
        # No JSON: searched as it stands.
        ('{"a": ann@example.com', '{"a": [EMAIL_1]'),
    ],
)
def test_json_in_a_text_stays_json(text: str, redacted: str) -> None:
    """Arguments and results of tools are searched as what they mean, and only what was found is replaced."""
    assert sent(chat(text)).envelope.fields["messages"][0]["content"] == redacted


def test_protocol_ids_are_not_touched_and_nothing_else_hides_behind_their_names() -> None:
    """The ids of tool calls stay; an id elsewhere, or one that is no id, is searched."""
    made = sent(
        {
            "model": "m",
            "messages": [
                {"role": "tool", "tool_call_id": f"call_{CARD}", "content": "x"},
                {"role": "tool", "tool_call_id": ANN, "content": "x"},
                {"role": "tool", "tool_call_id": CARD, "content": "x"},
            ],
            "metadata": {"id": CARD, "role": BOB, "type": BOB},
        }
    )

    ids = [message["tool_call_id"] for message in made.envelope.fields["messages"]]
    assert ids == [f"call_{CARD}", "[EMAIL_1]", "[CARD_1]"]
    assert made.envelope.fields["metadata"] == {"id": "[CARD_1]", "role": "[EMAIL_2]", "type": "[EMAIL_2]"}


IMAGE = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}


@pytest.mark.parametrize(
    ("endpoint", "fields", "reason"),
    [
        (Endpoint.CHAT, chat("x"), None),
        (Endpoint.CHAT, chat(None), None),
        (Endpoint.CHAT, chat([{"type": "text", "text": "x"}, {"type": "refusal", "refusal": "x"}]), None),
        (Endpoint.CHAT, chat([{"type": "tool_result", "content": "x"}]), None),
        (Endpoint.CHAT, chat([{"type": "tool_result", "content": [{"type": "text", "text": "x"}]}]), None),
        (Endpoint.CHAT, chat([{"type": "tool_result", "content": [IMAGE]}]), PARTS),
        (Endpoint.CHAT, chat([IMAGE]), PARTS),
        (Endpoint.CHAT, chat([{"type": "text", "text": "x"}, IMAGE]), PARTS),
        (Endpoint.CHAT, chat([{"type": "input_audio", "input_audio": {"data": "A"}}]), PARTS),
        (Endpoint.CHAT, chat([{"type": "file", "file": {"file_id": "f"}}]), PARTS),
        (Endpoint.CHAT, chat([{"type": "nobody_knows"}]), PARTS),
        (Endpoint.CHAT, chat([{"text": "x"}]), PARTS),
        (Endpoint.CHAT, chat([{"type": "text", "text": "x", "image_url": {"url": "data:"}}]), PARTS),
        (Endpoint.CHAT, chat([{"type": "tool_result", "content": "x", "file": {}}]), PARTS),
        (Endpoint.COMPLETIONS, {"model": "m", "prompt": "x"}, None),
        (Endpoint.COMPLETIONS, {"model": "m", "prompt": ["x", "y"]}, None),
        (Endpoint.COMPLETIONS, {"model": "m", "prompt": [1, 2]}, TOKENS),
        (Endpoint.COMPLETIONS, {"model": "m", "prompt": ["x", [1]]}, TOKENS),
        (Endpoint.EMBEDDINGS, {"model": "m", "input": "x"}, None),
        (Endpoint.EMBEDDINGS, {"model": "m", "input": []}, None),
        (Endpoint.EMBEDDINGS, {"model": "m", "input": [[1, 2]]}, TOKENS),
    ],
)
def test_what_cannot_be_searched_is_known_and_refused(
    endpoint: Endpoint, fields: dict[str, Any], reason: str | None
) -> None:
    """Pictures, sound, files, unknown parts and token ids make a request unfit; so says the redaction too."""
    assert unsearchable(endpoint, fields) == reason
    if reason is not None:
        with pytest.raises(Unsearchable, match=reason):
            sent(fields, endpoint)


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"card": int(CARD)}},
        {"metadata": {"card": -int(CARD)}},
        {"metadata": [[float(CARD)]]},
        {ANN: 1},
    ],
)
def test_what_cannot_be_replaced_is_refused(fields: dict[str, Any]) -> None:
    """A number cannot become a placeholder, nor can the name of a field; the message does not repeat it."""
    with pytest.raises(Unsearchable) as refused:
        sent(chat("x", **fields))

    assert ANN not in str(refused.value)
    assert CARD not in str(refused.value)


def test_numbers_of_the_protocol_are_no_data() -> None:
    """A seed may have as many digits as a card."""
    fields = chat("x", seed=int(CARD), logit_bias={"50256": -100}, temperature=0.5)

    assert sent(fields).envelope.fields == fields


class Failing(Detector):
    """A detector that fails."""

    def find(self, text: str) -> list[Finding]:
        """Fail."""
        raise OverflowError(text)


def test_failing_detector_gives_nothing_to_send() -> None:
    """What a detector raises is raised on."""
    with pytest.raises(OverflowError):
        redact(Endpoint.CHAT, read_envelope(Endpoint.CHAT, json.dumps(chat("x")).encode()), Failing())


class Marked(Detector):
    """A detector that finds the first of its marks that is there."""

    def __init__(self, *marks: str) -> None:
        super().__init__(frozenset())
        self._marks = marks

    def find(self, text: str) -> list[Finding]:
        """One finding."""
        for mark in self._marks:
            at = text.find(mark)
            if at >= 0:
                return [Finding("secret", at, at + len(mark))]
        return []


class Endless(Detector):
    """A detector that finds a letter more each time."""

    def find(self, text: str) -> list[Finding]:
        """The last letter."""
        at = max(text.rfind(letter) for letter in "abcdefghijklmnopqrstuvwxyz")
        return [Finding("secret", at, at + 1)] if at >= 0 else []


def test_text_that_never_ends_to_have_findings_is_refused() -> None:
    """What lays open more and more is not searched for ever."""
    with pytest.raises(Unsearchable):
        redact(Endpoint.CHAT, read_envelope(Endpoint.CHAT, json.dumps(chat("x" * 20)).encode()), Endless())


@pytest.mark.parametrize(
    ("marks", "text", "values"),
    [
        # The inside of a placeholder, or all of it.
        ([ANN, "SECRET_1"], "key=[SECRET_1] and more", {"[SECRET_1]": ANN}),
        ([ANN, "[SECRET_1]"], "key=[SECRET_1] and more", {"[SECRET_1]": ANN}),
        # More than it.
        ([ANN, "key=[SECRET_1]"], "[SECRET_2] and more", {"[SECRET_1]": ANN, "[SECRET_2]": f"key={ANN}"}),
        # A part of it, and more.
        ([ANN, "1] and"], "key=[SECRET_2] more", {"[SECRET_1]": ANN, "[SECRET_2]": f"{ANN} and"}),
        ([ANN, "y=[SEC"], "ke[SECRET_2] and more", {"[SECRET_1]": ANN, "[SECRET_2]": f"y={ANN}"}),
    ],
)
def test_detector_that_finds_placeholders_does_no_harm(marks: list[str], text: str, values: dict[str, str]) -> None:
    """What is found around a placeholder has all of it, with the original in it; its inside is nothing new."""
    body = json.dumps(chat(f"key={ANN} and more")).encode()

    made = redact(Endpoint.CHAT, read_envelope(Endpoint.CHAT, body), Marked(*marks))

    assert (made.envelope.fields["messages"][0]["content"], made.values) == (text, values)
