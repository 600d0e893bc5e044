"""The HTTP client: one tuned aiohttp session for each provider. Source of the tuning: design.md, "Chosen libraries"."""

import asyncio
import io
import ssl
from collections.abc import Mapping

from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from yarl import URL

from stratmaster_router.domain.routing import Endpoint, Provider
from stratmaster_router.upstream.tls import upstream_context

# Upstreams keep idle connections for 60 s and longer; a pool that gives up first never sends into a closing one.
_KEEPALIVE = 50.0
_READ_BUFFER = 256 * 1024
_WRITTEN_AT_ONCE = 1024 * 1024


class Misconfigured(Exception):
    """A provider that cannot be called as it is configured; the message is for the operator."""


class UpstreamClient:
    """Sends requests to one provider. `provider` is the configuration it was made for."""

    def __init__(self, provider: Provider, *, trust_env: bool) -> None:
        """Raises `Misconfigured`; needs a running loop."""
        if provider.misconfigured is not None:
            raise Misconfigured(provider.misconfigured)
        self.provider = provider
        base = provider.base_url.rstrip("/")
        self._urls = {endpoint: URL(f"{base}/{endpoint.value}") for endpoint in Endpoint}
        headers = {
            "Content-Type": "application/json",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": "stratmaster-router",
        }
        if provider.api_key is not None:
            headers["Authorization"] = f"Bearer {provider.api_key.value}"
        context: ssl.SSLContext | bool = True
        if base.startswith("https:"):
            try:
                context = upstream_context(provider.tls)
            except (OSError, ssl.SSLError) as error:
                raise Misconfigured(f"its TLS files cannot be used: {error}") from error
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE, ssl=context),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            trust_env=trust_env,
            headers=headers,
            read_bufsize=_READ_BUFFER,
            # Only a new connection is timed here; the other phases are the watchdog's, which costs less.
            timeout=ClientTimeout(total=None, sock_connect=provider.timeouts.connect),
        )

    async def post(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> ClientResponse:
        """Send and wait for the response's head. Raises aiohttp.ClientError, OSError, TimeoutError."""
        # aiohttp warns of large bytes, which it would write in one piece.
        data = body if len(body) <= _WRITTEN_AT_ONCE else io.BytesIO(body)
        return await self._session.post(self._urls[endpoint], data=data, headers=headers, allow_redirects=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


class Upstreams:
    """The clients of all providers, made when first needed and kept while the policy keeps their configuration."""

    def __init__(self, *, trust_env: bool = False) -> None:
        self._trust_env = trust_env
        self._clients: dict[str, UpstreamClient] = {}
        self._retired: set[UpstreamClient] = set()

    def client(self, provider: Provider) -> UpstreamClient:
        """The client for `provider`. Raises `Misconfigured`."""
        client = self._clients.get(provider.name)
        if client is not None:
            if client.provider is provider:
                return client
            if client.provider == provider:
                client.provider = provider
                return client
        fresh = UpstreamClient(provider, trust_env=self._trust_env)
        if client is not None:
            self._retire(client)
        self._clients[provider.name] = fresh
        return fresh

    def _retire(self, client: UpstreamClient) -> None:
        """Close `client` when no request of the former policy can be under way on it any more."""
        loop = asyncio.get_running_loop()
        self._retired.add(client)

        def close() -> None:
            self._retired.discard(client)
            self._closing = loop.create_task(client.close())

        loop.call_later(client.provider.timeouts.total, close)

    async def close(self) -> None:
        """Close all clients."""
        for client in (*self._clients.values(), *self._retired):
            await client.close()
