"""A provider that does exactly what a test scripts, byte by byte, on raw sockets."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

PATIENCE = 20.0  # seconds that a script waits for anything


class Exchange:
    """One request that came to the scripted provider, and the means to answer it."""

    def __init__(self, connection: socket.socket, head: bytes, body: bytes) -> None:
        self._connection = connection
        self.closed = False
        self.body = body
        # The client's certificate, as `ssl` shows it; where it showed none, or there is no TLS, it is empty.
        self.certificate = (connection.getpeercert() or {}) if isinstance(connection, ssl.SSLSocket) else {}
        first, *lines = head.decode("latin-1").split("\r\n")
        self.path = first.split(" ")[1]
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._connection.sendall(data)

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, body: bytes, content_type: str = "application/json", *lines: str, status: str = "200 OK") -> None:
        """Send a whole answer."""
        self.send(head(content_type, f"Content-Length: {len(body)}", *lines, status=status) + body)

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def reset(self) -> None:
        """Close the connection with RST: a linger of zero seconds sends it instead of FIN."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.closed = True
        self._connection.close()

    def wait_closed(self) -> None:
        """Wait until the router has closed the connection; `closed` says so only then."""
        with contextlib.suppress(ConnectionResetError):
            while self._connection.recv(65536):
                pass
        self.closed = True
        self._connection.close()


Script = Callable[[Exchange], None]


def head(content_type: str, *lines: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "\r\n".join((f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *lines, "", "")).encode("latin-1")


def stream_head(*lines: str) -> bytes:
    """The head of a stream of events in chunks."""
    return head("text/event-stream", "Transfer-Encoding: chunked", *lines)


def chunked(*pieces: bytes) -> Script:
    """A script: a stream in exactly these chunks, each sent by itself, and a clean end."""

    def script(exchange: Exchange) -> None:
        exchange.send(stream_head())
        for piece in pieces:
            exchange.chunk(piece)
        exchange.chunk(b"")

    return script


class Scripted:
    """A running scripted provider; `url` is its address without `/v1`. `tls` is for connections from now on."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.tls = tls
        self.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
        self.exchanges: list[Exchange] = []
        self.connections = 0


@contextlib.contextmanager
def running_scripted(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A provider that answers each request by `script`; connections stay open unless the script closes them.

    With `tls` it serves https.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    scripted = Scripted(listener.getsockname()[1], tls)
    threads: list[threading.Thread] = []
    open_connections: set[socket.socket] = set()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), _secured(connection, scripted.tls) as secured:
            open_connections.add(secured)
            while exchange := _next_request(secured):
                scripted.exchanges.append(exchange)
                script(exchange)
                if exchange.closed:
                    return
            open_connections.discard(secured)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            scripted.connections += 1
            thread = threading.Thread(target=serve, args=(connection,), daemon=True)
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield scripted
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(PATIENCE)
        for connection in list(open_connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE)


def _secured(connection: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    return connection if tls is None else tls.wrap_socket(connection, server_side=True)


def _next_request(connection: socket.socket) -> Exchange | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    text, _, body = data.partition(b"\r\n\r\n")
    exchange = Exchange(connection, text, b"")
    length = int(exchange.headers.get("content-length", "0"))
    while len(body) < length:
        body += connection.recv(65536)
    exchange.body = body
    return exchange
