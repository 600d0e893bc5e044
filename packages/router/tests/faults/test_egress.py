"""Addresses that the policy does not name, through the whole router."""

from pathlib import Path

import pytest
from support.calls import chat, samples
from support.scripted import running_scripted
from support.servers import Mock, running_router

ANSWER = b'{"object":"chat.completion","choices":[{"message":{"content":"x"}}]}'


def _policy(second: str, egress: str = "") -> str:
    return f"""
providers:
  azure: {{timeouts: {{connect: 5s}}{egress}}}
  second: {{base_url: "{second}/v1"}}
tenants:
  acme:
    providers:
      azure: {{models: {{reasoning: {{default: gpt-4.1}}}}}}
      second: {{models: {{reasoning: {{default: gpt-4o-mini}}}}}}
"""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "169.254.169.254", "[fd00:ec2::254]"])
def test_private_address_that_the_policy_does_not_name_is_a_failed_hop(
    mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """An address from a variable that leads to a private place is not called; the next hop answers."""
    port = mock.url.rpartition(":")[2]
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "sk-azure")
    with running_router(tmp_path, _policy(mock.url)) as router:
        plain, stream = chat(router), chat(router, stream=True)
        alone = chat(router, model="azure/gpt-4.1")
        failures = samples(router, "litellm_upstream_failures_total")

    for answer in (plain, stream):
        assert (answer.status, answer.headers["x-router-provider"], answer.headers["x-router-attempts"]) == (
            200,
            "second",
            "2",
        )
    (attempt,) = alone.json()["error"]["attempts"]
    assert (attempt["provider"], attempt["status"], attempt["code"]) == ("azure", None, "upstream_egress_denied")
    assert host not in alone.body.decode()
    labels = 'code="upstream_egress_denied",model="gpt-4.1",provider="azure"'
    assert failures == {f"litellm_upstream_failures_total{{{labels}}}": 3.0}
    assert [request["model"] for request in mock.requests()] == ["gpt-4o-mini"] * 2


def test_private_address_is_called_once_the_policy_names_it(
    mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a private endpoint of Azure: its host stands in `egress.allow_hosts`."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "sk-azure")
    with running_scripted(lambda exchange: exchange.answer(ANSWER)) as azure:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", f"http://localhost:{azure.port}")
        with running_router(tmp_path, _policy(mock.url, ", egress: {allow_hosts: [localhost]}")) as router:
            answer = chat(router)

    assert (answer.status, answer.headers["x-router-provider"]) == (200, "azure")
