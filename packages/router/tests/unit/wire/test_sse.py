"""Where one event ends and what its data is, by the WHATWG standard: LF, CR LF and CR all end a line."""

import pytest
from stratmaster_router.wire.sse import LONGEST_EVENT, EventSplitter, EventTooLong, event_data, with_data

CUT: list[tuple[bytes, list[bytes], bytes]] = [
    # A stream, its whole events, and what is left.
    (b"", [], b""),
    (b"data: a", [], b"data: a"),
    (b"data: a\n", [], b"data: a\n"),
    (b"data: a\n\n", [b"data: a\n\n"], b""),
    (b"data: a\n\ndata: b\n\nda", [b"data: a\n\n", b"data: b\n\n"], b"da"),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"data: a\r\n\r\n", b"data: b\r\n\r\n"], b""),
    (b"data: a\r\rdata: b\r\rd", [b"data: a\r\r", b"data: b\r\r"], b"d"),
    (b"data: a\n\rdata: b\r\n\nc", [b"data: a\n\r", b"data: b\r\n\n"], b"c"),
    (b"data: a\r\r\ndata: b\n\r\nc", [b"data: a\r\r\n", b"data: b\n\r\n"], b"c"),
    (b"data: a\n\ndata: b\r\n\r\ndata: c\r\r:", [b"data: a\n\n", b"data: b\r\n\r\n", b"data: c\r\r"], b":"),
    (b"data: a\r\ndata: b\r\n\r\n", [b"data: a\r\ndata: b\r\n\r\n"], b""),
    (b"\n\n\n\n", [b"\n\n", b"\n\n"], b""),
    (b"\n\n\n", [b"\n\n"], b"\n"),
    (b": hi\n\nevent: x\nid: 1\ndata: y\n\n", [b": hi\n\n", b"event: x\nid: 1\ndata: y\n\n"], b""),
    # A CR at the end may be half of a CR LF, so its event waits.
    (b"data: a\r\r", [], b"data: a\r\r"),
    (b"data: a\n\r", [], b"data: a\n\r"),
    (b"data: a\r\n\r", [], b"data: a\r\n\r"),
    (b"data: a\r\n\r\n\r", [b"data: a\r\n\r\n"], b"\r"),
]


@pytest.mark.parametrize(("stream", "events", "rest"), CUT)
def test_stream_is_cut_after_each_empty_line(stream: bytes, events: list[bytes], rest: bytes) -> None:
    """Each event keeps its bytes with the empty line that ends it; an event that has not ended is kept back."""
    splitter = EventSplitter()

    assert splitter.feed(stream) == events
    assert splitter.rest() == rest


@pytest.mark.parametrize(("stream", "events", "rest"), CUT)
def test_stream_is_cut_alike_byte_by_byte(stream: bytes, events: list[bytes], rest: bytes) -> None:
    """Each byte by itself gives the same events."""
    splitter = EventSplitter()

    found = [event for byte in stream for event in splitter.feed(bytes([byte]))]

    assert (found, splitter.rest()) == (events, rest)


DATA: list[tuple[bytes, bytes | None]] = [
    (b"data: a\n\n", b"a"),
    (b"data:a\n\n", b"a"),
    (b"data:  a \n\n", b" a "),
    (b"data: a: b\n\n", b"a: b"),
    (b"data: a\r\n\r\n", b"a"),
    (b"data: a\r\r", b"a"),
    (b"data: a\n\r\n", b"a"),
    (b"data: a\r\n\n", b"a"),
    (b"data: a", b"a"),
    (b"data: a\n", b"a"),
    (b"data: a\ndata: b\n\n", b"a\nb"),
    (b"data: a\rdata:b\r\ndata:  c\n\n", b"a\nb\n c"),
    (b"event: e\ndata: a\nid: 1\n\n", b"a"),
    (b"data: a\nretry: 5\n\n", b"a"),
    (b": comment\ndata: a\n\n", b"a"),
    (b"data\n\n", b""),
    (b"data:\n\n", b""),
    (b"data: \n\n", b""),
    (b"data\ndata\n\n", b"\n"),
    (b"\n\n", None),
    (b": comment\n\n", None),
    (b":data: a\n\n", None),
    (b"event: data\nid: 1\n\n", None),
    (b" data: a\n\n", None),
    (b"Data: a\n\n", None),
    (b"datas: a\n\n", None),
    (b"data : a\n\n", None),
    ("data: é\u2028\u0085x\n\n".encode(), "é\u2028\u0085x".encode()),
]


@pytest.mark.parametrize(("event", "data"), DATA)
def test_data_of_an_event_is_its_data_lines(event: bytes, data: bytes | None) -> None:
    """Lines named exactly `data` count, one leading space goes, and LF joins them; without any there is no data."""
    assert event_data(event) == data


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_longest_event_is_cut_whole(end: bytes) -> None:
    """An event of the greatest length passes, though its end comes apart from it."""
    splitter = EventSplitter()
    event = b"data: " + b"x" * (LONGEST_EVENT - 6)

    assert splitter.feed(event) == []
    assert splitter.feed(end) == [event + end]
    assert splitter.rest() == b""


@pytest.mark.parametrize("extra", [b"x", b"\r"])
def test_event_that_does_not_end_is_refused(extra: bytes) -> None:
    """One byte more without an end is too much: a stream must not fill the memory."""
    splitter = EventSplitter()
    splitter.feed(b"data: first\n\n" + b"x" * LONGEST_EVENT)

    with pytest.raises(EventTooLong):
        splitter.feed(extra)


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        (b"data: a\n\n", b"data: new\n\n"),
        (b"data:a\n\n", b"data: new\n\n"),
        (b"data: a", b"data: new"),
        (b"data: a\r\n\r\n", b"data: new\r\n\r\n"),
        (b"data: a\r\r", b"data: new\r\r"),
        (b"event: e\ndata: a\rdata: b\r\n: c\ndata\n\n", b"event: e\ndata: new\r: c\n\n"),
        (b"\xef\xbb\xbfdata: a\n\n", b"data: new\n\n"),
    ],
)
def test_data_of_an_event_is_replaced(event: bytes, changed: bytes) -> None:
    """New data stands where the old began; other lines and the ends of lines stay as they are."""
    assert with_data(event, b"new") == changed
    assert event_data(changed) == b"new"
