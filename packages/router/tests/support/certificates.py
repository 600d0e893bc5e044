"""Certificates made for a test, good and bad, and a server that asks its clients for one."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trustme import CA, LeafCert


def expired(authority: CA, name: str) -> LeafCert:
    """A certificate that was good until yesterday."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return authority.issue_cert(name, not_before=yesterday - timedelta(days=30), not_after=yesterday)


def server_context(cert: LeafCert, clients: CA | None = None) -> ssl.SSLContext:
    """A server's side of TLS with `cert`; where `clients` is given, only who has a certificate from it is let in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(authority: CA, cert: LeafCert | None = None) -> ssl.SSLContext:
    """A client's side of TLS that trusts `authority` alone, and shows `cert`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    if cert is not None:
        cert.configure_cert(context)
    return context


def chain(cert: LeafCert) -> str:
    """The certificate and those between it and its authority, in PEM."""
    return "".join(pem.bytes().decode() for pem in cert.cert_chain_pems)


def key(cert: LeafCert) -> str:
    """The private key of a certificate, in PEM."""
    return cert.private_key_pem.bytes().decode()


def bundle(*authorities: CA) -> str:
    """The authorities' own certificates, in PEM."""
    return "".join(authority.cert_pem.bytes().decode() for authority in authorities)


class TlsFolder:
    """A folder with `ca.pem`, `tls.crt` and `tls.key`, mounted as Kubernetes mounts a Secret: swapped by a symlink."""

    def __init__(self, path: Path, ca: str, cert: LeafCert) -> None:
        self.path = path
        self._version = 0
        path.mkdir()
        for name in ("ca.pem", "tls.crt", "tls.key"):
            (path / name).symlink_to(f"..data/{name}")
        self.swap(ca, chain(cert), key(cert))

    def swap(self, ca: str, cert: str, key: str) -> None:
        """Put other contents in the place of all three files at once."""
        self._version += 1
        fresh = self.path / f"..{self._version}"
        fresh.mkdir()
        for name, text in (("ca.pem", ca), ("tls.crt", cert), ("tls.key", key)):
            (fresh / name).write_text(text)
        (self.path / "..tmp").symlink_to(fresh.name)
        (self.path / "..tmp").replace(self.path / "..data")

    def policy(self) -> str:
        """The value of `tls` in a policy."""
        return f"{{ca: {self.path}/ca.pem, cert: {self.path}/tls.crt, key: {self.path}/tls.key}}"
