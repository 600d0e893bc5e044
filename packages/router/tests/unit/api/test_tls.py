"""The router's own certificates: which files it takes, and when a change of them counts."""

import ssl
from pathlib import Path

import pytest
from stratmaster_router.api.tls import ServerTls, server_tls
from stratmaster_router.upstream.tls import TlsUnusable
from support.certificates import bundle, chain, key
from trustme import CA

AUTHORITY = CA()
FIRST, SECOND = AUTHORITY.issue_cert("localhost"), AUTHORITY.issue_cert("localhost")
HELD = {"tls.crt": chain(FIRST), "tls.key": key(FIRST), "ca.pem": bundle(AUTHORITY)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a certificate, its key and an authority."""
    write(tmp_path, HELD)
    return tmp_path


def write(folder: Path, files: dict[str, str | bytes | None] | dict[str, str]) -> None:
    """Give files other contents; None takes one away."""
    for name, held in files.items():
        if held is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(held if isinstance(held, bytes) else held.encode())


def made(folder: Path, *, clients: bool = True) -> ServerTls:
    """The router's TLS by the files in `folder`."""
    return ServerTls(folder / "tls.crt", folder / "tls.key", folder / "ca.pem" if clients else None)


def test_context_asks_for_what_the_settings_say(folder: Path) -> None:
    """Nobody is asked for a certificate without a client CA; nothing below TLS 1.2 is spoken in either case."""
    asking, silent = made(folder).context, made(folder, clients=False).context

    assert (asking.verify_mode, silent.verify_mode) == (ssl.CERT_OPTIONAL, ssl.CERT_NONE)
    assert [len(context.get_ca_certs()) for context in (asking, silent)] == [1, 0]
    assert {context.minimum_version for context in (asking, silent)} == {ssl.TLSVersion.TLSv1_2}
    assert (asking.num_tickets, silent.num_tickets) == (0, 2)


def test_router_without_a_certificate_serves_no_tls(folder: Path) -> None:
    """Where nothing is set there is nothing to refresh."""
    assert server_tls(None, None, None) is None
    assert server_tls(folder / "tls.crt", folder / "tls.key", None) is not None


UNUSABLE: list[tuple[dict[str, str | bytes | None], str]] = [
    ({"tls.crt": None}, "{folder}/tls.crt is not there, or is no file"),
    ({"tls.key": None}, "{folder}/tls.key is not there, or is no file"),
    ({"ca.pem": None}, "{folder}/ca.pem is not there, or is no file"),
    ({"tls.key": key(SECOND)}, "the certificate {folder}/tls.crt and the key {folder}/tls.key do not belong together"),
    (
        {"tls.crt": chain(FIRST)[:200]},
        "the certificate {folder}/tls.crt holds no certificate in PEM, or not a whole one",
    ),
    (
        {"tls.key": ""},
        "the key {folder}/tls.key holds no whole private key in PEM, unencrypted",
    ),
    ({"tls.key": b"\xff\xfe"}, "{folder}/tls.key is not in PEM"),
    ({"ca.pem": ""}, "the client CA {folder}/ca.pem holds no certificates, or not whole ones"),
    ({"ca.pem": bundle(AUTHORITY)[:200]}, "the client CA {folder}/ca.pem holds no certificates, or not whole ones"),
    (
        {"ca.pem": bundle(AUTHORITY) + bundle(AUTHORITY)[:200]},
        "the client CA {folder}/ca.pem holds no certificates, or not whole ones",
    ),
]


@pytest.mark.parametrize(("files", "trouble"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_unusable_files_are_named_at_the_start(
    files: dict[str, str | bytes | None], trouble: str, folder: Path
) -> None:
    """In words and paths, with nothing of what the files hold."""
    write(folder, files)

    with pytest.raises(TlsUnusable) as raised:
        made(folder)

    assert str(raised.value) == trouble.format(folder=folder)


@pytest.mark.parametrize(("files", "trouble"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_unusable_change_is_told_once_and_the_last_good_files_stay(
    files: dict[str, str | bytes | None], trouble: str, folder: Path
) -> None:
    """However long it lasts; once the files are good again they are taken."""
    tls = made(folder)
    before = tls.context
    write(folder, files)

    assert tls.refresh() is False
    with pytest.raises(TlsUnusable) as raised:
        tls.refresh()
    assert [tls.refresh(), tls.refresh()] == [False, False]
    assert str(raised.value) == trouble.format(folder=folder)
    assert tls.context is before

    write(folder, {"tls.crt": chain(SECOND), "tls.key": key(SECOND), "ca.pem": bundle(AUTHORITY)})
    assert [tls.refresh(), tls.refresh(), tls.refresh()] == [False, True, False]
    assert tls.context is not before


def test_change_counts_once_it_was_read_twice(folder: Path) -> None:
    """A file that changes between two looks is being written; one that is as it was is no change."""
    tls = made(folder)
    before = tls.context
    assert tls.refresh() is False
    write(folder, {"tls.crt": chain(SECOND)})
    assert tls.refresh() is False
    write(folder, {"tls.key": key(SECOND)})
    assert tls.refresh() is False
    assert tls.context is before
    assert tls.refresh() is True

    write(folder, {"tls.crt": chain(FIRST)})
    assert tls.refresh() is False
    write(folder, {"tls.crt": chain(SECOND)})
    assert [tls.refresh(), tls.refresh()] == [False, False]
