"""Self-service keys in this process: held in memory, and read from the database again when they have changed.

While the database is away the keys in hand go on, for it must not look as if keys were wrong; but what is revoked
meanwhile cannot be seen, so they go on for an hour and no longer. Then, and where keys never could be read, what may be
a key is answered with 503, not with 401.
"""

import asyncio
import hmac
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import structlog
from msgspec import Struct

from stratmaster_router.auth.credentials import ID, LENGTH, Pepper, visible_id
from stratmaster_router.auth.store import DAY, KeySource, StoredKey
from stratmaster_router.domain.errors import ExpiredApiKey, KeyStoreUnavailable
from stratmaster_router.domain.routing import Principal

WARNING = 14 * DAY
"""For so long before its end answers say when a key expires."""

TRUSTED = 3_600_000_000
"""Microseconds for which keys go on that could not be read again."""

BATCH = 60_000_000
"""Microseconds between two times that last uses are written."""

_REFRESH = 0.5  # seconds
_ANSWER_WITHIN = 2.0

log = structlog.stdlib.get_logger("stratmaster_router")


class _Entry(Struct, frozen=True):
    """A key, with who it stands for before its last two weeks and in them."""

    id: str
    digest: bytes
    warn_at: int
    expires_at: int
    principal: Principal
    warned: Principal


class IssuedRing:
    """An immutable set of keys."""

    def __init__(
        self,
        keys: Iterable[StoredKey],
        pepper: Pepper | None,
        now: Callable[[], int],
        uses: dict[str, int],
        *,
        blind: bool = False,
    ) -> None:
        """`now` gives microseconds; `uses` takes when each key was last used. `blind`: there may be other keys."""
        self._keys = tuple(keys)
        self._entries = {key.id.encode(): _entry(key) for key in self._keys}
        self._pepper = pepper
        self._now = now
        self._uses = uses
        self.blind = blind

    def __len__(self) -> int:
        """The number of keys, those that have expired included."""
        return len(self._keys)

    def owner(self, key: bytes) -> Principal | None:
        """Whose key this is; None for a key that opens nothing.

        Raises `ExpiredApiKey`, and `KeyStoreUnavailable` for a key that cannot be judged.
        """
        entry = self._entries.get(key[ID]) if len(key) == LENGTH else None
        if entry is None or self._pepper is None or not hmac.compare_digest(self._pepper.digest(key), entry.digest):
            if self.blind and visible_id(key) is not None:
                raise KeyStoreUnavailable("API keys cannot be checked just now. Try again.")
            return None
        now = self._now()
        if now < entry.warn_at:
            principal = entry.principal
        elif now < entry.expires_at:
            principal = entry.warned
        else:
            raise ExpiredApiKey("The API key has expired. Ask the team that runs the router for another.")
        self._uses[entry.id] = now
        return principal

    def ages(self) -> dict[tuple[str, str], float]:
        """How old each key is that opens something, in seconds, by tenant and id."""
        now = self._now()
        return {(key.tenant, key.id): (now - key.created_at) / 1_000_000 for key in self._keys if now < key.expires_at}


def _entry(key: StoredKey) -> _Entry:
    credential = f"key:{key.id}"
    expires = datetime.fromtimestamp(key.expires_at // 1_000_000, UTC)
    return _Entry(
        key.id,
        key.digest,
        key.expires_at - WARNING,
        key.expires_at,
        Principal(key.tenant, credential),
        Principal(key.tenant, credential, f"{expires:%Y-%m-%dT%H:%M:%SZ}"),
    )


class IssuedKeys:
    """Follows the database. `ring` is the current set of keys; without a pepper it stays empty."""

    def __init__(self, store: KeySource, pepper: Pepper | None, now: Callable[[], int]) -> None:
        """`now` gives the database's time in microseconds, as far as it is known here."""
        self._store = store
        self._pepper = pepper
        self._now = now
        self._uses: dict[str, int] = {}
        self._seen: int | None = None
        self._answered = self._written = now()
        self._down = False
        self.ring = self._ring((), blind=pepper is not None)

    async def run(self) -> None:
        """Read the keys again and again, and write their last uses from time to time, until cancelled."""
        while self._pepper is not None:
            await asyncio.sleep(_REFRESH)
            await self.refresh()
            if self._now() - self._written >= BATCH:
                await self.write_uses()

    async def refresh(self) -> None:
        """Read the keys if they have changed; where that fails, say so once and go on with those in hand."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await self._read()
        except KeyStoreUnavailable as error:
            self._outage(error.reason)
        except TimeoutError:
            self._outage(f"no answer within {_ANSWER_WITHIN:g} s")
        except Exception:  # whatever it is, the loop must go on: without it a revoked key would live
            log.exception("self-service keys not read")
            self._outage("see above")
        else:
            if self._down:
                log.warning("self-service keys can be read again", keys=len(self.ring))
            self._down = False
            self._answered = self._now()

    async def _read(self) -> None:
        stored = await self._store.load(self._seen)
        if stored is None:
            return
        self._seen = stored.version
        if self._pepper is None:
            if stored.keys:
                log.warning(
                    "the database has self-service keys, which open nothing: ROUTER_KEY_PEPPER is not set",
                    keys=len(stored.keys),
                )
        elif stored.check not in (None, self._pepper.check):
            self.ring = self._ring((), blind=True)
            log.error(
                "ROUTER_KEY_PEPPER is not the pepper that the self-service keys of this database were made with: "
                "they are answered with 503 until it is",
                keys=len(stored.keys),
            )
        else:
            self.ring = self._ring(stored.keys)
            log.info("self-service keys in force", keys=len(stored.keys))

    def _outage(self, reason: str) -> None:
        if self._pepper is None:
            return
        if not self._down:
            self._down = True
            log.error(
                "self-service keys cannot be read: those in hand go on for an hour, and what is revoked is not seen",
                reason=reason,
            )
        if self._now() - self._answered > TRUSTED and not self.ring.blind:
            # What comes is read anew, whatever its version.
            self.ring, self._seen = self._ring((), blind=True), None
            log.error("self-service keys could not be read for an hour: they are answered with 503", reason=reason)

    async def write_uses(self) -> None:
        """Write when keys were last used; what cannot be written is kept for the next time."""
        if not self._uses:
            return
        self._written = self._now()
        taken = dict(self._uses)
        self._uses.clear()  # and not a new one, for the ring has this one
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await self._store.note_uses(taken)
        except Exception as error:  # whatever it is, keys must go on being read
            if not isinstance(error, KeyStoreUnavailable | TimeoutError):
                log.error("last uses of keys not written", exc_info=error)
            for key_id, at in taken.items():
                self._uses.setdefault(key_id, at)

    def _ring(self, keys: Iterable[StoredKey], *, blind: bool = False) -> IssuedRing:
        return IssuedRing(keys, self._pepper, self._now, self._uses, blind=blind)
