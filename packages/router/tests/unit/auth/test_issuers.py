"""Issuers' keys kept up to date: fetched when due, never more often than allowed, and kept while an issuer is down."""

import asyncio
from collections.abc import Callable

import pytest
from stratmaster_router.auth.issuers import EVERY, FLOOR, Issuers
from stratmaster_router.domain.errors import InvalidAssertion
from stratmaster_router.domain.service_accounts import Issuer, ServiceAccount, ServiceAccounts
from support.assertions import AUDIENCE, ISSUER, NOW, SUBJECT, Signer, jwks, kubernetes_claims, signer

URL = "https://issuer.example/keys"
FILE = "/var/run/secrets/jwks.json"
ACCOUNTS = {SUBJECT: ServiceAccount(SUBJECT, frozenset({"acme"}))}
BY_URL = ServiceAccounts({ISSUER: Issuer(ISSUER, AUDIENCE, url=URL)}, ACCOUNTS)
OLD, NEW = signer("EdDSA", "old"), signer("EdDSA", "new")
PATIENT = 10.0  # seconds; a test that waits longer has failed


def by_file(text: bytes | None) -> ServiceAccounts:
    """The same policy with a file that holds `text`."""
    issuer = Issuer(ISSUER, AUDIENCE, file=FILE, text=None if text is None else text.decode())
    return ServiceAccounts({ISSUER: issuer}, ACCOUNTS)


class Published:
    """What an issuer serves at `URL`, with the number of times that it was asked; `gate` holds answers back."""

    def __init__(self, *keys: Signer) -> None:
        self.document = jwks(*(key.jwk() for key in keys))
        self.asked = 0
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, url: str) -> bytes:
        """Answer, or fail as a fetch does."""
        assert url == URL
        self.asked += 1
        await self.gate.wait()
        if self.down:
            raise OSError("no route to host")
        return self.document

    def publish(self, *keys: Signer) -> None:
        """Serve these keys from now on."""
        self.document = jwks(*(key.jwk() for key in keys))


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.at


def following(published: Published, clock: Clock, policy: ServiceAccounts = BY_URL) -> Issuers:
    """Issuers under `policy`, at the moment `NOW`."""
    issuers = Issuers(published.fetch, lambda: NOW, clock)
    issuers.follow(policy)
    return issuers


def taken(issuers: Issuers, key: Signer) -> bool:
    """Whether an assertion that `key` has signed is taken now."""
    try:
        issuers.assertions.judge(key.token(kubernetes_claims()))
    except InvalidAssertion:
        return False
    return True


