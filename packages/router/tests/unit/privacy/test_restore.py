"""An answer with placeholders, restored, whole and in events."""

import json
from typing import Any

import pytest
from stratmaster_router.privacy.restore import StreamRestorer, answers_in_json, restore_answer

KEY = 'k"1"\n'
VALUES = {"[EMAIL_1]": "ann@example.com", "[SECRET_1]": KEY}


def whole(answer: dict[str, Any], *, json_content: bool = False) -> Any:
    """A whole answer, restored."""
    return json.loads(restore_answer(json.dumps(answer).encode(), VALUES, json_content=json_content))


def event(*choices: dict[str, Any], **fields: Any) -> bytes:
    """An event with these choices."""
    return b"data: " + json.dumps({"id": "c", **fields, "choices": choices}, separators=(",", ":")).encode() + b"\n\n"


def said(text: str, index: int = 0, finish: str | None = None, name: str = "content") -> dict[str, Any]:
    """A choice of an event that says `text`."""
    return {"index": index, "delta": {name: text}, "finish_reason": finish}


def ended(index: int = 0, reason: str = "stop") -> dict[str, Any]:
    """A choice's end."""
    return {"index": index, "delta": {}, "finish_reason": reason}


DONE = b"data: [DONE]\n\n"


def stream(*events: bytes, json_content: bool = False) -> list[Any]:
    """The data of the events that a client gets, decoded."""
    restorer = StreamRestorer(VALUES, json_content=json_content)
    sent = b"".join([restorer.feed(each) for each in events]) + restorer.end()
    data = [each.removeprefix(b"data: ") for each in sent.split(b"\n\n")]
    assert data.pop() == b""
    return [each.decode() if each == b"[DONE]" else json.loads(each) for each in data]


def test_texts_of_a_whole_answer_are_restored() -> None:
    """Content, reasoning, refusal and tool calls of each choice; tokens of logprobs and all else stay."""
    call = {"id": "[EMAIL_1]", "type": "function", "function": {"name": "mail", "arguments": '{"k":"[SECRET_1]"}'}}
    answer = {
        "id": "[EMAIL_1]",
        "model": "[EMAIL_1]",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "To [EMAIL_1]: [SECRET_1] [EMAIL_2]",
                    "reasoning_content": "[EMAIL_1]",
                    "refusal": None,
                    "tool_calls": [call],
                },
                "logprobs": {"content": [{"token": "[EMAIL_1]"}]},
                "finish_reason": "stop",
            },
            {"index": 1, "message": {"refusal": "not [EMAIL_1]", "content": [{"type": "text", "text": "[EMAIL_1]"}]}},
            {"index": 2, "text": "[EMAIL_1]"},
        ],
        "usage": {"prompt_tokens": 3},
    }

    found = whole(answer)

    message = answer["choices"][0]["message"]  # type: ignore[index]  # JSON
    message["content"] = f"To ann@example.com: {KEY} [EMAIL_2]"
    message["reasoning_content"] = "ann@example.com"
    call["function"]["arguments"] = '{"k":"k\\"1\\"\\n"}'  # type: ignore[index]  # JSON
    answer["choices"][1]["message"] = {  # type: ignore[index]  # JSON
        "refusal": "not ann@example.com",
        "content": [{"type": "text", "text": "ann@example.com"}],
    }
    answer["choices"][2]["text"] = "ann@example.com"  # type: ignore[index]  # JSON
    assert found == answer


@pytest.mark.parametrize(
    "body",
    [
        b'{ "choices" : [{"message":{"content":"plain [EMAIL_9] [","x":1.50}}] }',
        b'{"choices":[],"x":"[EMAIL_1]"}',
        b'{"choices":null}',
        b'{"choices":["[EMAIL_1]",7,{"message":"[EMAIL_1]","text":7}]}',
        b"[]",
        b"no JSON [EMAIL_1]",
        b'{"choices":[{"text":"\xff[EMAIL_1]"}]}',
    ],
)
def test_answer_without_anything_to_restore_keeps_its_bytes(body: bytes) -> None:
    """Whatever its shape."""
    assert restore_answer(body, VALUES, json_content=False) == body


def test_content_that_was_asked_for_as_json_stays_json() -> None:
    """Where the request wants JSON, a value is escaped in the content too."""
    answer = {"choices": [{"message": {"content": '{"key":"[SECRET_1]"}', "reasoning": "[SECRET_1]"}}]}

    message = whole(answer, json_content=True)["choices"][0]["message"]

    assert json.loads(message["content"]) == {"key": KEY}
    assert message["reasoning"] == KEY


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, False),
        ({"response_format": None}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, True),
    ],
)
def test_request_says_whether_its_answer_is_json(fields: dict[str, Any], wanted: bool) -> None:
    """By its response_format."""
    assert answers_in_json(fields) is wanted


def test_placeholder_split_over_events_is_restored() -> None:
    """Each event stays one; what is held back comes with the event that completes it."""
    events = [event(said(piece)) for piece in ("To ", "[", "EM", "AIL_1", "] and [EM", "X", "!")]

    found = stream(*events, event(ended()), DONE)

    texts = [each["choices"][0]["delta"].get("content") for each in found[:-1]]
    assert texts == ["To ", "", "", "", "ann@example.com and ", "[EMX", "!", None]
    assert found[-1] == "[DONE]"


