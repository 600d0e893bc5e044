"""`serve` starts the bridge, keeps it running, and lives without it."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.bridge import START_WITHIN, TOOLS, bridge_python, bridges
from support.emulated.anthropic import Anthropic
from support.emulated.base import CITY, INPUT, OUTPUT, TEXT, Fault
from support.processes import Served, serving, wait_until
from support.servers import ACME_KEY, Mock, running_mock

NATIVE = {"model": "native", "messages": [{"role": "user", "content": "hello"}]}
CLAUDE = {"model": "claude", "messages": [{"role": "user", "content": "CANARY-PROMPT"}], "max_tokens": 50}
OTHER_SECRET = "sk-native-secret-of-another-provider"


@pytest.fixture(scope="module")
def mock() -> Iterator[Mock]:
    """A provider on the OpenAI wire."""
    with running_mock() as running:
        yield running


@pytest.fixture(scope="module")
def claude() -> Iterator[Anthropic]:
    """An emulated Anthropic."""
    emulator = Anthropic()
    with emulator.running():
        yield emulator


def policy(mock: Mock, claude: Anthropic | None) -> str:
    """Acme's: a native provider, a task for each, and one that falls back from LiteLLM's to the native."""
    # One attempt a request, and a long `Retry-After` keeps nobody out of the next test.
    once = "retries: {max: 0, backoff: {max: 1h}}, breaker: {failures: 1000}"
    entry = f"\n  claude: {claude.policy_entry.removesuffix('}')}, {once}}}" if claude else ""
    tasks = "\n      claude: {models: {claude: {default: claude-sonnet-4-5}, both: {default: claude-sonnet-4-5}}}"
    return f"""
providers:
  local: {{base_url: '{mock.url}/v1', api_key: {{env: NATIVE_KEY}}}}{entry}
tenants:
  acme:
    providers:{tasks if claude else ""}
      local: {{models: {{native: {{default: gpt-4.1}}, both: {{default: gpt-4.1}}}}}}
"""


def environ(claude: Anthropic) -> dict[str, str]:
    """What the operator sets."""
    secrets = {"NATIVE_KEY": OTHER_SECRET, "AWS_SECRET_ACCESS_KEY": "of-nobody-here", **dict(claude.secrets)}
    return {"ROUTER_BRIDGE_PYTHON": bridge_python(), **secrets}


def ready(served: Served) -> Any:
    """What `/readyz` says of the bridge."""
    answer = served.call("GET", "/readyz")
    assert answer.status == 200
    return answer.json().get("litellm_bridge")


def wait_up(served: Served) -> None:
    """Wait until the bridge answers."""
    wait_until(lambda: ready(served) == "up", "the bridge is up", START_WITHIN)


def status(served: Served, body: dict[str, Any]) -> int:
    """The status of a chat."""
    return served.call("POST", "/v1/chat/completions", body).status


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, mock: Mock, claude: Anthropic) -> Iterator[Served]:
    """A router with its bridge, two workers; for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, policy(mock, claude), workers=2, environ=environ(claude)) as served:
        wait_up(served)
        yield served


def client(served: Served) -> openai.OpenAI:
    """The official client, as acme."""
    return openai.OpenAI(
        api_key=ACME_KEY, base_url=f"{served.url}/v1", default_headers={"X-Tenant-ID": "acme"}, max_retries=0
    )


def test_official_client_talks_to_anthropic(shared: Served) -> None:
    """A whole answer with its usage, through router, bridge and LiteLLM."""
    with client(shared) as api:
        answer = api.chat.completions.create(model="claude", messages=[{"role": "user", "content": "hi"}])

    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (INPUT, OUTPUT)


