"""Retries, breakers, parked hops and the client's own deadline, as an upstream sees them."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.acts import EVENT, HTML, WHOLE, answers, refuses, stall
from support.calls import HELLO, call, chat, connected, eventually, identified, request_bytes, samples
from support.scripted import Exchange, Script, running_scripted, stream_head
from support.servers import running_router

ENDLESS = "timeouts: {first_byte: 60s, idle: 60s, total: 120s}"


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
    with (
        running_scripted(in_turn(failure, answers)) as upstream,
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


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_deadline_is_kept(tmp_path: Path, stream: bool) -> None:
    """`x-request-timeout-ms` ends the request wherever it is; the upstream is let go."""
    with (
        running_scripted(stall) as upstream,
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
        running_scripted(stall) as upstream,
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
        running_scripted(stall) as first,
        running_scripted(stall) as second,
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


def test_a_former_hops_time_does_not_end_the_wait_for_a_limit(tmp_path: Path) -> None:
    """The first hop used up nearly all of its patience, and the next one's budget has room a little later."""
    under_way, release = threading.Event(), threading.Event()

    def html(exchange: Exchange) -> None:
        time.sleep(0.4)  # of the 500 ms that it has
        exchange.answer(HTML, "text/html")

    def held(exchange: Exchange) -> None:
        under_way.set()
        release.wait(20)
        exchange.answer(WHOLE)

    # A request reserves 192,000 of 300,000 nano-dollars, and gives nearly all of it back.
    with running_scripted(html) as first, running_scripted(held) as second:
        text = f"""
providers:
  a: {{base_url: "{first.url}/v1", retries: {{max: 0}}, timeouts: {{connect: 500ms, first_byte: 500ms, idle: 500ms}}}}
  b: {{base_url: "{second.url}/v1"}}
models:
  m: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
tenants:
  acme:
    providers:
      a: {{models: {{reasoning: {{default: m}}}}}}
      b: {{limits: {{budget_usd_day: 0.0003}}, models: {{reasoning: {{default: m}}, other: {{default: m}}}}}}
"""
        with running_router(tmp_path, text) as router, ThreadPoolExecutor(2) as pool:
            other = pool.submit(chat, router, model="other", max_tokens=50)
            assert under_way.wait(20)
            waiting = pool.submit(chat, router, max_tokens=50)
            assert eventually(lambda: len(first.exchanges), bool) == 1
            threading.Timer(0.8, release.set).start()
            assert other.result().status == 200
            answer = waiting.result()
    assert (answer.status, answer.headers["x-router-provider"]) == (200, "b")