async def idle() -> None:
    """Let the tasks that are ready run to where they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_keys_are_fetched_at_the_start_and_every_minute() -> None:
    """What is published is known a minute later at the latest, without an assertion that asks for it."""
    published, clock = Published(OLD), Clock()
    issuers = following(published, clock)
    assert not taken(issuers, OLD)

    issuers.refresh()
    await idle()
    assert (taken(issuers, OLD), published.asked) == (True, 1)

    published.publish(NEW)
    clock.at += EVERY - 0.1
    issuers.refresh()
    await idle()
    assert (taken(issuers, OLD), taken(issuers, NEW), published.asked) == (True, False, 1)

    clock.at += 0.1
    issuers.refresh()
    await idle()
    assert (taken(issuers, OLD), taken(issuers, NEW), published.asked) == (False, True, 2)


async def test_unknown_key_is_looked_for_at_once() -> None:
    """An assertion with a key that is not known waits for a fetch, and its key is known then."""
    published, clock = Published(OLD), Clock()
    issuers = following(published, clock)
    issuers.refresh()
    await idle()
    published.publish(OLD, NEW)
    clock.at += FLOOR

    with pytest.raises(InvalidAssertion) as raised:
        issuers.assertions.judge(NEW.token(kubernetes_claims()))
    assert raised.value.keys_of == ISSUER
    assert await issuers.look_again(ISSUER) is True

    assert (taken(issuers, NEW), taken(issuers, OLD), published.asked) == (True, True, 2)


async def test_crowd_with_unknown_keys_shares_one_fetch() -> None:
    """However many ask, the issuer is asked once, and all of them wait for it."""
    published, clock = Published(OLD), Clock()
    issuers = following(published, clock)
    published.gate.clear()
    crowd = [asyncio.create_task(issuers.look_again(ISSUER)) for _ in range(100)]
    await idle()
    assert published.asked == 1
    assert not any(one.done() for one in crowd)

    published.gate.set()

    assert await asyncio.wait_for(asyncio.gather(*crowd), PATIENT) == [True] * 100
    assert (published.asked, taken(issuers, OLD)) == (1, True)


async def test_nobody_can_make_the_router_hammer_an_issuer() -> None:
    """Who asks for unknown keys without end causes a fetch each `FLOOR` seconds, and no more."""
    published, clock = Published(OLD), Clock()
    issuers = following(published, clock)

    for _ in range(600):  # a minute of it
        for _ in range(20):
            await issuers.look_again(ISSUER)
        issuers.refresh()
        await idle()
        clock.at += 0.1

    assert published.asked == 60 / FLOOR


async def test_key_that_came_too_early_is_fetched_as_soon_as_allowed() -> None:
    """Refused within the floor, it is not forgotten: the next fetch comes at the floor, not after a minute."""
    published, clock = Published(OLD), Clock()
    issuers = following(published, clock)
    issuers.refresh()
    await idle()
    published.publish(NEW)
    clock.at += FLOOR - 0.1

    assert await issuers.look_again(ISSUER) is False
    clock.at += 0.1
    issuers.refresh()
    await idle()

    assert (taken(issuers, NEW), published.asked) == (True, 2)


@pytest.mark.parametrize("trouble", ["down", "a page", "larger than allowed"])
async def test_last_good_keys_stay_while_an_issuer_is_down(trouble: str) -> None:
    """What fails changes nothing, and once the issuer is back its keys are taken again."""
    published, clock = Published(OLD), Clock()
    issuers = following(published, clock)
    issuers.refresh()
    await idle()

    published.down = trouble == "down"
    published.document = b"<html>" if trouble == "a page" else b" " * 10**6
    for _ in range(20):
        clock.at += EVERY
        issuers.refresh()
        await idle()
    assert (taken(issuers, OLD), published.asked) == (True, 21)

    published.down = False
    published.publish(NEW)
    clock.at += EVERY
    issuers.refresh()
    await idle()
    assert (taken(issuers, OLD), taken(issuers, NEW)) == (False, True)


async def test_issuer_that_is_down_is_asked_again_at_the_floor() -> None:
    """Not at the pace of the refresh, and not after a minute either."""
    published, clock = Published(OLD), Clock()
    published.down = True
    issuers = following(published, clock)

    for _ in range(600):
        issuers.refresh()
        await idle()
        clock.at += 0.1

    assert published.asked == 60 / FLOOR


async def test_request_does_not_wait_for_an_issuer_that_hangs() -> None:
    """It waits its time and is judged by what is known; the fetch goes on, and is one."""
    published, clock = Published(OLD), Clock()
    issuers = following(published, clock)
    published.gate.clear()

    assert await asyncio.wait_for(issuers.look_again(ISSUER), PATIENT) is True
    clock.at += EVERY
    issuers.refresh()
    await idle()
    assert (taken(issuers, OLD), published.asked) == (False, 1)

    published.gate.set()
    await idle()
    assert taken(issuers, OLD)


async def test_verified_assertion_dies_with_its_key() -> None:
    """What was taken, and is remembered, is not taken any more once its key is gone."""
    issuers = following(Published(), Clock(), by_file(jwks(OLD.jwk(), NEW.jwk())))
    token = OLD.token(kubernetes_claims())
    issuers.assertions.judge(token)

    issuers.follow(by_file(jwks(NEW.jwk())))

    with pytest.raises(InvalidAssertion):
        issuers.assertions.judge(token)
    assert taken(issuers, NEW)


async def test_verified_assertion_dies_with_its_account_and_keeps_to_its_tenants() -> None:
    """A policy without the account, or without one of its tenants, is in force at once for what is remembered too."""
    issuers = following(Published(), Clock(), by_file(jwks(OLD.jwk())))
    issuer = {ISSUER: Issuer(ISSUER, AUDIENCE, file=FILE, text=jwks(OLD.jwk()).decode())}
    token = OLD.token(kubernetes_claims())
    assert set(issuers.assertions.judge(token).principals) == {b"acme"}

    issuers.follow(ServiceAccounts(issuer, {SUBJECT: ServiceAccount(SUBJECT, frozenset({"globex"}))}))
    assert set(issuers.assertions.judge(token).principals) == {b"globex"}

    issuers.follow(ServiceAccounts(issuer, {}))
    with pytest.raises(InvalidAssertion):
        issuers.assertions.judge(token)


@pytest.mark.parametrize("text", [None, b"", b"{", b'{"keys": 1}'], ids=["unreadable", "empty", "cut", "no list"])
async def test_file_without_keys_leaves_the_last_good_ones(text: bytes | None) -> None:
    """A file that is gone or half-written takes nobody's access away; one with an empty set does."""
    issuers = following(Published(), Clock(), by_file(jwks(OLD.jwk())))

    issuers.follow(by_file(text))
    assert taken(issuers, OLD)

    issuers.follow(by_file(jwks()))
    assert not taken(issuers, OLD)


async def test_unknown_key_of_a_file_is_not_looked_for() -> None:
    """Files are read again anyway; so nobody waits. Neither does an issuer that the policy no longer has."""
    published = Published(OLD)
    issuers = following(published, Clock(), by_file(jwks(NEW.jwk())))

    assert await issuers.look_again(ISSUER) is False
    assert await issuers.look_again("https://gone.example") is False
    issuers.refresh()
    await idle()
    assert published.asked == 0


def _same() -> ServiceAccounts:
    return ServiceAccounts({ISSUER: Issuer(ISSUER, AUDIENCE, url=URL)}, dict(ACCOUNTS))


@pytest.mark.parametrize("policy", [lambda: BY_URL, _same], ids=["the same", "an equal one"])
async def test_keys_outlive_a_change_of_the_policy(policy: Callable[[], ServiceAccounts]) -> None:
    """Another part of the policy may change without a moment in which assertions are refused."""
    published = Published(OLD)
    issuers = following(published, Clock())
    issuers.refresh()
    await idle()

    issuers.follow(policy())

    assert (taken(issuers, OLD), published.asked) == (True, 1)


async def test_issuer_that_the_policy_drops_is_asked_no_more() -> None:
    """A fetch that is under way is given up, what it would have brought is not taken, and none follows."""
    published, clock = Published(OLD), Clock()
    issuers = following(published, clock)
    published.gate.clear()
    issuers.refresh()
    await idle()

    issuers.follow(ServiceAccounts())
    published.gate.set()
    clock.at += EVERY
    issuers.refresh()
    await idle()

    assert (published.asked, taken(issuers, OLD)) == (1, False)


async def test_close_gives_up_what_is_under_way() -> None:
    """The worker's end waits for no issuer."""
    published = Published(OLD)
    issuers = following(published, Clock())
    published.gate.clear()
    issuers.refresh()
    await idle()

    await asyncio.wait_for(issuers.close(), PATIENT)

    assert not taken(issuers, OLD)
