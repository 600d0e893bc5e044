"""The clients of all providers: kept while their configuration stays, replaced when it changes."""

import dataclasses
from collections.abc import AsyncIterator

import pytest
from stratmaster_router.domain.routing import Endpoint, PemFile, Provider, Secret, Timeouts, TlsFiles
from stratmaster_router.upstream.client import Misconfigured, UpstreamClient, UpstreamResponse, Upstreams
from support.scripted import Exchange, Scripted, running_scripted

PROVIDER = Provider("first", "openai", "http://127.0.0.1:9/v1", Secret("sk-upstream"))


async def post(client: UpstreamClient, endpoint: Endpoint, body: bytes, headers: dict[str, str]) -> UpstreamResponse:
    """Connect and send, as a hop does."""
    return await client.post(await client.connect(endpoint), endpoint, body, headers)


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    """The clients of one router, closed after the test."""
    upstreams = Upstreams()
    yield upstreams
    await upstreams.close()


async def test_client_is_kept_for_the_same_and_for_an_equal_provider(upstreams: Upstreams) -> None:
    """A reloaded policy that leaves a provider as it was keeps its connections."""
    pool = upstreams.pool(PROVIDER)
    equal = dataclasses.replace(PROVIDER)

    assert equal is not PROVIDER
    assert upstreams.pool(PROVIDER) is pool
    assert upstreams.pool(equal) is pool
    assert pool.provider is equal


