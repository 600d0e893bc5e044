"""Services with signed assertions at a running router: keys in a file or at an address, rotated and withdrawn."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AuthenticationError, OpenAI, PermissionDeniedError
from support.assertions import AUDIENCE, ISSUER, SUBJECT, Signer, jwks, kubernetes_claims, signer
from support.calls import Answer, call, chat, eventually, identified
from support.certificates import bundle, server_context
from support.scripted import Exchange, running_scripted
from support.servers import ACME_KEY, Mock, RunningRouter, running_router
from trustme import CA

IN_FORCE_WITHIN = 2.0  # seconds
FETCHED_WITHIN = 12.0  # seconds: the floor between two fetches, and the fetch
INVALID = "The assertion is not valid. Check its issuer, audience, subject and key with the team that runs the router."
OLD, NEW = signer("RS256", "old"), signer("ES256", "new")


def policy(mock: Mock, jwks_place: str, tenants: str = "[acme, globex, nowhere]", subject: str = SUBJECT) -> str:
    """Two tenants at a mocked provider, and a service account of Kubernetes whose keys are at `jwks_place`."""
    return f"""
providers:
  only: {{base_url: "{mock.url}/v1", retries: {{max: 0}}}}
service_accounts:
  issuers:
    - issuer: {ISSUER}
      jwks: {jwks_place}
      audience: {AUDIENCE}
  accounts:
    - subject: {subject}
      tenants: {tenants}
tenants:
  acme:
    providers:
      only: {{models: {{reasoning: {{default: gpt-4.1}}, embedding: {{default: text-embedding-3-small}}}}}}
  globex:
    providers:
      only: {{models: {{reasoning: {{default: gpt-4o}}}}}}
"""


class KeyFile:
    """A key set in a file, as a mounted ConfigMap has it: below a symlink that is swapped."""

    def __init__(self, folder: Path, *keys: Signer) -> None:
        self._folder = folder
        self._version = 0
        folder.mkdir()
        (folder / "jwks.json").symlink_to("..data/jwks.json")
        self.swap(jwks(*(key.jwk() for key in keys)))

    def swap(self, content: bytes) -> None:
        """Put another content in its place, in one step."""
        self._version += 1
        fresh = self._folder / f"..{self._version}"
        fresh.mkdir()
        (fresh / "jwks.json").write_bytes(content)
        (self._folder / "..tmp").symlink_to(fresh.name)
        (self._folder / "..tmp").replace(self._folder / "..data")

    def place(self) -> str:
        """The value of `jwks` in a policy."""
        return f"{{file: {self._folder}/jwks.json}}"


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    """The keys of the issuer: the old one."""
    return KeyFile(tmp_path / "jwks", OLD)


@pytest.fixture
def router(mock: Mock, tmp_path: Path, file: KeyFile) -> Iterator[RunningRouter]:
    """A router that knows the service account."""
    with running_router(tmp_path, policy(mock, file.place())) as router:
        yield router


def token(key: Signer = OLD, **changes: Any) -> str:
    """An assertion of the account, of now."""
    return key.token(kubernetes_claims(time.time(), **changes)).decode()


def ask(router: RunningRouter, credential: str, tenant: str = "acme") -> Answer:
    """One chat of `tenant` with a credential."""
    return chat(router, headers=identified(credential, tenant))


def status(router: RunningRouter, credential: str, tenant: str = "acme") -> int:
    """The status of one chat."""
    return ask(router, credential, tenant).status


def client(router: RunningRouter, credential: str, tenant: str = "acme") -> OpenAI:
    """The official client, with an assertion for its key."""
    return OpenAI(
        base_url=f"{router.url}/v1", api_key=credential, default_headers={"X-Tenant-ID": tenant}, max_retries=0
    )


def test_official_client_is_served_with_an_assertion(router: RunningRouter, mock: Mock) -> None:
    """A service puts its mounted token where others put a key; each tenant has its models, and no provider sees it."""
    mine = token()
    with client(router, mine) as acme, client(router, mine, "globex") as globex:
        answers = [
            service.chat.completions.create(model="reasoning", messages=[{"role": "user", "content": "one two"}])
            for service in (acme, globex)
        ]
        chunks = list(
            acme.chat.completions.create(
                model="reasoning", messages=[{"role": "user", "content": "one two"}], stream=True
            )
        )
        listed = [model.id for model in globex.models.list()]
        vector = acme.embeddings.create(model="embedding", input="one").data[0].embedding

    assert [answer.choices[0].message.content for answer in answers] == ["echo: one two"] * 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "echo: one two"
    assert listed == ["reasoning", "gpt-4o"]
    assert len(vector) == 1536
    assert [body["model"] for body in mock.bodies()] == ["gpt-4.1", "gpt-4o", "gpt-4.1", "text-embedding-3-small"]
    assert mine not in json.dumps(mock.requests())


def test_official_client_is_told_what_is_wrong(router: RunningRouter) -> None:
    """An expired assertion says so; a forged one and a foreign tenant are refused in the client's own classes."""
    old = token(exp=int(time.time()) - 60, iat=int(time.time()) - 120)
    forged = token(signer("RS256", "stranger"))
    with client(router, old) as expired, client(router, forged) as stranger, client(router, token(), "other") as other:
        with pytest.raises(AuthenticationError) as first:
            expired.models.list()
        with pytest.raises(AuthenticationError) as second:
            stranger.models.list()
        with pytest.raises(PermissionDeniedError) as third:
            other.models.list()

    def shown(error: openai.APIStatusError) -> tuple[Any, ...]:
        body: Any = error.body
        return (body["code"], body["message"], body["retryable"])

    assert shown(first.value) == (
        "invalid_assertion",
        "The assertion has expired. Send the request again with a fresh one.",
        False,
    )
    assert shown(second.value) == ("invalid_assertion", INVALID, False)
    assert shown(third.value) == (
        "tenant_mismatch",
        "The service account may not act for the tenant in X-Tenant-ID.",
        False,
    )


