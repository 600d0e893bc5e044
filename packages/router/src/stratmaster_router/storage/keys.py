"""Self-service keys in the database: `auth.store.KeySource` and `KeyStore` over SQLAlchemy.

Of a key only a hash is stored. Changes of keys exclude each other by the one row of `key_state`; only last uses are
written beside that.
"""

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, func, insert, or_, select, update

from stratmaster_router.auth.credentials import Pepper, new_key
from stratmaster_router.auth.store import DAY, ApiKey, KeyState, NewKey, StoredKey, StoredKeys
from stratmaster_router.domain.errors import KeyNotLive, KeysDisabled, KeyStoreUnavailable, NotFound
from stratmaster_router.domain.routing import Secret
from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.storage.database import Database, database_now
from stratmaster_router.storage.tables import api_keys, key_state

T = TypeVar("T")

# So long a key is told that it has expired; then it is one that nobody knows.
_REMEMBERED = 90 * DAY

_c = api_keys.c
_this = _c.id == bindparam("of_id")
_known = select(*[_c[name] for name in StoredKey.__struct_fields__]).where(
    _c.revoked_at.is_(None), _c.expires_at > bindparam("since")
)
_living = select(func.count()).select_from(api_keys).where(_c.revoked_at.is_(None), _c.expires_at > bindparam("since"))
_set_expiry = update(api_keys).where(_this).values(expires_at=bindparam("to_expire"))
_set_revoked = update(api_keys).where(_this).values(revoked_at=bindparam("to_revoke"))
_use = bindparam("to_use", type_=BigInteger())
_set_use = (
    update(api_keys).where(_this, or_(_c.last_used_at.is_(None), _c.last_used_at < _use)).values(last_used_at=_use)
)
_set_version = update(key_state).values(version=bindparam("to_version"))
_set_check = update(key_state).values(pepper_check=bindparam("to_check"))


