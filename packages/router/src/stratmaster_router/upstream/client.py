"""The HTTP client: aiohttp's connections and parser, without its session.

aiohttp's connector does what needs trust: pooling, DNS, TLS, cancellation; its compiled parser reads responses. Its
session, request and response objects, which cost more than both, are made once for each endpoint and not for each
request (docs/decisions/0008). This builds on less public parts of aiohttp, so its version is pinned.
"""

import asyncio
import contextlib
import functools
import random
import ssl
from collections.abc import Iterator, Mapping
from time import monotonic

import aiohttp
from aiohttp import ClientRequest, ClientTimeout, StreamReader, TCPConnector
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import RequestInfo
from aiohttp.connector import Connection
from aiohttp.helpers import _EXC_SENTINEL, TimerNoop, get_env_proxy_for_url
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct
from multidict import CIMultiDictProxy
from yarl import URL

from stratmaster_router.domain.routing import Endpoint, Provider, ProviderEndpoint, Secret
from stratmaster_router.upstream.egress import Egress
from stratmaster_router.upstream.health import Health
from stratmaster_router.upstream.report import Report
from stratmaster_router.upstream.tls import TlsUnusable, upstream_context

# A connection that the upstream has closed is noticed before it is used; this only bounds how long idle ones are kept.
_KEEPALIVE = 50.0
_READ_BUFFER = 256 * 1024
_NO_TIMER = TimerNoop()


class Misconfigured(Exception):
    """A provider that cannot be called as it is configured; the message is for the operator."""


class UpstreamResponse:
    """A response whose head has come. Its connection is used again once `content` was read to its end."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self, connection: Connection, status: int, headers: CIMultiDictProxy[str], content: StreamReader
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._connection = connection
        content.on_eof(functools.partial(_finish, connection))

    def close(self) -> None:
        """Give the response up: dropping the connection is what cancels the request at the upstream."""
        _drop(self._connection)


def _finish(connection: Connection) -> None:
    """The response has been read: let the connection be used again."""
    transport = connection.transport
    if transport is not None and transport.get_write_buffer_size():
        # Answered before it had read the request: the next one must not queue behind the rest.
        _drop(connection)
    else:
        connection.release()


class _Handler(ResponseHandler):
    """aiohttp's protocol, whose parser forgets to tell a body's reader that the rest of it cannot be read."""

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _EXC_SENTINEL) -> None:
        payload = self._payload
        super().set_exception(exc, exc_cause)
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError("The body cannot be read."))


def _drop(connection: Connection) -> None:
    """Close at once; an orderly close would first send what is left of the request."""
    protocol = connection.protocol
    if protocol is not None:
        protocol.abort()
    connection.close()


class UpstreamClient:
    """Sends requests to one endpoint of a provider."""

    def __init__(
        self,
        provider: Provider,
        to: ProviderEndpoint,
        place: str,
        *,
        trust_env: bool,
        resolver: AbstractResolver | None,
    ) -> None:
        """`place` is where the policy has it. Raises `Misconfigured`; needs a running loop."""
        self.place = place
        self.parked_for = ""
        self._weight = to.weight
        self._parked_until = 0.0
        base = to.base_url.rstrip("/")
        context: ssl.SSLContext | bool = True
        if base.startswith("https:"):
            try:
                context = upstream_context(provider.tls)
            except TlsUnusable as error:
                raise Misconfigured(str(error)) from error
        egress = Egress(provider, base)
        if not egress.allows_host:
            raise Misconfigured("its host is not in egress.allow_hosts")
        self._requests = {
            endpoint: _request(URL(f"{base}/{endpoint.value}"), to.api_key, trust_env=trust_env)
            for endpoint in Endpoint
        }
        # A proxy is the operator's own, wherever it is, and finds the address of the upstream itself.
        proxied = any(request.proxy for request in self._requests.values())
        self._connector = TCPConnector(
            limit=0,
            keepalive_timeout=_KEEPALIVE,
            ssl=context,
            resolver=resolver,
            socket_factory=None if proxied else egress.open_socket,
        )
        # The factory is declared as making the base class, and a partial is not covariant.
        self._connector._factory = functools.partial(  # type: ignore[assignment]
            _Handler, loop=asyncio.get_running_loop()
        )
        # Only a new connection is timed here; the other phases are the watchdog's, which costs less.
        self._timeout = ClientTimeout(total=None, sock_connect=provider.timeouts.connect)
        self._heads = {endpoint: _head(request) for endpoint, request in self._requests.items()}

    @property
    def load(self) -> float:
        """Connections in use, by weight."""
        return len(self._connector._acquired) / self._weight

    def park(self, seconds: float, code: str) -> None:
        """Leave this endpoint alone for so long, because of `code`, where the provider has another."""
        self._parked_until = monotonic() + seconds
        self.parked_for = code

    def parked(self, now: float) -> float:
        """Seconds for which it is still left alone at `now`; 0 where it is not."""
        left = self._parked_until - now
        return left if left > 0 else 0.0

    async def connect(self, endpoint: Endpoint) -> Connection:
        """A connection for one request. Raises aiohttp.ClientError, OSError, TimeoutError."""
        request = self._requests[endpoint]
        while True:
            try:
                connection = await self._connector.connect(request, [], self._timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError from error
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                return connection
            # Something has come while it was idle: it would be taken for the answer.
            connection.close()

    async def post(
        self, connection: Connection, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]
    ) -> UpstreamResponse:
        """Send on `connection` and wait for the response's head; `headers` must be sound. Redirects are not followed.

        Raises aiohttp.ClientError, OSError, TimeoutError.
        """
        request = self._requests[endpoint]
        try:
            protocol = connection.protocol
            assert protocol is not None
            transport = protocol.transport
            if transport is None:
                raise aiohttp.ServerDisconnectedError
            protocol.set_response_params(
                timer=_NO_TIMER, read_until_eof=True, auto_decompress=False, read_bufsize=_READ_BUFFER
            )
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            head = self._heads[endpoint] + f"{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
            transport.writelines((head, body))
            while True:
                message, content = await protocol.read()
                if message.code >= 200 or message.code == 101:
                    return UpstreamResponse(connection, message.code, message.headers, content)
        except HttpProcessingError as error:
            _drop(connection)
            raise aiohttp.ClientResponseError(_info(request), (), status=error.code, message=error.message) from error
        except BaseException:
            _drop(connection)
            raise

    async def close(self) -> None:
        """Close every connection."""
        await self._connector.close()


def _request(url: URL, api_key: Secret | None, *, trust_env: bool) -> ClientRequest:
    """What the connector needs to know of all requests to `url`: where to connect, and through which proxy."""
    headers = {
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": "stratmaster-router",
    }
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key.value}"
    proxy, proxy_auth = None, None
    if trust_env:
        with contextlib.suppress(LookupError):  # no proxy for this address
            proxy, proxy_auth = get_env_proxy_for_url(url)
    request = ClientRequest(
        "POST", url, headers=headers, proxy=proxy, proxy_auth=proxy_auth, loop=asyncio.get_running_loop()
    )
    request.headers.popall("Content-Length", None)
    if proxy_auth is not None and not request.is_ssl():
        request.headers["Proxy-Authorization"] = proxy_auth.encode()
    return request


def _head(request: ClientRequest) -> bytes:
    """The part of a request's head that is always the same."""
    target = str(request.url) if request.proxy and not request.is_ssl() else request.url.raw_path_qs
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items()), ""]
    return "\r\n".join(lines).encode("latin-1")


