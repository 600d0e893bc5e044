"""TLS to upstreams through the whole router: who is let in, what fails over, and certificates that are rotated."""

import contextlib
import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.calls import HELLO, TIMEOUT, Answer, chat, connected, events, eventually, request_bytes, samples
from support.certificates import TlsFolder, bundle, chain, expired, key, server_context
from support.nginx import running_nginx
from support.scripted import Exchange, Scripted, chunked, running_scripted, stream_head
from support.servers import Mock, RunningRouter, running_router
from trustme import CA, LeafCert

IN_FORCE_WITHIN = 2.0  # seconds; issue 4
ANSWER = b'{"object":"chat.completion","choices":[{"message":{"content":"x"}}]}'
PIECES = (
    b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)


@pytest.fixture(scope="module")
def authority() -> CA:
    """The authority of the servers and of the router's own certificates, unless a test says otherwise."""
    return CA()


@pytest.fixture(scope="module")
def stranger() -> CA:
    """An authority that nobody has heard of."""
    return CA()


@pytest.fixture
def folder(authority: CA, tmp_path: Path) -> TlsFolder:
    """The provider's TLS files: the authority, and a certificate from it."""
    return TlsFolder(tmp_path / "tls", bundle(authority), authority.issue_cert("router.example"))


def _answer(exchange: Exchange) -> None:
    if b'"stream":true' in exchange.body.replace(b" ", b""):
        chunked(*PIECES)(exchange)
    else:
        exchange.answer(ANSWER)


def _policy(first: str, second: str, tls: str, limits: str = "", model: str = "gpt-4o-mini") -> str:
    return f"""
providers:
  first:
    base_url: {first}/v1
    timeouts: {{connect: 5s, first_byte: 5s, idle: 5s, total: 15s}}
    tls: {tls}
  second:
    base_url: {second}/v1
models:
  gpt-4.1: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
  "{model}": {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
tenants:
  acme:
    limits: {{{limits}}}
    providers:
      first: {{models: {{reasoning: {{default: gpt-4.1}}}}}}
      second: {{models: {{reasoning: {{default: "{model}"}}}}}}
"""


def _who(exchange: Exchange) -> str:
    """The name in the client's certificate."""
    return str(exchange.certificate["subjectAltName"][0][1])


