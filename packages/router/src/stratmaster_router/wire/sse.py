"""Server-sent events as bytes: where one event ends, and what its data is. Pure.

Source: the WHATWG HTML standard, "Server-sent events". An event ends with an empty line; a line ends with LF, CR LF
or CR. Events are cut whole and keep every byte, so that joining them gives the stream again.
"""

import re

# Atomic, so that one CR LF is never taken for two line ends.
_blank_line = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")

_BOM = b"\xef\xbb\xbf"  # may stand before the first event

LONGEST_EVENT = 8 * 1024 * 1024


class EventTooLong(Exception):
    """An event grew past `LONGEST_EVENT` bytes without ending."""


class EventSplitter:
    """Cuts a byte stream into whole events, however the stream was chunked."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, each with the empty line that ends it. Raises `EventTooLong`."""
        if self._pending:
            data = self._pending + data
        if b"\r" in data:
            events, rest = _cut_any(data)
        else:
            events, rest = _cut_lf(data)
        if len(rest) > LONGEST_EVENT:
            raise EventTooLong
        self._pending = rest
        return events

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._pending


def _cut_lf(data: bytes) -> tuple[list[bytes], bytes]:
    if data.find(b"\n\n") == len(data) - 2 >= 0:
        return [data], b""  # one whole event, as nearly every chunk is
    *pieces, rest = data.split(b"\n\n")
    return [piece + b"\n\n" for piece in pieces], rest


def _cut_any(data: bytes) -> tuple[list[bytes], bytes]:
    events = []
    begin = 0
    for match in _blank_line.finditer(data):
        end = match.end()
        if end == len(data) and data[-1] == 13:
            # The LF that belongs to this CR may be in the next chunk.
            break
        events.append(data[begin:end])
        begin = end
    return events, data[begin:]


def event_data(event: bytes) -> bytes | None:
    """The data of an event: its `data` lines joined by LF; None where it has none (a comment, say)."""
    if _is_plain(event):
        return event[6:-2]
    lines = []
    for line in re.split(rb"\r\n|\n|\r", event.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None


def with_data(event: bytes, data: bytes) -> bytes:
    """`event`, which has data, with `data` of one line instead; its other lines and its line ends stay."""
    if _is_plain(event):
        return b"data: " + data + b"\n\n"
    kept = b""
    fresh = b"data: " + data
    for line in re.findall(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+", event.removeprefix(_BOM)):
        text = line.rstrip(b"\r\n")
        if text.partition(b":")[0] == b"data":
            kept += fresh + line[len(text) :] if fresh else b""
            fresh = b""
        else:
            kept += line
    return kept


def _is_plain(event: bytes) -> bool:
    """Whether it is one line of data and an empty one, as nearly every event is."""
    return event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event
