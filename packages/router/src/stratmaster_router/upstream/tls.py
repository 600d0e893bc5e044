"""TLS to upstreams, and what of it serves for the router's own TLS too."""

import contextlib
import functools
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator

from stratmaster_router.domain.routing import PemFile, TlsFiles

# With these a server ends a handshake. In TLS 1.3 they come when the client has already begun to send its request.
_HANDSHAKE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR", "HANDSHAKE_FAILURE")


class TlsUnusable(Exception):
    """No connection can be made with these files; the message names the file, and nothing of what it holds."""


@functools.lru_cache(maxsize=32)
def upstream_context(files: TlsFiles | None) -> ssl.SSLContext:
    """A verifying client context, with the provider's own CA and client certificate where it has them.

    The same one for equal files: loading the system's authorities takes tens of milliseconds, and `tls_trouble` has
    made it in the policy's thread already. Raises `TlsUnusable`: a certificate is never silently left out.
    """
    files = files or TlsFiles()
    context = _verifying(files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # whatever the machine's own configuration says
    if files.cert is not None:
        key = files.key or files.cert
        present(context, files.cert, key, f"tls.cert file {files.cert.path}", f"tls.key file {key.path}")
    return context


def _verifying(ca: PemFile | None) -> ssl.SSLContext:
    if ca is None:
        return ssl.create_default_context()
    with in_memory(ca) as path:
        try:
            return ssl.create_default_context(cafile=path)
        except ssl.SSLError as error:
            raise TlsUnusable(f"tls.ca file {ca.path} holds no certificates, or not whole ones") from error


def present(context: ssl.SSLContext, cert: PemFile, key: PemFile, the_cert: str, the_key: str) -> None:
    """Have `context` show `cert`. Raises `TlsUnusable`, whose message calls the files `the_cert` and `the_key`."""
    with in_memory(cert) as cert_path, in_memory(key) as key_path:
        try:
            # The empty password: an encrypted key must not make OpenSSL ask for one at the terminal.
            context.load_cert_chain(cert_path, key_path, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsUnusable(f"{the_cert} and {the_key} do not belong together") from error
            if not _holds_certificates(cert_path):
                raise TlsUnusable(f"{the_cert} holds no certificate in PEM, or not a whole one") from error
            raise TlsUnusable(f"{the_key} holds no whole private key in PEM, unencrypted") from error


def _holds_certificates(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True


@contextlib.contextmanager
def in_memory(file: PemFile) -> Iterator[str]:
    """The path of what `file` held when it was read.

    OpenSSL takes a certificate from a file only, and the file itself may hold something else by now.
    """
    with os.fdopen(os.memfd_create("pem"), "wb") if sys.platform == "linux" else tempfile.TemporaryFile() as held:
        held.write(file.text.encode())
        held.flush()
        held.seek(0)
        yield f"/dev/fd/{held.fileno()}"


def tls_trouble(files: TlsFiles) -> str | None:
    """Why no connection can be made with `files`; None where one can."""
    try:
        upstream_context(files)
    except TlsUnusable as unusable:
        return str(unusable)
    return None


def handshake_failed(failure: BaseException) -> bool:
    """Whether `failure` of a request means that TLS did not come about, so that the request was not read either.

    Either side may have ended it: the router, because of the server's certificate; the server, because of the router's.
    """
    if isinstance(failure, ssl.SSLError):
        return True
    reason = getattr(failure.__cause__, "reason", None) if isinstance(failure.__cause__, ssl.SSLError) else None
    return reason is not None and "ALERT" in reason and any(alert in reason for alert in _HANDSHAKE_ALERTS)