def _attempts(answer: Answer) -> list[dict[str, Any]]:
    """The attempts of a 503, without their times."""
    attempts: list[dict[str, Any]] = answer.json()["error"]["attempts"]
    for attempt in attempts:
        del attempt["ms"]
    return attempts


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_upstream_lets_in_who_shows_its_certificate(
    authority: CA, folder: TlsFolder, mock: Mock, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """An upstream that asks for a client certificate gets the provider's, and answers, plain and as a stream."""
    context = server_context(authority.issue_cert("localhost"), authority)
    context.minimum_version = context.maximum_version = version
    with (
        running_scripted(_answer, context) as upstream,
        running_router(tmp_path, _policy(upstream.url, mock.url, folder.policy())) as router,
    ):
        plain, stream = chat(router), chat(router, stream=True)

    assert (plain.status, plain.headers["x-router-provider"], plain.body) == (200, "first", ANSWER)
    assert (stream.status, stream.headers["x-router-provider"], events(stream.body)) == (200, "first", list(PIECES))
    assert [_who(exchange) for exchange in upstream.exchanges] == ["router.example"] * 2
    assert upstream.connections == 1


def _old_server(cert: LeafCert) -> ssl.SSLContext:
    """A server that speaks TLS 1.1 and nothing newer."""
    context = server_context(cert)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def _case(name: str, authority: CA, stranger: CA, folder: TlsFolder) -> tuple[ssl.SSLContext, str]:
    """The server of a case, and the provider's `tls`."""
    good, files = authority.issue_cert("localhost"), folder.policy()
    cases: dict[str, Callable[[], tuple[ssl.SSLContext, str]]] = {
        "no client certificate": lambda: (server_context(good, authority), f"{{ca: {folder.path}/ca.pem}}"),
        "client of another authority": lambda: (server_context(good, stranger), files),
        "expired client": lambda: (server_context(good, authority), files),
        "server of another authority": lambda: (server_context(stranger.issue_cert("localhost")), files),
        "expired server": lambda: (server_context(expired(authority, "localhost")), files),
        "wrong name": lambda: (server_context(authority.issue_cert("elsewhere.example", "127.0.0.1")), files),
        "system's authorities": lambda: (server_context(good), "{}"),
        "TLS 1.1": lambda: (_old_server(good), files),
    }
    if name == "expired client":
        client = expired(authority, "router.example")
        folder.swap(bundle(authority), chain(client), key(client))
    return cases[name]()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("no client certificate", ssl.TLSVersion.TLSv1_3),
        ("no client certificate", ssl.TLSVersion.TLSv1_2),
        ("client of another authority", ssl.TLSVersion.TLSv1_3),
        ("client of another authority", ssl.TLSVersion.TLSv1_2),
        ("expired client", ssl.TLSVersion.TLSv1_3),
        ("expired client", ssl.TLSVersion.TLSv1_2),
        ("server of another authority", None),
        ("expired server", None),
        ("wrong name", None),
        ("system's authorities", None),
        ("TLS 1.1", None),
    ],
)
def test_handshake_that_fails_is_a_failed_hop(
    authority: CA,
    stranger: CA,
    folder: TlsFolder,
    mock: Mock,
    tmp_path: Path,
    name: str,
    version: ssl.TLSVersion | None,
) -> None:
    """Whoever ends the handshake, the next hop answers, the code says TLS, and no request was read."""
    context, tls = _case(name, authority, stranger, folder)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    with (
        running_scripted(_answer, context) as upstream,
        running_router(tmp_path, _policy(upstream.url, mock.url, tls)) as router,
    ):
        plain, stream = chat(router), chat(router, stream=True)
        alone = chat(router, model="first/gpt-4.1")
        failures = samples(router, "litellm_upstream_failures_total")

    for answer in (plain, stream):
        headers = answer.headers
        assert (answer.status, headers["x-router-provider"], headers["x-router-attempts"]) == (200, "second", "2")
    code = "upstream_tls_failed"
    assert _attempts(alone) == [{"provider": "first", "model": "gpt-4.1", "status": None, "code": code}]
    assert str(upstream.port) not in alone.body.decode()
    labels = f'code="{code}",model="gpt-4.1",provider="first"'
    assert failures == {f"litellm_upstream_failures_total{{{labels}}}": 3.0}
    assert upstream.exchanges == []


@pytest.mark.parametrize("client", ["none", "of another authority", "expired"])
def test_nginx_that_refuses_a_certificate_after_the_handshake_is_a_failed_hop(
    authority: CA, stranger: CA, mock: Mock, tmp_path: Path, client: str
) -> None:
    """Nginx ends the handshake well and answers 400 with a page: that is TLS, and not the client's fault."""
    certs = {"of another authority": stranger.issue_cert("router.example"), "expired": expired(authority, "router")}
    folder = TlsFolder(tmp_path / "tls", bundle(authority), certs.get(client, authority.issue_cert("router.example")))
    tls = folder.policy() if client in certs else f"{{ca: {folder.path}/ca.pem}}"
    with (
        running_nginx(tmp_path / "nginx", authority) as url,
        running_router(tmp_path, _policy(url, mock.url, tls)) as router,
    ):
        plain, stream = chat(router), chat(router, stream=True)
        alone = chat(router, model="first/gpt-4.1")
        good = authority.issue_cert("router.example")
        folder.swap(bundle(authority), chain(good), key(good))
        if client in certs:
            after = eventually(lambda: chat(router).headers["x-router-provider"], lambda provider: provider == "first")
            assert after == "first"

    assert [answer.headers["x-router-provider"] for answer in (plain, stream)] == ["second"] * 2
    assert _attempts(alone) == [{"provider": "first", "model": "gpt-4.1", "status": 400, "code": "upstream_tls_failed"}]


