"""The fault matrix as data: what a provider does wrong, when, and what the client, the ledger and the budget see of it.

A million input tokens cost a dollar, a million output tokens two: 1,000 and 2,000 nano-dollars each. The body of a
plain request has 92 bytes and allows 50 tokens of answer, that of a stream has 108 bytes. Under a budget a byte counts
as a token, so

    a plain answer that is lost  92 x 1,000 + 50 x 2,000 = 192,000
    a stream that never began    108 x 1,000 = 108,000

An answer without usage is counted here: 34 tokens for the plain body (47 letters at 11/64, 8 spaces at 21/64, 37 others
at 39/64, and one), 39 for the other one (57 letters, 10 spaces, 41 others), and one for "hi" or for "a".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from support.acts import (
    COUNTS,
    DONE,
    ERROR,
    EVENT,
    FINISH,
    HTML,
    USAGE,
    WHOLE,
    after_head,
    answers,
    body,
    busy_then_gone,
    close,
    events,
    more,
    murmurs,
    refuses,
    reset,
    sends,
    stall,
    unused,
)
from support.scripted import Exchange, Script

PLAIN_LOST, STREAM_LOST = 192_000, 108_000
PLAIN_COUNTED, STREAM_COUNTED = 34_000 + 2_000, 39_000 + 2_000
METERED = 3 * 1_000 + 1 * 2_000  # as the provider counts

CONNECTING, SENT, HEAD = "connecting", "waiting for the head", "head"
BODY, MIDDLE, END = "before the first event", "in the middle", "after the last event"
WAITING = "backing off"
PHASES = (CONNECTING, SENT, HEAD, WAITING, BODY, MIDDLE, END)


class Outcome(NamedTuple):
    """What came of a request.

    `status` is the client's, 499 where it had gone. `code`: of a 503 its last attempt's, of a stream that of the error
    that ends it, None for a success. `cost` is in nano-dollars. `problems` are promises that hold in every cell, and
    were broken.
    """

    status: int
    code: str | None
    attempts: int
    cost: int
    estimated: bool
    problems: tuple[str, ...] = ()


class Leaves(Enum):
    """When the client goes away."""

    CONNECTING = "waiting for a connection"
    ASKED = "once the provider has been asked"
    BACKOFF = "while a retry is waited for"
    STREAMING = "after the first event"


class Where(Enum):
    """What the provider's address leads to."""

    PROVIDER = "a provider"
    NOBODY = "a port that nobody listens on"
    SILENCE = "a listener whose queue is full"


@dataclass(frozen=True)
class Cell:
    """One fault in one phase. `act` is what the provider does, `then` what it does once the client has an event.

    `limits` are the provider's timeouts, `deadline` is the client's own, in milliseconds.
    """

    fault: str
    phase: str
    stream: bool
    expected: Outcome
    act: Script
    then: Script | None = None
    where: Where = Where.PROVIDER
    limits: str = ""
    retries: str = "backoff: {initial: 1ms, max: 100ms}"
    deadline: int | None = None
    leaves: Leaves | None = None

    @property
    def name(self) -> str:
        """For people, and unique."""
        return f"{self.phase}: {self.fault}, {'stream' if self.stream else 'plain'}"


# A status, the headers with it, the code, and the attempts.
STATUSES: list[tuple[str, tuple[str, ...], str, int]] = [
    ("201 Created", (), "upstream_error", 1),
    ("302 Found", ("Location: http://127.0.0.1:9/",), "upstream_redirected", 1),
    ("400 Bad Request", (), "upstream_rejected", 1),
    ("401 Unauthorized", (), "upstream_auth_failed", 1),
    ("402 Payment Required", (), "upstream_auth_failed", 1),
    ("403 Forbidden", (), "upstream_auth_failed", 1),
    ("404 Not Found", (), "upstream_not_found", 1),
    ("408 Request Timeout", (), "upstream_timeout", 2),
    ("409 Conflict", (), "upstream_error", 1),
    ("413 Content Too Large", (), "upstream_rejected", 1),
    ("422 Unprocessable Content", (), "upstream_rejected", 1),
    ("429 Too Many Requests", (), "upstream_rate_limited", 2),
    ("429 Too Many Requests", ("retry-after-ms: 20",), "upstream_rate_limited", 2),
    ("429 Too Many Requests", ("Retry-After: 30",), "upstream_rate_limited", 1),
    ("500 Internal Server Error", (), "upstream_error", 2),
    ("502 Bad Gateway", (), "upstream_error", 2),
    ("503 Service Unavailable", (), "upstream_error", 2),
    ("504 Gateway Timeout", (), "upstream_error", 2),
    ("529 Overloaded", (), "upstream_error", 2),
]