PROBES: dict[str, Mapping[str, Any]] = {
    "an unknown issuer": {"iss": "https://other.example"},
    "another audience": {"aud": ["other"]},
    "an unknown subject": {"sub": "system:serviceaccount:default:other"},
    "a life too long": {"exp": int(time.time()) + 10**6},
    "nbf to come": {"nbf": int(time.time()) + 10**5},
}


def test_stranger_learns_nothing_from_a_refusal(router: RunningRouter) -> None:
    """Whatever is wrong with an assertion, and whatever the tenant, answers differ in nothing but their ids."""
    seen = set()
    credentials = [
        *(token(**changes) for changes in PROBES.values()),
        token(NEW),
        token(signer("RS256", "stranger")),
        "eyJ.e30.x",
    ]
    for credential in credentials:
        for tenant in ("acme", "nobody", ""):
            answer = ask(router, credential, tenant)
            error = answer.json()["error"]
            assert error.pop("request_id") == answer.headers.pop("x-request-id")
            seen.add((answer.status, json.dumps(error), json.dumps(answer.headers)))

    assert len(seen) == 1
    [(code, body, _)] = seen
    assert (code, json.loads(body)) == (
        401,
        {
            "message": INVALID,
            "type": "authentication_error",
            "param": None,
            "code": "invalid_assertion",
            "retryable": False,
        },
    )


def test_tenant_is_asked_for_after_the_assertion(router: RunningRouter) -> None:
    """As for keys: then the header must be there, then fit, and a tenant that the policy lacks has no models."""
    headers = identified(token())
    del headers["X-Tenant-ID"]
    missing = chat(router, headers=headers)
    nowhere = ask(router, token(), "nowhere")

    assert (missing.status, missing.error()["code"]) == (400, "tenant_required")
    assert (nowhere.status, nowhere.error()["code"]) == (404, "model_not_found")


def test_keys_still_open_beside_assertions(router: RunningRouter) -> None:
    """An API key is judged as ever."""
    assert status(router, ACME_KEY) == 200
    assert ask(router, "sk-unknown").error()["code"] == "invalid_api_key"


def test_removed_key_is_dead_within_two_seconds_and_a_new_one_lives(router: RunningRouter, file: KeyFile) -> None:
    """A swap of the mounted file is in force for assertions that were taken and remembered before, too."""
    old, new = token(OLD), token(NEW)
    assert [status(router, old), status(router, new)] == [200, 401]

    file.swap(jwks(OLD.jwk(), NEW.jwk()))
    assert eventually(lambda: status(router, new), lambda seen: seen == 200, IN_FORCE_WITHIN) == 200
    assert status(router, old) == 200

    file.swap(jwks(NEW.jwk()))
    assert eventually(lambda: status(router, old), lambda seen: seen == 401, IN_FORCE_WITHIN) == 401
    assert status(router, new) == 200


def test_no_request_is_refused_while_keys_are_rotated(router: RunningRouter, file: KeyFile) -> None:
    """Under load through ten swaps, half-written files among them, what is signed by a published key is served."""
    mine = token(OLD)
    seen: list[int] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            seen.append(call(router, "GET", "/v1/models", headers=identified(mine)).status)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(10):
        file.swap(jwks(OLD.jwk(), *([NEW.jwk()] if turn % 2 else [])) if turn != 5 else b'{"keys": [')
        before = len(seen)
        eventually(lambda: len(seen), lambda count, before=before: count > before + 200)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()

    assert set(seen) == {200}


