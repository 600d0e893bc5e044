"""Plain HTTP calls of the router, whole: what was answered, to the last header and byte."""

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from support.servers import ACME_KEY, Mock, RunningRouter

T = TypeVar("T")

TIMEOUT = 20.0  # seconds; a test that waits longer has failed
HELLO: dict[str, Any] = {"model": "reasoning", "messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. `headers` are in lower case, without `date`, which is the server's own."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The error object of the body, without its message, which is for people."""
        body = self.json()
        assert list(body) == ["error"]
        error: dict[str, Any] = body["error"]
        assert re.fullmatch(r"\S.{10,600}\S", error.pop("message"), re.DOTALL)
        return error


def identified(key: str = ACME_KEY, tenant: str = "acme", **more: str) -> dict[str, str]:
    """The headers of a caller; the `_` in a name stands for a `-`."""
    return {
        "Authorization": f"Bearer {key}",
        "X-Tenant-ID": tenant,
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def call(
    router: RunningRouter, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request on a connection of its own. `body` is bytes or a value for JSON; `headers` default to acme's."""
    sent = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=TIMEOUT)
    try:
        connection.request(method, path, sent, dict(identified() if headers is None else headers))
        return _read(connection.getresponse())
    finally:
        connection.close()


def chat(router: RunningRouter, body: Any = None, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    """POST `/v1/chat/completions` with `body`, or else with `HELLO` and `fields`."""
    return call(router, "POST", "/v1/chat/completions", {**HELLO, **fields} if body is None else body, headers)


@contextmanager
def connected(router: RunningRouter, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A raw connection to the router."""
    with socket.socket() as client:
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(TIMEOUT)
        client.connect(("127.0.0.1", router.port))
        yield client


def request_bytes(
    body: bytes | Mapping[str, Any], *lines: bytes, path: bytes = b"/v1/chat/completions", who: bytes | None = None
) -> bytes:
    """A POST request as it stands on the wire, with `lines` as further header lines."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    caller = b"Authorization: Bearer %s\r\nX-Tenant-ID: acme" % ACME_KEY.encode() if who is None else who
    head = [b"POST %s HTTP/1.1" % path, b"Host: router", caller, b"Content-Type: application/json", *lines]
    if not any(line.lower().startswith((b"content-length:", b"transfer-encoding:")) for line in lines):
        head.append(b"Content-Length: %d" % len(sent))
    return b"\r\n".join(head) + b"\r\n\r\n" + sent


def read_answer(client: socket.socket) -> Answer:
    """Read one answer from a raw connection, to its end."""
    response = http.client.HTTPResponse(client)
    try:
        response.begin()
        return _read(response)
    finally:
        response.close()


def send_raw(router: RunningRouter, data: bytes) -> Answer:
    """Send bytes as they are, and read one answer."""
    with connected(router) as client:
        client.sendall(data)
        return read_answer(client)


def _read(response: http.client.HTTPResponse) -> Answer:
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        if name.lower() != "date":
            assert name.lower() not in headers, f"{name} comes twice"
            headers[name.lower()] = value
    return Answer(response.status, headers, response.read())


def events(body: bytes) -> list[bytes]:
    """The events of a stream in LF, each with its empty line; nothing may stand behind the last."""
    *found, rest = body.split(b"\n\n")
    assert rest == b""
    return [event + b"\n\n" for event in found]


def stream_error(event: bytes) -> dict[str, Any]:
    """The error object in an event of a stream, without its message."""
    assert event.startswith(b"data: ")
    return Answer(200, {}, event[6:]).error()


def requests_of(mock: Mock, request_id: str) -> list[dict[str, Any]]:
    """What the mocked provider was asked for one request of a client, in order."""
    return [request for request in mock.requests() if request["headers"].get("x-request-id") == request_id]


def eventually(look: Callable[[], T], wanted: Callable[[T], bool], within: float = 10.0) -> T:
    """Look again until what is seen is `wanted`; the last look is the answer, wanted or not."""
    end = time.monotonic() + within
    while True:
        seen = look()
        if wanted(seen) or time.monotonic() > end:
            return seen
        time.sleep(0.01)


def samples(router: RunningRouter, prefix: str = "litellm_") -> dict[str, float]:
    """The metrics' samples by name and labels, without histogram buckets and sums, which time decides."""
    found = {}
    for line in router.metrics().splitlines():
        if line.startswith(prefix) and "_bucket{" not in line and "_sum" not in line:
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found
