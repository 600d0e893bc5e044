"""What a client gets of a stream, and what is metered, does not depend on how the stream was chunked."""

import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.domain.errors import StreamBroken
from stratmaster_router.domain.usage import Usage
from stratmaster_router.wire.answer import StreamReader
from support.bodies import pieces, unhurried

chunks = st.one_of(
    st.builds(
        lambda text, finish, usage: {
            "choices": [{"delta": {"content": text}, "finish_reason": finish}],
            **({} if usage is None else {"usage": usage}),
        },
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.sampled_from([None, None, None, "stop"]),
        st.sampled_from([None, {"prompt_tokens": 2, "completion_tokens": 5}, {}]),
    ),
    st.builds(lambda n: {"choices": [], "usage": {"prompt_tokens": n, "completion_tokens": 1}}, st.integers(0, 9)),
)
good_data = st.one_of(chunks.map(lambda chunk: json.dumps(chunk).encode()), st.just(b"[DONE]"))
bad_data = st.sampled_from([b'{"error":{"message":"x"}}', b"{", b"junk", b"[]", b""])
line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> bytes:
    """A stream of events with `data` and of comments, each with line ends of its own, perhaps cut at its end."""
    stream = b""
    for _ in range(draw(st.integers(0, 6))):
        end = draw(line_ends)
        line = b": comment" if draw(st.integers(0, 4)) == 0 else b"data: " + draw(data)
        stream += draw(st.sampled_from([b"", b"event: x" + end])) + line + end + end
    return stream[: len(stream) - draw(st.sampled_from([0, 0, 1, 2, 5]))]


Outcome = tuple[bytes, Usage | None, bool, bool, str | None]


def read(stream: Sequence[bytes], show_usage: bool) -> Outcome:
    """What comes of a stream in these pieces: bytes for the client, usage, started, complete, how it broke."""
    reader = StreamReader(show_usage)
    sent = b""
    code = None
    try:
        for piece in stream:
            sent += reader.feed(piece)
        sent += reader.end()
    except StreamBroken as broken:
        code = broken.code
    return sent, reader.usage, reader.started, reader.complete, code


@unhurried
@given(st.data(), st.booleans())
def test_any_chunking_forwards_the_same(data: st.DataObject, show_usage: bool) -> None:
    """Bytes, usage and outcome of a stream without bad events are those of the stream in one piece."""
    stream = data.draw(streams(good_data))

    whole = read([stream], show_usage)
    split = read(data.draw(pieces(stream)), show_usage)
    single = read([bytes([byte]) for byte in stream], show_usage)

    assert split[1:] == single[1:] == whole[1:]
    if whole[4] in (None, "upstream_stream_truncated"):
        assert split[0] == single[0] == whole[0]


@unhurried
@given(st.data(), st.booleans())
def test_any_chunking_ends_the_same_way(data: st.DataObject, show_usage: bool) -> None:
    """A stream with bad events breaks with the same code, or ends as well, however it came; never both."""
    stream = data.draw(streams(st.one_of(good_data, bad_data)))

    whole = read([stream], show_usage)
    split = read(data.draw(pieces(stream)), show_usage)
    single = read([bytes([byte]) for byte in stream], show_usage)

    assert split[1:] == single[1:] == whole[1:]
    if whole[4] is None:
        assert split[0] == single[0] == whole[0]


@unhurried
@given(st.data())
def test_client_that_asked_for_usage_gets_every_byte(data: st.DataObject) -> None:
    """Where nothing is to be hidden, a stream that ends well passes byte for byte, but for blanks at its end."""
    stream = data.draw(streams(chunks.map(lambda chunk: json.dumps(chunk).encode())))

    sent, _, _, _, code = read(data.draw(pieces(stream)), show_usage=True)

    if code is None:
        assert stream.startswith(sent)
        assert stream[len(sent) :].strip() == b""
