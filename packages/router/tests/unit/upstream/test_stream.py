"""A streaming answer while nothing arrives: keep-alive comments, then the end. Short times stand for the real ones."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from stratmaster_router.domain.errors import StreamBroken
from stratmaster_router.domain.routing import Endpoint, Provider
from stratmaster_router.upstream.client import Upstreams
from stratmaster_router.upstream.stream import UpstreamStream
from stratmaster_router.upstream.watch import Watchdog
from stratmaster_router.wire.answer import StreamReader
from support.scripted import Exchange, running_scripted, stream_head

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
KEEP_ALIVE = b": keep-alive\n\n"


@asynccontextmanager
async def stream_of(url: str, *, idle: float, keep_alive: float) -> AsyncIterator[UpstreamStream]:
    """The stream that the provider at `url` answers with, its first event held."""
    upstreams = Upstreams()
    watch = Watchdog().watch()
    client = upstreams.pool(Provider("first", "openai", f"{url}/v1")).choose()
    response = await client.post(await client.connect(Endpoint.CHAT), Endpoint.CHAT, b"{}", {})
    stream = UpstreamStream(response, watch, idle, StreamReader(show_usage=False), keep_alive=keep_alive)
    try:
        await stream.hold_first_event()
        yield stream
    finally:
        stream.close()
        watch.close()
        await upstreams.close()


def one_event_then_silence(exchange: Exchange) -> None:
    """A provider that sends an event and then nothing, until it is let go."""
    exchange.send(stream_head())
    exchange.chunk(EVENT)
    exchange.wait_closed()


async def test_silence_is_filled_with_keep_alive_comments_and_ends_at_the_idle_time() -> None:
    """Three comments fit into four times the interval; then the stream stood still for too long."""
    with running_scripted(one_event_then_silence) as scripted:
        async with stream_of(scripted.url, idle=0.25, keep_alive=0.0625) as stream:
            received = [await stream.next() for _ in range(4)]

            with pytest.raises(StreamBroken) as broken:
                await stream.next()

            assert await stream.next() == b""
    assert received == [EVENT, KEEP_ALIVE, KEEP_ALIVE, KEEP_ALIVE]
    assert broken.value.code == "upstream_stream_stalled"


async def test_silence_shorter_than_the_interval_has_no_comment() -> None:
    """With an idle time below the interval the stream ends without a comment."""
    with running_scripted(one_event_then_silence) as scripted:
        async with stream_of(scripted.url, idle=0.125, keep_alive=15.0) as stream:
            assert await stream.next() == EVENT
            with pytest.raises(StreamBroken):
                await stream.next()
