import asyncio
from pathlib import Path

import aiohttp
import pytest
from support.numbered import numbered_upstream, stream_of
from support.processes import ACME, serving, wait_until

POLICY = """
providers:
  numbered: {{base_url: "http://127.0.0.1:{port}/v1"}}
tenants:
  acme:
    providers:
      numbered: {{models: {{reasoning: {{default: gpt-4.1}}}}}}
"""
STREAMS = 300


async def _read(session: aiohttp.ClientSession, url: str, number: int) -> tuple[int, bytes]:
    body = {
        "model": "reasoning",
        "stream": True,
        "user": str(number),
        "messages": [{"role": "user", "content": "count"}],
        # Every other client asks for the usage itself and must see it; the others must not.
        **({"stream_options": {"include_usage": True}} if number % 2 else {}),
    }
    async with session.post(url, json=body, headers=ACME) as response:
        return response.status, await response.read()


@pytest.mark.parametrize("workers", [1, 2])
async def test_many_streams_at_once_pass_byte_for_byte(workers: int, tmp_path: Path) -> None:
    """300 streams of 50 events side by side are each, to the byte, what the upstream sent; and each is metered."""
    with (
        numbered_upstream() as port,
        serving(tmp_path, POLICY.format(port=port), workers=workers) as served,
    ):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
            url = f"{served.url}/v1/chat/completions"
            answers = await asyncio.gather(*(_read(session, url, number) for number in range(STREAMS)))

        assert [status for status, _ in answers] == [200] * STREAMS
        wrong = [n for n, (_, body) in enumerate(answers) if body != stream_of(n, usage=bool(n % 2))]
        assert wrong == []

        lane = ("acme", "numbered", "gpt-4.1")
        counted = "litellm_requests_total"
        await asyncio.to_thread(
            wait_until, lambda: served.metrics().by_labels(counted) == {lane: STREAMS}, "all are counted"
        )
        scrape = await asyncio.to_thread(served.metrics)
        assert scrape.by_labels("litellm_input_tokens_total") == {lane: sum(range(STREAMS))}
        assert scrape.by_labels("litellm_output_tokens_total") == {lane: 50 * STREAMS}
