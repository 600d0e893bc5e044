"""Two hops asked at once: who answers first wins, the other one is let go, and both are billed as far as they went."""

import threading
from pathlib import Path

import pytest
from support.acts import DONE, EVENT, FINISH, WHOLE, answers, refuses, stall
from support.books import rows, used
from support.calls import HELLO, Answer, call, chat, connected, eventually, identified, request_bytes
from support.scripted import Exchange, Script, Scripted, running_scripted
from support.servers import running_router

# 92 bytes of body, which count as so many tokens where money is at stake: 92,000 nano-dollars, and 50 * 2,000.
BOUND = {**HELLO, "max_tokens": 50}
DOWN = refuses("503 Service Unavailable")


def turns(first: Script, second: Script) -> tuple[Script, Script]:
    """Two providers asked at once, of which `first` does its part once `second` has done its own, or waits for ever."""
    done = threading.Event()

    def later(exchange: Exchange) -> None:
        done.wait(20)
        first(exchange)

    def sooner(exchange: Exchange) -> None:
        if second is stall:
            done.set()
        second(exchange)
        done.set()

    return later, sooner


def policy(first: Scripted, second: Scripted, *, limits: str = "", after: str = "100ms") -> str:
    """A task that is asked at `a`, and after some time at `b` too."""
    more = "retries: {max: 0}, timeouts: {first_byte: 60s, idle: 60s, total: 120s}"
    return f"""
providers:
  a: {{base_url: "{first.url}/v1", hedge: {{after: {after}}}, {more}}}
  b: {{base_url: "{second.url}/v1", {more}}}
models:
  m: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
  n: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
tenants:
  acme:
    limits: {{{limits}}}
    providers:
      a: {{models: {{reasoning: {{default: m}}}}}}
      b: {{models: {{reasoning: {{default: n}}}}}}
"""


def seen(answer: Answer) -> tuple[int, str | None, str | None]:
    """What came of it: status, provider, attempts."""
    return answer.status, answer.headers.get("x-router-provider"), answer.headers.get("x-router-attempts")


def let_go(upstream: Scripted) -> list[bool]:
    """Which of its requests were given up."""
    return eventually(lambda: [exchange.closed for exchange in upstream.exchanges], all)