def statuses() -> Iterator[Cell]:
    """An error that the provider says itself costs nothing."""
    for status, lines, code, attempts in STATUSES:
        told = int(status[:3]) if code == "upstream_rejected" else 503
        name = " with ".join((status[:3], *(line for line in lines if "etry" in line)))
        for stream in (False, True):
            yield Cell(name, HEAD, stream, Outcome(told, code, attempts, 0, False), refuses(status, *lines))
    for stream in (False, True):
        yield Cell("400 with a page", HEAD, stream, Outcome(503, "upstream_invalid_response", 1, 0, False), page)


def page(exchange: Exchange) -> None:
    """What a server before the provider says of a request."""
    exchange.answer(HTML, "text/html", status="400 Bad Request")


BRIEF = "first_byte: 200ms, idle: 200ms"
HUGE = "X-Huge: " + "x" * 100_000

# What may happen to either kind of request before anything of an answer has come: the code, the attempts, and how many
# of them may have cost something.
EARLY: list[tuple[str, str, Script, str, int]] = [
    ("closed", SENT, close, "upstream_disconnected", 2),
    ("reset", SENT, reset, "upstream_disconnected", 2),
    ("stalls", SENT, stall, "upstream_timeout", 2),
    ("no HTTP", SENT, sends(b"SSH-2.0-OpenSSH_9.2\r\n", close), "upstream_disconnected", 2),
    ("half a head", SENT, sends(b"HTTP/1.1 200 OK\r\nContent-Ty", close), "upstream_disconnected", 2),
    ("half a head, then stalls", SENT, sends(b"HTTP/1.1 200 OK\r\nContent-Ty", stall), "upstream_timeout", 2),
    ("head too large", HEAD, body(WHOLE, None, HUGE), "upstream_disconnected", 2),
    ("another media type", HEAD, body(HTML, "text/html"), "upstream_invalid_response", 1),
    ("compressed", HEAD, body(b"\x1f\x8b", None, "Content-Encoding: gzip"), "upstream_invalid_response", 1),
    ("closed", BODY, after_head(close), "upstream_disconnected", 2),
    ("reset", BODY, after_head(reset), "upstream_disconnected", 2),
    ("stalls", BODY, after_head(stall), "upstream_timeout", 2),
    ("shorter than its length", BODY, after_head(close, "Content-Length: 1000"), "upstream_disconnected", 2),
    ("a chunk that is none", BODY, after_head(sends(b"zz\r\n", stall)), "upstream_disconnected", 2),
]
# The same, where plain answers and streams differ in their codes.
PLAIN: list[tuple[str, str, Script, str, int]] = [
    ("empty", BODY, body(b""), "upstream_invalid_response", 1),
    ("half a JSON", BODY, body(WHOLE[:40]), "upstream_invalid_response", 1),
    ("HTML, said to be an answer", BODY, body(HTML), "upstream_invalid_response", 1),
    ("JSON, but no answer", BODY, body(b'{"object":"chat.completion"}'), "upstream_invalid_response", 1),
    ("an error with status 200", BODY, body(ERROR), "upstream_error_in_body", 1),
    ("closed", MIDDLE, after_head(sends(b"20\r\n" + WHOLE[:32] + b"\r\n", close)), "upstream_disconnected", 2),
    ("reset", MIDDLE, after_head(sends(b"20\r\n" + WHOLE[:32] + b"\r\n", reset)), "upstream_disconnected", 2),
    ("stalls", MIDDLE, after_head(sends(b"20\r\n" + WHOLE[:32] + b"\r\n", stall)), "upstream_timeout", 2),
    ("a chunk that is none", MIDDLE, after_head(sends(b"2\r\n{}\r\nzz\r\n", stall)), "upstream_disconnected", 2),
]
STREAM: list[tuple[str, str, Script, str, int]] = [
    ("empty", BODY, body(b""), "upstream_stream_truncated", 1),
    ("half an event", BODY, body(EVENT[:40]), "upstream_stream_invalid", 1),
    ("an event that is no JSON", BODY, body(b"data: {nonsense}\n\n"), "upstream_stream_invalid", 1),
    ("HTML, said to be an answer", BODY, body(HTML), "upstream_stream_truncated", 1),
    ("an error with status 200", BODY, body(ERROR, "application/json"), "upstream_invalid_response", 1),
    ("an error as its first event", BODY, body(b"data: " + ERROR + b"\n\n"), "upstream_stream_error", 1),
    ("comments alone", BODY, after_head(murmurs), "upstream_timeout", 2),
]


