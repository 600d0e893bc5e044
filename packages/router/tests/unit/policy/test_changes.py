"""What a change of the policy changes, by name."""

import pytest
from stratmaster_router.policy.changes import changes
from stratmaster_router.policy.parse import decode, parse
from stratmaster_router.policy.schema import PolicyDocument

POLICY = """
providers:
  local: {base_url: "http://vllm:8000/v1"}
models:
  llama: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}
service_accounts:
  issuers: [{issuer: "https://issuer", jwks: {file: /jwks.json}, audience: router}]
  accounts: [{subject: someone, tenants: [acme]}]
tenants:
  acme:
    providers:
      openai: {models: {reasoning: {default: gpt-4.1}}}
      local: {models: {reasoning: {default: llama}}}
  globex: {}
"""
REORDERED = POLICY.replace("      openai: {models: {reasoning: {default: gpt-4.1}}}\n", "").replace(
    "{models: {reasoning: {default: llama}}}\n",
    "{models: {reasoning: {default: llama}}}\n      openai: {models: {reasoning: {default: gpt-4.1}}}\n",
)


def document(text: str) -> PolicyDocument:
    """A policy, parsed."""
    return parse(decode(text.encode()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POLICY, ()),
        (f"# a comment\n{POLICY}", ()),
        (POLICY.replace("globex", "initech"), ("tenant globex removed", "tenant initech added")),
        (POLICY.replace("gpt-4.1", "gpt-4o"), ("tenant acme changed",)),
        (REORDERED, ("tenant acme changed",)),
        (POLICY.replace("vllm", "vllm-2"), ("provider local changed",)),
        (POLICY.replace("input_usd_per_mtok: 1", "input_usd_per_mtok: 2"), ("model llama changed",)),
        (POLICY.replace("tenants: [acme]", "tenants: [globex]"), ("service accounts changed",)),
    ],
)
def test_what_differs_is_named(text: str, expected: tuple[str, ...]) -> None:
    """Each part once; the order of a tenant's providers counts, since the plan is made by it."""
    assert changes(document(POLICY), document(text)) == expected
