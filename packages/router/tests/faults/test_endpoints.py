"""Several addresses and keys of one provider: load, bad keys, and what a client may see of them."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.acts import WHOLE, answers, refuses
from support.calls import chat, eventually, samples
from support.scripted import Exchange, Scripted, running_scripted
from support.servers import running_router

Upstreams = Callable[..., list[Scripted]]


@pytest.fixture
def several() -> Iterator[Upstreams]:
    """Starts scripted providers."""
    with contextlib.ExitStack() as stack:
        yield lambda *scripts: [stack.enter_context(running_scripted(script)) for script in scripts]


def endpoints(folder: Path, upstreams: Sequence[Scripted], *, more: str = "") -> str:
    """A policy whose one provider has several endpoints, each with a key of its own."""
    for index in range(len(upstreams)):
        (folder / f"key{index}").write_text(f"sk-upstream-{index}")
    listed = "\n".join(
        f'      - {{base_url: "{upstream.url}/v1", api_key: {{file: {folder}/key{index}}}}}'
        for index, upstream in enumerate(upstreams)
    )
    return f"""
providers:
  a:
    endpoints:
{listed}
    timeouts: {{first_byte: 30s}}
{more}
tenants:
  acme:
    providers:
      a: {{models: {{reasoning: {{default: m}}}}}}
"""


def keys_seen(upstream: Scripted) -> set[str]:
    """The keys that a provider was sent."""
    return {exchange.headers["authorization"] for exchange in upstream.exchanges}


def test_load_is_spread_over_endpoints(tmp_path: Path, several: Upstreams) -> None:
    """Each gets its part, with its own key."""
    upstreams = several(answers, answers)
    with running_router(tmp_path, endpoints(tmp_path, upstreams)) as router:
        assert {chat(router).status for _ in range(60)} == {200}
    assert [keys_seen(upstream) for upstream in upstreams] == [
        {"Bearer sk-upstream-0"},
        {"Bearer sk-upstream-1"},
    ]
    assert min(len(upstream.exchanges) for upstream in upstreams) >= 10


def test_the_less_busy_endpoint_is_taken(tmp_path: Path, several: Upstreams) -> None:
    """One that hangs keeps few requests: the others go elsewhere."""
    release = threading.Event()

    def slow(exchange: Exchange) -> None:
        release.wait(20)
        exchange.answer(WHOLE)

    upstreams = several(slow, answers)
    with (
        running_router(tmp_path, endpoints(tmp_path, upstreams)) as router,
        ThreadPoolExecutor(40) as pool,
    ):
        under_way = [pool.submit(chat, router) for _ in range(40)]
        eventually(lambda: sum(each.done() for each in under_way), lambda done: done >= 20)
        hanging = len(upstreams[0].exchanges)
        release.set()
        assert {each.result().status for each in under_way} == {200}
    assert hanging <= 20


def test_a_bad_key_is_parked_alone(tmp_path: Path, several: Upstreams) -> None:
    """The request that finds it is answered by another endpoint, and those after it do not ask it again."""
    upstreams = several(refuses("401 Unauthorized"), answers)
    with running_router(tmp_path, endpoints(tmp_path, upstreams)) as router:
        assert {chat(router).status for _ in range(40)} == {200}
    assert len(upstreams[0].exchanges) == 1
    assert len(upstreams[1].exchanges) == 40


def test_an_endpoint_that_cannot_be_reached_is_parked(tmp_path: Path, several: Upstreams) -> None:
    """The other one answers, and the breaker of the provider stays closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = Scripted(listener.getsockname()[1])
    (well,) = several(answers)
    with running_router(tmp_path, endpoints(tmp_path, [gone, well], more="    breaker: {failures: 3}")) as router:
        assert {chat(router).status for _ in range(40)} == {200}
        failed = samples(router, "litellm_upstream_failures_total")
    assert failed == {'litellm_upstream_failures_total{code="upstream_connect_failed",model="m",provider="a"}': 1.0}


def test_a_key_that_is_missing_leaves_its_endpoint_out(tmp_path: Path, several: Upstreams) -> None:
    """The rest of the provider works."""
    upstreams = several(answers, answers)
    text = endpoints(tmp_path, upstreams)
    (tmp_path / "key0").unlink()
    with running_router(tmp_path, text) as router:
        assert {chat(router).status for _ in range(10)} == {200}
    assert [len(upstream.exchanges) for upstream in upstreams] == [0, 10]


def test_no_endpoint_shows_its_key_or_address(tmp_path: Path, several: Upstreams) -> None:
    """A rejection that repeats them comes through without, whichever endpoint it is of."""

    def tells(exchange: Exchange) -> None:
        key, host = exchange.headers["authorization"], exchange.headers["host"]
        message = json.dumps({"error": {"message": f"not with {key} at {host}, whoever that is"}})
        exchange.answer(message.encode(), status="400 Bad Request")

    upstreams = several(tells, tells)
    with running_router(tmp_path, endpoints(tmp_path, upstreams)) as router:
        bodies = [chat(router).body for _ in range(30)]
    assert min(len(upstream.exchanges) for upstream in upstreams) > 0
    for index, upstream in enumerate(upstreams):
        assert not [body for body in bodies if b"sk-upstream-%d" % index in body or b"%d" % upstream.port in body]
