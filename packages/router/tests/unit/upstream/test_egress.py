"""Which addresses a provider's connections may lead to; names are answered for by the test, sockets are real."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from stratmaster_router.domain.routing import Endpoint, Provider
from stratmaster_router.upstream.client import Upstreams
from stratmaster_router.upstream.egress import Egress, EgressDenied
from support.scripted import Exchange, running_scripted


def provider(base_url: str, *allow_hosts: str, public_only: bool = False) -> Provider:
    """A provider at `base_url`."""
    return Provider("first", "openai", base_url, allow_hosts=allow_hosts, public_only=public_only)


def egress(base_url: str, *allow_hosts: str, public_only: bool = False) -> Egress:
    """The rule for the provider's connections."""
    return Egress(provider(base_url, *allow_hosts, public_only=public_only), base_url)


PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "240.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:100.64.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::1",
]
NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "239.1.1.1",
    "ff02::1",
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "64:ff9b::a9fe:a9fe",
]


@pytest.mark.parametrize("address", PUBLIC + PRIVATE + NEVER)
def test_address_is_permitted_by_who_named_the_host(address: str) -> None:
    """A host that the policy does not name must be public; one that it names may be private, but not link-local."""
    named, unnamed = egress("https://api.example/v1"), egress("https://api.example/v1", public_only=True)

    assert unnamed.permits(address) is (address in PUBLIC)
    assert named.permits(address) is (address not in NEVER)


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("169.254.169.254", "169.254.169.254"),
        ("::ffff:169.254.169.254", "169.254.169.254"),
        ("fd00:ec2::254", "[fd00:0ec2::254]"),
        ("0.0.0.0", "0.0.0.0"),
    ],
)
def test_address_that_the_policy_writes_is_permitted(address: str, literal: str) -> None:
    """As the host of an address or among the allowed ones; its neighbours are not."""
    for rule in (egress(f"http://{literal}:80/v1"), egress("http://api.example/v1", "api.example", literal)):
        assert rule.permits(address)
        assert not rule.permits("169.254.1.1")


@pytest.mark.parametrize("address", ["10.0.0.5", "169.254.169.254"])
def test_literal_address_that_the_policy_does_not_write_is_refused(address: str) -> None:
    """One that comes from a variable is judged as if a name had led to it."""
    assert not egress(f"http://{address}/v1", public_only=True).permits(address)


def test_denied_address_gets_no_socket() -> None:
    """The refusal comes before there is a socket; a permitted address gets one of its family."""
    rule = egress("http://api.example/v1", public_only=True)

    with pytest.raises(EgressDenied):
        rule.open_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.1", 80)))
    with rule.open_socket(
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("2606:4700::1", 80, 0, 0))
    ) as made:
        assert (made.family, made.type) == (socket.AF_INET6, socket.SOCK_STREAM)


class Names(AbstractResolver):
    """Answers for names as a test says; `asked` are those that it was asked for."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """All names lead to the same addresses."""
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def upstreams(names: Names, *, trust_env: bool = False) -> AsyncIterator[Upstreams]:
    """Clients whose names are answered for by `names`."""
    made = Upstreams(trust_env=trust_env, resolver=names)
    try:
        yield made
    finally:
        await made.close()


async def asked(names: Names, to: Provider, *, trust_env: bool = False) -> bytes:
    """The answer to one request."""
    async with upstreams(names, trust_env=trust_env) as clients:
        client = clients.pool(to).choose()
        response = await client.post(await client.connect(Endpoint.CHAT), Endpoint.CHAT, b"{}", {})
        return await response.content.read()


async def denied(names: Names, to: Provider) -> bool:
    """Whether a connection fails for the policy's sake."""
    async with upstreams(names) as clients:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await clients.pool(to).choose().connect(Endpoint.CHAT)
    return isinstance(caught.value.os_error, EgressDenied)


def answer(exchange: Exchange) -> None:
    """A short answer."""
    exchange.answer(b"{}")


async def test_named_host_may_lead_to_a_private_address() -> None:
    """A model server in one's own network, at an address that the policy writes."""
    with running_scripted(answer) as scripted:
        names = Names("127.0.0.1")
        assert await asked(names, provider(f"http://models.internal:{scripted.port}/v1")) == b"{}"

    assert names.asked == ["models.internal"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::"])
async def test_public_host_that_leads_to_a_private_address_is_not_connected_to(address: str) -> None:
    """A name that was made to lead into one's own network gets no connection at all."""
    with running_scripted(answer) as scripted:
        to = provider(f"http://api.example:{scripted.port}/v1", public_only=True)
        assert await denied(Names(address), to)
        assert await denied(Names(address, address), to)

    assert scripted.connections == 0


async def test_name_that_changes_its_address_is_judged_again() -> None:
    """Each connection is judged by the address that it is made to."""
    names = Names("127.0.0.1")
    with running_scripted(lambda exchange: exchange.answer(b"{}", "application/json", "Connection: close")) as scripted:
        async with upstreams(names) as clients:
            client = clients.pool(provider(f"http://models.internal:{scripted.port}/v1")).choose()
            response = await client.post(await client.connect(Endpoint.CHAT), Endpoint.CHAT, b"{}", {})
            await response.content.read()
            client._connector.clear_dns_cache()
            names.addresses = ("169.254.169.254",)
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await client.connect(Endpoint.CHAT)

    assert isinstance(caught.value.os_error, EgressDenied)


@pytest.mark.parametrize(
    "addresses",
    [
        ("169.254.169.254", "127.0.0.1"),
        ("127.0.0.1", "169.254.169.254"),
        ("fe80::1", "::ffff:169.254.169.254", "127.0.0.1"),
    ],
)
async def test_only_the_permitted_of_several_addresses_is_tried(addresses: tuple[str, ...]) -> None:
    """A name with a good and a bad address works, and the bad one is never tried."""
    with running_scripted(answer) as scripted:
        assert await asked(Names(*addresses), provider(f"http://models.internal:{scripted.port}/v1")) == b"{}"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]"])
async def test_literal_address_is_judged_though_nobody_is_asked_for_it(host: str) -> None:
    """The connector does not ask for an address that stands in the URL; the rule holds all the same."""
    names = Names("127.0.0.1")
    with running_scripted(answer) as scripted:
        assert await denied(names, provider(f"http://{host}:{scripted.port}/v1", public_only=True))

    assert (names.asked, scripted.connections) == ([], 0)


async def test_proxy_of_the_operator_may_be_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy the router connects to nobody else; the proxy finds the upstream's address."""
    with running_scripted(answer) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        names = Names("10.0.0.1")
        assert await asked(names, provider("http://api.example/v1", public_only=True), trust_env=True) == b"{}"

    assert [exchange.path for exchange in proxy.exchanges] == ["http://api.example/v1/chat/completions"]
    assert names.asked == []