@pytest.mark.parametrize("stream", [False, True])
def test_who_answers_in_time_is_asked_alone(tmp_path: Path, stream: bool) -> None:
    """A hedge costs nothing while all is well."""
    with (
        running_scripted(answers) as a,
        running_scripted(answers) as b,
        running_router(tmp_path, policy(a, b, after="5s")) as router,
    ):
        answer = chat(router, stream=stream)
    assert seen(answer) == (200, "a", "1")
    assert (len(a.exchanges), len(b.exchanges)) == (1, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_hop_answers_for_one_that_is_slow(tmp_path: Path, stream: bool) -> None:
    """And the slow one is let go at once; a stream comes whole."""
    with (
        running_scripted(stall) as a,
        running_scripted(answers) as b,
        running_router(tmp_path, policy(a, b)) as router,
    ):
        answer = chat(router, stream=stream)
        assert let_go(a) == [True]
        (line,) = eventually(router.access_lines, bool)
    assert seen(answer) == (200, "b", "2")
    assert answer.body == (EVENT + FINISH + DONE if stream else WHOLE)
    assert (line["provider"], line["status"], line["attempts"]) == ("b", 200, 2)
    assert line["overhead_ms"] >= 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_may_still_win(tmp_path: Path, stream: bool) -> None:
    """It answers while the other one is thinking."""
    waits, late = turns(answers, stall)
    with (
        running_scripted(waits) as a,
        running_scripted(late) as b,
        running_router(tmp_path, policy(a, b)) as router,
    ):
        answer = chat(router, stream=stream)
        assert let_go(b) == [True]
    assert seen(answer) == (200, "a", "2")


@pytest.mark.parametrize(
    ("first", "second", "codes"),
    [
        (DOWN, answers, None),
        (DOWN, DOWN, [("a", "upstream_error"), ("b", "upstream_error")]),
    ],
)
def test_one_that_fails_in_time_is_followed_as_always(
    tmp_path: Path, first: Script, second: Script, codes: list[tuple[str, str]] | None
) -> None:
    """Nobody waits for the hedge."""
    with (
        running_scripted(first) as a,
        running_scripted(second) as b,
        running_router(tmp_path, policy(a, b, after="5s")) as router,
    ):
        answer = chat(router)
    if codes is None:
        assert seen(answer) == (200, "b", "2")
    else:
        assert [(each["provider"], each["code"]) for each in answer.error()["attempts"]] == codes


def test_both_may_fail(tmp_path: Path) -> None:
    """The plan is exhausted, each was asked once, and both are listed."""
    waits, first_to_fail = turns(DOWN, DOWN)
    with (
        running_scripted(waits) as a,
        running_scripted(first_to_fail) as b,
        running_router(tmp_path, policy(a, b)) as router,
    ):
        answer = chat(router)
    assert answer.status == 503
    assert sorted((each["provider"], each["code"]) for each in answer.error()["attempts"]) == [
        ("a", "upstream_error"),
        ("b", "upstream_error"),
    ]
    assert (len(a.exchanges), len(b.exchanges)) == (1, 1)


def test_a_plain_answer_that_lost_may_have_been_made(tmp_path: Path) -> None:
    """So all that was reserved for it is booked beside the winner's usage, in one row and in the account."""
    with (
        running_scripted(stall) as a,
        running_scripted(answers) as b,
        running_router(tmp_path, policy(a, b, limits="budget_usd_day: 1")) as router,
    ):
        assert seen(chat(router, BOUND)) == (200, "b", "2")
        (row,) = rows(tmp_path, 1)
        account = used(router)
    assert (row["provider"], row["model"], row["attempts"], row["status"]) == ("b", "n", 2, 200)
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (92 + 3, 50 + 1, 1)
    assert row["cost_nanousd"] == 192_000 + 5_000
    assert account == {"usd": 197e-6}


def test_a_stream_that_lost_costs_its_input(tmp_path: Path) -> None:
    """None of it came, so none of it was made that anybody could have stopped sooner."""
    body = {**BOUND, "stream": True}
    with (
        running_scripted(stall) as a,
        running_scripted(answers) as b,
        running_router(tmp_path, policy(a, b, limits="budget_usd_day: 1")) as router,
    ):
        assert seen(chat(router, body)) == (200, "b", "2")
        (row,) = rows(tmp_path, 1)
        account = used(router)
    size = len(request_bytes(body).partition(b"\r\n\r\n")[2])
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (size + 3, 1, 1)
    assert row["cost_nanousd"] == size * 1_000 + 5_000
    assert account == {"usd": row["cost_nanousd"] / 1e9}


def test_a_hedge_that_lost_is_booked_too(tmp_path: Path) -> None:
    """The first one wins; the other had been asked for a whole answer."""
    waits, late = turns(answers, stall)
    with (
        running_scripted(waits) as a,
        running_scripted(late) as b,
        running_router(tmp_path, policy(a, b, limits="budget_usd_day: 1, tpm: 100000")) as router,
    ):
        assert seen(chat(router, BOUND)) == (200, "a", "2")
        (row,) = rows(tmp_path, 1)
        account = used(router)
    assert (row["provider"], row["input_tokens"], row["output_tokens"]) == ("a", 92 + 3, 50 + 1)
    assert row["cost_nanousd"] == 192_000 + 5_000
    assert account["usd"] == 197e-6


def test_a_hedge_is_one_request_in_one_place(tmp_path: Path) -> None:
    """It counts once against `rpm`, and `max_parallel: 1` has room for it; the place is free afterwards."""
    with (
        running_scripted(stall) as a,
        running_scripted(answers) as b,
        running_router(tmp_path, policy(a, b, limits="rpm: 2, max_parallel: 1")) as router,
    ):
        first, second = chat(router), chat(router)
        third = chat(router)
        place = eventually(lambda: used(router)["parallel"], lambda value: value == 0)
    assert [seen(answer) for answer in (first, second)] == [(200, "b", "2")] * 2
    assert (third.status, third.error()["code"]) == (429, "requests_per_minute_exceeded")
    assert place == 0


def test_without_room_for_two_there_is_no_hedge(tmp_path: Path) -> None:
    """The request goes on with the one that was asked."""
    release = threading.Event()

    def slow(exchange: Exchange) -> None:
        release.wait(20)
        answers(exchange)

    # The first takes 192,000 of 300,000 nano-dollars.
    text = "budget_usd_day: 0.0003"
    with (
        running_scripted(slow) as a,
        running_scripted(answers) as b,
        running_router(tmp_path, policy(a, b, limits=text)) as router,
        connected(router) as client,
    ):
        client.sendall(request_bytes(BOUND))
        eventually(lambda: len(a.exchanges), bool)
        threading.Timer(3.0, release.set).start()
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    assert (len(a.exchanges), len(b.exchanges)) == (1, 0)


def test_a_client_that_leaves_lets_both_go(tmp_path: Path) -> None:
    """And what either may have cost is booked."""
    with (
        running_scripted(stall) as a,
        running_scripted(stall) as b,
        running_router(tmp_path, policy(a, b, limits="budget_usd_day: 1")) as router,
    ):
        with connected(router) as client:
            client.sendall(request_bytes(BOUND))
            eventually(lambda: len(b.exchanges), bool)
        assert (let_go(a), let_go(b)) == ([True], [True])
        (row,) = rows(tmp_path, 1)
        account = used(router)
        free = "litellm_requests_in_flight 0.0\n"
        assert free in eventually(router.metrics, lambda text: free in text)
    assert (row["status"], row["attempts"], row["cost_nanousd"]) == (499, 2, 2 * 192_000)
    assert account == {"usd": 384e-6}


def test_the_deadline_ends_both(tmp_path: Path) -> None:
    """With its own code."""
    with (
        running_scripted(stall) as a,
        running_scripted(stall) as b,
        running_router(tmp_path, policy(a, b)) as router,
    ):
        answer = call(router, "POST", "/v1/chat/completions", HELLO, identified(x_request_timeout_ms="500"))
        assert (let_go(a), let_go(b)) == ([True], [True])
    assert (answer.status, answer.error()["code"]) == (504, "deadline_exceeded")


def test_what_the_hedge_does_not_take_the_first_may(tmp_path: Path) -> None:
    """A refusal of the request by the other hop is no answer while the first is at work."""
    waits, rejects = turns(answers, refuses("400 Bad Request"))
    with (
        running_scripted(waits) as a,
        running_scripted(rejects) as b,
        running_router(tmp_path, policy(a, b)) as router,
    ):
        answer = chat(router)
    assert seen(answer) == (200, "a", "2")
    assert len(b.exchanges) == 1


def test_a_hop_that_failed_is_not_asked_again_by_a_retry_of_the_hedged_one(tmp_path: Path) -> None:
    """The first is tried twice, the other once."""
    waits, gone = turns(DOWN, refuses("404 Not Found"))
    with running_scripted(waits) as a, running_scripted(gone) as b:
        text = policy(a, b).replace("retries: {max: 0}", "retries: {max: 1, backoff: {initial: 1ms, max: 1ms}}", 1)
        with running_router(tmp_path, text) as router:
            answer = chat(router)
    attempts = [(each["provider"], each["status"]) for each in answer.error()["attempts"]]
    assert attempts == [("b", 404), ("a", 503), ("a", 503)]
    assert float(answer.headers.get("x-router-overhead-ms", "0")) >= 0


def test_the_hedge_goes_on_when_the_first_fails(tmp_path: Path) -> None:
    """What was begun early is not begun again."""
    started, failed = threading.Event(), threading.Event()

    def fails(exchange: Exchange) -> None:
        started.wait(20)
        DOWN(exchange)
        failed.set()

    def hedge(exchange: Exchange) -> None:
        started.set()
        failed.wait(20)
        answers(exchange)

    with (
        running_scripted(fails) as a,
        running_scripted(hedge) as b,
        running_router(tmp_path, policy(a, b)) as router,
    ):
        answer = chat(router)
    assert seen(answer) == (200, "b", "2")
    assert (len(a.exchanges), len(b.exchanges)) == (1, 1)


def test_after_a_race_that_both_lost_the_plan_goes_on(tmp_path: Path) -> None:
    """The third hop is asked as if there had been no race, and counts as an attempt like any other."""
    fails, hedge = turns(DOWN, DOWN)
    with (
        running_scripted(fails) as a,
        running_scripted(hedge) as b,
        running_scripted(answers) as c,
    ):
        document = policy(a, b).replace("models:\n  m:", f'  c: {{base_url: "{c.url}/v1"}}\nmodels:\n  m:', 1)
        document += "      c: {models: {reasoning: {default: m}}}\n"
        with running_router(tmp_path, document) as router:
            answer = chat(router)
            (line,) = eventually(router.access_lines, bool)
    assert seen(answer) == (200, "c", "3")
    assert (line["provider"], line["attempts"], "code" in line) == ("c", 3, False)
