"""TLS of the router itself: the certificate that it shows, and the clients' certificates that it asks for.

uvicorn's server keeps the context that it was started with. Here each connection gets the one of its own moment, so
that renewed files are in force without a restart, and what is under way goes on (docs/decisions/0020-tls.md).
"""

import asyncio
import ssl
from pathlib import Path
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from stratmaster_router.api.protocol import LINGER, RouterProtocol
from stratmaster_router.domain.routing import PemFile
from stratmaster_router.upstream.tls import TlsUnusable, in_memory, present

_GOODBYE = 2.0  # seconds for the client of an idle connection to say that it has read the end of it

_Held = tuple[PemFile | str, ...]
"""What the files held, or (as text) why one could not be read: certificate, key and, where asked for, client CA."""


class ServerTls:
    """The router's certificate files. `context` is for the connections that begin now: one reference, replaced whole.

    With `client_ca` a client without a certificate is let in as far as the paths that need no credential, and one with
    a bad certificate not at all. `refresh` is called by one thread at a time; `context` may be read by any.
    Raises `TlsUnusable` where the files cannot be used at the start.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self.asks_clients = client_ca is not None
        self._paths = (cert, key) if client_ca is None else (cert, key, client_ca)
        self._tried = self._read()
        self._pending: _Held | None = None
        self.context = _context(self._tried)

    def refresh(self) -> bool:
        """Read the files again; whether others are in force now. Blocking.

        A change counts once two calls in a row have read the same: a file that is being written may be half there, and
        a certificate without those between it and its authority is a valid one.
        Raises `TlsUnusable`, once for each content, where the files cannot be used; the last good ones stay in force.
        """
        held = self._read()
        if held == self._tried:
            self._pending = None
            return False
        if held != self._pending:
            self._pending = held
            return False
        self._pending = None
        self._tried = held
        self.context = _context(held)
        return True

    def _read(self) -> _Held:
        return tuple([_read(path) for path in self._paths])


def server_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    """The router's own TLS; None where it has no certificate. Raises `TlsUnusable`."""
    return None if cert is None or key is None else ServerTls(cert, key, client_ca)


class TlsProtocol(RouterProtocol):
    """`RouterProtocol` inside TLS.

    The application's lifespan state has `tls` (a `ServerTls`) and `uncertified`: the application for clients that show
    no certificate where one is asked for.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Begin a connection, after its handshake."""
        tls: ServerTls = self.app_state["tls"]
        if tls.asks_clients and not transport.get_extra_info("peercert"):
            self.app = self.app_state["uncertified"]
        super().connection_made(transport)

    def shutdown(self) -> None:
        """Close, where the connection is idle. A client that does not read meanwhile must not hold up the end."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(_GOODBYE, self.transport.abort)


def over_tls(
    config: Config,
    server_state: ServerState,
    app_state: dict[str, Any],
    _loop: asyncio.AbstractEventLoop | None = None,
) -> asyncio.BaseProtocol:
    """A protocol for one connection; what uvicorn takes for its protocol class.

    The handshake may take as long as a request's head. The server's sockets are plain ones to uvicorn and uvloop.
    """
    # Here, because the supervisor of several workers imports this module and needs no loop.
    from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]  # which its stubs leave out

    tls: ServerTls = app_state["tls"]
    protocol = TlsProtocol(config, server_state, app_state, _loop)
    wrapped: asyncio.BaseProtocol = SSLProtocol(
        protocol.loop,
        protocol,
        tls.context,
        None,
        server_side=True,
        ssl_handshake_timeout=app_state["head_timeout"],
        ssl_shutdown_timeout=LINGER,
    )
    return wrapped


def _read(path: Path) -> PemFile | str:
    try:
        if not path.is_file():  # a pipe could block for ever
            return f"{path} is not there, or is no file"
        return PemFile(str(path), path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return f"{path} is not in PEM"


def _context(held: _Held) -> ssl.SSLContext:
    files = []
    for file in held:
        if isinstance(file, str):
            raise TlsUnusable(file)
        files.append(file)
    cert, key, *client_ca = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # whatever the machine's own configuration says
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    present(context, cert, key, f"the certificate {cert.path}", f"the key {key.path}")
    for ca in client_ca:
        _ask_clients(context, ca)
    return context


def _ask_clients(context: ssl.SSLContext, ca: PemFile) -> None:
    with in_memory(ca) as path:
        try:
            context.load_verify_locations(cafile=path)
        except ssl.SSLError:
            raise TlsUnusable(f"the client CA {ca.path} holds no certificates, or not whole ones") from None
    # Not required: a probe has none, and `TlsProtocol` lets it as far as probes go.
    context.verify_mode = ssl.CERT_OPTIONAL
    # A resumed session is not verified anew: it would outlive the certificate that it began with.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