CHANGES = [
    {"base_url": "http://127.0.0.1:10/v1"},
    {"api_key": Secret("sk-rotated")},
    {"api_key": None},
    {"timeouts": Timeouts(connect=1.0)},
    {"tls": TlsFiles()},
    {"allow_hosts": ("127.0.0.1",)},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_client_is_replaced_when_its_provider_changes(upstreams: Upstreams, change: dict[str, object]) -> None:
    """A rotated key, another address or another certificate makes a new client, which is then the one that is kept."""
    pool = upstreams.pool(PROVIDER)
    changed = dataclasses.replace(PROVIDER, **change)  # type: ignore[arg-type]  # the table's values fit their fields

    replaced = upstreams.pool(changed)

    assert replaced is not pool
    assert replaced.provider is changed
    assert upstreams.pool(changed) is replaced


async def test_each_provider_has_its_own_client(upstreams: Upstreams) -> None:
    """Two providers at one address share nothing."""
    second = dataclasses.replace(PROVIDER, name="second")

    assert upstreams.pool(PROVIDER) is not upstreams.pool(second)
    assert upstreams.pool(PROVIDER).provider is PROVIDER


async def test_misconfigured_provider_has_no_client(upstreams: Upstreams) -> None:
    """What policy found missing is said each time, and no call is made; once mended the provider works."""
    broken = dataclasses.replace(PROVIDER, misconfigured="its key is missing: set OPENAI_API_KEY")

    for _ in range(2):
        with pytest.raises(Misconfigured, match=r"^its key is missing: set OPENAI_API_KEY$"):
            upstreams.pool(broken)

    assert upstreams.pool(PROVIDER).provider is PROVIDER


async def test_client_stays_in_use_until_its_provider_can_be_called_again(upstreams: Upstreams) -> None:
    """A change to a configuration that cannot work fails the hop, and the way back finds the client that was there."""
    pool = upstreams.pool(PROVIDER)

    with pytest.raises(Misconfigured):
        upstreams.pool(dataclasses.replace(PROVIDER, misconfigured="no address"))

    assert upstreams.pool(PROVIDER) is pool


async def test_certificate_that_cannot_be_used_is_never_left_out(upstreams: Upstreams) -> None:
    """Broken TLS files fail the hop; the call is never made without them."""
    provider = dataclasses.replace(PROVIDER, base_url="https://127.0.0.1:9/v1", tls=TlsFiles(PemFile("/ca", "none")))

    with pytest.raises(Misconfigured, match=r"^tls\.ca file /ca holds no certificates, or not whole ones$"):
        upstreams.pool(provider)


async def test_host_outside_the_allowed_ones_is_not_called(upstreams: Upstreams) -> None:
    """Policy has seen to it before; the client does not rely on that."""
    allowed = dataclasses.replace(PROVIDER, base_url="http://[::1]:9/v1", allow_hosts=("api.example", "[::1]"))

    assert upstreams.pool(allowed).provider is allowed
    with pytest.raises(Misconfigured, match=r"^its host is not in egress\.allow_hosts$"):
        upstreams.pool(dataclasses.replace(PROVIDER, allow_hosts=("api.example", "[::1]")))


def answer(exchange: Exchange) -> None:
    """A short answer."""
    exchange.answer(b"{}")


def provider_at(scripted: Scripted, *, key: str | None = "sk-upstream", base: str = "/v1") -> Provider:
    """A provider at a running server."""
    return Provider("first", "openai", scripted.url + base, None if key is None else Secret(key))


PATHS = [
    (Endpoint.CHAT, "/v1", "/v1/chat/completions"),
    (Endpoint.COMPLETIONS, "/v1/", "/v1/completions"),
    (Endpoint.EMBEDDINGS, "/openai/v1", "/openai/v1/embeddings"),
    (Endpoint.CHAT, "", "/chat/completions"),
]


@pytest.mark.parametrize(("endpoint", "base", "path"), PATHS)
async def test_request_is_sent_as_it_is(upstreams: Upstreams, endpoint: Endpoint, base: str, path: str) -> None:
    """The body keeps its bytes, and the headers are the provider's own and those that are forwarded, and no others."""
    with running_scripted(answer) as scripted:
        client = upstreams.pool(provider_at(scripted, base=base)).choose()
        response = await post(client, endpoint, b'{ "a" : 1 }', {"x-request-id": "req_1"})
        assert (response.status, await response.content.read()) == (200, b"{}")

    (exchange,) = scripted.exchanges
    assert (exchange.path, exchange.body) == (path, b'{ "a" : 1 }')
    assert exchange.headers == {
        "host": f"127.0.0.1:{scripted.port}",
        "content-type": "application/json",
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "stratmaster-router",
        "authorization": "Bearer sk-upstream",
        "x-request-id": "req_1",
        "content-length": "11",
    }


async def test_provider_without_a_key_is_sent_none(upstreams: Upstreams) -> None:
    """A local model server gets no credential at all."""
    with running_scripted(answer) as scripted:
        client = upstreams.pool(provider_at(scripted, key=None)).choose()
        await (await post(client, Endpoint.CHAT, b"{}", {})).content.read()

    assert "authorization" not in scripted.exchanges[0].headers


async def test_connection_is_used_again(upstreams: Upstreams) -> None:
    """Requests one after the other travel on one connection."""
    with running_scripted(answer) as scripted:
        for _ in range(3):
            client = upstreams.pool(provider_at(scripted)).choose()
            await (await post(client, Endpoint.CHAT, b"{}", {})).content.read()

        assert (len(scripted.exchanges), scripted.connections) == (3, 1)


async def test_replaced_client_finishes_what_it_began(upstreams: Upstreams) -> None:
    """A change of the policy does not cut a request that is under way under the former one."""

    def script(exchange: Exchange) -> None:
        exchange.answer(b"old" if exchange.headers["authorization"] == "Bearer sk-old" else b"new")

    with running_scripted(script) as scripted:
        old = upstreams.pool(provider_at(scripted, key="sk-old")).choose()
        first = await post(old, Endpoint.CHAT, b"{}", {})
        new = upstreams.pool(provider_at(scripted, key="sk-new")).choose()
        second = await post(new, Endpoint.CHAT, b"{}", {})

        assert (await first.content.read(), await second.content.read()) == (b"old", b"new")
        assert (await (await post(old, Endpoint.CHAT, b"{}", {})).content.read()) == b"old"
