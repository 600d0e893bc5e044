"""TLS of the router itself, in real processes: who is let in, what is renewed while it serves, and how it ends."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from e2e.conftest import POLICY
from support.calls import eventually
from support.certificates import TlsFolder, bundle, chain, client_context, expired, key
from support.load import calling
from support.processes import Answer, Line, Served, mock_process, serving, wait_until
from support.servers import ACME_KEY, Mock
from trustme import CA, LeafCert

CHAT: dict[str, Any] = {"model": "reasoning", "messages": [{"role": "user", "content": "one two three"}]}
IN_FORCE_WITHIN = 2.0  # seconds; issue 5
AUTHORITY, CLIENTS, STRANGER = CA(), CA(), CA()
OPEN = ["/healthz", "/readyz", "/internal/metrics", "/internal/status", "/openapi.json"]


def own(authority: CA = AUTHORITY) -> LeafCert:
    """A certificate for the router."""
    return authority.issue_cert("localhost", "127.0.0.1")


def variables(folder: TlsFolder, *, clients: bool = False, **more: str) -> dict[str, str]:
    """The environment of a router with these files; `clients` has it ask for certificates."""
    names = {"CERT": "tls.crt", "KEY": "tls.key", **({"CLIENT_CA": "ca.pem"} if clients else {})}
    return {**{f"ROUTER_TLS_{name}": f"{folder.path}/{file}" for name, file in names.items()}, **more}


def one_call(served: Served, tls: ssl.SSLContext, path: str = "/v1/models") -> Answer:
    """One request over a connection, and so a handshake, of its own."""
    line = Line(served.port, tls)
    try:
        return line.get(path)
    finally:
        line.close()


@contextlib.contextmanager
def connected(served: Served, tls: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A raw connection."""
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=20) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        yield secured


def shown(served: Served) -> str:
    """The certificate that a new connection is shown."""
    with connected(served, client_context(AUTHORITY)) as secured:
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        return ssl.DER_cert_to_PEM_cert(der)


def leaf(cert: LeafCert) -> str:
    """A certificate as `shown` tells it."""
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(cert.cert_chain_pems[0].bytes().decode()))


@pytest.fixture(scope="module")
def mocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    """One mocked provider for the module."""
    with mock_process(tmp_path_factory.mktemp("mock")) as mock:
        yield mock


@pytest.fixture
def folder(tmp_path: Path) -> TlsFolder:
    """The router's certificate and key, and the authority of its clients, mounted as a Secret."""
    return TlsFolder(tmp_path / "tls", bundle(CLIENTS), own())


@pytest.mark.parametrize("workers", [1, 2])
def test_router_serves_https(workers: int, mocked: Mock, folder: TlsFolder, tmp_path: Path) -> None:
    """Whole answers, streams and probes come over TLS 1.2 and 1.3 and over nothing less, in every worker."""
    tls = client_context(AUTHORITY)
    environ = variables(folder)
    with serving(tmp_path, POLICY.format(mock=mocked.url), workers=workers, environ=environ, tls=tls) as served:
        with served.lines(workers) as found:
            for line in [line for lines in found.values() for line in lines]:
                answers = [line.post("/v1/chat/completions", {**CHAT, "stream": stream}) for stream in (False, True)]
                assert [answer.status for answer in answers] == [200, 200]
                assert b"echo: one two three" in answers[0].body
                assert answers[1].body.endswith(b"data: [DONE]\n\n")
                assert line.get("/readyz").status == 200

        tls.set_alpn_protocols(["h2", "http/1.1"])
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            tls.minimum_version = tls.maximum_version = version
            with connected(served, tls) as secured:
                assert secured.version() == version.name.replace("_", ".")
                assert secured.selected_alpn_protocol() == "http/1.1"
        with pytest.raises(OSError, match=r"."):
            Line(served.port).get("/healthz")
        assert served.terminate() == 0
        assert "Traceback" not in served.stderr()


def test_older_tls_is_refused(mocked: Mock, folder: TlsFolder, tmp_path: Path) -> None:
    """A client that knows TLS 1.1 at the most gets no connection."""
    tls = client_context(AUTHORITY)
    old = client_context(AUTHORITY)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with serving(tmp_path, POLICY.format(mock=mocked.url), environ=variables(folder), tls=tls) as served:
        with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError, match=r"."):
            one_call(served, old, "/healthz")
        assert one_call(served, tls, "/healthz").status == 200