def early() -> Iterator[Cell]:
    """Before the first byte for the client: the hop has failed, and each attempt may have cost what was asked for."""
    for kinds, table in (((False, True), EARLY), ((False,), PLAIN), ((True,), STREAM)):
        for fault, phase, act, code, attempts in table:
            for stream in kinds:
                cost = attempts * (STREAM_LOST if stream else PLAIN_LOST)
                limits = BRIEF if code == "upstream_timeout" else ""
                yield Cell(fault, phase, stream, Outcome(503, code, attempts, cost, True), act, limits=limits)


# After its first event a stream cannot be answered by anybody else. It is counted here, unless its usage had come.
BREAKS: list[tuple[str, Script, Script, str]] = [
    ("closed", events(EVENT), close, "upstream_stream_truncated"),
    ("reset", events(EVENT), reset, "upstream_stream_truncated"),
    ("stalls", events(EVENT), stall, "upstream_stream_stalled"),
    ("an event that is no JSON", events(EVENT), more(b"data: {nonsense}\n\n"), "upstream_stream_invalid"),
    ("half an event", events(EVENT), more(EVENT[:40], b""), "upstream_stream_invalid"),
    ("an error as an event", events(EVENT), more(b"data: " + ERROR + b"\n\n"), "upstream_stream_error"),
    ("neither [DONE] nor finish reason", events(EVENT), more(b""), "upstream_stream_truncated"),
    ("a chunk that is none", events(EVENT), sends(b"zz\r\n", stall), "upstream_stream_truncated"),
    (
        "shorter than its length",
        after_head(sends(EVENT, lambda exchange: None), "Content-Length: 1000"),
        close,
        "upstream_stream_truncated",
    ),
]


def late() -> Iterator[Cell]:
    """A stream that has begun: it ends in an error, or it is whole."""
    for fault, act, then, code in BREAKS:
        limits = "idle: 200ms" if code == "upstream_stream_stalled" else ""
        yield Cell(fault, MIDDLE, True, Outcome(200, code, 1, STREAM_COUNTED, True), act, then, limits=limits)
    cut = Outcome(200, "upstream_stream_truncated", 1, METERED, True)
    yield Cell("closed, its usage has come", MIDDLE, True, cut, events(EVENT, COUNTS), close)
    whole, counted = Outcome(200, None, 1, METERED, False), Outcome(200, None, 1, STREAM_COUNTED, True)
    last = (FINISH, COUNTS, DONE)
    yield Cell("nothing", END, True, whole, events(EVENT), more(*last, b""))
    yield Cell("closed", END, True, whole, events(EVENT, *last), close)
    yield Cell("reset", END, True, whole, events(EVENT, *last), reset)
    yield Cell("stalls", END, True, whole, events(EVENT, *last), stall)
    yield Cell("an error after [DONE]", END, True, whole, events(EVENT, *last), more(b"data: " + ERROR + b"\n\n", b""))
    yield Cell("no usage", END, True, counted, events(EVENT), more(FINISH, DONE, b""))
    yield Cell("no [DONE], but a finish reason", END, True, counted, events(EVENT), more(FINISH, b""))
    yield Cell("nothing", END, False, whole, answers)
    no_usage = WHOLE.replace(USAGE, b'"usage":null')
    yield Cell("no usage", END, False, Outcome(200, None, 1, PLAIN_COUNTED, True), body(no_usage))


