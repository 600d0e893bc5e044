"""Retries, breakers, parked hops, several endpoints and the client's own deadline, as an upstream sees them."""

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.calls import HELLO, call, chat, connected, eventually, identified, request_bytes, samples
from support.scripted import Exchange, Script, Scripted, running_scripted, stream_head
from support.servers import running_router

OK = (
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
)
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
ENDLESS = "timeouts: {first_byte: 60s, idle: 60s, total: 120s}"


def answers(exchange: Exchange) -> None:
    """A provider that is well."""
    exchange.answer(OK)


def refuses(status: str, *lines: str) -> Script:
    """A provider that always answers with `status`."""
    return lambda exchange: exchange.answer(
        b'{"error":{"message":"not with me, and not today"}}', "application/json", *lines, status=status
    )


def in_turn(*scripts: Script) -> Script:
    """A provider that does one thing after the other, and the last one for ever."""
    left = iter(scripts[:-1])
    lock = threading.Lock()

    def script(exchange: Exchange) -> None:
        with lock:
            following = next(left, scripts[-1])
        following(exchange)

    return script


def policy(*providers: tuple[str, str], models: str = "m") -> str:
    """A task `reasoning` that is tried at each of (address, more of the provider) in order: a, b and c."""
    names = "abc"[: len(providers)]
    declared = "\n".join(
        f'  {name}: {{base_url: "{url}/v1"{", " + more if more else ""}}}'
        for name, (url, more) in zip(names, providers, strict=True)
    )
    used = "\n".join(f"      {name}: {{models: {{reasoning: {{default: {models}}}}}}}" for name in names)
    return f"providers:\n{declared}\ntenants:\n  acme:\n    providers:\n{used}\n"


def codes(error: dict[str, Any]) -> list[tuple[str, int | None, str]]:
    """The attempts of a 503."""
    return [(each["provider"], each["status"], each["code"]) for each in error["attempts"]]