@pytest.fixture(scope="module")
def guarded(mocked: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A router that asks its clients for certificates, for the module; nothing here changes it."""
    folder = tmp_path_factory.mktemp("guarded")
    files = TlsFolder(folder / "tls", bundle(CLIENTS), own())
    tls = client_context(AUTHORITY, CLIENTS.issue_cert("service.example"))
    with serving(folder, POLICY.format(mock=mocked.url), environ=variables(files, clients=True), tls=tls) as served:
        yield served


def test_client_with_a_certificate_is_served(guarded: Served) -> None:
    """The right certificate opens the way to the key's judgement, and no further."""
    answer = guarded.call("POST", "/v1/chat/completions", CHAT)
    line = Line(guarded.port, client_context(AUTHORITY, CLIENTS.issue_cert("other.example")))
    keyless = line.get("/v1/models", {"X-Tenant-ID": "acme"})
    line.close()

    assert answer.status == 200
    assert (keyless.status, keyless.json()["error"]["code"]) == (401, "missing_api_key")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/nothing", "/admin", "/admin/v1/tenants"])
def test_client_without_a_certificate_gets_no_further_than_probes(guarded: Served, path: str) -> None:
    """With a valid key and all, whatever the method: 401, in the one shape, with its line in the access log."""
    line = Line(guarded.port, client_context(AUTHORITY))
    answers = [line.get(path), line.post(path, CHAT)]
    line.close()

    for answer in answers:
        error = answer.json()["error"]
        assert answer.status == 401
        assert {**error, "message": ""} == {
            "message": "",
            "type": "authentication_error",
            "param": None,
            "code": "client_certificate_required",
            "retryable": False,
            "request_id": answer.headers["x-request-id"],
        }
    logged = eventually(lambda: logged_as(guarded, answers), lambda lines: len(lines) == 2)
    assert logged == [(401, "client_certificate_required", None)] * 2


def logged_as(served: Served, answers: list[Answer]) -> list[tuple[int, str, str | None]]:
    """Status, code and tenant in the access log of these answers."""
    ids = {answer.headers["x-request-id"] for answer in answers}
    lines = [line for line in served.access_lines() if line["request_id"] in ids]
    return [(line["status"], line["code"], line.get("tenant")) for line in lines]


@pytest.mark.parametrize("path", OPEN)
def test_probe_needs_no_certificate(guarded: Served, path: str) -> None:
    """A kubelet has none to show, and no more has Prometheus."""
    assert one_call(guarded, client_context(AUTHORITY), path).status == 200


BAD = {
    "of a stranger": STRANGER.issue_cert("service.example"),
    "expired": expired(CLIENTS, "service.example"),
    "of the router's own authority": AUTHORITY.issue_cert("service.example"),
}


@pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("whose", BAD)
def test_bad_certificate_gets_no_connection(guarded: Served, whose: str, version: ssl.TLSVersion, path: str) -> None:
    """Who shows a certificate that is not good is not let in at all, not even where none is needed."""
    tls = client_context(AUTHORITY, BAD[whose])
    tls.minimum_version = tls.maximum_version = version

    with pytest.raises(OSError, match=r"."):
        one_call(guarded, tls, path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_of_a_client_with_a_certificate_is_not_resumed(guarded: Served, version: ssl.TLSVersion) -> None:
    """Each connection shows its certificate: no ticket outlives what it was given for."""
    tls = client_context(AUTHORITY, CLIENTS.issue_cert("service.example"))
    tls.minimum_version = tls.maximum_version = version
    request = b"GET /healthz HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n"
    with connected(guarded, tls) as first:
        first.sendall(request)
        while first.recv(65_536):
            pass
        session = first.session
    if version is ssl.TLSVersion.TLSv1_3:
        assert session is None or not session.has_ticket
    else:
        assert session is not None
        assert not session.has_ticket


def test_openai_client_speaks_https_with_a_certificate(guarded: Served) -> None:
    """The official client, with nothing but its own options, whole and streaming; without a certificate it says why."""
    certified = client_context(AUTHORITY, CLIENTS.issue_cert("service.example"))
    answers = []
    for tls in (certified, client_context(AUTHORITY)):
        with openai.OpenAI(
            base_url=f"{guarded.url}/v1",
            api_key=ACME_KEY,
            default_headers={"X-Tenant-ID": "acme"},
            http_client=openai.DefaultHttpxClient(verify=tls),
            max_retries=0,
        ) as client:
            try:
                whole = client.chat.completions.create(**CHAT)
                chunks = list(client.chat.completions.create(**CHAT, stream=True))
                answers.append((whole.choices[0].message.content, len(chunks) > 3))
            except openai.AuthenticationError as error:
                answers.append((error.code, False))

    assert answers == [("echo: one two three", True), ("client_certificate_required", False)]


def asking(line: Line) -> Callable[[], int]:
    """A caller over a kept connection."""
    return lambda: line.post("/v1/chat/completions", CHAT).status


def test_renewed_certificate_is_shown_within_two_seconds_and_no_request_fails(
    mocked: Mock, folder: TlsFolder, tmp_path: Path
) -> None:
    """A Secret that is swapped under load, in both workers: kept connections go on, new ones are shown the new one."""
    tls = client_context(AUTHORITY)
    policy = POLICY.format(mock=mocked.url)
    with (
        serving(tmp_path, policy, workers=2, environ=variables(folder), tls=tls) as served,
        served.lines(2, each=2) as found,
    ):
        kept = [line for lines in found.values() for line in lines]
        with calling(*[asking(line) for line in kept], lambda: one_call(served, tls).status) as load:
            for _ in range(3):
                renewed = own()
                folder.swap(bundle(CLIENTS), chain(renewed), key(renewed))
                time.sleep(IN_FORCE_WITHIN)
                assert {shown(served) for _ in range(20)} == {leaf(renewed)}
        assert set(load.outcomes) == {200}
        assert served.stderr().count("certificates changed") == 6
        assert "PRIVATE" not in served.stderr()


def test_pair_that_does_not_fit_leaves_the_last_good_one(mocked: Mock, folder: TlsFolder, tmp_path: Path) -> None:
    """Files that are written one after the other, cut off or removed: served as before, and the log says it once."""
    first, second = own(), own()
    folder.swap(bundle(CLIENTS), chain(first), key(first))
    tls = client_context(AUTHORITY)
    policy = POLICY.format(mock=mocked.url)
    with serving(tmp_path, policy, environ=variables(folder, clients=True), tls=tls) as served:
        refused = "certificate change refused"
        changes = [
            (bundle(CLIENTS), chain(second), key(first)),
            (bundle(CLIENTS), chain(second)[:300], key(second)),
            (bundle(CLIENTS), chain(second), key(second)[:100]),
            (bundle(CLIENTS)[:300], chain(second), key(second)),
            ("", chain(second), key(second)),
        ]
        with calling(lambda: one_call(served, tls, "/healthz").status) as load:
            for number, files in enumerate(changes, 1):
                folder.swap(*files)
                wait_until(lambda number=number: served.stderr().count(refused) == number, "refused")  # type: ignore[misc]  # mypy knows no default of a lambda
                assert shown(served) == leaf(first)
            (folder.path / "..data").unlink()
            wait_until(lambda: served.stderr().count(refused) == 6, "missing files are refused")
            assert shown(served) == leaf(first)
            (folder.path / "..data").symlink_to("..1")
            folder.swap(bundle(CLIENTS), chain(second), key(second))
            assert eventually(lambda: shown(served), lambda pem: pem == leaf(second), IN_FORCE_WITHIN) == leaf(second)
        assert set(load.outcomes) == {200}
        assert served.stderr().count(refused) == 6
        assert f"{folder.path}/tls.crt" in served.stderr()
        for secret in (key(first), key(second)):
            assert secret.splitlines()[1] not in served.stderr()


def test_authority_of_clients_is_changed_while_it_serves(mocked: Mock, folder: TlsFolder, tmp_path: Path) -> None:
    """Two seconds after an authority is taken out its clients get no connection, and those of the new one do."""
    old = client_context(AUTHORITY, CLIENTS.issue_cert("service.example"))
    new = client_context(AUTHORITY, STRANGER.issue_cert("service.example"))
    pair = own()
    policy = POLICY.format(mock=mocked.url)
    with (
        serving(tmp_path, policy, workers=2, environ=variables(folder, clients=True), tls=old) as served,
        served.lines(2, each=1) as found,
    ):
        kept = [line for lines in found.values() for line in lines]
        with calling(lambda: one_call(served, old).status) as load:
            folder.swap(bundle(CLIENTS, STRANGER), chain(pair), key(pair))
            time.sleep(IN_FORCE_WITHIN)
            assert {one_call(served, new).status for _ in range(10)} == {200}
        assert set(load.outcomes) == {200}

        folder.swap(bundle(STRANGER), chain(pair), key(pair))
        with calling(lambda: one_call(served, new).status) as load:
            time.sleep(IN_FORCE_WITHIN)
        assert set(load.outcomes) == {200}
        for _ in range(10):
            with pytest.raises(OSError, match=r"."):
                one_call(served, old)
        # What was let in stays in: the connection was judged when it was made.
        assert {line.get("/v1/models").status for line in kept} == {200}


@pytest.fixture(scope="module")
def brief(mocked: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A router over TLS that gives an incomplete request 0.5 s."""
    folder = tmp_path_factory.mktemp("brief")
    files = TlsFolder(folder / "tls", bundle(CLIENTS), own())
    with serving(
        folder,
        POLICY.format(mock=mocked.url),
        environ=variables(files, ROUTER_BODY_TIMEOUT="0.5"),
        tls=client_context(AUTHORITY),
    ) as served:
        yield served


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the router closes; fails (by the socket's timeout) where it does not."""
    received = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        while data := connection.recv(65_536):
            received += data
    return received


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", bytes.fromhex("16030100c8010000c40303")])
def test_half_a_handshake_does_not_hold_its_connection(brief: Served, sent: bytes) -> None:
    """Who connects and does not come to the end of the handshake is given up in the time for a head."""
    with socket.create_connection(("127.0.0.1", brief.port), timeout=5) as connection:
        connection.sendall(sent)
        assert until_closed(connection) == b""


def test_plain_http_is_no_handshake(brief: Served) -> None:
    """A client that does not speak TLS gets nothing that could be taken for an answer."""
    with socket.create_connection(("127.0.0.1", brief.port), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: router\r\n\r\n")
        assert b"HTTP/1.1" not in until_closed(connection)
    assert brief.call("GET", "/healthz").status == 200


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\nX-Tenant-ID: acme\r\nAuthorization: Bearer %s\r\n"
HALVES = {
    "nothing": (b"", b""),
    "half a head": (b"GET /healthz HTTP/1.1\r\nHost:", b""),
    "half a body": (HEAD % ACME_KEY.encode() + b"Connection: close\r\nContent-Length: 50\r\n\r\n{", b"HTTP/1.1 408 "),
    "a huge head": (b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * 1_000_000, b"HTTP/1.1 400 "),
}


@pytest.mark.parametrize("half", HALVES)
def test_limits_of_a_request_hold_over_tls(brief: Served, half: str) -> None:
    """What does not come to its end, or is too large, is given up or refused as it is without TLS."""
    sent, answer = HALVES[half]
    with connected(brief, client_context(AUTHORITY)) as secured:
        with contextlib.suppress(OSError):  # refused before all of it was sent
            secured.sendall(sent)
        assert until_closed(secured)[: len(answer)] in (answer, b"")


def test_client_that_goes_away_is_noticed_over_tls(brief: Served, mocked: Mock) -> None:
    """The upstream's request is cancelled, whether the client says good-bye or not."""
    mocked.forget()
    for farewell in (True, False):
        line = Line(brief.port, client_context(AUTHORITY))
        line.send("POST", "/v1/chat/completions", {**CHAT, "model": "hanging"})
        mocked.wait_open(1)
        if farewell:
            line.say_goodbye()
        line.close()
        mocked.wait_open(0)


@pytest.mark.parametrize("workers", [1, 2])
def test_router_over_tls_drains(workers: int, mocked: Mock, folder: TlsFolder, tmp_path: Path) -> None:
    """A stream under way comes to its end; idle connections whose clients do not read do not hold up the exit."""
    tls = client_context(AUTHORITY)
    environ = variables(folder)
    with serving(tmp_path, POLICY.format(mock=mocked.url), workers=workers, environ=environ, tls=tls) as served:
        with served.lines(workers, each=3):
            line = Line(served.port, tls)
            line.send("POST", "/v1/chat/completions", {**CHAT, "model": "slow", "stream": True})
            response = line.response()
            first = response.readline()
            served.signal(15)
            rest = response.read()
            line.close()
            assert served.wait(8) == 0
        assert first.startswith(b"data: {")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert "Traceback" not in served.stderr()