def _info(request: ClientRequest) -> RequestInfo:
    return RequestInfo(request.url, request.method, CIMultiDictProxy(request.headers), request.original_url)


class ParkedEndpoint(Struct, frozen=True):
    """An endpoint that is left alone for `wait` seconds more, since it failed with `code`; `place` is in the policy."""

    place: str
    code: str
    wait: float


class Pool:
    """The clients of one provider, one for each of its endpoints that can be called."""

    def __init__(self, provider: Provider, *, trust_env: bool, resolver: AbstractResolver | None) -> None:
        """Raises `Misconfigured`."""
        if provider.misconfigured is not None:
            raise Misconfigured(provider.misconfigured)
        self.provider = provider
        usable = {
            f"providers.{provider.name}.endpoints[{index}]" if provider.endpoints else f"providers.{provider.name}": to
            for index, to in enumerate(provider.reached_at)
            if to.misconfigured is None
        }
        self.clients = [
            UpstreamClient(provider, to, place, trust_env=trust_env, resolver=resolver) for place, to in usable.items()
        ]
        self._weights = [to.weight for to in usable.values()]

    def choose(self) -> UpstreamClient:
        """The less loaded of two that are chosen at random by weight, from those that are not parked."""
        clients = self.clients
        if len(clients) == 1:
            return clients[0]
        now = monotonic()
        weights = [0 if c.parked(now) else w for c, w in zip(clients, self._weights, strict=True)]
        one, other = random.choices(clients, weights if any(weights) else self._weights, k=2)  # noqa: S311  # load
        return one if one.load <= other.load else other

    def spare(self, client: UpstreamClient) -> bool:
        """Whether there is another one that is not parked."""
        now = monotonic()
        return any(other is not client and not other.parked(now) for other in self.clients)

    async def close(self) -> None:
        """Close every connection."""
        for client in self.clients:
            await client.close()


class Upstreams:
    """The clients of all providers, made when first needed and kept while the policy keeps their configuration.

    `resolver` finds the addresses of hosts; None for the system's.
    """

    def __init__(self, *, trust_env: bool = False, resolver: AbstractResolver | None = None) -> None:
        self.health = Health()
        self.report = Report()
        self._trust_env = trust_env
        self._resolver = resolver
        self._pools: dict[str, Pool] = {}
        self._retired: set[Pool] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def pool(self, provider: Provider) -> Pool:
        """The clients of `provider`. Raises `Misconfigured`."""
        pool = self._pools.get(provider.name)
        if pool is not None:
            if pool.provider is provider:
                return pool
            if pool.provider == provider:
                pool.provider = provider
                return pool
        for retired in self._retired:
            if retired.provider is provider:
                return retired  # a request of the former policy goes on where it began
        fresh = Pool(provider, trust_env=self._trust_env, resolver=self._resolver)
        if pool is not None:
            self._retire(pool)
        self._pools[provider.name] = fresh
        return fresh

    def parked(self) -> Iterator[ParkedEndpoint]:
        """Every endpoint that is left alone although its provider has others."""
        now = monotonic()
        for pool in self._pools.values():
            for client in pool.clients if pool.provider.endpoints else ():
                if client.parked(now):
                    yield ParkedEndpoint(client.place, client.parked_for, client.parked(now))

    def _retire(self, pool: Pool) -> None:
        """Close `pool` when no request of the former policy can be under way on it any more."""
        loop = asyncio.get_running_loop()
        self._retired.add(pool)

        def close() -> None:
            self._retired.discard(pool)
            task = loop.create_task(pool.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        loop.call_later(pool.provider.timeouts.total, close)

    async def close(self) -> None:
        """Close all clients."""
        for pool in (*self._pools.values(), *self._retired):
            await pool.close()
