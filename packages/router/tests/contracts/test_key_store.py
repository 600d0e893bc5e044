"""What every store of keys promises, on both databases, over a clock that the test turns."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from stratmaster_router.auth.credentials import Pepper, visible_id
from stratmaster_router.auth.store import DAY, ApiKey, KeyState, NewKey, StoredKey
from stratmaster_router.domain.errors import KeyNotLive, KeysDisabled, KeyStoreUnavailable, NotFound, RouterError
from stratmaster_router.storage.database import Database, database_now, database_url
from stratmaster_router.storage.keys import ApiKeyStore
from stratmaster_router.storage.tables import api_keys, key_state
from support.database import execute
from support.keys import OTHER_PEPPER, PEPPER, Clock

# 2026-11-24T08:00:00Z
MORNING = 1_795_507_200_000_000
HOUR = 3_600_000_000


@pytest.fixture
def clock() -> Clock:
    """Eight in the morning."""
    return Clock(MORNING)


@pytest.fixture
def store(opened: Database, clock: Clock) -> ApiKeyStore:
    """The store of the test's database."""
    return ApiKeyStore(opened, Pepper(PEPPER.encode()), clock)


def other_pepper(opened: Database, clock: Clock) -> ApiKeyStore:
    """The store of a process that was given another pepper."""
    return ApiKeyStore(opened, Pepper(OTHER_PEPPER.encode()), clock)


async def stored(store: ApiKeyStore) -> dict[str, StoredKey]:
    """What routers read, by id."""
    found = await store.load(None)
    assert found is not None
    return {key.id: key for key in found.keys}


async def message(error: type[RouterError], doing: Any) -> str:
    """What `doing` raises."""
    with pytest.raises(error) as raised:
        await doing
    return raised.value.message


async def test_new_key_is_known_by_its_hash_only(opened: Database, store: ApiKeyStore) -> None:
    """Whole rows: nothing of its secret is in the database."""
    made = await store.create("acme", 90 * DAY, "for the batch jobs")

    key = made.text.value
    key_id = made.record.id
    assert visible_id(key.encode()) == key_id
    assert made.record == ApiKey(
        key_id, "acme", "for the batch jobs", KeyState.LIVE, MORNING, MORNING + 90 * DAY, None, None, None
    )
    digest = Pepper(PEPPER.encode()).digest(key.encode())
    (row,) = await execute(opened, select(api_keys))
    ends = MORNING + 90 * DAY
    assert tuple(row) == (key_id, "acme", digest, "for the batch jobs", MORNING, ends, None, None, None)
    assert await stored(store) == {key_id: StoredKey(key_id, "acme", digest, MORNING, MORNING + 90 * DAY)}
    assert key not in repr(made)


async def test_keys_are_listed_by_tenant_and_time(store: ApiKeyStore, clock: Clock) -> None:
    """Of one tenant, or of all; with what has become of each."""
    names = []
    for tenant, lifetime in (("globex", DAY), ("acme", HOUR), ("acme", DAY), ("acme", DAY)):
        names.append((await store.create(tenant, lifetime, "")).record.id)
        clock.now += 1
    globex, expired, revoked, live = names
    await store.revoke(revoked, None)
    clock.now = MORNING + 2 * HOUR

    assert [(key.id, key.state.value) for key in await store.all("acme")] == [
        (expired, "expired"),
        (revoked, "revoked"),
        (live, "live"),
    ]
    assert [key.id for key in await store.all(None)] == [expired, revoked, live, globex]
    assert await store.all("nobody") == []


async def test_version_changes_with_each_change_and_not_without(store: ApiKeyStore, clock: Clock) -> None:
    """So that looking costs nothing where nothing happened; last uses are no change."""
    versions: list[int] = []

    async def changed() -> bool:
        found = await store.load(versions[-1] if versions else None)
        if found is not None:
            versions.append(found.version)
        return found is not None

    assert await changed()
    assert not await changed()
    key = (await store.create("acme", DAY, "")).record
    assert await changed()
    await store.all(None)
    await store.note_uses({key.id: clock.now})
    assert not await changed()
    other = (await store.rotate(key.id, None, HOUR, DAY)).record
    assert await changed()
    await store.expire(other.id, None, after=HOUR)
    assert await changed()
    await store.revoke(key.id, None)
    assert await changed()
    await message(NotFound, store.revoke("000000000000", None))
    assert not await changed()
    assert len({*versions}) == len(versions)


