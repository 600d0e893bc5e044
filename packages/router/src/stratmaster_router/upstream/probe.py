"""Whether a server of ours is there."""

from typing import Literal

import aiohttp


async def probe(url: str, token: str, within: float) -> Literal["up", "down", "refused"]:
    """What `GET {url}/healthz` with `token` says within so many seconds; `refused` where the token is another."""
    timeout = aiohttp.ClientTimeout(total=within)
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(f"{url}/healthz", headers=headers, allow_redirects=False) as response,
        ):
            return "up" if response.status == 200 else "refused" if response.status == 401 else "down"
    except (aiohttp.ClientError, OSError, TimeoutError):
        return "down"
