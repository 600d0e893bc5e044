"""Fixtures: a policy over a mocked provider that is a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import mock_process
from support.servers import Mock

POLICY = """
providers:
  first:
    base_url: {mock}/v1
    timeouts: {{connect: 2s, first_byte: 20s, idle: 20s, total: 60s}}
    retries: {{max: 0}}
    breaker: {{failures: 100000}}
  brief:
    base_url: {mock}/v1
    timeouts: {{connect: 50ms, first_byte: 50ms, idle: 50ms, total: 10s}}
    retries: {{max: 0}}
    breaker: {{failures: 100000}}
  brief-in-all:
    base_url: {mock}/v1
    timeouts: {{connect: 50ms, first_byte: 50ms, idle: 50ms, total: 50ms}}
    retries: {{max: 0}}
    breaker: {{failures: 100000}}
  hedging:
    base_url: {mock}/v1
    timeouts: {{first_byte: 20s}}
    breaker: {{failures: 100000}}
    hedge: {{after: 20ms}}
  exhausted: {{base_url: "{mock}/v1"}}
  spare: {{base_url: "{mock}/v1"}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
          embedding: {{default: text-embedding-3-small}}
          hanging: {{default: "gpt-4.1@fault=stall-before-headers"}}
          slow: {{default: "gpt-4.1@chunks=20,gap=50ms"}}
          cut: {{default: "gpt-4.1@fault=cut,chunks=9"}}
          failing: {{default: "gpt-4.1@status=503"}}
          limited: {{default: "gpt-4.1@status=429,retry_after=30ms"}}
          rejecting: {{default: "gpt-4.1@status=422"}}
      brief:
        models:
          silent: {{default: "gpt-4.1@fault=stall-before-headers"}}
          stalling: {{default: "gpt-4.1@fault=stall-after-first-byte"}}
      brief-in-all:
        models:
          late: {{default: "gpt-4.1@fault=stall-before-headers"}}
          endless: {{default: "gpt-4.1@chunks=100,gap=20ms"}}
      hedging:
        models:
          hedged: {{default: "gpt-4.1@fault=stall-before-headers"}}
      exhausted:
        limits: {{rpm: 1}}
        models:
          removed: {{default: gpt-4.1}}
          refused: {{default: gpt-4.1}}
      spare:
        models:
          hedged: {{default: gpt-4.1}}
          removed: {{default: gpt-4.1}}
"""


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Mock]:
    """A mocked provider of this test's own, as a process."""
    with mock_process(tmp_path) as mock:
        yield mock


@pytest.fixture
def policy(upstream: Mock) -> str:
    """A policy for acme with a task for each way in which the mocked provider can behave."""
    return POLICY.format(mock=upstream.url)