def test_choices_and_texts_are_kept_apart() -> None:
    """Interleaved choices, reasoning and tool calls each have their own placeholder under way."""

    def call(number: int, arguments: str) -> dict[str, Any]:
        item = {"index": number, "function": {"arguments": arguments}}
        return {"index": 0, "delta": {"tool_calls": [item]}, "finish_reason": None}

    found = stream(
        event(said("[EMA"), said("[SEC", 1)),
        event(said("[EMAIL", name="reasoning_content"), call(0, '{"a":"[EMAIL')),
        event(call(1, "[SECRET_"), said("RET_1]", 1)),
        event(said("IL_1]")),
        event(call(0, '_1]"}'), call(1, "1]")),
        event(said("_1]", name="reasoning_content")),
        event(ended(), ended(1)),
        DONE,
    )

    texts: dict[Any, str] = {}
    for chunk in found[:-1]:
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    for item in value:
                        key = (choice["index"], item["index"])
                        texts[key] = texts.get(key, "") + item["function"]["arguments"]
                else:
                    key = (choice["index"], name)
                    texts[key] = texts.get(key, "") + value
    assert texts == {
        (0, "content"): "ann@example.com",
        (1, "content"): KEY,
        (0, "reasoning_content"): "ann@example.com",
        (0, 0): '{"a":"ann@example.com"}',
        (0, 1): json.dumps(KEY)[1:-1],
    }


def test_what_is_held_comes_before_the_finish_reason() -> None:
    """The beginning of a placeholder at the end of an answer is text: an event of its own has it."""
    found = stream(event(said("see [EMAIL_"), created=7, model="m"), event(ended()), DONE)

    assert found[1:] == [
        {
            "id": "c",
            "choices": [{"index": 0, "delta": {"content": "[EMAIL_"}, "finish_reason": None}],
        },
        {"id": "c", "choices": [ended()]},
        "[DONE]",
    ]


def test_last_text_beside_the_finish_reason_holds_nothing_back() -> None:
    """An event that ends its choice has the rest of the text."""
    found = stream(event(said("[EMA")), event(said("IL", finish="stop")), DONE)

    assert [chunk["choices"] for chunk in found[:-1]] == [[said("")], [said("[EMAIL", finish="stop")]]


@pytest.mark.parametrize(
    "last",
    [b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n', DONE, b""],
)
def test_what_is_held_comes_before_the_end(last: bytes) -> None:
    """Without a finish reason the usage, `[DONE]` or the stream's own end is the end."""
    call = {"index": 3, "delta": {"tool_calls": [{"index": 2, "function": {"arguments": "["}}]}}

    found = stream(event(call), event({"index": 1, "text": "[E"}), last)

    assert found[2:4] == [
        {
            "id": "c",
            "choices": [
                {
                    "index": 3,
                    "delta": {"tool_calls": [{"index": 2, "function": {"arguments": "["}}]},
                    "finish_reason": None,
                }
            ],
        },
        {"id": "c", "choices": [{"index": 1, "text": "[E", "finish_reason": None}]},
    ]
    assert len(found) == (5 if last else 4)


def test_cut_stream_gives_what_it_holds() -> None:
    """Where the stream breaks off, the half placeholder is shown as it came, once."""
    restorer = StreamRestorer(VALUES, json_content=False)
    restorer.feed(event(said("to [EMA")))

    assert json.loads(restorer.flush().removeprefix(b"data: "))["choices"][0]["delta"] == {"content": "[EMA"}
    assert (restorer.flush(), restorer.end()) == (b"", b"")


def test_last_event_without_its_empty_line_is_restored_too() -> None:
    """Some servers leave it out."""
    restorer = StreamRestorer(VALUES, json_content=False)

    assert restorer.feed(event(said("[EMAIL_1]")).rstrip(b"\n")) == b""
    assert json.loads(restorer.end().removeprefix(b"data: "))["choices"] == [said("ann@example.com")]
    assert restorer.end() == b""


@pytest.mark.parametrize(
    "untouched",
    [
        b": keep-alive\n\n",
        b"event: ping\n\n",
        b'data: {"choices": [{"delta": {"content": "plain [EMAIL_9]"}}], "x": 1.50}\n\n',
        b'id: 1\r\ndata: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"t":"[EMAIL_1]"}}]}\r\n\r\n',
        b'data: {"choices":[],"prompt_filter_results":["[EMAIL_1]"]}\n\n',
        b"data: no JSON [EMAIL_1]\n\n",
        b"data: [1]\n\n",
    ],
)
def test_event_without_anything_to_restore_keeps_its_bytes(untouched: bytes) -> None:
    """Comments, unknown shapes and texts without a placeholder pass as they are."""
    assert StreamRestorer(VALUES, json_content=False).feed(untouched) == untouched


@pytest.mark.parametrize("bracket", ["[", "\\u005b", "\\u005B"])
def test_bracket_may_be_escaped(bracket: str) -> None:
    """As JSON allows it."""
    sent = b'data: {"choices":[{"index":0,"delta":{"content":"%sEMAIL_1]"}}]}\n\n' % bracket.encode()

    assert StreamRestorer(VALUES, json_content=False).feed(sent) == event(
        {"index": 0, "delta": {"content": "ann@example.com"}}
    ).replace(b'"id":"c",', b"")


def test_other_lines_of_a_restored_event_stay() -> None:
    """Only the data is written anew."""
    sent = b'id: 7\r\ndata: {"choices":[{"delta":\r\ndata: {"content":"[EMAIL_1]"}}]}\r\n: c\r\n\r\n'

    assert StreamRestorer(VALUES, json_content=False).feed(sent) == (
        b'id: 7\r\ndata: {"choices":[{"delta":{"content":"ann@example.com"}}]}\r\n: c\r\n\r\n'
    )
