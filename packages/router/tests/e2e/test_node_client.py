import subprocess
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from e2e.conftest import POLICY
from support.npm import installed
from support.processes import clean_environ
from support.servers import ACME_KEY, Mock, RunningRouter, running_mock, running_router

HERE = Path(__file__).with_name("node")


@pytest.fixture
def upstream() -> Iterator[Mock]:
    """A mocked provider of this test's own."""
    with running_mock() as mock:
        yield mock


@pytest.fixture
def router(upstream: Mock, tmp_path: Path) -> Iterator[RunningRouter]:
    """A router with a task for each way in which the mocked provider can behave."""
    with running_router(tmp_path, POLICY.format(mock=upstream.url)) as router:
        yield router


def node(router: RunningRouter, *arguments: str) -> Any:
    """What came of one call of `client.mjs`, with the `openai` package of npm."""
    folder = installed(HERE, "node-openai")
    ended = subprocess.run(
        ["node", str(HERE / "client.mjs"), *arguments],
        env=clean_environ(OPENAI_INSTALLED_AT=str(folder), ROUTER_URL=f"{router.url}/v1", ROUTER_KEY=ACME_KEY),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return msgspec.json.decode(ended.stdout)


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("chat", {"content": "echo: one two three", "usage": [3, 4], "provider": "first"}),
        ("stream", {"content": "echo: one two three"}),
        ("completion", {"content": "echo: one two three"}),
    ],
)
def test_node_client_gets_its_answer(call: str, result: Any, router: RunningRouter, upstream: Mock) -> None:
    """The official Node client gets whole answers and streams, in one request each."""
    assert node(router, call) == result
    assert len(upstream.requests()) == 1


def test_node_client_gets_the_vector_of_the_upstream(router: RunningRouter, upstream: Mock) -> None:
    """The client asks for base64 by itself, and decodes the very numbers that the upstream gave."""
    from support.servers import load_mock

    assert node(router, "embedding") == {"vector": load_mock().vector("one two three", 1536).tolist()}
    assert upstream.bodies() == [
        {"model": "text-embedding-3-small", "input": "one two three", "encoding_format": "base64"}
    ]


def test_node_client_lists_the_models_of_its_tenant(router: RunningRouter) -> None:
    """The list has the tenant's tasks, then its models."""
    ids = node(router, "models")["ids"]
    assert ids[:3] == ["reasoning", "embedding", "hanging"]
    assert {"gpt-4.1", "text-embedding-3-small"} < set(ids)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (["key"], ("AuthenticationError", 401, "invalid_api_key", "authentication_error", None)),
        (["tenant"], ("PermissionDeniedError", 403, "tenant_mismatch", "permission_error", None)),
        (["file"], ("PermissionDeniedError", 403, "raw_docs_forbidden", "permission_error", None)),
        (["task", "unknown"], ("NotFoundError", 404, "model_not_found", "invalid_request_error", "model")),
        (["task", "rejecting"], ("UnprocessableEntityError", 422, "upstream_rejected", "invalid_request_error", None)),
    ],
)
def test_node_client_does_not_retry_what_cannot_get_better(
    call: list[str], error: tuple[object, ...], router: RunningRouter, tmp_path: Path
) -> None:
    """Each refusal is the client's own class of error, with our code, after a single request."""
    answer = node(router, *call)
    assert tuple(answer.get(name) for name in ("class", "status", "code", "type", "param")) == error
    _wait_for_lines(router, 1)
    assert [(line["status"], line["code"]) for line in router.access_lines()] == [(error[1], error[2])]


def test_node_client_waits_as_long_as_it_is_told_before_it_retries(router: RunningRouter, upstream: Mock) -> None:
    """A 503 is tried twice again and no more, each time after the wait that the router passed on."""
    answer = node(router, "task", "limited")
    assert (answer["class"], answer["status"], answer["code"]) == (
        "InternalServerError",
        503,
        "all_providers_unavailable",
    )
    _wait_for_lines(router, 3)
    lines = router.access_lines()
    assert [(line["status"], line["attempts"]) for line in lines] == [(503, 1)] * 3
    assert len(upstream.requests()) == 3
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    # The upstream asked for 30 ms; without a retry-after the client would begin with 500 ms of its own.
    assert all((later - earlier).total_seconds() >= 0.03 for earlier, later in pairwise(times))


def test_node_client_sees_that_a_stream_was_cut(router: RunningRouter) -> None:
    """A stream that breaks raises, with our code; it never looks like a short answer."""
    answer = node(router, "cut")
    assert (answer["class"], answer["code"]) == ("APIError", "upstream_stream_truncated")


def _wait_for_lines(router: RunningRouter, count: int) -> None:
    from support.processes import wait_until

    wait_until(lambda: len(router.access_lines()) >= count, f"the access log has {count} lines")
