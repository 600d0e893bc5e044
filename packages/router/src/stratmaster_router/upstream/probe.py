"""Whether a server of ours is there."""

import aiohttp


async def is_up(url: str, within: float) -> bool:
    """Whether `GET {url}/healthz` is answered with 200 within so many seconds."""
    timeout = aiohttp.ClientTimeout(total=within)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(f"{url}/healthz", allow_redirects=False) as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
