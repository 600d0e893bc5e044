"""Where self-service keys live; `storage` implements it. Times are microseconds since 1970 by the database's clock."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from stratmaster_router.domain.routing import Secret

DAY = 86_400_000_000
"""Microseconds."""

LIFETIME = 90 * DAY
"""Of a key for which nothing else is said: the mission's quarter."""

GRACE = DAY
"""For which a rotated key still opens where nothing else is said."""

MOST = 3_650 * DAY
"""The longest that a key may live."""


class KeyState(StrEnum):
    """Whether a key opens anything."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ApiKey(Struct, frozen=True):
    """A key as administrators see it; `rotated_from` is the id of the key in whose place it came."""

    id: str
    tenant: str
    note: str
    state: KeyState
    created_at: int
    expires_at: int
    revoked_at: int | None
    rotated_from: str | None
    last_used_at: int | None


class NewKey(Struct, frozen=True):
    """A key that was just made. Its text is nowhere else."""

    record: ApiKey
    text: Secret


class StoredKey(Struct, frozen=True):
    """What a router needs to know of a key."""

    id: str
    tenant: str
    digest: bytes
    created_at: int
    expires_at: int


class StoredKeys(Struct, frozen=True):
    """All keys that are not revoked, those that expired long ago excepted.

    `version` is another number after each change; `check` is that of the pepper they were made with.
    """

    version: int
    check: bytes | None
    keys: tuple[StoredKey, ...]


class KeySource(Protocol):
    """What a router reads of the keys, and writes. Each method raises `KeyStoreUnavailable`."""

    async def load(self, seen: int | None) -> StoredKeys | None:
        """The keys; None where the version is the one that was `seen`."""
        ...

    async def note_uses(self, uses: Mapping[str, int]) -> None:
        """Keep when keys were last used, by their ids."""
        ...


class KeyStore(Protocol):
    """What administrators do with keys. Each method raises `KeyStoreUnavailable`; `tenant` None means any."""

    async def all(self, tenant: str | None) -> list[ApiKey]:
        """Every key there ever was, in the order of tenants and of time."""
        ...

    async def create(self, tenant: str, lifetime: int, note: str) -> NewKey:
        """Make a key. Raises `KeysDisabled`."""
        ...

    async def rotate(self, key_id: str, tenant: str | None, grace: int, lifetime: int) -> NewKey:
        """Make a key in the place of another, which opens for `grace` more.

        Raises `NotFound`, `KeyNotLive`, `KeysDisabled`.
        """
        ...

    async def revoke(self, key_id: str, tenant: str | None) -> ApiKey:
        """Let a key open nothing any more, for good. Raises `NotFound`."""
        ...

    async def expire(self, key_id: str, tenant: str | None, *, after: int = 0, at: int | None = None) -> ApiKey:
        """Let a key expire at a time, or `after` so long from now. Raises `NotFound`, `KeyNotLive`."""
        ...