def test_handshake_that_fails_costs_nothing(authority: CA, mock: Mock, folder: TlsFolder, tmp_path: Path) -> None:
    """In TLS 1.3 a request is sent before the client's certificate is refused; what was not read is not booked."""
    context = server_context(authority.issue_cert("localhost"), authority)
    tls = f"{{ca: {folder.path}/ca.pem}}"
    with running_scripted(_answer, context) as upstream:
        policy = _policy(upstream.url, mock.url, tls, "budget_usd_day: 1", "m@prompt_tokens=30,completion_tokens=40")
        with running_router(tmp_path, policy) as router:
            answers = [chat(router, max_tokens=50), chat(router, max_tokens=50)]

    # 30 tokens at 1,000 nano-dollars and 40 at 2,000, twice.
    left = [answer.headers["x-router-budget-remaining-usd"] for answer in answers]
    assert left == ["0.999890000", "0.999780000"]


def _asked_by(router: RunningRouter, upstream: Scripted) -> str:
    """The name with which the router comes to `upstream` now."""
    answer = chat(router)
    assert (answer.status, answer.headers["x-router-provider"]) == (200, "first")
    return _who(upstream.exchanges[-1])


def test_rotated_certificate_is_used_within_two_seconds(
    authority: CA, folder: TlsFolder, mock: Mock, tmp_path: Path
) -> None:
    """A Secret's swap of symlinks is seen; what is under way ends on the connection that it began on."""
    gate = threading.Event()

    def script(exchange: Exchange) -> None:
        if b'"stream":true' not in exchange.body.replace(b" ", b""):
            exchange.answer(ANSWER)
            return
        exchange.send(stream_head())
        exchange.chunk(PIECES[0])
        assert gate.wait(TIMEOUT)
        for piece in (*PIECES[1:], b""):
            exchange.chunk(piece)

    context = server_context(authority.issue_cert("localhost"), authority)
    with (
        running_scripted(script, context) as upstream,
        running_router(tmp_path, _policy(upstream.url, mock.url, folder.policy())) as router,
        connected(router) as client,
    ):
        client.sendall(request_bytes({**HELLO, "stream": True}))
        response = http.client.HTTPResponse(client)
        response.begin()
        body = response.readline() + response.readline()
        before = _asked_by(router, upstream)
        fresh = authority.issue_cert("rotated.example")
        folder.swap(bundle(authority), chain(fresh), key(fresh))
        after = eventually(lambda: _asked_by(router, upstream), lambda who: who == "rotated.example", IN_FORCE_WITHIN)
        gate.set()
        body += response.read()

    assert (before, after) == ("router.example", "rotated.example")
    assert events(body) == list(PIECES)
    assert _who(upstream.exchanges[0]) == "router.example"


@contextlib.contextmanager
def _load(router: RunningRouter) -> Iterator[list[tuple[int, str]]]:
    """Requests one after the other on three threads, plain and streaming: status and provider of each answer."""
    seen: list[tuple[int, str]] = []
    over = threading.Event()

    def ask(stream: bool) -> None:
        while not over.is_set():
            answer = chat(router, stream=stream)
            seen.append((answer.status, answer.headers.get("x-router-provider", "none")))

    threads = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True, True)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(TIMEOUT)


def test_rotation_of_certificate_and_authority_under_load_fails_no_request(
    authority: CA, folder: TlsFolder, mock: Mock, tmp_path: Path
) -> None:
    """The usual three steps: trust both authorities, move the server to the new one, trust only that."""
    renewed = CA()
    both = server_context(authority.issue_cert("localhost"), authority)
    renewed.configure_trust(both)
    moved = server_context(renewed.issue_cert("localhost"), renewed)
    old, new = authority.issue_cert("both.example"), renewed.issue_cert("new.example")
    with (
        running_scripted(_answer, both) as upstream,
        running_router(tmp_path, _policy(upstream.url, mock.url, folder.policy())) as router,
        _load(router) as seen,
    ):

        def comes_as(name: str) -> None:
            assert eventually(lambda: _asked_by(router, upstream), lambda who: who == name, TIMEOUT) == name

        folder.swap(bundle(authority, renewed), chain(old), key(old))
        comes_as("both.example")
        folder.swap(bundle(authority, renewed), chain(new), key(new))
        comes_as("new.example")
        upstream.tls = moved
        last = renewed.issue_cert("last.example")
        folder.swap(bundle(renewed), chain(last), key(last))
        comes_as("last.example")

    assert set(seen) == {(200, "first")}
    assert len(seen) > 10


BROKEN = ["key of another", "half a certificate", "half a key", "no authority", "empty"]


