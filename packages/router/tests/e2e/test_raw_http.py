import contextlib
import http.client
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.conftest import POLICY
from support.processes import ACME, Served, finished, mock_process, serving, wait_until
from support.servers import ACME_KEY

BODY = b'{"model":"reasoning","messages":[{"role":"user","content":"a-secret-prompt"}]}'
KEY = "".join(f"{name}: {value}\r\n" for name, value in ACME.items()).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\n" + KEY
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: router\r\n"
END = b"\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A router that gives an incomplete request 0.5 s; shared, since nothing here may change it."""
    folder = tmp_path_factory.mktemp("raw")
    with (
        mock_process(folder) as mock,
        serving(folder, POLICY.format(mock=mock.url), environ={"ROUTER_BODY_TIMEOUT": "0.5"}) as served,
    ):
        yield served


def sent(served: Served, data: bytes) -> socket.socket:
    """A connection over which `data` has been sent, as far as the router takes it."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=5)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
        connection.sendall(data)
    return connection


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the router closes; fails (by the socket's timeout) where it does not."""
    received = b""
    try:
        while data := connection.recv(65_536):
            received += data
    except ConnectionResetError:
        pass  # it closed with bytes of ours unread
    return received


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body of the next answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def lives(served: Served) -> bool:
    """Whether the router answers."""
    return served.call("GET", "/healthz").status == 200


GARBAGE = {
    "zeros": b"\0" * 100 + END * 2,
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "words": b"hello there\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/9.9\r\n\r\n",
    "an unknown method": b"BREW /healthz HTTP/1.1\r\n\r\n",
    "a method in small letters": b"get /healthz HTTP/1.1\r\n\r\n",
    "a path without a slash": b"GET healthz HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT elsewhere:443 HTTP/1.1\r\n\r\n",
    "raw bytes in the path": b"GET /v1/models/\xff\xfe HTTP/1.1\r\n" + KEY + END,
    "a blank before the colon": b"GET /healthz HTTP/1.1\r\nHost : router\r\n\r\n",
    "a folded header": HEALTH + b"X-A: a\r\n b\r\n\r\n",
    "a header without a colon": HEALTH + b"nothing\r\n\r\n",
    "a zero in a header": HEALTH + b"X-A: a\0b\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: router\n\n",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + LENGTH + b"Content-Length: 6\r\n\r\n" + BODY,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "an endless length": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "chunks that are not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: none-such\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_with_400_and_the_connection_closed(name: str, served: Served) -> None:
    """What is no HTTP request, or could be read in two ways, gets a 400 and no second chance on its connection."""
    with sent(served, GARBAGE[name]) as connection:
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nconnection: close\r\n" in received.lower()
    assert lives(served)


@pytest.mark.parametrize("size", [b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"1\r\n{x"])
def test_garbage_in_chunks_ends_the_request(size: bytes, served: Served) -> None:
    """A chunk that cannot be read ends the connection, whatever had been read of the body."""
    with sent(served, POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n" + size) as connection:
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert lives(served)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEALTH + END, 200),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET http://elsewhere/healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET http://elsewhere/v1/models HTTP/1.1\r\n\r\n", 401),
        (b"GET /%761/models HTTP/1.1\r\n\r\n", 401),
        (b"GET /v1/%zz HTTP/1.1\r\n\r\n", 401),
        (b"GET /healthz/../v1/models HTTP/1.1\r\n\r\n", 404),
        (b"GET //v1/models HTTP/1.1\r\n\r\n", 404),
        (b"GET /V1/models HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/models/%00 HTTP/1.1\r\n" + KEY + END, 404),
        (b"GET /v1/models/%ff HTTP/1.1\r\n" + KEY + END, 404),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 404),
        (HEALTH + b"Content-Length: 5\r\n\r\nhello", 200),
        (HEALTH + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", 200),
        (POST + LENGTH + END + BODY, 200),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), 200),
        (POST + LENGTH + b"Expect: a-miracle\r\n\r\n" + BODY, 200),
        (POST + END, 400),
        (POST + b"Content-Length: 9999999999999\r\n\r\n", 413),
    ],
)
def test_odd_request_is_answered(request_bytes: bytes, status: int, served: Served) -> None:
    """Whatever way HTTP allows to write a request, the guard sees the same path, and the answer is the usual one."""
    with sent(served, request_bytes) as connection:
        assert answer(connection)[0] == status
    assert lives(served)