@pytest.mark.parametrize(
    "failure",
    [
        refuses("503 Service Unavailable"),
        refuses("500 Internal Server Error"),
        refuses("429 Too Many Requests"),
        Exchange.close,
        Exchange.reset,
    ],
    ids=["503", "500", "429", "closed", "reset"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_passes_by_itself_is_tried_once_more(tmp_path: Path, failure: Script, stream: bool) -> None:
    """At the same provider, by default; the client sees an answer that took two attempts."""

    def well(exchange: Exchange) -> None:
        if stream:
            exchange.send(stream_head())
            exchange.chunk(EVENT)
            exchange.chunk(b"data: [DONE]\n\n")
            exchange.chunk(b"")
        else:
            exchange.answer(OK)

    with (
        running_scripted(in_turn(failure, well)) as upstream,
        running_router(tmp_path, policy((upstream.url, ""))) as router,
    ):
        answer = chat(router, stream=stream)
    assert (answer.status, answer.headers["x-router-attempts"]) == (200, "2")
    assert [json.loads(exchange.body)["model"] for exchange in upstream.exchanges] == ["m", "m"]


def test_a_retry_comes_before_the_next_hop(tmp_path: Path) -> None:
    """One retry at the first provider, then the second; each attempt is listed."""
    with (
        running_scripted(refuses("503 Service Unavailable")) as first,
        running_scripted(refuses("502 Bad Gateway")) as second,
        running_router(tmp_path, policy((first.url, ""), (second.url, ""))) as router,
    ):
        answer = chat(router)
    assert answer.status == 503
    assert codes(answer.error()) == [("a", 503, "upstream_error")] * 2 + [("b", 502, "upstream_error")] * 2
    assert answer.headers["x-router-attempts"] == "4"


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Content Too Large", "422 Unprocessable Content"])
def test_the_clients_fault_is_not_tried_again(tmp_path: Path, status: str) -> None:
    """Neither here nor elsewhere: its answer is the client's."""
    with (
        running_scripted(refuses(status)) as first,
        running_scripted(answers) as second,
        running_router(tmp_path, policy((first.url, ""), (second.url, ""))) as router,
    ):
        answer = chat(router)
    assert (answer.status, answer.error()["code"]) == (int(status[:3]), "upstream_rejected")
    assert (len(first.exchanges), len(second.exchanges)) == (1, 0)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found"])
def test_the_operators_fault_moves_on_at_once(tmp_path: Path, status: str) -> None:
    """It would be the same again; the operator sees it in a metric."""
    with (
        running_scripted(refuses(status)) as first,
        running_scripted(answers) as second,
        running_router(tmp_path, policy((first.url, ""), (second.url, ""))) as router,
    ):
        answer = chat(router)
        failures = samples(router, "litellm_upstream_failures_total")
    code = "upstream_not_found" if "404" in status else "upstream_auth_failed"
    assert (answer.status, answer.headers["x-router-provider"]) == (200, "b")
    assert (len(first.exchanges), len(second.exchanges)) == (1, 1)
    assert failures == {f'litellm_upstream_failures_total{{code="{code}",model="m",provider="a"}}': 1.0}


def test_nothing_is_tried_again_after_the_first_byte(tmp_path: Path) -> None:
    """A stream that breaks ends in an error, and the upstream was asked once."""

    def breaks(exchange: Exchange) -> None:
        exchange.send(stream_head())
        exchange.chunk(EVENT)
        exchange.close()

    with (
        running_scripted(breaks) as first,
        running_scripted(answers) as second,
        running_router(tmp_path, policy((first.url, ""), (second.url, ""))) as router,
    ):
        answer = chat(router, stream=True)
    assert answer.body.startswith(EVENT)
    assert b'"code":"upstream_stream_truncated"' in answer.body
    assert b"[DONE]" not in answer.body
    assert (len(first.exchanges), len(second.exchanges)) == (1, 0)


def test_a_wish_to_wait_is_honoured(tmp_path: Path) -> None:
    """`retry-after-ms` of a busy provider is the least that is waited."""
    times: list[float] = []

    def timed(script: Script) -> Script:
        def noted(exchange: Exchange) -> None:
            times.append(time.monotonic())
            script(exchange)

        return noted

    busy = refuses("429 Too Many Requests", "retry-after-ms: 400")
    with (
        running_scripted(in_turn(timed(busy), timed(answers))) as upstream,
        running_router(tmp_path, policy((upstream.url, ""))) as router,
    ):
        assert chat(router).status == 200
    assert times[1] - times[0] >= 0.4


def test_a_long_wish_parks_the_hop(tmp_path: Path) -> None:
    """Nobody asks it until then: not this request, not the next, and the client is told how long that is."""
    busy = refuses("429 Too Many Requests", "Retry-After: 30")
    with (
        running_scripted(busy) as upstream,
        running_router(tmp_path, policy((upstream.url, ""))) as router,
    ):
        first, second = chat(router), chat(router)
        state = samples(router, "litellm_breaker_state")
        status = call(router, "GET", "/internal/status", headers={}).json()
    assert len(upstream.exchanges) == 1
    assert (codes(first.error()), first.headers["retry-after"]) == ([("a", 429, "upstream_rate_limited")], "30")
    assert codes(second.error()) == [("a", None, "breaker_open")]
    assert (second.headers["x-router-attempts"], second.headers["retry-after"]) == ("0", "30")
    assert state == {'litellm_breaker_state{model="m",provider="a"}': 2.0}
    (hop,) = status["hops"]
    assert 0 < hop.pop("retry_after") <= 30
    assert hop == {"provider": "a", "model": "m", "breaker": "open"}


def test_a_dead_provider_is_left_alone_until_it_is_back(tmp_path: Path) -> None:
    """Its breaker opens, requests go to the next hop at once; one probe finds it well, and it is used again."""
    well = threading.Event()

    def script(exchange: Exchange) -> None:
        answers(exchange) if well.is_set() else refuses("503 Service Unavailable")(exchange)

    rule = "retries: {max: 0}, breaker: {failures: 3, window: 60s, open_for: 300ms}"
    with (
        running_scripted(script) as first,
        running_scripted(answers) as second,
        running_router(tmp_path, policy((first.url, rule), (second.url, ""))) as router,
    ):
        for _ in range(10):
            assert chat(router).headers["x-router-provider"] == "b"
        asked = len(first.exchanges)
        well.set()
        back = eventually(lambda: chat(router).headers["x-router-provider"], lambda provider: provider == "a")
        state = samples(router, "litellm_breaker_state")
    assert 3 <= asked <= 5  # three that opened it; a slow machine may let it probe meanwhile
    assert back == "a"
    assert state['litellm_breaker_state{model="m",provider="a"}'] == 0.0


def test_breakers_are_per_model(tmp_path: Path) -> None:
    """A model that fails does not take the provider's other models with it."""

    def script(exchange: Exchange) -> None:
        ill = json.loads(exchange.body)["model"] == "ill"
        refuses("500 Internal Server Error")(exchange) if ill else answers(exchange)

    rule = "retries: {max: 0}, breaker: {failures: 1, window: 60s, open_for: 60s}"
    with running_scripted(script) as upstream:
        text = f"""
providers:
  a: {{base_url: "{upstream.url}/v1", {rule}}}
tenants:
  acme:
    providers:
      a: {{models: {{reasoning: {{default: ill, fallbacks: [well]}}}}}}
"""
        with running_router(tmp_path, text) as router:
            models = [chat(router).headers["x-router-model"] for _ in range(4)]
    assert models == ["well"] * 4
    assert Counter(json.loads(exchange.body)["model"] for exchange in upstream.exchanges) == {"ill": 1, "well": 4}


def test_streams_that_break_count_against_their_hop(tmp_path: Path) -> None:
    """An answer that began is none if it does not end."""

    def breaks(exchange: Exchange) -> None:
        exchange.send(stream_head())
        exchange.chunk(EVENT)
        exchange.close()

    rule = "breaker: {failures: 2, window: 60s, open_for: 60s}"
    with running_scripted(breaks) as upstream, running_router(tmp_path, policy((upstream.url, rule))) as router:
        bodies = [chat(router, stream=True) for _ in range(3)]
    assert [body.status for body in bodies] == [200, 200, 503]
    assert codes(bodies[2].error()) == [("a", None, "breaker_open")]


def test_an_outage_is_not_multiplied(tmp_path: Path) -> None:
    """A hundred requests to a provider that is down are 130 calls at the most: a fifth more, and ten in hand."""
    rule = "retries: {max: 3, backoff: {initial: 1ms, max: 1ms}}, breaker: {failures: 100000}"
    with (
        running_scripted(refuses("503 Service Unavailable")) as upstream,
        running_router(tmp_path, policy((upstream.url, rule))) as router,
        ThreadPoolExecutor(4) as pool,
    ):
        began = time.monotonic()
        statuses = list(pool.map(lambda _: chat(router).status, range(100)))
        regained = (time.monotonic() - began) / 20
    assert statuses == [503] * 100
    assert 110 <= len(upstream.exchanges) <= 130 + regained


def stalls(exchange: Exchange) -> None:
    """A provider that says nothing, until it is let go."""
    exchange.wait_closed()


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_deadline_is_kept(tmp_path: Path, stream: bool) -> None:
    """`x-request-timeout-ms` ends the request wherever it is; the upstream is let go."""
    with (
        running_scripted(stalls) as upstream,
        running_router(tmp_path, policy((upstream.url, ENDLESS))) as router,
    ):
        began = time.monotonic()
        answer = chat(router, stream=stream, headers=identified(x_request_timeout_ms="300"))
        took = time.monotonic() - began
        assert eventually(lambda: [exchange.closed for exchange in upstream.exchanges], lambda c: c == [True]) == [True]
    assert (answer.status, answer.error()["code"]) == (504, "deadline_exceeded")
    assert 0.3 <= took < 5


def test_a_longer_wish_than_the_policys_is_none(tmp_path: Path) -> None:
    """The provider's total still holds."""
    with (
        running_scripted(stalls) as upstream,
        running_router(
            tmp_path, policy((upstream.url, "timeouts: {connect: 400ms, first_byte: 400ms, idle: 400ms, total: 400ms}"))
        ) as router,
    ):
        answer = chat(router, headers=identified(x_request_timeout_ms="60000"))
    assert (answer.status, answer.error()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("wish", ["0", "-1", "1.5", "abc", "", "1e3", "9999999999999"])
def test_a_deadline_that_is_none_is_refused(tmp_path: Path, wish: str) -> None:
    """Rather than not kept."""
    with running_scripted(answers) as upstream, running_router(tmp_path, policy((upstream.url, ""))) as router:
        answer = chat(router, headers=identified(x_request_timeout_ms=wish))
    error = answer.error()
    assert (answer.status, error["code"], error["param"]) == (400, "invalid_request", "x-request-timeout-ms")
    assert upstream.exchanges == []


def test_a_later_hop_gets_the_time_that_is_left(tmp_path: Path) -> None:
    """The first one's patience does not lengthen the whole."""
    short = "retries: {max: 0}, timeouts: {first_byte: 300ms, idle: 1s, total: 60s}"
    with (
        running_scripted(stalls) as first,
        running_scripted(stalls) as second,
        running_router(tmp_path, policy((first.url, short), (second.url, ENDLESS))) as router,
    ):
        began = time.monotonic()
        answer = chat(router, headers=identified(x_request_timeout_ms="700"))
        took = time.monotonic() - began
    assert (answer.status, len(first.exchanges), len(second.exchanges)) == (504, 1, 1)
    assert 0.7 <= took < 5


def test_a_client_that_leaves_while_the_router_waits_to_try_again(tmp_path: Path) -> None:
    """Nothing is asked on its behalf any more, and its slot is free."""
    waits = "retries: {max: 5, backoff: {initial: 60s, max: 60s}}, timeouts: {total: 600s}"
    with (
        running_scripted(refuses("503 Service Unavailable", "Retry-After: 60")) as upstream,
        running_router(tmp_path, policy((upstream.url, waits))) as router,
    ):
        with connected(router) as client:
            client.sendall(request_bytes(HELLO))
            eventually(lambda: len(upstream.exchanges), lambda count: count == 1)
        free = "litellm_requests_in_flight 0.0\n"
        assert free in eventually(router.metrics, lambda text: free in text)
        (line,) = eventually(router.access_lines, bool)
    assert len(upstream.exchanges) == 1
    assert (line["status"], line["code"], line["attempts"]) == (499, "client_disconnected", 1)


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
        exchange.answer(OK)

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


def test_a_former_hops_time_does_not_end_the_wait_for_a_limit(tmp_path: Path) -> None:
    """The first hop used up nearly all of its patience, and the next one's place comes free a little later."""
    hold, release = threading.Event(), threading.Event()

    def slow_html(exchange: Exchange) -> None:
        time.sleep(0.4)
        exchange.answer(b"<html>", "text/html")

    def held(exchange: Exchange) -> None:
        if not hold.is_set():
            hold.set()
            release.wait(20)
        exchange.answer(OK)

    with running_scripted(slow_html) as first, running_scripted(held) as second:
        text = f"""
providers:
  a: {{base_url: "{first.url}/v1", retries: {{max: 0}}, timeouts: {{connect: 500ms, first_byte: 500ms, idle: 500ms}}}}
  b: {{base_url: "{second.url}/v1"}}
tenants:
  acme:
    providers:
      a: {{models: {{reasoning: {{default: m}}}}}}
      b: {{limits: {{max_parallel: 1}}, models: {{reasoning: {{default: m}}, other: {{default: n}}}}}}
"""
        with running_router(tmp_path, text) as router, ThreadPoolExecutor(2) as pool:
            other = pool.submit(chat, router, model="other")
            hold.wait(20)
            waiting = pool.submit(chat, router)
            eventually(lambda: len(first.exchanges), bool)
            threading.Timer(0.65, release.set).start()
            assert other.result().status == 200
            answer = waiting.result()
    assert answer.status in (200, 503)  # 503 where the place came free too late for the router's patience
    assert b"internal_error" not in answer.body
