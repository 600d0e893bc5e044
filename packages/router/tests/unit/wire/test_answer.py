"""Whether an answer is whole, an error in disguise, and what it used."""

import pytest
from stratmaster_router.domain.errors import StreamBroken
from stratmaster_router.domain.routing import Endpoint
from stratmaster_router.domain.usage import Usage
from stratmaster_router.wire.answer import BadAnswer, StreamReader, read_answer
from stratmaster_router.wire.sse import LONGEST_EVENT

CHAT, COMPLETIONS, EMBEDDINGS = Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS
USED = b'"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}'

INVALID = ("upstream_invalid_response", "The provider's answer is not the JSON that it should be.")
LACKS = ("upstream_invalid_response", "The provider's answer lacks its result.")
ERROR = ("upstream_error_in_body", "The provider answered with an error in a success.")

WHOLE: list[tuple[Endpoint, bytes, Usage | None]] = [
    (CHAT, b'{"choices":[{"message":{"content":"x"}}],' + USED + b"}", Usage(7, 3)),
    (COMPLETIONS, b'{"choices":[{"text":"x"}],' + USED + b"}", Usage(7, 3)),
    (EMBEDDINGS, b'{"data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":7,"total_tokens":7}}', Usage(7, 0)),
    (CHAT, b'{"choices":[]}', None),
    (EMBEDDINGS, b'{"data":[]}', None),
    (CHAT, b'{"choices":[{}],"usage":null}', None),
    (CHAT, b'{"choices":[{}],"usage":{}}', None),
    (CHAT, b'{"choices":[{}],"usage":"7"}', None),
    (CHAT, b' \n{ "choices" : [ 1 , null ] , "error" : null } \n', None),
    (CHAT, b'{"error":null,"choices":[{"message":{"content":"{\\"error\\":1}"}}]}', None),
    (CHAT, b'{"choices":[{"error":{"message":"of a tool"}}]}', None),
]
BAD: list[tuple[Endpoint, bytes, tuple[str, str]]] = [
    (CHAT, b"", INVALID),
    (CHAT, b"null", INVALID),
    (CHAT, b"[]", INVALID),
    (CHAT, b'"ok"', INVALID),
    (CHAT, b"<html>busy</html>", INVALID),
    (CHAT, b'{"choices":[{}]', INVALID),
    (CHAT, b'{"choices":[{}]} {}', INVALID),
    (CHAT, b'{"choices":{}}', INVALID),
    (CHAT, b'{"choices":"x"}', INVALID),
    (CHAT, b'{"choices":' + b"[" * 100_000, INVALID),
    (CHAT, b'{"choices":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", INVALID),
    (EMBEDDINGS, b'{"data":{}}', INVALID),
    (CHAT, b"{}", LACKS),
    (CHAT, b'{"choices":null}', LACKS),
    (CHAT, b'{"data":[]}', LACKS),
    (COMPLETIONS, b'{"usage":{"prompt_tokens":1}}', LACKS),
    (EMBEDDINGS, b'{"choices":[]}', LACKS),
    (EMBEDDINGS, b'{"data":null}', LACKS),
    (CHAT, b'{"error":{"message":"busy"}}', ERROR),
    (CHAT, b'{"choices":[{}],"error":{"message":"busy"}}', ERROR),
    (CHAT, b'{"choices":[{}],"error":"busy"}', ERROR),
    (CHAT, b'{"choices":[{}],"error":{}}', ERROR),
    (EMBEDDINGS, b'{"data":[],"error":{"code":500}}', ERROR),
]


@pytest.mark.parametrize(("endpoint", "body", "usage"), WHOLE)
def test_whole_answer_gives_its_usage(endpoint: Endpoint, body: bytes, usage: Usage | None) -> None:
    """An answer with its result is taken, with what it used where it says so."""
    assert read_answer(endpoint, body) == usage


@pytest.mark.parametrize(("endpoint", "body", "code_and_message"), BAD, ids=lambda value: str(value)[:40])
def test_success_that_is_none_is_found(endpoint: Endpoint, body: bytes, code_and_message: tuple[str, str]) -> None:
    """What lacks its result, cannot be read or holds an error is no answer, though its status is 200."""
    with pytest.raises(BadAnswer) as raised:
        read_answer(endpoint, body)

    assert (raised.value.code, raised.value.message) == code_and_message


@pytest.mark.parametrize("text", [b"\\ud83d", b"\\ude00\\ud83d", b"\\ud83dx"])
def test_answer_with_half_a_character_is_whole(text: bytes) -> None:
    """A lone surrogate escape is JSON, and the clients' parsers take it: the answer reaches them as it is."""
    assert read_answer(CHAT, b'{"choices":[{"message":{"content":"' + text + b'"}}],' + USED + b"}") == Usage(7, 3)


def event(chunk: bytes) -> bytes:
    """An event with this data."""
    return b"data: " + chunk + b"\n\n"


def text_event(text: bytes) -> bytes:
    """A chunk of a chat stream."""
    return event(b'{"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}' % text)


FINISH = event(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
USAGE = event(b'{"choices":[],' + USED + b"}")
DONE = event(b"[DONE]")


@pytest.mark.parametrize("show", [True, False])
def test_usage_chunk_is_metered_and_shown_only_to_who_asked(show: bool) -> None:
    """The usage chunk reaches a client that asked for it and no other; everything else stays byte for byte."""
    reader = StreamReader(show)

    sent = reader.feed(text_event(b"a") + FINISH + USAGE + DONE) + reader.end()

    assert sent == text_event(b"a") + FINISH + (USAGE if show else b"") + DONE
    assert (reader.usage, reader.started, reader.complete) == (Usage(7, 3), True, True)


HIDDEN_OR_NOT: list[tuple[bytes, bool]] = [
    (b'{"choices":[],' + USED + b"}", False),
    (b'{"choices":null,' + USED + b"}", False),
    (b"{" + USED + b"}", False),
    (b'{"choices":[{"delta":{"content":"x"}}],' + USED + b"}", True),
    (b'{"choices":[{"delta":{"content":"x"}}],"usage":null}', True),
    (b'{"choices":[],"prompt_filter_results":[]}', True),
    (b'{"choices":[],"usage":null}', True),
    (b"{}", True),
]


@pytest.mark.parametrize(("chunk", "passes"), HIDDEN_OR_NOT)
def test_chunk_is_hidden_only_if_it_is_nothing_but_usage(chunk: bytes, passes: bool) -> None:
    """A chunk that carries a choice, or no usage at all, always passes."""
    assert StreamReader(show_usage=False).feed(event(chunk)) == (event(chunk) if passes else b"")
    assert StreamReader(show_usage=True).feed(event(chunk)) == event(chunk)


def test_last_usage_counts() -> None:
    """Usage that is reported again and again is a running total, and one that cannot be read changes nothing."""
    reader = StreamReader(show_usage=False)
    for chunk in (
        b'{"choices":[{}],"usage":{"prompt_tokens":7,"completion_tokens":1}}',
        b'{"choices":[{}],"usage":{"prompt_tokens":7,"completion_tokens":2}}',
        b'{"choices":[{}],"usage":null}',
        b'{"choices":[{}],"usage":{}}',
    ):
        reader.feed(event(chunk))

    assert reader.usage == Usage(7, 2)


def test_comment_passes_and_starts_nothing() -> None:
    """A keep-alive of the upstream is passed on, and is no first event."""
    reader = StreamReader(show_usage=False)

    assert reader.feed(b": wait\n\n") == b": wait\n\n"
    assert (reader.started, reader.complete) == (False, False)
    assert reader.feed(text_event(b"a")) == text_event(b"a")
    assert (reader.started, reader.complete) == (True, False)


A = text_event(b"a")
COMPLETE: list[tuple[bytes, bytes, bytes]] = [
    # What passes at once, what is held back for its end is missing, and what of that the end of the stream sets free.
    (A + DONE, b"", b""),
    (A + FINISH, b"", b""),
    (DONE, b"", b""),
    (event(b" [DONE] "), b"", b""),
    (b"data:[DONE]\r\n\r\n", b"", b""),
    (event(b'{"choices":[{"text":"a","finish_reason":"length"}]}'), b"", b""),
    (FINISH + b": bye\n\n", b"", b""),
    (A, b"data: [DONE]\n", b"data: [DONE]\n"),
    (A, b"data: [DONE]", b"data: [DONE]"),
    (A, b"data: [DONE]\r\r", b"data: [DONE]\r\r"),
    (A, FINISH[:-1], FINISH[:-1]),
    (A, FINISH[:-2], FINISH[:-2]),
    (A + FINISH, b": bye", b": bye"),
    (A + FINISH, b"\n", b""),
    (A + DONE, b"\n", b""),
]


@pytest.mark.parametrize(("passed", "held", "tail"), COMPLETE)
def test_stream_is_complete_with_done_or_a_finish_reason(passed: bytes, held: bytes, tail: bytes) -> None:
    """Both ends of a stream are known, also where the last empty line is left out."""
    reader = StreamReader(show_usage=True)

    assert (reader.feed(passed + held), reader.end()) == (passed, tail)


def test_last_usage_without_its_empty_line_is_metered_and_hidden() -> None:
    """An unterminated usage chunk is still billed, and still not shown to a client that did not ask."""
    reader = StreamReader(show_usage=False)
    reader.feed(text_event(b"a") + FINISH + USAGE[:-2])

    assert (reader.end(), reader.usage) == (b"", Usage(7, 3))


TRUNCATED = ("upstream_stream_truncated", "The provider's stream ended before the answer was complete.")
UNREADABLE = ("upstream_stream_invalid", "The provider sent an event that cannot be read.")
IN_BAND = ("upstream_stream_error", "The provider reported an error inside its stream.")
ENDLESS = ("upstream_stream_invalid", "The provider sent an event that does not end.")

CUT = {
    "nothing": b"",
    "only white space": b"\n",
    "only a comment": b": wait\n\n",
    "no end": text_event(b"a"),
    "only usage": text_event(b"a") + USAGE,
    "no last empty line": text_event(b"a") + text_event(b"b")[:-2],
    "half a comment": text_event(b"a") + b": wai",
    "a null finish": event(b'{"choices":[{"finish_reason":null}]}'),
    "done in another word": event(b'{"choices":[{"delta":{"content":"[DONE]"}}]}'),
}


@pytest.mark.parametrize("stream", CUT.values(), ids=CUT)
def test_stream_without_an_end_is_truncated(stream: bytes) -> None:
    """An upstream that stops before [DONE] or a finish reason has failed, however cleanly it closed."""
    reader = StreamReader(show_usage=False)
    reader.feed(stream)

    with pytest.raises(StreamBroken) as raised:
        reader.end()

    assert (raised.value.code, raised.value.message) == TRUNCATED


BROKEN: list[tuple[bytes, tuple[str, str]]] = [
    (event(b'{"error":{"message":"overloaded"}}'), IN_BAND),
    (event(b'{"choices":[{"delta":{}}],"error":"overloaded"}'), IN_BAND),
    (b'event: error\ndata: {"error":{}}\n\n', IN_BAND),
    (b'data: {"error":\r\ndata: {"message":"two lines"}}\r\n\r\n', IN_BAND),
    (event(b"not json"), UNREADABLE),
    (event(b""), UNREADABLE),
    (event(b"[1]"), UNREADABLE),
    (event(b'"x"'), UNREADABLE),
    (event(b"null"), UNREADABLE),
    (event(b'{"choices":[{"delta":'), UNREADABLE),
    (event(b'{"choices":{}}'), UNREADABLE),
    (event(b'{"choices":[null]}'), UNREADABLE),
    (event(b'{"choices":[{"finish_reason":7}]}'), UNREADABLE),
    (event(b'{"choices":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), UNREADABLE),
    (event(b'{"choices":[{"finish_reason":"st\xffp"}]}'), UNREADABLE),
    (b"data: " + b"x" * LONGEST_EVENT, ENDLESS),
]


@pytest.mark.parametrize(("bad", "code_and_message"), BROKEN, ids=lambda value: str(value)[:40])
def test_event_that_is_an_error_or_unreadable_breaks_the_stream(bad: bytes, code_and_message: tuple[str, str]) -> None:
    """An in-band error and what cannot be read are failures, not tokens, and a finish before them heals nothing."""
    reader = StreamReader(show_usage=True)
    assert reader.feed(text_event(b"a") + FINISH) == text_event(b"a") + FINISH

    with pytest.raises(StreamBroken) as raised:
        reader.feed(bad)

    assert (raised.value.code, raised.value.message) == code_and_message
    assert not reader.complete


def test_events_before_a_broken_one_are_passed_on_first() -> None:
    """In a stream that has started, what stands before a broken event in the same chunk reaches the client."""
    reader = StreamReader(show_usage=True)
    assert reader.feed(text_event(b"a")) == text_event(b"a")

    assert reader.feed(text_event(b"b") + event(b"junk") + text_event(b"c")) == text_event(b"b")

    for after in (lambda: reader.feed(DONE), reader.check, reader.end):
        with pytest.raises(StreamBroken) as raised:
            after()
        assert (raised.value.code, raised.value.message) == UNREADABLE


def test_broken_first_chunk_passes_nothing() -> None:
    """Before the first event has left, another hop can still answer: nothing of a broken beginning is passed on."""
    reader = StreamReader(show_usage=True)

    with pytest.raises(StreamBroken) as raised:
        reader.feed(text_event(b"a") + event(b"junk"))

    assert (raised.value.code, raised.value.message) == UNREADABLE


def test_stream_of_several_choices_ends_when_all_have_finished() -> None:
    """Without [DONE] the finish of one choice is not that of the others."""
    chunk = b'{"choices":[{"index":%d,"delta":{},"finish_reason":%b}]}'
    reader = StreamReader(show_usage=True)
    for index, finish in ((0, b"null"), (1, b"null"), (0, b'"stop"')):
        reader.feed(event(chunk % (index, finish)))

    with pytest.raises(StreamBroken) as raised:
        reader.end()
    assert (raised.value.code, raised.value.message) == TRUNCATED

    reader.feed(event(chunk % (1, b'"length"')))
    assert reader.end() == b""


def test_null_error_is_none() -> None:
    """Some servers write `"error": null` into every chunk."""
    reader = StreamReader(show_usage=False)
    chunk = event(b'{"error" : null ,"choices":[{"finish_reason":"stop"}]}')

    assert reader.feed(chunk) + reader.end() == chunk


@pytest.mark.parametrize("text", [b"\\ud83d", b"\\ude00\\ud83d", b"\\ud83dx"])
def test_half_a_character_breaks_no_stream(text: bytes) -> None:
    """Servers that cut text by UTF-16 units send lone surrogate escapes; clients join them again."""
    assert StreamReader(show_usage=False).feed(text_event(text)) == text_event(text)


@pytest.mark.parametrize("after", [event(b'{"error":{"message":"late"}}'), event(b"junk"), b"junk\n\n", b"junk"])
def test_what_follows_done_cannot_take_the_end_away(after: bytes) -> None:
    """With [DONE] the answer is whole: what a server sends behind it, in the same packet too, breaks nothing."""
    reader = StreamReader(show_usage=False)

    sent = reader.feed(text_event(b"a") + DONE + after) + reader.end()

    assert sent.startswith(text_event(b"a") + DONE)
    assert reader.complete