def unreachable() -> Iterator[Cell]:
    """Nothing was sent, so nothing was spent."""
    refused, silent = Outcome(503, "upstream_connect_failed", 2, 0, False), "upstream_connect_timeout"
    for stream in (False, True):
        yield Cell("refused", CONNECTING, stream, refused, unused, where=Where.NOBODY)
        expected = Outcome(503, silent, 2, 0, False)
        yield Cell("no answer", CONNECTING, stream, expected, unused, where=Where.SILENCE, limits="connect: 200ms")


def deadlines() -> Iterator[Cell]:
    """The client's patience ends first: 504, and the provider is let go. What was asked for may have been made."""
    for stream in (False, True):
        lost = STREAM_LOST if stream else PLAIN_LOST
        nothing, gone = Outcome(504, "deadline_exceeded", 1, 0, False), Outcome(504, "deadline_exceeded", 1, lost, True)
        fault = "the deadline passes"
        yield Cell(fault, CONNECTING, stream, nothing, unused, where=Where.SILENCE, deadline=400)
        yield Cell(fault, SENT, stream, gone, stall, deadline=400)
        yield Cell(fault, BODY, stream, gone, after_head(stall), deadline=400)
        # A retry that could not be begun in time is none.
        late = Outcome(503, "upstream_rate_limited", 1, 0, False)
        wish = refuses("429 Too Many Requests", "Retry-After: 5")
        long = "backoff: {initial: 1ms, max: 60s}"
        yield Cell("429, its wait past the deadline", WAITING, stream, late, wish, retries=long, deadline=2_000)
    broken = Outcome(200, "deadline_exceeded", 1, STREAM_COUNTED, True)
    yield Cell("the deadline passes", MIDDLE, True, broken, events(EVENT), stall, deadline=1_000)
    yield Cell("the deadline passes, comments come", MIDDLE, True, broken, events(EVENT), murmurs, deadline=1_000)
    gone = Outcome(504, "deadline_exceeded", 1, STREAM_LOST, True)
    yield Cell("the deadline passes, comments come", BODY, True, gone, after_head(murmurs), deadline=400)


def departures() -> Iterator[Cell]:
    """The client goes away: the provider is let go at once, and what may have been used is booked."""
    code, waits = "client_disconnected", "backoff: {initial: 1ms, max: 60s}"
    nothing, left = Outcome(499, code, 1, 0, False), "the client leaves"
    for stream in (False, True):
        gone = Outcome(499, code, 1, STREAM_LOST if stream else PLAIN_LOST, True)
        yield Cell(left, CONNECTING, stream, nothing, unused, where=Where.SILENCE, leaves=Leaves.CONNECTING)
        yield Cell(left, SENT, stream, gone, stall, leaves=Leaves.ASKED)
        yield Cell(left, BODY, stream, gone, after_head(stall), leaves=Leaves.ASKED)
        yield Cell(left, WAITING, stream, nothing, busy_then_gone, retries=waits, leaves=Leaves.BACKOFF)
    begun = Outcome(200, code, 1, STREAM_COUNTED, True)
    yield Cell(left, MIDDLE, True, begun, events(EVENT), stall, leaves=Leaves.STREAMING)
    half = after_head(sends(b"20\r\n" + WHOLE[:32] + b"\r\n", stall))
    gone = Outcome(499, code, 1, PLAIN_LOST, True)
    yield Cell(left, MIDDLE, False, gone, half, leaves=Leaves.ASKED)


GROUPS: tuple[Callable[[], Iterator[Cell]], ...] = (unreachable, early, statuses, late, deadlines, departures)
CELLS = sorted([cell for group in GROUPS for cell in group()], key=lambda cell: PHASES.index(cell.phase))