def _broken(how: str, ca: str, cert: LeafCert, other: LeafCert) -> tuple[str, str, str]:
    """What `ca.pem`, `tls.crt` and `tls.key` hold while somebody is writing them."""
    whole = {"ca": ca, "cert": chain(cert), "key": key(cert)}
    broken = {
        "key of another": {"key": key(other)},
        "half a certificate": {"cert": chain(cert)[:200]},
        "half a key": {"key": key(cert)[:100]},
        "no authority": {"ca": "not a certificate\n"},
        "empty": {"ca": "", "cert": "", "key": ""},
    }[how]
    found = {**whole, **broken}
    return found["ca"], found["cert"], found["key"]


@pytest.mark.parametrize("how", BROKEN)
def test_half_written_files_leave_the_last_good_ones(
    authority: CA, folder: TlsFolder, mock: Mock, tmp_path: Path, how: str
) -> None:
    """A pair that does not fit together, or garbage, is not used and does no harm; once whole, the files are taken."""
    secret = tmp_path / "upstream.key"
    secret.write_text("sk-old")
    fresh, other = authority.issue_cert("rotated.example"), authority.issue_cert("other.example")
    context = server_context(authority.issue_cert("localhost"), authority)
    with running_scripted(_answer, context) as upstream:
        policy = _policy(upstream.url, mock.url, folder.policy()).replace(
            "    tls:", f"    api_key: {{file: {secret}}}\n    tls:"
        )
        with running_router(tmp_path, policy) as router:
            before = _asked_by(router, upstream)
            folder.swap(*_broken(how, bundle(authority), fresh, other))
            secret.write_text("sk-new")  # tells when the router has looked

            def bearer() -> str:
                assert _asked_by(router, upstream) == "router.example"
                return upstream.exchanges[-1].headers["authorization"]

            looked = eventually(bearer, lambda key: key == "Bearer sk-new")
            folder.swap(bundle(authority), chain(fresh), key(fresh))
            after = eventually(lambda: _asked_by(router, upstream), lambda who: who == "rotated.example")

    assert (before, looked, after) == ("router.example", "Bearer sk-new", "rotated.example")


def test_files_that_were_never_good_fail_the_hop_until_they_are(
    authority: CA, folder: TlsFolder, mock: Mock, tmp_path: Path
) -> None:
    """Without a certificate that can be used the upstream is not called at all."""
    good = authority.issue_cert("router.example")
    folder.swap(*_broken("half a key", bundle(authority), good, good))
    with (
        running_scripted(_answer, server_context(authority.issue_cert("localhost"), authority)) as upstream,
        running_router(tmp_path, _policy(upstream.url, mock.url, folder.policy())) as router,
    ):
        answer, alone = chat(router), chat(router, model="first/gpt-4.1")
        connections = upstream.connections
        folder.swap(bundle(authority), chain(good), key(good))
        after = eventually(lambda: chat(router).headers["x-router-provider"], lambda provider: provider == "first")

    assert (answer.status, answer.headers["x-router-provider"], connections) == (200, "second", 0)
    code = "upstream_misconfigured"
    assert _attempts(alone) == [{"provider": "first", "model": "gpt-4.1", "status": None, "code": code}]
    assert after == "first"


def test_endpoint_whose_handshake_fails_is_left_alone(
    authority: CA, stranger: CA, folder: TlsFolder, mock: Mock, tmp_path: Path
) -> None:
    """Of a provider's endpoints one with a bad certificate is tried once at most; the others serve meanwhile."""
    with (
        running_scripted(_answer, server_context(authority.issue_cert("localhost"), authority)) as good,
        running_scripted(_answer, server_context(stranger.issue_cert("localhost"))) as bad,
    ):
        both = f"endpoints: [{{base_url: {good.url}/v1}}, {{base_url: {bad.url}/v1}}]\n    breaker: {{open_for: 60s}}"
        policy = _policy(good.url, mock.url, folder.policy()).replace(f"base_url: {good.url}/v1", both)
        with running_router(tmp_path, policy) as router:
            answers = [chat(router) for _ in range(12)]

    assert [answer.status for answer in answers] == [200] * 12
    assert bad.connections <= 1
    assert len(good.exchanges) == 12 - bad.connections
