"""Fixtures: a mocked provider and a router in front of it, as real servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import Postgres, running_postgres
from support.servers import Mock, RunningRouter, running_mock, running_router

POLICY = """
providers:
  first:
    base_url: {mock}/v1
    api_key: {{file: {folder}/upstream.key}}
    timeouts: {{connect: 500ms, first_byte: 500ms, idle: 500ms, total: 5s}}
    retries: {{max: 0}}
    breaker: {{failures: 1000}}
  second:
    base_url: {mock}/v1
    timeouts: {{first_byte: 2s, idle: 2s, total: 5s}}
    retries: {{max: 0}}
    breaker: {{failures: 1000}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1, fallbacks: [gpt-4o-mini]}}
          failover: {{default: "gpt-4.1@status=503"}}
          embedding: {{default: text-embedding-3-small}}
        privacy: {{send_raw_docs: false, max_snippet_chars: 2000}}
      second:
        models:
          failover: {{default: gpt-4o-mini}}
          documents: {{default: gpt-4o}}
        privacy: {{send_raw_docs: true}}
  globex:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
"""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests of a worker; each takes a database of its own from it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database of each kind, new; PostgreSQL's has its tables, SQLite's is yet to be made."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/router.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def mock() -> Iterator[Mock]:
    """A mocked provider of this test's own."""
    with running_mock() as mock:
        yield mock


@pytest.fixture
def router(mock: Mock, tmp_path: Path) -> Iterator[RunningRouter]:
    """A router over `POLICY`, with the tenants acme and globex."""
    (tmp_path / "upstream.key").write_text("sk-upstream-secret\n")
    with running_router(tmp_path, POLICY.format(mock=mock.url, folder=tmp_path)) as router:
        yield router
