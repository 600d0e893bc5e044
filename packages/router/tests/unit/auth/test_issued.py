"""Self-service keys in a process, by a clock that the test turns and a database that it takes away."""

import asyncio
import contextlib

import pytest
from stratmaster_router.auth.credentials import Pepper, new_key
from stratmaster_router.auth.issued import BATCH, TRUSTED, WARNING, IssuedKeys
from stratmaster_router.auth.store import DAY
from stratmaster_router.domain.errors import ExpiredApiKey, KeyStoreUnavailable
from stratmaster_router.domain.routing import Principal
from structlog.testing import capture_logs
from support.keys import OTHER_PEPPER, PEPPER, Clock, MemoryKeys

# 2026-11-24T12:00:00Z
NOON = 1_795_521_600_000_000


@pytest.fixture
def clock() -> Clock:
    """Noon."""
    return Clock(NOON)


@pytest.fixture
def store() -> MemoryKeys:
    """No key yet."""
    return MemoryKeys(Pepper(PEPPER.encode()))


@pytest.fixture
def issued(store: MemoryKeys, clock: Clock) -> IssuedKeys:
    """A process that has read nothing yet."""
    return IssuedKeys(store, Pepper(PEPPER.encode()), clock)


async def test_key_opens_once_it_was_read_and_no_more_once_it_is_gone(store: MemoryKeys, issued: IssuedKeys) -> None:
    """Each for its own tenant, by its id in the records."""
    key_id, key = store.add("acme", NOON)
    other_id, other = store.add("globex", NOON)

    await issued.refresh()
    assert issued.ring.owner(key) == Principal("acme", f"key:{key_id}")
    assert issued.ring.owner(other) == Principal("globex", f"key:{other_id}")
    assert issued.ring.owner(new_key()[1].encode()) is None

    store.remove(key_id)
    await issued.refresh()
    assert issued.ring.owner(key) is None
    assert issued.ring.owner(other) == Principal("globex", f"key:{other_id}")


async def test_secret_and_id_must_belong_together(store: MemoryKeys, issued: IssuedKeys) -> None:
    """A visible id, which many may know, with another secret opens nothing, whatever its length."""
    _, key = store.add("acme", NOON)
    _, other = store.add("globex", NOON)
    await issued.refresh()

    for forged in (key[:16] + other[16:], other[:4] + key[4:16] + other[16:], key[:-1], key + b"0", key[:16], b""):
        assert issued.ring.owner(forged) is None


async def test_keys_that_have_not_changed_are_not_read_again(store: MemoryKeys, issued: IssuedKeys) -> None:
    """The ring stays the same object."""
    store.add("acme", NOON)
    await issued.refresh()
    ring = issued.ring

    for _ in range(3):
        await issued.refresh()

    assert issued.ring is ring
    assert store.reads == 1


async def test_key_expires_to_the_microsecond(store: MemoryKeys, issued: IssuedKeys, clock: Clock) -> None:
    """Without being read again, and said to be expired to its owner only."""
    key_id, key = store.add("acme", NOON, 90 * DAY)
    await issued.refresh()

    clock.now = NOON + 90 * DAY - WARNING - 1
    assert issued.ring.owner(key) == Principal("acme", f"key:{key_id}")
    clock.now += 1
    warned = Principal("acme", f"key:{key_id}", "2027-02-22T12:00:00Z")
    assert issued.ring.owner(key) == warned
    clock.now = NOON + 90 * DAY - 1
    assert issued.ring.owner(key) == warned
    clock.now += 1
    with pytest.raises(ExpiredApiKey):
        issued.ring.owner(key)
    assert issued.ring.owner(key[:17] + new_key()[1].encode()[17:]) is None


async def test_ages_are_those_of_live_keys(store: MemoryKeys, issued: IssuedKeys, clock: Clock) -> None:
    """In seconds, by tenant and visible id."""
    key_id, _ = store.add("acme", NOON - 1_500_000)
    store.add("acme", NOON - 2 * DAY, DAY)
    await issued.refresh()

    clock.now += 500_000
    assert issued.ring.ages() == {("acme", key_id): 2.0}


async def test_outage_leaves_keys_in_force_for_an_hour(store: MemoryKeys, issued: IssuedKeys, clock: Clock) -> None:
    """Then they are answered with 503, never with 401, until the database is back; said once each."""
    key_id, key = store.add("acme", NOON)
    await issued.refresh()

    store.down = True
    with capture_logs() as logs:
        for minute in range(61):
            clock.now = NOON + minute * 60_000_000
            await issued.refresh()
            assert issued.ring.owner(key) == Principal("acme", f"key:{key_id}")
        assert clock.now == NOON + TRUSTED
        for _ in range(3):
            clock.now += 1
            await issued.refresh()
            with pytest.raises(KeyStoreUnavailable):
                issued.ring.owner(key)
            assert issued.ring.owner(b"sk-other") is None
        store.down = False
        await issued.refresh()

    assert issued.ring.owner(key) == Principal("acme", f"key:{key_id}")
    assert [(line["log_level"], line["event"].partition(":")[0], line.get("reason")) for line in logs] == [
        ("error", "self-service keys cannot be read", "it is down"),
        ("error", "self-service keys could not be read for an hour", "it is down"),
        ("info", "self-service keys in force", None),
        ("warning", "self-service keys can be read again", None),
    ]


