import http.client
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.calls import HELLO, TIMEOUT, Answer, call, chat, connected, eventually, identified, request_bytes, samples
from support.policies import one_hop
from support.scripted import Exchange, running_scripted, stream_head
from support.servers import ACME_KEY, GLOBEX_KEY, Mock, RunningRouter, running_router

IN_FORCE_WITHIN = 2.0  # seconds; policy.md, rule 10
INVALID = "tenants: {acme: {providers: {only: {models: {reasoning: {defualt: x}}}}}}\n"
FAILURES = "litellm_policy_reload_failures_total"


def _models(router: RunningRouter, key: str = ACME_KEY, tenant: str = "acme") -> list[str]:
    listed = call(router, "GET", "/v1/models", headers=identified(key, tenant)).json()["data"]
    return [model["id"] for model in listed]


def _health(router: RunningRouter, path: str = "/healthz") -> Any:
    answer = call(router, "GET", path, headers={})
    assert answer.status == 200
    return answer.json()


def _soon(look: Callable[[], Any], wanted: object) -> Any:
    return eventually(look, lambda seen: bool(seen == wanted), IN_FORCE_WITHIN)


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_valid_change_is_in_force_within_two_seconds(mock: Mock, tmp_path: Path, how: str) -> None:
    """The next request after a change is judged by it, and the new hash is shown everywhere."""
    with running_router(tmp_path, one_hop(mock.url, "gpt-4.1")) as router:
        before = _health(router)["policy"]
        text = one_hop(mock.url, "gpt-4o").replace("reasoning", "thinking")
        if how == "in place":
            router.policy.write_text(text)
        else:
            fresh = router.policy.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(router.policy)
        assert _soon(lambda: _models(router), ["thinking", "gpt-4o"]) == ["thinking", "gpt-4o"]
        after = _health(router)["policy"]
        old, new = chat(router, model="reasoning"), chat(router, model="thinking")
        ready = _health(router, "/readyz")

    assert before != after
    assert ready == {"status": "ready", "policy": after}
    assert (old.status, old.error()["code"], old.headers["x-router-policy"]) == (404, "model_not_found", after)
    assert (new.status, new.headers["x-router-model"], new.headers["x-router-policy"]) == (200, "gpt-4o", after)


@pytest.mark.parametrize("text", [INVALID, "", "\x00\xff"], ids=["field", "empty", "binary"])
def test_invalid_change_leaves_the_last_good_policy(mock: Mock, tmp_path: Path, text: str) -> None:
    """A refused change moves the counter and nothing else: requests, readiness and hash stay; a repair works."""
    with running_router(tmp_path, one_hop(mock.url, "gpt-4.1")) as router:
        before = _health(router)
        assert samples(router, FAILURES) == {FAILURES: 0.0}
        router.policy.write_bytes(text.encode("latin-1"))
        assert _soon(lambda: samples(router, FAILURES), {FAILURES: 1.0}) == {FAILURES: 1.0}
        answer = chat(router)
        after, ready = _health(router), _health(router, "/readyz")
        router.policy.write_text(one_hop(mock.url, "gpt-4o"))
        repaired = _soon(lambda: _models(router), ["reasoning", "gpt-4o"])
        failures = samples(router, FAILURES)

    assert (answer.status, answer.headers["x-router-model"]) == (200, "gpt-4.1")
    assert (after, ready) == (before, {"status": "ready", "policy": before["policy"]})
    assert repaired == ["reasoning", "gpt-4o"]
    assert failures == {FAILURES: 1.0}


def test_missing_file_leaves_the_last_good_policy(mock: Mock, tmp_path: Path) -> None:
    """A file that is gone is a change that cannot take effect."""
    with running_router(tmp_path, one_hop(mock.url)) as router:
        router.policy.unlink()
        failures = _soon(lambda: samples(router, FAILURES), {FAILURES: 1.0})
        answer = chat(router)

    assert (failures, answer.status) == ({FAILURES: 1.0}, 200)