async def test_revoked_key_is_gone_for_good(store: ApiKeyStore, clock: Clock) -> None:
    """At once for whoever reads; a second time changes nothing, and nothing brings it back."""
    key = (await store.create("acme", DAY, "")).record
    clock.now += HOUR
    revoked = replace(key, state=KeyState.REVOKED, revoked_at=MORNING + HOUR)
    assert await store.revoke(key.id, "acme") == revoked
    clock.now += HOUR
    assert await store.revoke(key.id, None) == revoked

    assert await stored(store) == {}
    assert await message(KeyNotLive, store.expire(key.id, None, after=DAY)) == (
        f"The key {key.id} is revoked, which is for good. Create another."
    )
    assert await message(KeyNotLive, store.rotate(key.id, None, HOUR, DAY)) == (
        f"The key {key.id} is revoked, so it cannot be rotated. Create another."
    )


async def test_rotated_key_lives_for_its_grace(store: ApiKeyStore, clock: Clock) -> None:
    """Two live keys of one tenant with one note, and then one."""
    old = (await store.create("acme", 90 * DAY, "batch")).record
    clock.now += HOUR
    made = await store.rotate(old.id, "acme", DAY, 30 * DAY)

    new = made.record
    assert new == ApiKey(new.id, "acme", "batch", KeyState.LIVE, clock.now, clock.now + 30 * DAY, None, old.id, None)
    assert visible_id(made.text.value.encode()) == new.id != old.id
    assert await store.all(None) == [replace(old, expires_at=clock.now + DAY), new]
    clock.now += DAY
    assert [key.state.value for key in await store.all(None)] == ["expired", "live"]
    assert await message(KeyNotLive, store.rotate(old.id, None, HOUR, DAY)) == (
        f"The key {old.id} is expired, so it cannot be rotated. Create another."
    )


async def test_grace_never_prolongs_a_key(store: ApiKeyStore) -> None:
    """Nor must there be one."""
    short, other = [(await store.create("acme", HOUR, "")).record for _ in range(2)]
    await store.rotate(short.id, None, DAY, DAY)
    await store.rotate(other.id, None, 0, DAY)

    found = {key.id: key for key in await store.all(None)}
    assert found[short.id] == short
    assert found[other.id] == replace(other, state=KeyState.EXPIRED, expires_at=MORNING)


async def test_key_has_one_successor(store: ApiKeyStore) -> None:
    """Also where two rotate it at once: never three live keys."""
    old = (await store.create("acme", DAY, "")).record
    both: list[NewKey | BaseException] = await asyncio.gather(
        *[store.rotate(old.id, None, HOUR, DAY) for _ in range(2)], return_exceptions=True
    )

    (made,) = [each for each in both if isinstance(each, NewKey)]
    (refused,) = [each for each in both if isinstance(each, KeyNotLive)]
    assert refused.message == (
        f"The key {old.id} was rotated already: {made.record.id} came in its place. Rotate that one."
    )
    assert len(await store.all(None)) == 2


async def test_expiry_can_be_moved(store: ApiKeyStore, clock: Clock) -> None:
    """To a time or so long from now, earlier and later; never into the past, and also back to life."""
    key = (await store.create("acme", DAY, "")).record
    clock.now += HOUR
    assert await store.expire(key.id, "acme", after=2 * DAY) == replace(key, expires_at=clock.now + 2 * DAY)
    assert await store.expire(key.id, None, at=MORNING + 5 * DAY) == replace(key, expires_at=MORNING + 5 * DAY)
    expired = replace(key, state=KeyState.EXPIRED, expires_at=clock.now)
    assert await store.expire(key.id, None) == expired
    assert await store.expire(key.id, None, at=-(10**17)) == expired
    assert await store.expire(key.id, None, after=HOUR) == replace(key, expires_at=clock.now + HOUR)


async def test_expired_keys_are_remembered_for_a_while(store: ApiKeyStore, clock: Clock) -> None:
    """So that their owners are told; in the end they are as good as unknown."""
    key = (await store.create("acme", DAY, "")).record
    clock.now = MORNING + DAY + 90 * DAY - 1
    assert {*await stored(store)} == {key.id}
    clock.now += 1
    assert await stored(store) == {}


async def test_key_of_another_tenant_is_not_found(store: ApiKeyStore) -> None:
    """An administrator of one tenant has nothing to do with it; nothing changes."""
    key = (await store.create("acme", DAY, "")).record
    for doing in (
        store.rotate(key.id, "globex", HOUR, DAY),
        store.revoke(key.id, "globex"),
        store.expire(key.id, "globex"),
    ):
        assert await message(NotFound, doing) == f"There is no key {key.id} of tenant 'globex'."
    assert await message(NotFound, store.revoke("000000000000", None)) == "There is no key 000000000000."

    assert await store.all(None) == [key]