async def test_outage_does_not_stop_time(store: MemoryKeys, issued: IssuedKeys, clock: Clock) -> None:
    """A key that expires while the database is away has expired."""
    _, key = store.add("acme", NOON, 60_000_000)
    await issued.refresh()
    store.down = True
    clock.now += 60_000_000
    await issued.refresh()

    with pytest.raises(ExpiredApiKey):
        issued.ring.owner(key)


async def test_keys_that_never_could_be_read_are_not_called_wrong(store: MemoryKeys, issued: IssuedKeys) -> None:
    """A process that starts without its database."""
    _, key = store.add("acme", NOON)
    store.down = True
    await issued.refresh()

    with pytest.raises(KeyStoreUnavailable):
        issued.ring.owner(key)
    assert issued.ring.owner(key[:-1]) is None


async def test_store_that_fails_in_its_own_way_is_an_outage(issued: IssuedKeys, store: MemoryKeys) -> None:
    """Whatever it raises, what is in force stays, and the next look comes."""
    key_id, key = store.add("acme", NOON)
    await issued.refresh()
    store.version += 1
    store.keys = [None]  # type: ignore[list-item]
    await issued.refresh()

    assert issued.ring.owner(key) == Principal("acme", f"key:{key_id}")


async def test_another_pepper_is_said_plainly(store: MemoryKeys, clock: Clock) -> None:
    """Its keys are not called wrong: the operator hears of it once, and callers get 503."""
    _, key = store.add("acme", NOON)
    issued = IssuedKeys(store, Pepper(OTHER_PEPPER.encode()), clock)

    with capture_logs() as logs:
        await issued.refresh()
        await issued.refresh()

    with pytest.raises(KeyStoreUnavailable):
        issued.ring.owner(key)
    assert logs == [
        {
            "event": "ROUTER_KEY_PEPPER is not the pepper that the self-service keys of this database were made with: "
            "they are answered with 503 until it is",
            "log_level": "error",
            "keys": 1,
        }
    ]


async def test_without_a_pepper_keys_are_off(store: MemoryKeys, clock: Clock) -> None:
    """They open nothing; if there are any, the operator is told."""
    issued = IssuedKeys(store, None, clock)
    with capture_logs() as logs:
        await issued.refresh()
        assert logs == []
        _, key = store.add("acme", NOON)
        await issued.refresh()
        store.down = True
        await issued.refresh()
        await issued.run()  # comes to its end at once

    assert issued.ring.owner(key) is None
    assert logs == [
        {
            "event": "the database has self-service keys, which open nothing: ROUTER_KEY_PEPPER is not set",
            "log_level": "warning",
            "keys": 1,
        }
    ]


async def test_last_uses_are_written_together(store: MemoryKeys, issued: IssuedKeys, clock: Clock) -> None:
    """The last of each key; nothing where nothing was used; and kept while they cannot be written."""
    first_id, first = store.add("acme", NOON)
    second_id, second = store.add("globex", NOON)
    await issued.refresh()
    await issued.write_uses()
    assert store.uses == []

    issued.ring.owner(first)
    clock.now += 1
    issued.ring.owner(first)
    issued.ring.owner(second)
    store.down = True
    await issued.write_uses()
    clock.now += 1
    issued.ring.owner(second)
    store.down = False
    await issued.write_uses()
    await issued.write_uses()

    assert store.uses == [{first_id: NOON + 1, second_id: NOON + 2}]


async def test_refused_key_is_not_used(store: MemoryKeys, issued: IssuedKeys, clock: Clock) -> None:
    """Neither one that has expired nor one with a wrong secret."""
    _, key = store.add("acme", NOON, DAY)
    await issued.refresh()
    assert issued.ring.owner(key[:17] + new_key()[1].encode()[17:]) is None
    clock.now += DAY
    with pytest.raises(ExpiredApiKey):
        issued.ring.owner(key)

    await issued.write_uses()
    assert store.uses == []


async def test_running_reads_and_writes_by_itself(store: MemoryKeys, issued: IssuedKeys, clock: Clock) -> None:
    """A new key within the 2 s of the issue; uses once a batch's time is over."""
    running = asyncio.create_task(issued.run())
    try:
        key_id, key = store.add("acme", NOON)
        async with asyncio.timeout(2.0):
            await store.read.wait()
        await asyncio.sleep(0)  # what was read is in force
        assert issued.ring.owner(key) == Principal("acme", f"key:{key_id}")
        assert store.uses == []
        clock.now += BATCH
        async with asyncio.timeout(5.0):
            await store.written.wait()
        assert store.uses == [{key_id: NOON}]
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_ring_keeps_no_key(store: MemoryKeys, issued: IssuedKeys) -> None:
    """Neither the values in it nor their reprs hold a key."""
    _, key = store.add("acme", NOON)
    await issued.refresh()

    held = repr(vars(issued.ring)) + repr(vars(issued))
    assert key.decode()[17:] not in held
    assert PEPPER not in held
