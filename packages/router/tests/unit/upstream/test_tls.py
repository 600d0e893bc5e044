"""Client contexts for upstreams: what they verify and show, and which files they refuse."""

import dataclasses
import ssl

import pytest
from cryptography.hazmat.primitives import serialization
from stratmaster_router.domain.routing import PemFile, TlsFiles
from stratmaster_router.upstream.tls import TlsUnusable, handshake_failed, tls_trouble, upstream_context
from support.certificates import bundle, chain, key
from trustme import CA

AUTHORITY = CA()
CERT, OTHER = AUTHORITY.issue_cert("router.example"), AUTHORITY.issue_cert("other.example")
FILES = TlsFiles(PemFile("/ca", bundle(AUTHORITY)), PemFile("/crt", chain(CERT)), PemFile("/key", key(CERT)))


def ca(text: str) -> TlsFiles:
    """Files whose authority is `text`."""
    return TlsFiles(ca=PemFile("/ca", text))


def pair(cert: str, private_key: str) -> TlsFiles:
    """A certificate and a key."""
    return TlsFiles(cert=PemFile("/crt", cert), key=PemFile("/key", private_key))


def encrypted() -> str:
    """The key of `CERT` under a password."""
    private = serialization.load_pem_private_key(key(CERT).encode(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password).decode()


@pytest.mark.parametrize("files", [None, TlsFiles(), FILES], ids=["none", "empty", "own"])
def test_upstreams_are_verified(files: TlsFiles | None) -> None:
    """With and without files of its own a provider's certificate and name are checked, and nothing below TLS 1.2."""
    context = upstream_context(files)

    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_own_authority_is_the_only_one() -> None:
    """A provider's own CA takes the place of the system's; a bundle may hold several, and remarks in any letters."""
    two = TlsFiles(PemFile("/ca", f"# Türkiye\n{bundle(AUTHORITY, CA())}"))

    assert len(upstream_context(FILES).get_ca_certs()) == 1
    assert len(upstream_context(two).get_ca_certs()) == 2


def test_equal_files_share_a_context() -> None:
    """What the policy's thread has made is not made again on the loop; other contents make another."""
    context = upstream_context(FILES)

    assert upstream_context(dataclasses.replace(FILES, stale="the key is not there yet")) is context
    assert upstream_context(dataclasses.replace(FILES, ca=None)) is not context


def test_certificate_and_key_may_stand_in_one_file() -> None:
    """Both in one PEM, as some tools write it, named twice."""
    both = chain(CERT) + key(CERT)

    assert tls_trouble(TlsFiles(cert=PemFile("/both", both), key=PemFile("/both", both))) is None


PAIR = "tls.cert file /crt and tls.key file /key"
NO_CERT = "tls.cert file /crt holds no certificate in PEM, or not a whole one"
NO_KEY = "tls.key file /key holds no whole private key in PEM, unencrypted"
UNUSABLE = [
    (ca(""), "tls.ca file /ca holds no certificates, or not whole ones"),
    (ca("text"), "tls.ca file /ca holds no certificates, or not whole ones"),
    (ca(bundle(AUTHORITY) + bundle(AUTHORITY)[:200]), "tls.ca file /ca holds no certificates, or not whole ones"),
    (pair(chain(CERT), key(OTHER)), f"{PAIR} do not belong together"),
    (pair(chain(OTHER), key(CERT)), f"{PAIR} do not belong together"),
    (pair("", key(CERT)), NO_CERT),
    (pair(chain(CERT)[:200], key(CERT)), NO_CERT),
    (pair(chain(CERT), key(CERT)[:100]), NO_KEY),
    (pair(chain(CERT), encrypted()), NO_KEY),
]


@pytest.mark.parametrize(("files", "trouble"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_unusable_files_are_named_without_what_they_hold(files: TlsFiles, trouble: str) -> None:
    """The trouble is in words and paths; an encrypted key does not make anybody ask for its password."""
    assert tls_trouble(files) == trouble
    with pytest.raises(TlsUnusable, match=f"^{trouble}$"):
        upstream_context(files)


def test_usable_files_are_no_trouble() -> None:
    """Nor do their contents show when they are printed."""
    assert tls_trouble(FILES) is None
    assert "BEGIN" not in repr(FILES)


def caused(cause: BaseException | None) -> OSError:
    """A failure of a connection, as aiohttp raises it."""
    failure = OSError("connection lost")
    failure.__cause__ = cause
    return failure


def tls_error(reason: str) -> ssl.SSLError:
    """An error of OpenSSL's with this reason."""
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


HANDSHAKES = [
    (tls_error("WRONG_VERSION_NUMBER"), True),
    (caused(tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED")), True),
    (caused(tls_error("TLSV1_ALERT_UNKNOWN_CA")), True),
    (caused(tls_error("SSLV3_ALERT_CERTIFICATE_EXPIRED")), True),
    (caused(tls_error("TLSV1_ALERT_INTERNAL_ERROR")), False),
    (caused(tls_error("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")), False),
    (caused(ConnectionResetError()), False),
    (caused(None), False),
]


@pytest.mark.parametrize(("failure", "failed"), HANDSHAKES)
def test_only_a_handshake_proves_that_nothing_was_read(failure: BaseException, failed: bool) -> None:
    """A connection that breaks later may have carried a request that is billed."""
    assert handshake_failed(failure) is failed
