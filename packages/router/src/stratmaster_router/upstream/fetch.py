"""A small document that the operator has named by its address, such as the keys of an issuer."""

import asyncio
import ssl

import aiohttp


class FetchFailed(OSError):
    """The document could not be had; the message says why, for the log."""


async def fetch(url: str, limit: int, within: float, *, trust_env: bool = False) -> bytes:
    """The body at `url`, of at most `limit` bytes and within so many seconds. Raises `FetchFailed`.

    Redirects are not followed: the address is the operator's word, and where it leads is not.
    """
    # Made anew each time, so that authorities which the system has come to know are known here; reading them blocks.
    tls = await asyncio.to_thread(ssl.create_default_context)
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls),
                timeout=aiohttp.ClientTimeout(total=within),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=trust_env,
            ) as session,
            session.get(url, headers={"Accept-Encoding": "identity"}, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise FetchFailed(f"it was answered with status {response.status}")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > limit:
                    raise FetchFailed(f"the document is larger than {limit} bytes")
            return bytes(body)
    except TimeoutError:
        raise FetchFailed(f"there was no answer within {within:g} s") from None
    except aiohttp.ClientError as error:
        raise FetchFailed(f"{type(error).__name__}: {error}") from None
