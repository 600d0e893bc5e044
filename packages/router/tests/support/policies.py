"""Policies for the tests of the running router."""

from pathlib import Path

UPSTREAM_KEY = "sk-upstream-secret"


def one_hop(url: str, *models: str, timeouts: str = "{first_byte: 5s, idle: 5s, total: 10s}") -> str:
    """A policy whose task `reasoning` is served by the provider `only`, with `models` (default gpt-4.1) in order."""
    default, *fallbacks = [f'"{model}"' for model in models] or ["gpt-4.1"]
    return f"""
providers:
  only:
    base_url: {url}/v1
    timeouts: {timeouts}
    retries: {{max: 0}}
    breaker: {{failures: 1000}}
tenants:
  acme:
    providers:
      only:
        models:
          reasoning: {{default: {default}, fallbacks: [{", ".join(fallbacks)}]}}
"""


def two_hops(
    first: str, second: str, folder: Path, timeouts: str = "{connect: 250ms, first_byte: 250ms, idle: 250ms, total: 5s}"
) -> str:
    """A policy whose task `reasoning` is tried at the address `first` (which gets a key), then at `second`."""
    (folder / "upstream.key").write_text(UPSTREAM_KEY)
    return f"""
providers:
  first:
    base_url: {first}/v1
    api_key: {{file: {folder}/upstream.key}}
    timeouts: {timeouts}
    retries: {{max: 0}}
    breaker: {{failures: 1000}}
  second:
    base_url: {second}/v1
    timeouts: {{first_byte: 5s, idle: 5s, total: 10s}}
    retries: {{max: 0}}
    breaker: {{failures: 1000}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
          embedding: {{default: text-embedding-3-small}}
      second:
        models:
          reasoning: {{default: gpt-4o-mini}}
          embedding: {{default: text-embedding-3-large}}
"""
