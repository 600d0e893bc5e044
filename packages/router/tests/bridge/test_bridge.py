"""The bridge itself: who may call it, what it serves beside chats, what it never does."""

import base64
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from support.bridge import HELLO, START_WITHIN, TOKEN, Bridge, bridge_python, policy_of, running_bridge
from support.calls import call, chat, eventually
from support.emulated.anthropic import OVERLOADED, Anthropic
from support.emulated.base import INPUT, OUTPUT, TEXT, Emulator, Fault
from support.emulated.bedrock import Bedrock
from support.emulated.mistral import VECTOR, Mistral
from support.processes import Line, finished
from support.servers import running_router

CHAT: dict[str, Any] = {"model": "mistral-small-latest", "messages": HELLO}


def code(bridge: Bridge, provider: str, body: Any, **how: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    answer = bridge.ask(provider, body, **how)
    return answer.status, answer.json()["error"]["code"]


def test_token_is_needed(bridge: Bridge) -> None:
    """Whoever lacks it gets nothing, and nobody else's key is used."""
    assert code(bridge, "mistral", CHAT, token="wrong") == (401, "invalid_api_key")
    assert code(bridge, "mistral", CHAT, token="") == (401, "invalid_api_key")


def test_health_needs_no_token(bridge: Bridge) -> None:
    """The supervisor of a sidecar asks for it; the hash is the policy's."""
    line = Line(bridge.port)
    answer = line.get("/healthz", {})
    line.close()
    assert (answer.status, sorted(answer.json())) == (200, ["policy", "status"])


def test_unknown_provider_is_worth_another_try(bridge: Bridge) -> None:
    """The router may have read a new policy before the bridge has."""
    answer = bridge.ask("later", CHAT)
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["retryable"]) == (503, "upstream_misconfigured", True)


@pytest.mark.parametrize("endpoint", ["models", "chat", "chat/completions/x", ""])
def test_other_paths_are_not_found(bridge: Bridge, endpoint: str) -> None:
    """Three endpoints, and no more."""
    assert code(bridge, "mistral", CHAT, endpoint=endpoint) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        ({"messages": HELLO}, "model"),
        ({**CHAT, "api_base": "http://elsewhere"}, "api_base"),
        ({**CHAT, "mock_response": "fooled"}, "mock_response"),
    ],
)
def test_wrong_request_is_refused_with_its_field(bridge: Bridge, body: Any, param: str | None) -> None:
    """And never called with."""
    status, answer = bridge.post("mistral", body)
    error = answer["error"]
    assert (status, error["code"], error["param"], error["retryable"]) == (400, "invalid_request", param, False)


def test_field_that_a_provider_cannot_honour_is_refused(bridge: Bridge) -> None:
    """Dropping it would change the answer without a word."""
    body = {"model": "claude-sonnet-4-5", "messages": HELLO, "logprobs": True}
    status, answer = bridge.post("anthropic", body)

    error = answer["error"]
    assert (status, error["code"], error["retryable"]) == (400, "unsupported_parameter", False)
    assert error["message"] == "The provider does not support what the request asks for: logprobs."


def test_hint_that_a_provider_does_not_know_is_dropped(bridge: Bridge) -> None:
    """A request that falls back to another provider shall not fail for what only tunes."""
    body = {"model": "claude-sonnet-4-5", "messages": HELLO, "seed": 7, "presence_penalty": 0.5, "metadata": {"a": "b"}}
    assert bridge.ask("anthropic", body).status == 200


def test_completion(bridge: Bridge) -> None:
    """LiteLLM makes a chat of it, and the answer a completion again."""
    body = {"model": "mistral-small-latest", "prompt": "Say hello", "max_tokens": 5}
    status, answer = bridge.post("mistral", body, "completions")

    assert status == 200
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", TEXT)
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (INPUT, OUTPUT)


def test_completion_in_a_stream(bridge: Bridge) -> None:
    """The same in pieces, with its usage and its end."""
    body = {"model": "mistral-small-latest", "prompt": "Say hello", "stream_options": {"include_usage": True}}
    events = bridge.stream("mistral", body, "completions")

    assert events[-1] == "[DONE]"
    assert "".join(choice.get("text") or "" for event in events[:-1] for choice in event["choices"]) == TEXT
    assert [c["finish_reason"] for e in events[:-1] for c in e["choices"] if c.get("finish_reason")] == ["stop"]
    [usage] = [event["usage"] for event in events[:-1] if event.get("usage")]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (INPUT, OUTPUT)


