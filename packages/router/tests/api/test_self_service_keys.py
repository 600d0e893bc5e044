"""Self-service keys at work: made in one router, known in all; expired, rotated, revoked; their database gone."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import AuthenticationError, OpenAI
from support.calls import Answer, call, chat, eventually, identified
from support.database import held
from support.keys import POLICY, administer, made, running_with_keys
from support.postgres import running_postgres
from support.servers import Mock, RunningRouter, running_mock

TOLD_WITHIN = 2.0  # seconds (issue 5: revocation takes effect in every process)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Mock]:
    """One mocked provider for the module."""
    with running_mock() as mock:
        yield mock


@pytest.fixture(scope="module")
def router(upstream: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """One router for the module."""
    folder = tmp_path_factory.mktemp("router") / "router"
    with running_with_keys(folder, POLICY.format(mock=upstream.url)) as router:
        yield router


def models(router: RunningRouter, key: str, tenant: str = "acme") -> Answer:
    """The cheapest request that needs a key."""
    return call(router, "GET", "/v1/models", None, identified(key, tenant))


def code(answer: Answer) -> str | None:
    """The error code; None of a success."""
    return None if answer.status < 400 else str(answer.error()["code"])


def becomes(router: RunningRouter, key: str, wanted: str | None, tenant: str = "acme") -> None:
    """Wait until `key` is answered with `wanted`, no longer than the issue allows."""
    found = eventually(lambda: code(models(router, key, tenant)), lambda seen: seen == wanted, TOLD_WITHIN)
    assert found == wanted


def test_routers_on_one_database_know_each_others_keys(database: str, upstream: Mock, tmp_path: Path) -> None:
    """Within 2 s: a key that was made, the two of a rotation, one that was revoked."""
    policy = POLICY.format(mock=upstream.url)
    with (
        running_with_keys(tmp_path / "a", policy, database_url=database) as one,
        running_with_keys(tmp_path / "b", policy, database_url=database) as other,
    ):
        old = made(one)
        becomes(other, old["key"], None)
        becomes(one, old["key"], None)
        assert chat(other, headers=identified(old["key"])).status == 200
        assert code(models(other, old["key"], "globex")) == "tenant_mismatch"

        new = administer(other, "POST", f"/{old['id']}/rotate", {"grace": 3600}).json()
        becomes(one, new["key"], None)
        assert code(models(one, old["key"])) is None

        assert administer(one, "DELETE", f"/{old['id']}").status == 200
        becomes(other, old["key"], "invalid_api_key")
        becomes(one, old["key"], "invalid_api_key")
        assert code(models(other, new["key"])) is None

        assert administer(other, "PATCH", f"/{new['id']}", {"expires_in": 0}).status == 200
        becomes(one, new["key"], "expired_api_key")


def test_rotation_without_grace_ends_the_old_key(router: RunningRouter) -> None:
    """Its owner is told that it has expired, and how to go on."""
    old = made(router)
    becomes(router, old["key"], None)
    new = administer(router, "POST", f"/{old['id']}/rotate", {"grace": 0}).json()
    becomes(router, new["key"], None)

    answer = models(router, old["key"])
    assert answer.status == 401
    assert answer.json()["error"]["message"] == (
        "The API key has expired. Ask the team that runs the router for another."
    )
    assert code(answer) == "expired_api_key"


@pytest.mark.parametrize("stream", [False, True])
def test_answers_warn_in_the_last_two_weeks(router: RunningRouter, stream: bool) -> None:
    """On successes only, with the time; a key with more time, and one of the folder, has no such header."""
    late = made(router, expires_in=14 * 86_400 - 1)
    early = made(router, expires_in=15 * 86_400)
    becomes(router, late["key"], None)
    becomes(router, early["key"], None)
    headers = identified(late["key"])

    ends = f"{late['expires_at'][:19]}Z"
    assert models(router, late["key"]).headers["x-api-key-expires"] == ends
    assert chat(router, headers=headers, stream=stream).headers["x-api-key-expires"] == ends
    assert "x-api-key-expires" not in chat(router, headers=headers, model="nothing").headers
    assert "x-api-key-expires" not in call(router, "GET", "/v1/models/nothing", None, headers).headers
    for key in (identified(early["key"]), identified()):
        assert "x-api-key-expires" not in chat(router, headers=key, stream=stream).headers
        assert "x-api-key-expires" not in call(router, "GET", "/v1/models", None, key).headers


def test_rotation_does_not_reset_what_is_used(upstream: Mock, tmp_path: Path) -> None:
    """Limits are the tenant's, whatever key was used (litellm #31079)."""
    policy = POLICY.format(mock=upstream.url).replace("  acme:\n", "  acme:\n    limits: {rpm: 2}\n")
    with running_with_keys(tmp_path / "router", policy) as router:
        old = made(router)
        becomes(router, old["key"], None)
        new = administer(router, "POST", f"/{old['id']}/rotate").json()
        becomes(router, new["key"], None)
        assert [chat(router, headers=identified(key["key"])).status for key in (old, old)] == [200, 200]

        answer = chat(router, headers=identified(new["key"]))
        assert (answer.status, answer.error()["code"]) == (429, "requests_per_minute_exceeded")