def test_removed_account_and_tenant_are_dead_within_two_seconds(
    router: RunningRouter, file: KeyFile, mock: Mock
) -> None:
    """What the policy takes away is gone for assertions that were taken and remembered before."""
    mine = token()
    assert [status(router, mine, tenant) for tenant in ("acme", "globex")] == [200, 200]

    router.policy.write_text(policy(mock, file.place(), tenants="[acme]"))
    assert eventually(lambda: status(router, mine, "globex"), lambda seen: seen == 403, IN_FORCE_WITHIN) == 403
    assert status(router, mine, "acme") == 200

    router.policy.write_text(policy(mock, file.place(), subject=f"{SUBJECT}-2"))
    assert eventually(lambda: status(router, mine), lambda seen: seen == 401, IN_FORCE_WITHIN) == 401


class Published:
    """An issuer's keys, served over https; `asked` is how often."""

    def __init__(self, *keys: Signer) -> None:
        self.keys = keys
        self.down = False
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

    def script(self, exchange: Exchange) -> None:
        """Serve the keys of now."""
        self.asked += 1
        assert self.gate.wait(FETCHED_WITHIN)
        if self.down:
            exchange.reset()
        else:
            exchange.answer(jwks(*(key.jwk() for key in self.keys)))


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CA:
    """A certificate authority that the system trusts."""
    ca = CA()
    (tmp_path / "ca.pem").write_text(bundle(ca))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return ca


def test_keys_at_an_address_are_fetched_and_rotated_by_need(mock: Mock, tmp_path: Path, authority: CA) -> None:
    """The first assertion is served; a new key is found because it is wanted; a withdrawn one is refused with it."""
    published = Published(OLD)
    with (
        running_scripted(published.script, server_context(authority.issue_cert("localhost"))) as issuer,
        running_router(tmp_path, policy(mock, f'{{url: "{issuer.url}/keys"}}')) as router,
    ):
        assert status(router, token(OLD)) == 200

        published.keys = (NEW,)
        begun = time.monotonic()
        new = eventually(lambda: status(router, token(NEW)), lambda seen: seen == 200, FETCHED_WITHIN)
        # Strangers ask for keys of their own all the while; the floor holds against them together.
        for count in range(300):
            status(router, token(signer("EdDSA", f"stranger-{count % 3}")))
        asked, elapsed = published.asked, time.monotonic() - begun

        published.down = True
        still = [status(router, token(NEW)) for _ in range(3)]
        old = status(router, token(OLD))

    assert (new, old, still) == (200, 401, [200, 200, 200])
    assert asked <= 2 + elapsed / 5.0


def test_router_starts_and_serves_keys_while_an_issuer_is_down(mock: Mock, tmp_path: Path, authority: CA) -> None:
    """Assertions are refused until its keys are there, and API keys do not depend on it."""
    published = Published(OLD)
    published.down = True
    with (
        running_scripted(published.script, server_context(authority.issue_cert("localhost"))) as issuer,
        running_router(tmp_path, policy(mock, f'{{url: "{issuer.url}/keys"}}')) as router,
    ):
        down = [status(router, token(OLD)), status(router, ACME_KEY)]
        ready = call(router, "GET", "/readyz", headers={}).status
        published.down = False
        up = eventually(lambda: status(router, token(OLD)), lambda seen: seen == 200, FETCHED_WITHIN)

    assert (down, ready, up) == ([401, 200], 200, 200)


def test_request_with_a_key_that_is_being_fetched_waits_for_it(mock: Mock, tmp_path: Path, authority: CA) -> None:
    """On every route the first assertion of a key is served, not refused; the fetch that all wait for is one."""
    published = Published(OLD)
    published.gate.clear()
    with (
        running_scripted(published.script, server_context(authority.issue_cert("localhost"))) as issuer,
        running_router(tmp_path, policy(mock, f'{{url: "{issuer.url}/keys"}}')) as router,
        ThreadPoolExecutor() as pool,
    ):
        headers = identified(token(OLD))
        waiting = [pool.submit(chat, router, headers=headers) for _ in range(3)]
        waiting += [pool.submit(call, router, "GET", "/v1/models", headers=headers) for _ in range(3)]
        eventually(lambda: published.asked, lambda asked: asked == 1)
        threading.Timer(0.3, published.gate.set).start()
        seen = [answer.result().status for answer in waiting]

    assert (seen, published.asked) == ([200] * 6, 1)
