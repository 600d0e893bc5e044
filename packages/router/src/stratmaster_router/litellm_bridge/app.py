"""The bridge's ASGI application: `POST /{provider}/v1/{endpoint}` on the OpenAI wire, and `GET /healthz`."""

import asyncio
import contextlib
import gc
import hmac
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import structlog

from stratmaster_router.domain.routing import Endpoint, Provider
from stratmaster_router.litellm_bridge.calls import call
from stratmaster_router.litellm_bridge.errors import MISCONFIGURED, NOT_FOUND, UNAUTHORISED, UNKNOWN, Failure, failure
from stratmaster_router.policy.source import Failed, PolicySource, Reloaded

_REFRESH = 0.5  # seconds; as in the router

_ENDPOINTS = {endpoint.value: endpoint for endpoint in Endpoint}

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.stdlib.get_logger("stratmaster_router.litellm_bridge")


class BridgeApp:
    """Serves the providers of `policy` to whoever has `token`. Ends with the process `parent`, where one is given."""

    def __init__(self, policy: PolicySource, token: str, parent: int | None) -> None:
        self._policy = policy
        self._authorization = f"Bearer {token}".encode()
        self._parent = parent

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["path"] == "/healthz" and self._authorized(scope) is not False:
            health = {"status": "ok", "policy": self._policy.snapshot.hash}
            await _send_whole(send, 200, msgspec.json.encode(health))
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        found = self._find(scope)
        if isinstance(found, Failure):
            await _send_failure(send, found)
            return
        body = await _body(receive)
        # The router closes the connection where its client has gone away: the call must end at once, for it costs.
        answer = asyncio.create_task(_answer(*found, body, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            answer.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    def _authorized(self, scope: MutableMapping[str, Any]) -> bool | None:
        """Whether the request has the token; None where it has none at all."""
        given = dict(scope["headers"]).get(b"authorization")
        return None if given is None else hmac.compare_digest(given, self._authorization)

    def _find(self, scope: MutableMapping[str, Any]) -> tuple[Endpoint, Provider] | Failure:
        """What a request is for, or why it gets no answer."""
        if not self._authorized(scope):
            return UNAUTHORISED
        name, _, rest = scope["path"].removeprefix("/").partition("/v1/")
        endpoint = _ENDPOINTS.get(rest)
        if endpoint is None or scope["method"] != "POST":
            return NOT_FOUND
        provider = self._policy.snapshot.providers.get(name)
        if provider is None:
            return UNKNOWN
        return MISCONFIGURED if provider.misconfigured else (endpoint, provider)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._announce()
        # LiteLLM's hundred thousands of objects stay: walking them again and again would hold requests up.
        gc.collect()
        gc.freeze()
        refresh = asyncio.create_task(self._refresh())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        refresh.cancel()
        await asyncio.gather(refresh, return_exceptions=True)
        await send({"type": "lifespan.shutdown.complete"})

    def _announce(self) -> None:
        snapshot = self._policy.snapshot
        log.info("bridge serves", policy=snapshot.hash, providers=list(snapshot.providers))
        for warning in snapshot.warnings:
            log.warning("policy warning", warning=warning)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            if self._parent is not None and os.getppid() != self._parent:
                log.error("the router is gone, so its bridge ends")
                signal.raise_signal(signal.SIGTERM)
            with contextlib.suppress(OSError):
                result = await asyncio.to_thread(self._policy.refresh)
                if isinstance(result, Reloaded):
                    self._announce()
                elif isinstance(result, Failed):
                    log.error("policy change refused; the last good policy stays in force")


async def _answer(endpoint: Endpoint, provider: Provider, body: bytes, send: Send) -> None:
    try:
        answer = await call(endpoint, provider, body)
    except Exception as error:  # noqa: BLE001  # the table of errors has a row for everything
        refusal = failure(error)
        # Only the class: the text of an exception can hold the prompt.
        log.info("call failed", provider=provider.name, error=type(error).__name__, status=refusal.status)
        await _send_failure(send, refusal)
        return
    if isinstance(answer, bytes):
        await _send_whole(send, 200, answer)
    else:
        await _send_events(send, answer)


async def _body(receive: Receive) -> bytes:
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_failure(send: Send, refusal: Failure) -> None:
    await _send_whole(send, refusal.status, refusal.body(), refusal.headers())


async def _send_whole(
    send: Send, status: int, body: bytes, more_headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(more_headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_events(send: Send, events: AsyncGenerator[bytes]) -> None:
    async with contextlib.aclosing(events) as closing:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        async for event in closing:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