def test_swapped_symlink_of_a_config_map_is_a_change(mock: Mock, tmp_path: Path) -> None:
    """Kubernetes swaps `..data`, two levels above the file that the router was given."""
    for version in ("..2026_1", "..2026_2"):
        (tmp_path / version).mkdir()
    (tmp_path / "..2026_2" / "policy.yaml").write_text(one_hop(mock.url, "gpt-4o"))
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    with running_router(tmp_path, one_hop(mock.url, "gpt-4.1")) as router:
        assert router.policy.is_symlink()
        before = _models(router)
        (tmp_path / "..data_tmp").symlink_to("..2026_2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        after = _soon(lambda: _models(router), ["reasoning", "gpt-4o"])

    assert (before, after) == (["reasoning", "gpt-4.1"], ["reasoning", "gpt-4o"])


class _Gated:
    """A provider whose answers go on when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def stream(self, exchange: Exchange) -> None:
        """The first event at once, the rest after the gate."""
        exchange.send(stream_head())
        exchange.chunk(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        assert self.go.wait(TIMEOUT)
        exchange.chunk(b'data: {"choices":[{"finish_reason":"stop"}]}\n\n')
        exchange.chunk(b"data: [DONE]\n\n")
        exchange.chunk(b"")

    def failing(self, exchange: Exchange) -> None:
        """A 503 after the gate."""
        assert self.go.wait(TIMEOUT)
        exchange.answer(b"{}", status="503 Busy")


def test_stream_under_way_finishes_under_the_policy_that_it_began_with(mock: Mock, tmp_path: Path) -> None:
    """A change that takes away a stream's model and provider does not cut the stream."""
    gated = _Gated()
    with (
        running_scripted(gated.stream) as upstream,
        running_router(tmp_path, one_hop(upstream.url, "gpt-4.1")) as router,
        connected(router) as client,
    ):
        before = _health(router)["policy"]
        client.sendall(request_bytes({**HELLO, "stream": True}))
        response = http.client.HTTPResponse(client)
        response.begin()
        body = response.readline() + response.readline()
        router.policy.write_text(one_hop(mock.url, "gpt-4o").replace("only", "another"))
        _soon(lambda: _models(router), ["reasoning", "gpt-4o"])
        new = chat(router)
        gated.go.set()
        body += response.read()
        policy = response.headers["x-router-policy"]
        response.close()

    assert policy == before
    assert body.endswith(b"data: [DONE]\n\n")
    assert b"error" not in body
    assert (new.status, new.headers["x-router-provider"], new.headers["x-router-model"]) == (200, "another", "gpt-4o")


def _two_providers(gated: str, other: str, name: str, model: str) -> str:
    return f"""
providers:
  gated: {{base_url: "{gated}/v1"}}
  {name}: {{base_url: "{other}/v1"}}
tenants:
  acme:
    providers:
      gated: {{models: {{reasoning: {{default: gpt-4.1}}}}}}
      {name}: {{models: {{reasoning: {{default: {model}}}}}}}
"""


def test_request_under_way_falls_back_by_the_policy_that_it_began_with(mock: Mock, tmp_path: Path) -> None:
    """The plan of a request is made once: hops that a change takes away are still its hops, new ones are not."""
    gated = _Gated()
    with running_scripted(gated.failing) as upstream:
        old = _two_providers(upstream.url, mock.url, "old", "gpt-4o")
        new = _two_providers(upstream.url, mock.url, "new", "o3")
        with running_router(tmp_path, old) as router:
            answers: list[Answer] = []
            asking = threading.Thread(target=lambda: answers.append(chat(router)))
            asking.start()
            eventually(lambda: len(upstream.exchanges), lambda count: count == 1)
            router.policy.write_text(new)
            _soon(lambda: _models(router), ["reasoning", "gpt-4.1", "o3"])
            gated.go.set()
            asking.join(TIMEOUT)

    assert [(a.status, a.headers["x-router-provider"], a.headers["x-router-model"]) for a in answers] == [
        (200, "old", "gpt-4o")
    ]


def test_rotated_key_of_an_upstream_is_used_at_once(mock: Mock, tmp_path: Path) -> None:
    """A secret file that changes is read anew, without a change of the policy."""
    secret = tmp_path / "upstream.key"
    secret.write_text("sk-old\n")
    policy = one_hop(mock.url).replace("    timeouts", f"    api_key: {{file: {secret}}}\n    timeouts")
    with running_router(tmp_path, policy) as router:
        chat(router)
        secret.write_text("sk-new\n")

        def key() -> str:
            chat(router)
            return str(mock.requests()[-1]["headers"]["authorization"])

        last = _soon(key, "Bearer sk-new")
        first = mock.requests()[0]["headers"]["authorization"]

    assert (first, last) == ("Bearer sk-old", "Bearer sk-new")


def _status(router: RunningRouter, key: str, tenant: str = "acme") -> int:
    return call(router, "GET", "/v1/models", headers=identified(key, tenant)).status


def test_key_is_rotated_by_two_lines(mock: Mock, tmp_path: Path) -> None:
    """Both keys of a tenant work while both stand in its file; one that is taken out is dead within two seconds."""
    with running_router(tmp_path, one_hop(mock.url)) as router:
        assert (_status(router, ACME_KEY), _status(router, "sk-new-key")) == (200, 401)
        (router.keys / "acme").write_text(f"{ACME_KEY}\nsk-new-key\n")
        assert _soon(lambda: _status(router, "sk-new-key"), 200) == 200
        assert _status(router, ACME_KEY) == 200
        (router.keys / "acme").write_text("sk-new-key\n")
        assert _soon(lambda: _status(router, ACME_KEY), 401) == 401
        assert _status(router, "sk-new-key") == 200
        assert _status(router, GLOBEX_KEY, "globex") == 200


def test_removed_file_of_a_tenant_kills_its_keys(mock: Mock, tmp_path: Path) -> None:
    """A tenant whose file is gone has no key, and the others keep theirs."""
    with running_router(tmp_path, one_hop(mock.url)) as router:
        (router.keys / "acme").unlink()
        assert _soon(lambda: _status(router, ACME_KEY), 401) == 401
        assert _status(router, GLOBEX_KEY, "globex") == 200


def test_key_of_two_tenants_opens_nothing(mock: Mock, tmp_path: Path) -> None:
    """A key that stands in two files would let one tenant act for the other."""
    with running_router(tmp_path, one_hop(mock.url), keys={"acme": "sk-both\nsk-mine", "globex": "sk-both"}) as router:
        found = [_status(router, "sk-both"), _status(router, "sk-both", "globex"), _status(router, "sk-mine")]

    assert found == [401, 401, 200]


def test_keys_of_a_mounted_secret_are_followed(mock: Mock, tmp_path: Path) -> None:
    """A Kubernetes Secret is a folder of symlinks through `..data`, which is swapped as one."""
    mounted = tmp_path / "secret"
    for version, key in (("..1", "sk-first"), ("..2", "sk-second")):
        (mounted / version).mkdir(parents=True)
        (mounted / version / "acme").write_text(key)
    (mounted / "..data").symlink_to("..1")
    (mounted / "acme").symlink_to("..data/acme")
    with running_router(tmp_path, one_hop(mock.url), keys_dir=mounted) as router:
        before = (_status(router, "sk-first"), _status(router, "sk-second"))
        (mounted / "..tmp").symlink_to("..2")
        (mounted / "..tmp").replace(mounted / "..data")
        after = (_soon(lambda: _status(router, "sk-second"), 200), _status(router, "sk-first"))

    assert (before, after) == ((200, 401), (200, 401))