@pytest.mark.parametrize("prompt", [None, 5, ["a", "b"], [1, 2]])
def test_completion_of_anything_but_one_text_is_refused(bridge: Bridge, prompt: Any) -> None:
    """What a chat cannot say is not guessed."""
    body = {"model": "mistral-small-latest", "prompt": prompt}
    status, answer = bridge.post("mistral", body, "completions")
    assert (status, answer["error"]["param"]) == (400, "prompt")


def test_error_event_in_a_stream_is_a_failure(bridge: Bridge, anthropic: Anthropic) -> None:
    """Anthropic's way to break off: it must not look complete."""
    anthropic.fault = Fault(cut=True, broken=OVERLOADED)
    events = bridge.stream("anthropic", {"model": anthropic.model, "messages": HELLO})
    assert (events[-1]["error"]["code"], events[-1]["error"]["retryable"]) == ("upstream_error", True)
    assert [c for e in events[:-1] for c in e["choices"] if c.get("finish_reason")] == []


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embedding(bridge: Bridge, encoding: str | None) -> None:
    """Numbers, or as the official clients ask, the same in base64."""
    body = {"model": "mistral-embed", "input": "hello", "encoding_format": encoding}
    status, answer = bridge.post("mistral", body, "embeddings")

    assert status == 200
    [item] = answer["data"]
    vector = item["embedding"]
    if encoding == "base64":
        vector = list(struct.unpack("<3f", base64.b64decode(vector)))
    assert vector == list(VECTOR)
    assert answer["usage"]["prompt_tokens"] == INPUT


def test_requests_to_bedrock_are_signed(bridge: Bridge, bedrock: Bedrock) -> None:
    """With the keys of the environment, for its region."""
    bridge.post("bedrock", {"model": bedrock.model, "messages": HELLO})

    assert bedrock.last.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAEMULATED/")
    assert "/eu-north-1/bedrock/aws4_request" in bedrock.last.headers["authorization"]