def test_request_that_offers_http2_is_answered_in_http1(served: Served) -> None:
    """Java's client offers h2c with every first request; its body must be read all the same."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    with sent(served, POST + LENGTH + offer + END + BODY) as connection:
        status, body = answer(connection)
    assert (status, b"echo: a-secret-prompt" in body) == (200, True)


def test_body_is_asked_for_when_the_client_waits(served: Served) -> None:
    """A client that sends `Expect: 100-continue` is told to go on, then answered."""
    with sent(served, POST + LENGTH + b"Expect: 100-continue\r\n\r\n") as connection:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert answer(connection)[0] == 200


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    """Requests that come in one piece are answered one after the other, each with its own answer."""
    chats = [BODY.replace(b"a-secret-prompt", word) for word in (b"first", b"second", b"third")]
    requests = [POST + b"Content-Length: %d\r\n\r\n%b" % (len(chat), chat) for chat in chats]
    last = HEALTH + b"Connection: close\r\n\r\n"
    with sent(served, b"".join(requests) + last) as connection:
        received = until_closed(connection)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 4
    places = [received.index(word) for word in (b"echo: first", b"echo: second", b"echo: third", b'"status":"ok"')]
    assert places == sorted(places)


def test_garbage_after_a_request_does_not_take_its_answer(served: Served) -> None:
    """What follows a request is refused; it neither hangs the connection nor the router."""
    with sent(served, HEALTH + END + b"garbage\r\n\r\n") as connection:
        assert until_closed(connection).startswith(b"HTTP/1.1 ")
    assert lives(served)


@pytest.mark.parametrize("half", [b"GET /hea", HEALTH, HEALTH + b"X-A: a", POST + LENGTH + END + BODY[:9]])
def test_half_a_request_ends_when_its_client_goes(half: bytes, served: Served) -> None:
    """A client that closes in the middle of a request leaves nothing open."""
    with sent(served, half) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert until_closed(connection) == b""
    assert lives(served)


@pytest.mark.parametrize("half", [b"GET /hea", HEALTH, HEALTH + b"X-A: a"])
def test_half_a_head_does_not_hold_its_connection(half: bytes, served: Served) -> None:
    """A head that does not come to its end within the time for a request is given up."""
    with sent(served, half) as connection:
        received = until_closed(connection)
    assert received == b"" or received.startswith(b"HTTP/1.1 408 ")


def test_half_a_body_is_answered_with_408(served: Served) -> None:
    """A body that does not come to its end in time is told so."""
    with sent(served, POST + LENGTH + END + BODY[:9]) as connection:
        status, body = answer(connection)
    assert (status, b'"code":"request_timeout"' in body) == (408, True)


@pytest.mark.parametrize(
    "huge",
    [
        HEALTH + b"X-A: " + b"a" * 4_000_000 + END * 2,
        HEALTH + b"X-A: b\r\n" * 500_000 + END,
        b"GET /" + b"a" * 4_000_000 + b" HTTP/1.1\r\n\r\n",
        POST + b"X-A: " + b"a" * 4_000_000 + END + LENGTH + END + BODY,
    ],
    ids=["a long header", "many headers", "a long path", "a long header with a key"],
)
def test_huge_head_is_refused(huge: bytes, served: Served) -> None:
    """A head of megabytes is not gathered for a client that has shown no key yet."""
    with sent(served, huge) as connection:
        received = until_closed(connection)
    assert received == b"" or received.split(b" ", 2)[1] in (b"400", b"414", b"431")
    assert lives(served)


def test_client_that_closes_its_half_is_no_failure_of_the_router(served: Served) -> None:
    """A client that says it will send no more may get its answer or none; no error, key or prompt is logged."""
    for path in (b"/v1/chat/completions", b"/v1/models", b"/healthz"):
        for _ in range(20):
            with sent(served, POST.replace(b"/v1/chat/completions", path) + LENGTH + END + BODY) as connection:
                connection.shutdown(socket.SHUT_WR)
                received = until_closed(connection)
            assert received == b"" or received.split(b" ", 2)[1] in (b"200", b"405")
    assert lives(served)
    for word in (ACME_KEY, "a-secret-prompt", "Traceback", "request failed", '"exception"'):
        assert word not in served.stderr()


def test_mutated_requests_never_stop_the_router(served: Served) -> None:
    """300 requests with bytes changed, cut, doubled or swapped at random: each ends, none with a failure of ours."""
    chance = random.Random(20_261_124)  # the same mutations in every run
    whole = POST + LENGTH + END + BODY
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            start = chance.randrange(len(data))
            stop = min(len(data), start + chance.randint(1, 12))
            match chance.randrange(4):
                case 0:
                    data[start] = chance.randrange(256)
                case 1 if len(data) > 40:
                    del data[start:stop]
                case 2:
                    data[start:start] = data[start:stop]
                case _:
                    data[start:stop] = data[start:stop][::-1]
        with sent(served, bytes(data)) as connection:
            connection.shutdown(socket.SHUT_WR)
            received = until_closed(connection)
        assert received == b"" or b"200" <= received.split(b" ", 2)[1] < b"500", bytes(data)
    assert lives(served)
    wait_until(lambda: served.metrics().total("litellm_requests_in_flight") == 0, "nothing is left in flight")


def test_logged_failure_shows_no_values(tmp_path: Path) -> None:
    """A failure is logged with its place in the code, without what the variables held: keys and prompts among them."""
    code = """
import structlog
from stratmaster_router.telemetry.logs import configure_logs

def fail(key):
    raise LookupError("there is no such thing")

configure_logs("info", str)
log = structlog.stdlib.get_logger("stratmaster_router")
prompt = "a-secret-" + "prompt"
try:
    fail("sk-secret-" + "key")
except LookupError as error:
    log.error("request failed", exc_info=error)
    log.exception("request failed")
"""
    ended = finished([sys.executable, "-c", code], tmp_path)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (0, "", 2)
    assert "there is no such thing" in ended.stderr
    assert '"fail"' in ended.stderr
    assert "sk-secret-key" not in ended.stderr
    assert "a-secret-prompt" not in ended.stderr
