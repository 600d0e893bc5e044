"""What the bridge's environment is made of."""

from pathlib import Path

import pytest
from stratmaster_router.cli.supervise import bridge_environ
from stratmaster_router.policy.parse import parse
from stratmaster_router.settings import Settings

ENVIRON = {
    "PATH": "/bin",
    "HOME": "/home/router",
    "LC_ALL": "C.UTF-8",
    "SSL_CERT_FILE": "/ca.pem",
    "HTTPS_PROXY": "http://proxy",
    "no_proxy": "localhost",
    "ANTHROPIC_API_KEY": "a",
    "CLAUDE_KEY": "c",
    "OPENAI_API_KEY": "o",
    "AWS_ACCESS_KEY_ID": "i",
    "AWS_REGION_NAME": "eu-north-1",
    "GOOGLE_APPLICATION_CREDENTIALS": "/google.json",
    "ROUTER_DATABASE_URL": "postgresql://user:password@host/db",
    "ROUTER_KEYS_DIR": "/keys",
    "PYTHONPATH": "/somewhere",
    "LITELLM_LOG": "DEBUG",
}
ALWAYS = {"PATH": "/bin", "HOME": "/home/router", "LC_ALL": "C.UTF-8", "SSL_CERT_FILE": "/ca.pem"}
OURS = {"ROUTER_POLICY": "/policy.yaml", "ROUTER_LOG_LEVEL": "info", "ROUTER_BRIDGE_TOKEN": "token"}


def environ(providers: str, names: str, *, trust_env: bool = False) -> dict[str, str] | None:
    """The bridge's environment for a policy with `providers`, of which acme may use `names`."""
    used = ", ".join(f"{name}: {{models: {{t: {{default: m}}}}}}" for name in names.split())
    document = parse(f"providers: {{{providers}}}\ntenants: {{acme: {{providers: {{{used}}}}}}}")
    given = {"policy": Path("/policy.yaml"), "bridge_token": "token", "trust_env": trust_env}
    return bridge_environ(document, ENVIRON, Settings.model_validate(given))


def test_policy_without_litellm_needs_no_bridge() -> None:
    """Nothing is started for native providers, or for one that nobody may call."""
    assert environ("claude: {wire: litellm, litellm_provider: anthropic}", "openai") is None


@pytest.mark.parametrize(
    ("providers", "names", "passed"),
    [
        ("", "anthropic openai", {"ANTHROPIC_API_KEY": "a"}),
        (
            "claude: {wire: litellm, litellm_provider: anthropic, api_key: {env: CLAUDE_KEY}}",
            "claude openai",
            {"CLAUDE_KEY": "c"},
        ),
        ("claude: {wire: litellm, litellm_provider: anthropic, api_key: {file: /key}}", "claude", {}),
        (
            "aws: {wire: litellm, litellm_provider: bedrock}",
            "aws openai",
            {"AWS_ACCESS_KEY_ID": "i", "AWS_REGION_NAME": "eu-north-1"},
        ),
        (
            "google: {wire: litellm, litellm_provider: vertex_ai}",
            "google anthropic",
            {"GOOGLE_APPLICATION_CREDENTIALS": "/google.json", "ANTHROPIC_API_KEY": "a"},
        ),
    ],
)
def test_bridge_gets_only_its_own_providers_variables(providers: str, names: str, passed: dict[str, str]) -> None:
    """The key that the policy names, or the credentials of the cloud; of the router's own nothing but the token."""
    assert environ(providers, names) == {**ALWAYS, **OURS, **passed}


def test_proxies_are_passed_where_the_router_trusts_its_environment() -> None:
    """As for the router's own upstreams."""
    trusted = environ("", "anthropic", trust_env=True)

    assert trusted is not None
    assert {name: trusted.get(name) for name in ("HTTPS_PROXY", "no_proxy", "AIOHTTP_TRUST_ENV")} == {
        "HTTPS_PROXY": "http://proxy",
        "no_proxy": "localhost",
        "AIOHTTP_TRUST_ENV": "True",
    }
