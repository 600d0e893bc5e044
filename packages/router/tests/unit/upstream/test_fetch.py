"""Documents fetched by their address: TLS is checked, nothing is followed, and size and time are bounded."""

from pathlib import Path

import pytest
from stratmaster_router.upstream.fetch import FetchFailed, fetch
from support.certificates import bundle, expired, server_context
from support.scripted import Exchange, Script, head, running_scripted
from trustme import CA

DOCUMENT = b'{"keys":[]}'
LIMIT = 1000
WITHIN = 10.0


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CA:
    """A certificate authority that the system trusts."""
    ca = CA()
    (tmp_path / "ca.pem").write_text(bundle(ca))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return ca


def _document(exchange: Exchange) -> None:
    exchange.answer(DOCUMENT)


async def test_document_is_fetched_with_nothing_but_a_get(authority: CA) -> None:
    """One request that names nobody, and asks for no compression."""
    with running_scripted(_document, server_context(authority.issue_cert("localhost"))) as server:
        assert await fetch(f"{server.url}/openid/v1/jwks", LIMIT, WITHIN) == DOCUMENT

    [exchange] = server.exchanges
    assert exchange.path == "/openid/v1/jwks"
    assert exchange.headers["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "x-tenant-id"} & exchange.headers.keys()


def _chunks(exchange: Exchange) -> None:
    exchange.send(head("application/json", "Transfer-Encoding: chunked"))
    for _ in range(100):
        exchange.chunk(b"x" * 100)
    exchange.chunk(b"")


def _cut(exchange: Exchange) -> None:
    exchange.send(head("application/json", "Content-Length: 500") + DOCUMENT)
    exchange.close()


def _moved(exchange: Exchange) -> None:
    exchange.answer(b"", "text/plain", "Location: /elsewhere", status="302 Found")


FAILING: dict[str, tuple[Script, str]] = {
    "an error": (lambda exchange: exchange.answer(DOCUMENT, status="500 Oops"), "it was answered with status 500"),
    "a redirect": (_moved, "it was answered with status 302"),
    "too large": (lambda exchange: exchange.answer(b"x" * 1001), "the document is larger than 1000 bytes"),
    "too large, in chunks": (_chunks, "the document is larger than 1000 bytes"),
    "cut": (_cut, "ClientPayloadError: "),
    "closed": (lambda exchange: exchange.close(), "ServerDisconnectedError: "),
}


@pytest.mark.parametrize(("script", "reason"), FAILING.values(), ids=FAILING)
async def test_answer_that_is_not_the_document_fails(authority: CA, script: Script, reason: str) -> None:
    """Each failure is one kind of error, which says what happened."""
    with (
        running_scripted(script, server_context(authority.issue_cert("localhost"))) as server,
        pytest.raises(FetchFailed) as raised,
    ):
        await fetch(f"{server.url}/jwks", LIMIT, WITHIN)

    assert str(raised.value).startswith(reason)
    assert {exchange.path for exchange in server.exchanges} == {"/jwks"}


async def test_document_of_just_the_limit_is_fetched(authority: CA) -> None:
    """The limit is the largest size that is taken."""

    def script(exchange: Exchange) -> None:
        exchange.answer(b"x" * LIMIT)

    with running_scripted(script, server_context(authority.issue_cert("localhost"))) as server:
        assert await fetch(f"{server.url}/jwks", LIMIT, WITHIN) == b"x" * LIMIT


async def test_server_that_does_not_answer_fails_in_time(authority: CA) -> None:
    """It is not waited for longer than said."""
    with (
        running_scripted(Exchange.wait_closed, server_context(authority.issue_cert("localhost"))) as server,
        pytest.raises(FetchFailed, match=r"^there was no answer within 0\.3 s$"),
    ):
        await fetch(f"{server.url}/jwks", LIMIT, 0.3)


async def test_certificate_is_checked(authority: CA) -> None:
    """Who could stand between could put keys of their own there."""
    for certificate in (
        CA().issue_cert("localhost"),
        authority.issue_cert("other.example"),
        expired(authority, "localhost"),
    ):
        with (
            running_scripted(_document, server_context(certificate)) as server,
            pytest.raises(FetchFailed, match=r"^ClientConnectorCertificateError: "),
        ):
            await fetch(f"{server.url}/jwks", LIMIT, WITHIN)
        assert server.exchanges == []


async def test_server_that_is_not_there_fails(authority: CA) -> None:
    """A refused connection is a failure like any other."""
    with running_scripted(_document) as server:
        port = server.port
    with pytest.raises(FetchFailed):
        await fetch(f"https://localhost:{port}/jwks", LIMIT, WITHIN)