@pytest.mark.parametrize("fault", [Fault(), Fault(status=400), Fault(status=500), Fault(cut=True)], ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_messages_are_never_logged(bridge: Bridge, emulator: Emulator, fault: Fault, stream: bool) -> None:
    """Neither what was asked nor what was answered is printed, at the level debug, whatever happens."""
    emulator.fault = fault
    messages = [{"role": "user", "content": "CANARY-4711"}]
    bridge.ask(emulator.litellm_provider, {"model": emulator.model, "messages": messages, "stream": stream})
    printed = bridge.process.stdout() + bridge.process.stderr()

    assert emulator.last.body.count(b"CANARY-4711") == 1
    for private in ("CANARY-4711", "Hel", "the provider's own reason", *(value for _, value in emulator.secrets[:2])):
        assert private not in printed
    assert "Traceback" not in printed
    assert bridge.process.stdout() == ""


NO_NETWORK = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print("NETWORK", event, args, file=sys.stderr)
sys.addaudithook(watch)
import runpy
sys.argv[0] = "stratmaster-router"
runpy.run_module("stratmaster_router", run_name="__main__")
"""


def test_nothing_is_fetched_at_the_start(tmp_path: Path) -> None:
    """No table of models, no tokenizer: importing LiteLLM opens no connection and asks for no name."""
    policy = policy_of({"claude": "{wire: litellm, litellm_provider: anthropic}"}, {"claude": "claude-sonnet-4-5"})
    with running_bridge(tmp_path, policy, {"ANTHROPIC_API_KEY": "k"}, ["-c", NO_NETWORK]) as running:
        assert "bridge serves" in running.process.stderr()
        assert "NETWORK" not in running.process.stderr()


def test_bridge_follows_the_policy_and_misses_a_key(tmp_path: Path) -> None:
    """A provider without its key is refused by name of what is missing; a new one is served without a restart."""
    claude, mistral = Anthropic(), Mistral()
    with claude.running(), mistral.running():
        policy = policy_of({"claude": claude.policy_entry}, {"claude": claude.model})
        both = policy_of(
            {"claude": claude.policy_entry, "mistral": mistral.policy_entry},
            {"claude": claude.model, "mistral": mistral.model},
        )
        with running_bridge(tmp_path, policy, dict(mistral.secrets)) as running:
            assert code(running, "claude", {"model": claude.model, "messages": HELLO}) == (
                401,
                "upstream_misconfigured",
            )
            assert "providers.claude: ANTHROPIC_KEY is not set" in running.process.stderr()
            assert running.ask("mistral", CHAT).status == 503

            running.policy.write_text(both)

            assert eventually(lambda: running.ask("mistral", CHAT).status, lambda status: status == 200) == 200


def test_bridge_as_a_sidecar(bridge: Bridge, tmp_path: Path) -> None:
    """A router that is told of a bridge calls it with the token, and needs none of its keys."""
    policy = bridge.policy.read_text()
    with running_router(tmp_path, policy, bridge_url=bridge.url, bridge_token=TOKEN) as router:
        answer = chat(router, model="mistral")
        assert (answer.status, answer.json()["choices"][0]["message"]["content"]) == (200, TEXT)
        assert call(router, "GET", "/readyz").json()["litellm_bridge"] == "up"


def test_router_with_another_token_says_so(bridge: Bridge, tmp_path: Path) -> None:
    """A sidecar that is there and refuses its router is not called up, and the log has the code of its hops."""
    with running_router(tmp_path, bridge.policy.read_text(), bridge_url=bridge.url, bridge_token="wrong") as router:
        answer = chat(router, model="mistral")
        assert (answer.status, answer.json()["error"]["attempts"][0]["code"]) == (503, "upstream_auth_failed")
        ready = call(router, "GET", "/readyz")
        assert (ready.status, ready.json()["litellm_bridge"]) == (200, "refused")


def test_bridge_that_is_not_there_fails_its_hops_and_not_the_router(tmp_path: Path) -> None:
    """Readiness says so, and does not fail."""
    policy = policy_of({"claude": "{wire: litellm, litellm_provider: anthropic}"}, {"claude": "claude-sonnet-4-5"})
    with running_router(tmp_path, policy, bridge_url="http://127.0.0.1:9", bridge_token=TOKEN) as router:
        ready = call(router, "GET", "/readyz")
        assert (ready.status, ready.json()["litellm_bridge"]) == (200, "down")
        answer = chat(router, model="claude")
        assert (answer.status, answer.json()["error"]["attempts"][0]["code"]) == (503, "upstream_connect_failed")


def test_missing_extra_says_what_to_install(tmp_path: Path) -> None:
    """The router's own environment does not have LiteLLM."""
    (tmp_path / "policy.yaml").write_text("tenants: {}")
    arguments = [sys.executable, "-m", "stratmaster_router", "litellm-bridge", "--policy", "policy.yaml"]
    ended = finished(arguments, tmp_path, {"ROUTER_BRIDGE_TOKEN": "t"})

    assert ended.returncode == 1
    assert ended.stderr == (
        "LiteLLM is not installed here: pip install 'stratmaster-router[litellm]', or set ROUTER_BRIDGE_PYTHON\n"
    )


@pytest.mark.parametrize(
    ("environ", "policy", "said"),
    [
        ({}, "tenants: {}", "ROUTER_BRIDGE_TOKEN is not set: without it anybody could use the providers' keys\n"),
        ({"ROUTER_BRIDGE_TOKEN": "t"}, "tenant: {}", "policy.yaml: line 1: tenant: unknown field, did you mean"),
    ],
)
def test_bridge_that_cannot_start_says_why(tmp_path: Path, environ: dict[str, str], policy: str, said: str) -> None:
    """A message, not a traceback."""
    (tmp_path / "policy.yaml").write_text(policy)
    arguments = [bridge_python(), "-m", "stratmaster_router", "litellm-bridge", "--policy", "policy.yaml"]
    ended = finished(arguments, tmp_path, environ, START_WITHIN)

    assert ended.returncode == 1
    assert ended.stderr.startswith(said), json.dumps(ended.stderr)
