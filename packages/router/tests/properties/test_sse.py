"""Cutting does not depend on how the stream was chunked, and no byte is lost."""

import re

from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.wire.sse import EventSplitter, event_data
from support.bodies import pieces, unhurried

# Line ends of all three kinds, and what lines are made of.
streams = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"data: x", b"data:", b": c", b"event: e", b"\x00"]),
    max_size=24,
).map(b"".join)


@unhurried
@given(st.data())
def test_any_chunking_gives_the_same_events(data: st.DataObject) -> None:
    """However a stream is split, the same events come out, in order, and join to the stream with the rest."""
    stream = data.draw(st.one_of(streams, st.binary(max_size=40)))
    splitter = EventSplitter()
    whole = EventSplitter()

    events = [event for piece in data.draw(pieces(stream)) for event in splitter.feed(piece)]

    assert events == whole.feed(stream)
    assert splitter.rest() == whole.rest()
    assert b"".join(events) + splitter.rest() == stream


@unhurried
@given(streams)
def test_each_event_ends_at_its_first_empty_line(stream: bytes) -> None:
    """An event has one empty line, at its end, and nothing that ended is kept back but for a CR in doubt."""
    splitter = EventSplitter()

    events = splitter.feed(stream)

    two_ends = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
    for event in events:
        found = [match.end() for match in two_ends.finditer(event)]
        assert found == [len(event)]
    rest = splitter.rest()
    assert not two_ends.search(rest) or rest.endswith(b"\r")


@unhurried
@given(streams)
def test_data_is_what_a_line_reader_finds(stream: bytes) -> None:
    """The data of a whole event is what reading its lines by the standard gives."""
    for event in EventSplitter().feed(stream):
        lines = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        values = [re.sub(rb"^data:? ?", b"", line) for line in lines if re.match(rb"data(:|$)", line)]
        assert event_data(event) == (b"\n".join(values) if values else None)