async def test_last_use_only_goes_forward(store: ApiKeyStore) -> None:
    """Several processes write theirs in any order; a key that is gone does no harm."""
    first, second = [(await store.create("acme", DAY, "")).record.id for _ in range(2)]
    await store.note_uses({second: MORNING + 5, first: MORNING + 3, "000000000000": MORNING})
    await store.note_uses({first: MORNING + 2, second: MORNING + 7})

    assert {key.id: key.last_used_at for key in await store.all(None)} == {first: MORNING + 3, second: MORNING + 7}


async def test_without_a_pepper_no_key_is_made(opened: Database, store: ApiKeyStore, clock: Clock) -> None:
    """But those that there are can be seen and ended."""
    key = (await store.create("acme", DAY, "")).record
    bare = ApiKeyStore(opened, None, clock)
    off = "Self-service keys are off. Set ROUTER_KEY_PEPPER or ROUTER_KEY_PEPPER_FILE."

    assert await message(KeysDisabled, bare.create("acme", DAY, "")) == off
    assert await message(KeysDisabled, bare.rotate(key.id, None, HOUR, DAY)) == off
    assert await bare.all("acme") == [key]
    assert (await bare.expire(key.id, None, after=HOUR)).expires_at == MORNING + HOUR
    assert (await bare.revoke(key.id, None)).state is KeyState.REVOKED


async def test_another_pepper_makes_no_key_while_one_lives(opened: Database, store: ApiKeyStore, clock: Clock) -> None:
    """It would divide the routers into those that know a key and those that do not. With no key left it is taken."""
    key = (await store.create("acme", DAY, "")).record
    other = other_pepper(opened, clock)
    for doing in (other.create("acme", DAY, ""), other.rotate(key.id, None, HOUR, DAY)):
        assert await message(KeysDisabled, doing) == (
            "The pepper is not the one that the keys of this database were made with. Set ROUTER_KEY_PEPPER to that "
            "one; if it is lost, revoke every key, and the new one comes into force."
        )
    found = await other.load(None)
    assert found is not None
    assert found.check == Pepper(PEPPER.encode()).check

    await other.revoke(key.id, None)
    fresh = await other.create("acme", DAY, "")
    found = await other.load(None)
    assert found is not None
    assert found.check == Pepper(OTHER_PEPPER.encode()).check
    assert [stored.id for stored in found.keys] == [fresh.record.id]
    with pytest.raises(KeysDisabled):
        await store.create("acme", DAY, "")


async def test_new_database_takes_any_pepper(store: ApiKeyStore) -> None:
    """Before the first key there is no check."""
    found = await store.load(None)
    assert found is not None
    assert (found.version, found.check, found.keys) == (0, None, ())


async def test_digest_and_tenant_are_the_databases_to_guard(opened: Database, store: ApiKeyStore) -> None:
    """A key belongs to exactly one tenant: not to none, and the same key not to a second."""
    await store.create("acme", DAY, "")
    (row,) = await execute(opened, select(api_keys))
    with pytest.raises(IntegrityError):
        await execute(opened, insert(api_keys), {**row._mapping, "id": "000000000000", "tenant": "globex"})
    with pytest.raises(IntegrityError):
        await execute(opened, update(api_keys).values(tenant=None))


async def test_keys_are_made_at_once_by_several(opened: Database, database: str, store: ApiKeyStore) -> None:
    """By two processes, some of them the first that there are: each is kept, with one check."""
    second = Database(database_url(database))
    others = ApiKeyStore(second, Pepper(PEPPER.encode()))
    try:
        made = await asyncio.gather(*[each.create("acme", DAY, "") for each in (store, others) * 5])
    finally:
        await second.close()

    assert {key.id for key in await store.all(None)} == {each.record.id for each in made}
    assert len(made) == 10


async def test_times_are_the_databases(opened: Database) -> None:
    """Where no clock is given."""
    store = ApiKeyStore(opened, Pepper(PEPPER.encode()))
    ((before,),) = await execute(opened, select(database_now()))
    key = (await store.create("acme", DAY, "")).record
    ((after,),) = await execute(opened, select(database_now()))

    assert before <= key.created_at <= after
    assert key.expires_at == key.created_at + DAY


async def test_database_that_cannot_be_reached_is_told() -> None:
    """With the reason for the log apart from the message."""
    opened = Database(database_url("postgresql://router:secret@127.0.0.1:1/router"))
    store = ApiKeyStore(opened, None)
    for doing in (store.load(None), store.all(None), store.revoke("000000000000", None), store.note_uses({"a": 1})):
        with pytest.raises(KeyStoreUnavailable) as raised:
            await doing
        assert raised.value.message == "The database of keys cannot be reached just now. Try again."
        assert "Connect call failed" in raised.value.reason
        assert "secret" not in raised.value.reason
    await opened.close()


async def test_state_has_one_row(opened: Database) -> None:
    """Which the migration made."""
    assert [tuple(row) for row in await execute(opened, select(key_state))] == [(1, 0, None)]