def test_last_use_is_written_at_the_end_of_a_router(upstream: Mock, tmp_path: Path) -> None:
    """Not with each request, but it is not lost: the next router shows it."""
    policy, database = POLICY.format(mock=upstream.url), f"sqlite:///{tmp_path}/router.db"
    with running_with_keys(tmp_path / "a", policy, database_url=database) as router:
        used, unused = made(router), made(router)
        becomes(router, used["key"], None)
        assert chat(router, headers=identified(used["key"])).status == 200
        assert [key["last_used_at"] for key in administer(router, "GET").json()["data"]] == [None, None]
    with running_with_keys(tmp_path / "b", policy, database_url=database) as router:
        listed = {key["id"]: key for key in administer(router, "GET").json()["data"]}

    assert listed[used["id"]]["last_used_at"] >= used["created_at"]
    assert listed[unused["id"]]["last_used_at"] is None


def test_openai_client_works_with_a_self_service_key(router: RunningRouter) -> None:
    """And raises what it raises for any other key."""
    key = made(router)
    becomes(router, key["key"], None)

    def client(text: str) -> OpenAI:
        return OpenAI(base_url=f"{router.url}/v1", api_key=text, default_headers={"X-Tenant-ID": "acme"}, max_retries=0)

    with client(key["key"]) as good:
        answer = good.chat.completions.create(model="reasoning", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content == "echo: hello"
    with client(key["key"][:-1]) as bad, pytest.raises(AuthenticationError) as raised:
        bad.models.list()
    assert raised.value.code == "invalid_api_key"
    assert "checksum" in raised.value.message
    assert key["key"][17:] not in str(raised.value)


async def test_database_that_is_locked_keeps_nobody_out(upstream: Mock, tmp_path: Path) -> None:
    """Keys in hand go on while nothing can be read; and nothing but a 503 comes of an administrator's wish."""
    database = f"sqlite:///{tmp_path}/router.db"
    with running_with_keys(tmp_path / "router", POLICY.format(mock=upstream.url), database_url=database) as router:
        key = made(router)
        becomes(router, key["key"], None)
        async with held(database, "UPDATE key_state SET version = 1"):
            assert code(administer(router, "POST", "", {})) == "key_store_unavailable"
            end = time.monotonic() + 3
            while time.monotonic() < end:
                assert code(models(router, key["key"])) is None
        assert administer(router, "POST", "", {}).status == 201


def test_database_that_is_gone_keeps_nobody_out(upstream: Mock, tmp_path: Path) -> None:
    """Nor does a router that starts without it call a good key wrong; with its database back it knows all of them."""
    policy = POLICY.format(mock=upstream.url)
    with running_postgres() as server:
        database = server.database()
        with running_with_keys(tmp_path / "a", policy, database_url=database) as one:
            key = made(one)
            becomes(one, key["key"], None)
            server.stop()
            assert code(administer(one, "GET")) == "key_store_unavailable"
            with running_with_keys(tmp_path / "b", policy, database_url=database) as other:
                for _ in range(20):
                    assert code(models(one, key["key"])) is None
                    assert code(models(other, key["key"])) == "key_store_unavailable"
                    assert code(models(other, key["key"][:-1])) == "invalid_api_key"
                    assert models(other, "sk-acme-0123456789abcdef").status == 200
                server.start()
                found = eventually(lambda: code(models(other, key["key"])), lambda seen: seen is None, 20.0)
                assert found is None
            assert administer(one, "DELETE", f"/{key['id']}").status == 200
            becomes(one, key["key"], "invalid_api_key")