def test_official_client_streams_from_anthropic(shared: Served) -> None:
    """The words in pieces, the reason, and the usage that was asked for."""
    with client(shared) as api:
        chunks = list(
            api.chat.completions.create(
                model="claude",
                messages=[{"role": "user", "content": "hi"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )

    assert [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content] == [
        "Hel",
        "lo ",
        "there",
    ]
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    [usage] = [chunk.usage for chunk in chunks if chunk.usage]
    assert (usage.prompt_tokens, usage.completion_tokens) == (INPUT, OUTPUT)


def test_official_client_gets_anthropics_tool_calls(shared: Served) -> None:
    """A call with its arguments, which Anthropic streams in pieces of JSON."""
    tools: Any = TOOLS
    with client(shared) as api:
        stream = api.chat.completions.create(
            model="claude", messages=[{"role": "user", "content": "weather?"}], tools=tools, stream=True
        )
        calls = [call for c in stream if c.choices for call in c.choices[0].delta.tool_calls or []]

    assert calls[0].function is not None
    assert calls[0].function.name == "get_weather"
    assert json.loads("".join(call.function.arguments or "" for call in calls if call.function)) == CITY


def test_a_limit_of_anthropics_falls_back(shared: Served, claude: Anthropic, mock: Mock) -> None:
    """A 429 moves on to the next provider; without one it is a 503 that says how long to wait."""
    claude.fault = Fault(status=429)
    try:
        assert shared.call("POST", "/v1/chat/completions", {**CLAUDE, "model": "both"}).headers[
            "x-router-provider"
        ] == ("local")
        alone = shared.call("POST", "/v1/chat/completions", CLAUDE)
    finally:
        claude.fault = Fault()

    assert (alone.status, alone.headers["retry-after"]) == (503, "7")
    [attempt] = alone.json()["error"]["attempts"]
    assert (attempt["provider"], attempt["status"], attempt["code"]) == ("claude", 429, "upstream_rate_limited")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_usage_is_metered_exactly(shared: Served, stream: bool) -> None:
    """What Anthropic counted is what the router books, though the client did not ask for it."""
    answer = shared.call("POST", "/v1/chat/completions", {**CLAUDE, "stream": stream})
    request_id = answer.headers["x-request-id"]

    def booked() -> list[tuple[Any, ...]]:
        return [
            (line["provider"], line["input_tokens"], line["output_tokens"])
            for line in shared.access_lines()
            if line["request_id"] == request_id
        ]

    assert answer.status == 200
    assert b"usage" not in answer.body if stream else answer.json()["usage"]["prompt_tokens"] == INPUT
    wait_until(lambda: booked() == [("claude", INPUT, OUTPUT)], "the request is in the access log")


def test_bridge_sees_only_its_own_providers_keys(shared: Served, claude: Anthropic) -> None:
    """Its environment has the key of its provider and no other, and its arguments have no token."""
    [pid] = bridges(shared.pid)
    names = dict(
        entry.split(b"=", 1) for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in entry
    )

    assert set(names) <= {
        b"PATH", b"HOME", b"LANG", b"LC_ALL", b"LC_CTYPE", b"TZ", b"TMPDIR", b"SSL_CERT_FILE", b"SSL_CERT_DIR",
        b"ROUTER_POLICY", b"ROUTER_LOG_LEVEL", b"ROUTER_BRIDGE_TOKEN", claude.secrets[0][0].encode(),
    }  # fmt: skip
    assert names[claude.secrets[0][0].encode()] == claude.secrets[0][1].encode()
    assert len(names[b"ROUTER_BRIDGE_TOKEN"]) > 30
    assert names[b"ROUTER_BRIDGE_TOKEN"] not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_killed_bridge_comes_back_and_native_traffic_goes_on(tmp_path: Path, mock: Mock, claude: Anthropic) -> None:
    """Without the bridge its hops fail over at once and the rest is served; a new one is there soon."""
    with serving(tmp_path, policy(mock, claude), environ=environ(claude)) as served:
        wait_up(served)
        [first] = bridges(served.pid)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: ready(served) == "down", "the bridge is seen to be down")
        began = time.monotonic()
        assert status(served, NATIVE) == 200
        assert served.call("POST", "/v1/chat/completions", {**CLAUDE, "model": "both"}).headers[
            "x-router-provider"
        ] in {"local", "claude"}
        assert time.monotonic() - began < 10
        wait_up(served)
        [second] = bridges(served.pid)
        assert second != first
        assert status(served, CLAUDE) == 200

        served.terminate()
        assert bridges(served.pid) == []
        assert "CANARY-PROMPT" not in served.stderr() + served.stdout()
        assert "Traceback" not in served.stderr()


def test_bridge_ends_with_a_killed_router(tmp_path: Path, mock: Mock, claude: Anthropic) -> None:
    """Nothing is left of a router that had no time to clean up."""
    with serving(tmp_path, policy(mock, claude), environ=environ(claude)) as served:
        wait_up(served)
        assert len(bridges(served.pid)) == 1

        served.signal(signal.SIGKILL)
        served.wait()

        wait_until(lambda: bridges(served.pid) == [], "the bridge has ended")


def test_first_litellm_provider_of_a_reload_starts_the_bridge(tmp_path: Path, mock: Mock, claude: Anthropic) -> None:
    """No bridge runs for a policy that needs none; one that gains a provider for it has one soon."""
    with serving(tmp_path, policy(mock, None), environ=environ(claude)) as served:
        assert ready(served) is None
        assert bridges(served.pid) == []

        served.replace_policy(policy(mock, claude))

        wait_up(served)
        assert status(served, CLAUDE) == 200

        served.replace_policy(policy(mock, None))

        wait_until(lambda: bridges(served.pid) == [], "the bridge has ended")
        wait_until(lambda: ready(served) is None, "the worker has read the policy too")


def test_native_traffic_is_served_without_litellm(tmp_path: Path, mock: Mock, claude: Anthropic) -> None:
    """Where LiteLLM is not installed, its hops are misconfigured, and the log says what to install."""
    given = {**environ(claude), "ROUTER_BRIDGE_PYTHON": "/nonexistent/python"}
    with serving(tmp_path, policy(mock, claude), environ=given) as served:
        assert status(served, NATIVE) == 200
        answer = served.call("POST", "/v1/chat/completions", CLAUDE)
        assert answer.status == 503
        assert [a["code"] for a in answer.json()["error"]["attempts"]] == ["upstream_misconfigured"]
        assert ready(served) is None
        assert "providers.claude: needs the LiteLLM bridge: set ROUTER_BRIDGE_PYTHON to a Python" in served.stderr()
        (line,) = [line for line in served.stderr().splitlines() if "ROUTER_BRIDGE_PYTHON cannot" in line]
        said = json.loads(line)
        assert (said["python"], said["why"]) == ("/nonexistent/python", "there is no such program")