class ApiKeyStore:
    """The keys in `database`. Without a pepper none can be made."""

    def __init__(
        self,
        database: Database,
        pepper: Pepper | None,
        clock: ColumnElement[int] | Callable[[], int] | None = None,
    ) -> None:
        """`clock` gives the time in microseconds: an SQL expression or a function; by default the database's own."""
        self._database = database
        self._pepper = pepper
        if clock is None:
            clock = database_now()
        self._clock = (
            clock if isinstance(clock, ColumnElement) else bindparam("now", type_=BigInteger(), callable_=clock)
        )
        self._look = select(self._clock, key_state.c.version, key_state.c.pepper_check)
        self._lock = select(self._clock, key_state.c.pepper_check).with_for_update()

    async def load(self, seen: int | None) -> StoredKeys | None:
        """The keys; None where the version is the one that was `seen`."""
        return await self._run(partial(self._load, seen))

    def _load(self, seen: int | None, connection: Connection) -> StoredKeys | None:
        now, version, check = connection.execute(self._look).one()
        if version == seen:
            return None
        rows = connection.execute(_known, {"since": now - _REMEMBERED})
        return StoredKeys(version, check, tuple([StoredKey(*row) for row in rows]))

    async def note_uses(self, uses: Mapping[str, int]) -> None:
        """Keep when keys were last used, by their ids."""
        # In one order, so that no two processes wait for each other.
        rows = [{"of_id": key_id, "to_use": at} for key_id, at in sorted(uses.items())]
        await self._run(lambda connection: connection.execute(_set_use, rows))

    async def all(self, tenant: str | None) -> list[ApiKey]:
        """Every key there ever was, in the order of tenants and of time."""
        query = select(self._clock, api_keys).order_by(_c.tenant, _c.created_at, _c.id)
        if tenant is not None:
            query = query.where(_c.tenant == tenant)
        rows = await self._run(lambda connection: connection.execute(query).all())
        return [_record(row, row[0]) for row in rows]

    async def create(self, tenant: str, lifetime: int, note: str) -> NewKey:
        """Make a key. Raises `KeysDisabled`."""

        def work(connection: Connection) -> NewKey:
            now, pepper = self._begin_making(connection)
            return self._insert(connection, pepper, now, tenant, now + lifetime, note)

        return await self._run(work)

    async def rotate(self, key_id: str, tenant: str | None, grace: int, lifetime: int) -> NewKey:
        """Make a key in the place of another, which opens for `grace` more.

        Raises `NotFound`, `KeyNotLive`, `KeysDisabled`.
        """

        def work(connection: Connection) -> NewKey:
            now, pepper = self._begin_making(connection)
            old = self._find(connection, key_id, tenant)
            if old.state is not KeyState.LIVE:
                raise KeyNotLive(f"The key {key_id} is {old.state.value}, so it cannot be rotated. Create another.")
            successor = connection.execute(select(_c.id).where(_c.rotated_from == key_id)).scalar_one_or_none()
            if successor is not None:
                raise KeyNotLive(
                    f"The key {key_id} was rotated already: {successor} came in its place. Rotate that one."
                )
            connection.execute(_set_expiry, {"of_id": key_id, "to_expire": min(old.expires_at, now + grace)})
            return self._insert(connection, pepper, now, old.tenant, now + lifetime, old.note, key_id)

        return await self._run(work)

    async def revoke(self, key_id: str, tenant: str | None) -> ApiKey:
        """Let a key open nothing any more, for good. Raises `NotFound`."""

        def work(connection: Connection) -> ApiKey:
            now, _ = self._begin(connection)
            if self._find(connection, key_id, tenant).state is not KeyState.REVOKED:
                connection.execute(_set_revoked, {"of_id": key_id, "to_revoke": now})
            return self._find(connection, key_id, tenant)

        return await self._run(work)

    async def expire(self, key_id: str, tenant: str | None, *, after: int = 0, at: int | None = None) -> ApiKey:
        """Let a key expire at a time, or `after` so long from now; one that has expired may live again.

        Raises `NotFound`, `KeyNotLive`.
        """

        def work(connection: Connection) -> ApiKey:
            now, _ = self._begin(connection)
            if self._find(connection, key_id, tenant).state is KeyState.REVOKED:
                raise KeyNotLive(f"The key {key_id} is revoked, which is for good. Create another.")
            connection.execute(_set_expiry, {"of_id": key_id, "to_expire": now + after if at is None else max(now, at)})
            return self._find(connection, key_id, tenant)

        return await self._run(work)

    async def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._database.run(work)
        except StoreUnavailable as error:
            raise KeyStoreUnavailable(
                "The database of keys cannot be reached just now. Try again.", str(error)
            ) from None

    def _begin(self, connection: Connection) -> tuple[int, bytes | None]:
        """The time, and the check of the pepper that keys are made with; other changes of keys wait until this ends."""
        now, check = connection.execute(self._lock).one()
        # Not a counter: the database may be replaced by a copy of it, whose counter comes to the same number again.
        connection.execute(_set_version, {"to_version": secrets.randbits(62)})
        return now, check

    def _begin_making(self, connection: Connection) -> tuple[int, Pepper]:
        """Begin, and see that the pepper is the one of all keys; another one comes into force once none lives."""
        now, check = self._begin(connection)
        pepper = self._pepper
        if pepper is None:
            raise KeysDisabled("Self-service keys are off. Set ROUTER_KEY_PEPPER or ROUTER_KEY_PEPPER_FILE.")
        if check != pepper.check:
            if check is not None and connection.execute(_living, {"since": now}).scalar_one():
                raise KeysDisabled(
                    "The pepper is not the one that the keys of this database were made with. Set ROUTER_KEY_PEPPER to "
                    "that one; if it is lost, revoke every key, and the new one comes into force."
                )
            connection.execute(_set_check, {"to_check": pepper.check})
        return now, pepper

    def _insert(
        self,
        connection: Connection,
        pepper: Pepper,
        now: int,
        tenant: str,
        expires_at: int,
        note: str,
        rotated_from: str | None = None,
    ) -> NewKey:
        key_id, text = new_key()
        connection.execute(
            insert(api_keys),
            {
                "id": key_id,
                "tenant": tenant,
                "digest": pepper.digest(text.encode()),
                "note": note,
                "created_at": now,
                "expires_at": expires_at,
                "rotated_from": rotated_from,
            },
        )
        return NewKey(self._find(connection, key_id, tenant), Secret(text))

    def _find(self, connection: Connection, key_id: str, tenant: str | None) -> ApiKey:
        query = select(self._clock, api_keys).where(_this)
        if tenant is not None:
            query = query.where(_c.tenant == tenant)
        row = connection.execute(query, {"of_id": key_id}).one_or_none()
        if row is None:
            raise NotFound(f"There is no key {key_id}" + (f" of tenant {tenant!r}." if tenant is not None else "."))
        return _record(row, row[0])


def _record(row: Any, now: int) -> ApiKey:
    state = KeyState.LIVE if now < row.expires_at else KeyState.EXPIRED
    return ApiKey(
        id=row.id,
        tenant=row.tenant,
        note=row.note,
        state=state if row.revoked_at is None else KeyState.REVOKED,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        rotated_from=row.rotated_from,
        last_used_at=row.last_used_at,
    )
