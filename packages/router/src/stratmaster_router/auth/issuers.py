"""The issuers of assertions and their keys, kept up to date: from files as the policy reads them, or fetched.

Keys at an address are fetched at the start, every minute, and when an assertion names a key that is not known; but
never more often than once in five seconds, whatever anybody sends. The last good set stays while an issuer is down.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import structlog

from stratmaster_router.auth.assertions import Assertions
from stratmaster_router.auth.jwks import JwksInvalid, KeySet, parse_jwks
from stratmaster_router.domain.service_accounts import Issuer, ServiceAccounts

EVERY = 60.0  # seconds from one fetch to the next
FLOOR = 5.0  # the same for a key that is not known, and after a failure
PATIENCE = 2.0  # seconds that a request with such a key waits for the fetch

log = structlog.stdlib.get_logger("stratmaster_router")

Fetch = Callable[[str], Awaitable[bytes]]
"""Gets the document at an https address, of a bounded size and in a bounded time. Raises OSError."""


class _Source:
    """Where keys come from, and the last good set. `begun` is when the last fetch was, on the monotonic clock."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.keys = KeySet()
        self.begun = -math.inf
        self.wanted = True  # before its time
        self.failing = False
        self.task: asyncio.Task[None] | None = None


class Issuers:
    """All issuers of the policy in force. `assertions` judges by what is known now: one reference, replaced whole."""

    def __init__(
        self, fetch: Fetch, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`now` is in seconds since 1970."""
        self._fetch = fetch
        self._now = now
        self._clock = clock
        self._policy = ServiceAccounts()
        self._sources: dict[str, _Source] = {}
        self._renew()

    def follow(self, policy: ServiceAccounts) -> None:
        """Take up what the policy now says. Keys of a file or an address that it named before stay known."""
        former = self._sources
        self._policy = policy
        self._sources = {place: former.get(place) or _Source() for place in map(_place, policy.issuers.values())}
        for place, source in former.items():
            if place not in self._sources and source.task is not None:
                source.task.cancel()
        for issuer in policy.issuers.values():
            if issuer.text is not None:
                self._take(_place(issuer), issuer.text.encode())
        self._renew()

    def refresh(self) -> None:
        """Begin to fetch what is due. To be called about twice a second; it does not wait."""
        now = self._clock()
        for url in filter(None, (issuer.url for issuer in self._policy.issuers.values())):
            source = self._sources[url]
            if source.task is None and now - source.begun >= (FLOOR if source.wanted else EVERY):
                self._begin(url, source)

    async def look_again(self, name: str) -> bool:
        """Have the keys of the issuer `name` fetched, because one is wanted that is not known; waits `PATIENCE`.

        False where that is of no use now: they come from a file, or were fetched just before.
        """
        issuer = self._policy.issuers.get(name)
        if issuer is None or issuer.url is None:
            return False
        source = self._sources[issuer.url]
        if source.task is None:
            if self._clock() - source.begun < FLOOR:
                source.wanted = True
                return False
            self._begin(issuer.url, source)
        assert source.task is not None
        await asyncio.wait({source.task}, timeout=PATIENCE)
        return True

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [source.task for source in self._sources.values() if source.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, url: str, source: _Source) -> None:
        source.begun = self._clock()
        source.wanted = False
        source.task = asyncio.create_task(self._update(url, source))

    async def _update(self, url: str, source: _Source) -> None:
        try:
            content = await self._fetch(url)
        except OSError as error:
            source.wanted = True
            if not source.failing:
                log.warning("keys of an issuer not fetched; the last ones stay", jwks=url, reason=str(error))
            source.failing = True
        else:
            source.failing = False
            if self._take(url, content):
                self._renew()
        finally:
            source.task = None

    def _take(self, place: str, content: bytes) -> bool:
        """Take up what `place` holds; whether there are other keys now."""
        source = self._sources[place]
        if content == source.content:
            return False
        source.content = content
        try:
            source.keys = parse_jwks(content)
        except JwksInvalid as error:
            log.error("keys of an issuer not usable; the last ones stay", jwks=place, reason=f"the document {error}")
            return False
        log.info("keys of an issuer", jwks=place, keys=len(source.keys.keys), problems=source.keys.problems)
        return True

    def _renew(self) -> None:
        keys = {name: self._sources[_place(issuer)].keys for name, issuer in self._policy.issuers.items()}
        self.assertions = Assertions(self._policy, keys, self._now)


def _place(issuer: Issuer) -> str:
    return issuer.url or issuer.file or ""
