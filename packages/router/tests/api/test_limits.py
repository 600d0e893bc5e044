"""Limits as clients meet them: refusals, headers, what is sent upstream, and what is booked."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.books import rows, used
from support.calls import (
    Answer,
    call,
    chat,
    connected,
    events,
    eventually,
    identified,
    request_bytes,
    samples,
    stream_error,
)
from support.servers import ACME_KEY, Mock, RunningRouter, running_router

# A token of input costs 1,000 nano-dollars, one of output 2,000.
POLICY = """
providers:
  first: {{base_url: "{mock}/v1", timeouts: {{first_byte: 10s, idle: 10s, total: 15s}}, retries: {{max: 0}}}}
  second: {{base_url: "{mock}/v1", timeouts: {{first_byte: 10s, idle: 10s, total: 15s}}, retries: {{max: 0}}}}
models:
  "{model}": {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
  other: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
  vectors: {{input_usd_per_mtok: 1, output_usd_per_mtok: 0}}
tenants:
  acme:
    limits: {{{limits}}}
    providers:
      first: {{limits: {{{first}}}, models: {{reasoning: {{default: "{model}"}}, embedding: {{default: vectors}}}}}}
      second: {{enabled: {both}, limits: {{{second}}}, models: {{reasoning: {{default: other}}}}}}
"""
METERED = "m@prompt_tokens=30,completion_tokens=40"  # 70 tokens, 110,000 nano-dollars
# The body of a chat with `max_tokens: 50` has 92 bytes, which the router takes for tokens where money is at stake;
# where tokens are, it estimates: 51 letters at 11/64, 8 spaces at 21/64, 33 others at 39/64, and one: 32.
BOUND: dict[str, Any] = {"max_tokens": 50}
NEEDED_TOKENS = 32 + 50
NEEDED_USD = 0.000192  # 92 x 1,000 + 50 x 2,000 nano-dollars


def policy(mock: Mock, limits: str = "", model: str = METERED, first: str = "", second: str | None = None) -> str:
    """A policy whose task `reasoning` is `model` at `first`, then `other` at `second` if that has limits."""
    both = "false" if second is None else "true"
    return POLICY.format(mock=mock.url, limits=limits, model=model, first=first, second=second or "", both=both)


def told(answer: Answer) -> dict[str, str]:
    """The headers about limits and trying again."""
    return {
        name: value
        for name, value in answer.headers.items()
        if name.startswith(("x-ratelimit-", "retry-after", "x-should-retry", "x-router-budget-"))
    }


def refused(answer: Answer, status: int = 429) -> dict[str, Any]:
    """The error of a refusal, without its message and its id, which is the header's."""
    assert answer.status == status
    error = answer.error()
    assert error.pop("request_id") == answer.headers["x-request-id"]
    return error


def reset(error: dict[str, Any]) -> datetime:
    """When the limit of an error resets; takes it out."""
    return datetime.fromisoformat(error["limit"].pop("resets_at"))


def test_requests_a_minute(mock: Mock, tmp_path: Path) -> None:
    """Two a minute are two, the third is told when to come again, and nothing of it goes upstream."""
    with running_router(tmp_path, policy(mock, "rpm: 2")) as router:
        answers = [chat(router) for _ in range(4)]
        ends = datetime.now(UTC) + timedelta(seconds=60)
        metrics = samples(router, "litellm_throttled_total")

    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert told(answers[0]) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    spent = {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    assert told(answers[1]) == spent
    for answer in answers[2:]:
        error = refused(answer)
        assert abs(reset(error) - ends) < timedelta(seconds=5)
        assert error == {
            "type": "rate_limit_error",
            "param": None,
            "code": "requests_per_minute_exceeded",
            "retryable": True,
            "limit": {
                "scope": "tenant:acme",
                "metric": "requests",
                "window": "minute",
                "limit": 2,
                "used": 2,
                "requested": 1,
            },
        }
        assert told(answer) == {**spent, "x-should-retry": "true", "retry-after": "30", "retry-after-ms": "30000"}
        assert answer.headers["x-router-attempts"] == "0"
    assert len(mock.requests()) == 2
    assert metrics == {'litellm_throttled_total{reason="requests_per_minute_exceeded",tenant="acme"}': 2}


def test_tokens_a_minute(mock: Mock, tmp_path: Path) -> None:
    """What is used is what the upstream counted; a request that does not fit is told how long it lacks how much."""
    with running_router(tmp_path, policy(mock, "tpm: 240")) as router:
        began = time.monotonic()
        answers = [chat(router, **BOUND) for _ in range(4)]
        drained = int((time.monotonic() - began) * 4) + 1  # 240 a minute are 4 a second

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert told(answers[0]) == {
        "x-ratelimit-limit-tokens": "240",
        "x-ratelimit-remaining-tokens": "170",
        "x-ratelimit-reset-tokens": "17.5s",
    }
    for number, answer in enumerate(answers[:3], 1):
        left = 240 - number * 70
        assert left <= int(answer.headers["x-ratelimit-remaining-tokens"]) <= left + drained
    error = refused(answers[3])
    reset(error)
    spent = error["limit"].pop("used")
    assert 210 - drained <= spent <= 210
    assert error == {
        "type": "rate_limit_error",
        "param": None,
        "code": "tokens_per_minute_exceeded",
        "retryable": True,
        "limit": {
            "scope": "tenant:acme",
            "metric": "tokens",
            "window": "minute",
            "limit": 240,
            "requested": NEEDED_TOKENS,
        },
    }
    wait = (spent + NEEDED_TOKENS - 240) * 250  # milliseconds
    headers = told(answers[3])
    assert (headers["x-should-retry"], headers["retry-after-ms"], headers["retry-after"]) == (
        "true",
        str(wait),
        str(-(-wait // 1000)),
    )
    assert len(mock.requests()) == 3


def test_parallel_requests(mock: Mock, tmp_path: Path) -> None:
    """A slot is taken while a request is under way, and free again when its client has gone."""
    model = "m@fault=stall-before-headers,times=1"
    with running_router(tmp_path, policy(mock, "max_parallel: 1", model)) as router:
        with connected(router) as client:
            client.sendall(request_bytes({"model": "reasoning", "messages": [{"role": "user", "content": "hello"}]}))
            mock.wait_open(1)
            answer = chat(router)
            now = datetime.now(UTC)
        mock.wait_open(0)
        after = eventually(lambda: chat(router), lambda answer: answer.status == 200)
        lost = rows(tmp_path, 2)[0]

    error = refused(answer)
    assert abs(reset(error) - now) < timedelta(seconds=3)
    assert error == {
        "type": "rate_limit_error",
        "param": None,
        "code": "parallel_requests_exceeded",
        "retryable": True,
        "limit": {
            "scope": "tenant:acme",
            "metric": "parallel",
            "window": None,
            "limit": 1,
            "used": 1,
            "requested": 1,
        },
    }
    assert told(answer) == {"x-should-retry": "true", "retry-after": "1", "retry-after-ms": "1000"}
    assert (after.status, told(after)) == (200, {})
    # A plain answer that is lost may have been made: the 74 bytes of the body, and all output that it may have had.
    del lost["request_id"], lost["policy"]
    assert lost == {
        "tenant": "acme",
        "task": "reasoning",
        "provider": "first",
        "model": model,
        "input_tokens": 74,
        "cached_input_tokens": 0,
        "output_tokens": 4096,
        "cost_nanousd": 74 * 1_000 + 4_096 * 2_000,
        "status": 499,
        "attempts": 1,
        "estimated": 1,
        "presumed": 0,
    }


def tomorrow() -> datetime:
    """When the day ends, in UTC."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def next_month() -> datetime:
    """When the month ends, in UTC."""
    day = tomorrow()
    return day if day.day == 1 else (day.replace(day=1) + timedelta(days=32)).replace(day=1)


@pytest.mark.parametrize("window", ["day", "month"])
def test_budget(mock: Mock, tmp_path: Path, window: str) -> None:
    """Exact to the nano-dollar; what is used up does not come back by trying again."""
    with running_router(tmp_path, policy(mock, f"budget_usd_{window}: 0.0005")) as router:
        answers = [chat(router, **BOUND) for _ in range(5)]
        ends = tomorrow() if window == "day" else next_month()
        booked = rows(tmp_path, 3)

    assert [told(answer) for answer in answers[:3]] == [
        {"x-router-budget-remaining-usd": left} for left in ("0.000390000", "0.000280000", "0.000170000")
    ]
    for answer in answers[3:]:
        error = refused(answer)
        assert reset(error) == ends
        assert error == {
            "type": "rate_limit_error",
            "param": None,
            "code": "budget_exceeded",
            "retryable": False,
            "limit": {
                "scope": "tenant:acme",
                "metric": "usd",
                "window": window,
                "limit": 0.0005,
                "used": 0.00033,
                "requested": NEEDED_USD,
            },
        }
        assert told(answer) == {"x-should-retry": "false", "x-router-budget-remaining-usd": "0.000170000"}
    assert len(mock.requests()) == 3
    assert [(row["cost_nanousd"], row["estimated"]) for row in booked] == [(110_000, 0)] * 3


def test_all_headers_move_with_each_call(mock: Mock, tmp_path: Path) -> None:
    """Requests, tokens and money, each of the tightest account that applies."""
    limits = "rpm: 4, tpm: 6000, budget_usd_day: 1, budget_usd_month: 0.5"
    with running_router(tmp_path, policy(mock, limits, first="rpm: 3, tpm: 60000")) as router:
        one, two = chat(router, **BOUND), chat(router, **BOUND)

    assert told(one) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "20s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5930",
        "x-ratelimit-reset-tokens": "700ms",
        "x-router-budget-remaining-usd": "0.499890000",
    }
    assert two.headers["x-ratelimit-remaining-requests"] == "1"
    assert two.headers["x-ratelimit-reset-requests"] == "40s"
    assert two.headers["x-router-budget-remaining-usd"] == "0.499780000"


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ("tpm: 70", {"metric": "tokens", "window": "minute", "limit": 70, "requested": NEEDED_TOKENS}),
        ("budget_usd_day: 0.00019", {"metric": "usd", "window": "day", "limit": 0.00019, "requested": NEEDED_USD}),
        ("budget_usd_month: 0.00019", {"metric": "usd", "window": "month", "limit": 0.00019, "requested": NEEDED_USD}),
    ],
)
def test_what_could_never_fit(mock: Mock, tmp_path: Path, limits: str, limit: dict[str, Any]) -> None:
    """It is refused at once, and no time to come again is named; the tenant's smaller requests go on."""
    with running_router(tmp_path, policy(mock, limits, "m@prompt_tokens=1,completion_tokens=1")) as router:
        answer = chat(router, **BOUND)
        sent = len(mock.requests())
        smaller = chat(router, max_tokens=1)

    error = refused(answer, 400)
    assert error == {
        "type": "invalid_request_error",
        "param": None,
        "code": "request_exceeds_limit",
        "retryable": False,
        "limit": {"scope": "tenant:acme", **limit},
    }
    assert answer.headers["x-should-retry"] == "false"
    assert {"retry-after", "retry-after-ms"}.isdisjoint(answer.headers)
    assert (sent, smaller.status) == (0, 200)


def test_a_limit_of_a_provider_removes_that_provider(mock: Mock, tmp_path: Path) -> None:
    """The next one is asked; when none is left, the first refusal is the answer, and the tenant has used nothing."""
    with running_router(tmp_path, policy(mock, "rpm: 9", first="rpm: 1", second="rpm: 1")) as router:
        answers = [chat(router) for _ in range(3)]
        books = (used(router), used(router, "first"), used(router, "second"))

    lanes = [(a.status, a.headers.get("x-router-provider"), a.headers["x-router-attempts"]) for a in answers]
    assert lanes == [(200, "first", "1"), (200, "second", "1"), (429, None, "0")]
    error = refused(answers[2])
    reset(error)
    assert error == {
        "type": "rate_limit_error",
        "param": None,
        "code": "requests_per_minute_exceeded",
        "retryable": True,
        "limit": {
            "scope": "tenant:acme/provider:first",
            "metric": "requests",
            "window": "minute",
            "limit": 1,
            "used": 1,
            "requested": 1,
        },
    }
    assert [request["model"] for request in mock.requests()] == [METERED, "other"]
    assert books == ({"requests": 2}, {"requests": 1}, {"requests": 1})


def test_what_never_fits_a_provider_goes_to_the_next(mock: Mock, tmp_path: Path) -> None:
    """And only where it fits nowhere it is refused for good."""
    with running_router(tmp_path, policy(mock, first="tpm: 70", second="tpm: 90")) as router:
        fits = chat(router, **BOUND)
        nowhere = chat(router, max_tokens=60)

    assert (fits.status, fits.headers["x-router-provider"], fits.headers["x-router-attempts"]) == (200, "second", "1")
    error = refused(nowhere, 400)
    assert (error["code"], error["limit"]) == (
        "request_exceeds_limit",
        {
            "scope": "tenant:acme/provider:first",
            "metric": "tokens",
            "window": "minute",
            "limit": 70,
            "requested": NEEDED_TOKENS + 10,
        },
    )


def test_what_may_fit_another_provider_later_is_not_refused_for_good(mock: Mock, tmp_path: Path) -> None:
    """It never fits the first, and the second has room in a minute: the client may try again."""
    with running_router(tmp_path, policy(mock, first="tpm: 70", second="rpm: 1")) as router:
        answers = [chat(router, **BOUND) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 429]
    assert answers[1].headers["x-should-retry"] == "true"


def test_a_limit_and_a_failure_exhaust_the_plan_together(mock: Mock, tmp_path: Path) -> None:
    """Where a provider was called in vain, that is the answer, and the removed one is among its attempts."""
    text = policy(mock, "rpm: 9", "m@status=503", first="rpm: 9", second="tpm: 70")
    with running_router(tmp_path, text) as router:
        answer = chat(router, **BOUND)

    error = refused(answer, 503)
    assert [(each["provider"], each["status"], each["code"]) for each in error["attempts"]] == [
        ("first", 503, "upstream_error"),
        ("second", None, "request_exceeds_limit"),
    ]
    assert answer.headers["x-router-attempts"] == "1"


def test_a_failed_hop_costs_nothing(mock: Mock, tmp_path: Path) -> None:
    """Neither tokens nor money of tenant or provider; the request counts once for the tenant, whatever it takes."""
    limits = "rpm: 9, tpm: 6000, budget_usd_day: 1"
    text = policy(mock, limits, "m@status=503", first=limits, second=limits)
    with running_router(tmp_path, text) as router:
        answer = chat(router, **BOUND)
        accounts = [used(router, scope) for scope in ("", "first", "second")]
        row = rows(tmp_path, 1)[0]

    # `hello` is one token, its answer `echo: hello` two: 5,000 nano-dollars.
    assert told(answer) == {
        "x-ratelimit-limit-requests": "9",
        "x-ratelimit-remaining-requests": "8",
        "x-ratelimit-reset-requests": "6.666s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5997",
        "x-ratelimit-reset-tokens": "30ms",
        "x-router-budget-remaining-usd": "0.999995000",
    }
    assert [(account["requests"], account["usd"]) for account in accounts] == [(1, 5e-6), (1, 0), (1, 5e-6)]
    assert accounts[1]["tokens"] == 0
    assert (row["provider"], row["attempts"], row["input_tokens"], row["output_tokens"], row["cost_nanousd"]) == (
        "second",
        2,
        1,
        2,
        5_000,
    )


def test_a_request_that_fails_everywhere_costs_nothing(mock: Mock, tmp_path: Path) -> None:
    """Its row says so; only the request itself has been made."""
    with running_router(tmp_path, policy(mock, "rpm: 9, tpm: 6000, budget_usd_day: 1", "m@status=503")) as router:
        answer = chat(router, **BOUND)
        account = used(router)
        row = rows(tmp_path, 1)[0]

    assert answer.status == 503
    assert account == {"requests": 1, "tokens": 0, "usd": 0}
    assert (row["status"], row["attempts"], row["input_tokens"], row["output_tokens"], row["cost_nanousd"]) == (
        503,
        1,
        0,
        0,
        0,
    )
    assert row["estimated"] == 0


def test_refused_requests_consume_nothing(mock: Mock, tmp_path: Path) -> None:
    """What one account refuses is not taken from the others, and no row is written."""
    with running_router(tmp_path, policy(mock, "rpm: 9, budget_usd_day: 0.0005")) as router:
        first = chat(router, **BOUND)
        for _ in range(3):
            refused(chat(router, max_tokens=200))  # 93,000 + 400,000 nano-dollars
            refused(chat(router, max_tokens=300), 400)
        last = chat(router, **BOUND)
        booked = rows(tmp_path, 2)

    assert (first.headers["x-ratelimit-remaining-requests"], last.headers["x-ratelimit-remaining-requests"]) == (
        "8",
        "7",
    )
    assert last.headers["x-router-budget-remaining-usd"] == "0.000280000"
    assert [row["request_id"] for row in booked] == [first.headers["x-request-id"], last.headers["x-request-id"]]


CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("limits", "model", "path", "fields", "sent"),
    [
        ("rpm: 9, tpm: 100000", "m", CHAT, HELLO, {}),
        ("budget_usd_day: 1", "m", CHAT, HELLO, {"max_tokens": 4096}),
        ("budget_usd_month: 1", "m", CHAT, {**HELLO, "max_tokens": None}, {"max_tokens": 4096}),
        ("budget_usd_day: 1, default_max_tokens: 100", "m", CHAT, HELLO, {"max_tokens": 100}),
        ("budget_usd_day: 1", "gpt-5-mini", CHAT, HELLO, {"max_completion_tokens": 4096}),
        ("budget_usd_day: 1", "vendor/o3", CHAT, HELLO, {"max_completion_tokens": 4096}),
        ("budget_usd_day: 1", "m", CHAT, {**HELLO, "max_tokens": 7}, {"max_tokens": 7}),
        (
            "budget_usd_day: 1",
            "m",
            CHAT,
            {**HELLO, "max_completion_tokens": 7},
            {"max_completion_tokens": 7},
        ),
        ("budget_usd_day: 1", "o3", CHAT, {**HELLO, "max_tokens": 7}, {"max_tokens": 7}),
        ("budget_usd_day: 1", "o3", TEXT, {"prompt": "hello"}, {"max_tokens": 4096}),
        # The body has 74 bytes; a quarter of the rest pays (1,000,000 - 74,000) / 4 / 2,000 tokens.
        ("budget_usd_day: 0.001", "m", CHAT, HELLO, {"max_tokens": 115}),
        # It would pay for 115 tokens; two answers share them.
        ("budget_usd_day: 0.001", "m", CHAT, {**HELLO, "n": 2}, {"max_tokens": 57, "n": 2}),
        # A quarter of what 400 tokens leave beside the estimated 27 of the input.
        ("budget_usd_day: 1, tpm: 400", "m", CHAT, HELLO, {"max_tokens": 93}),
    ],
)
def test_bound_that_is_sent_upstream(
    mock: Mock, tmp_path: Path, limits: str, model: str, path: str, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    """Only where money is at stake and the client set none, under the name that the model knows, and affordable."""
    with running_router(tmp_path, policy(mock, limits, model)) as router:
        answer = call(router, "POST", path, {"model": "reasoning", **fields})

    assert answer.status == 200
    assert mock.bodies() == [{**fields, "model": model, **sent}]


def test_no_bound_is_sent_for_embeddings(mock: Mock, tmp_path: Path) -> None:
    """They have no output; a provider's budget is one as well as the tenant's."""
    with running_router(tmp_path, policy(mock, first="budget_usd_day: 1")) as router:
        vectors = call(router, "POST", VECTORS, {"model": "embedding", "input": "a b"})
        text = call(router, "POST", TEXT, {"model": "reasoning", "prompt": "a"})

    assert mock.bodies() == [
        {"model": "vectors", "input": "a b"},
        {"model": METERED, "prompt": "a", "max_tokens": 4096},
    ]
    # Two tokens at 1,000 nano-dollars.
    assert told(vectors) == {"x-router-budget-remaining-usd": "0.999998000"}
    assert told(text) == {"x-router-budget-remaining-usd": "0.999888000"}


def test_all_endpoints_share_the_limits(mock: Mock, tmp_path: Path) -> None:
    """A request is a request."""
    with running_router(tmp_path, policy(mock, "rpm: 3")) as router:
        asked = [
            (VECTORS, {"model": "embedding", "input": "a b"}),
            (TEXT, {"model": "reasoning", "prompt": "a"}),
            (CHAT, {"model": "reasoning", **HELLO}),
        ]
        first = [call(router, "POST", *each) for each in asked]
        again = [call(router, "POST", *each) for each in asked]

    assert [(a.status, a.headers["x-ratelimit-remaining-requests"]) for a in first] == [
        (200, "2"),
        (200, "1"),
        (200, "0"),
    ]
    assert [refused(a)["code"] for a in again] == ["requests_per_minute_exceeded"] * 3


def stream(router: RunningRouter, path: str, **fields: Any) -> tuple[Answer, list[bytes]]:
    """A stream to its end, and its events."""
    answer = call(router, "POST", path, {"model": "reasoning", "stream": True, **fields})
    assert answer.status == 200
    return answer, events(answer.body)


def texts(found: list[bytes]) -> int:
    """How many of a stream's events have one of the words `w1`, `w2` and so on."""
    return sum(b'"content":"w' in event or b'"content":" w' in event or b'"text":' in event for event in found)


# An upstream that ignores `max_tokens`: the mock takes the other field, which is none of a completion's.
UNHEEDED: dict[str, Any] = {"prompt": "hello", "max_tokens": 10, "max_completion_tokens": 5_000}


def test_a_stream_that_outgrows_its_bound_is_cut_at_the_budget(mock: Mock, tmp_path: Path) -> None:
    """The stream ends with the reason instead of `[DONE]`, the upstream is left, and what came is booked."""
    with running_router(tmp_path, policy(mock, "budget_usd_day: 0.0002", "m@chunks=2000,gap=5ms")) as router:
        answer, found = stream(router, TEXT, **UNHEEDED)
        request = eventually(lambda: mock.requests()[0], lambda seen: seen["state"] != "open")
        row = rows(tmp_path, 1)[0]
        account = used(router)

    error = stream_error(found[-1])
    assert error.pop("request_id") == answer.headers["x-request-id"]
    assert reset(error) == tomorrow()
    # There never is room for 64 more, so it grows by 4 beyond each token that is there, until that does not fit either.
    assert error == {
        "type": "rate_limit_error",
        "param": None,
        "code": "budget_exceeded",
        "retryable": False,
        "limit": {
            "scope": "tenant:acme",
            "metric": "usd",
            "window": "day",
            "limit": 0.0002,
            "used": 0,
            "requested": 0.00001,
        },
    }
    # 45 tokens can be paid beside the bytes of the body, and 50 cannot.
    assert texts(found[:-1]) in (45, 46)
    assert b"[DONE]" not in answer.body
    assert request["state"] == "disconnected"
    assert (row["status"], row["estimated"], row["attempts"]) == (200, 1, 1)
    assert row["output_tokens"] == 46
    assert row["cost_nanousd"] == row["input_tokens"] * 1_000 + row["output_tokens"] * 2_000
    assert account == {"usd": pytest.approx(row["cost_nanousd"] / 10**9)}


def test_a_stream_that_is_cut_has_not_cost_more_than_the_budget(mock: Mock, tmp_path: Path) -> None:
    """Whoever ignores its bound is left in time: 45 tokens can be paid, the 11th is the first without a reservation."""
    with running_router(tmp_path, policy(mock, "budget_usd_day: 0.0002", "m@chunks=2000,gap=10ms")) as router:
        stream(router, TEXT, **UNHEEDED)
        billed = eventually(lambda: mock.requests()[0], lambda seen: seen["state"] != "open")["billed"]

    assert billed["prompt_tokens"] * 1_000 + billed["completion_tokens"] * 2_000 <= 200_000


def test_a_stream_that_outgrows_its_bound_is_cut_at_the_tokens(mock: Mock, tmp_path: Path) -> None:
    """The same for tokens, of which no bound is sent upstream."""
    limits = "tpm: 240, default_max_tokens: 20"
    with running_router(tmp_path, policy(mock, limits, "m@chunks=4000,gap=2ms")) as router:
        answer, found = stream(router, CHAT, **HELLO)
        request = eventually(lambda: mock.requests()[0], lambda seen: seen["state"] != "open")
        row = rows(tmp_path, 1)[0]

    assert "max_tokens" not in mock.bodies()[0]
    error = stream_error(found[-1])
    assert error["limit"].items() >= {"scope": "tenant:acme", "metric": "tokens", "limit": 240}.items()
    assert (error["code"], error["retryable"]) == ("tokens_per_minute_exceeded", True)
    assert b"[DONE]" not in answer.body
    assert request["state"] == "disconnected"
    assert (row["status"], row["estimated"]) == (200, 1)
    assert 20 < texts(found[:-1]) <= row["output_tokens"] < 240


def test_a_stream_may_grow_while_there_is_room(mock: Mock, tmp_path: Path) -> None:
    """What was reserved is a guess; its end counts what was used."""
    limits = "tpm: 6000, default_max_tokens: 20"
    with running_router(tmp_path, policy(mock, limits, "m@chunks=300")) as router:
        _, found = stream(router, CHAT, **HELLO)
        after = chat(router, max_tokens=1)
        row = rows(tmp_path, 2)[0]

    assert found[-1] == b"data: [DONE]\n\n"
    assert texts(found) == 300
    assert (row["input_tokens"], row["output_tokens"], row["cost_nanousd"], row["estimated"]) == (1, 300, 601_000, 0)
    # The second has 1 + 1.
    left = int(after.headers["x-ratelimit-remaining-tokens"])
    assert 6_000 - 301 - 2 <= left < 6_000 - 301 + 500


def test_an_answer_without_usage_is_counted_here(mock: Mock, tmp_path: Path) -> None:
    """As OpenAI would for its models, plain or as a stream, with the row marked as an estimate."""
    model = "gpt-4.1@fault=no-usage"
    with running_router(tmp_path, policy(mock, "budget_usd_day: 1", model)) as router:
        plain = chat(router)
        stream(router, CHAT, **HELLO)
        first, second = rows(tmp_path, 2)
        account = used(router)

    # `{"model": "reasoning", "messages": [{"role": "user", "content": "hello"}]}` has 23 tokens of o200k_base, and
    # `"stream": true, ` 5 more; `echo: hello` has 3.
    assert (first["input_tokens"], first["output_tokens"], first["cost_nanousd"]) == (23, 3, 29_000)
    assert (second["input_tokens"], second["output_tokens"], second["cost_nanousd"]) == (28, 3, 34_000)
    assert [row["estimated"] for row in (first, second)] == [1, 1]
    assert told(plain) == {"x-router-budget-remaining-usd": "0.999971000"}
    assert account == {"usd": 63e-6}


@pytest.mark.parametrize("limits", ["tpm: 400", "rpm: 9, default_max_tokens: 20", "max_parallel: 9"])
def test_an_answer_without_usage_is_no_shorter_than_it_is(mock: Mock, tmp_path: Path, limits: str) -> None:
    """Without a budget nobody was told of a bound: 5,000 words are no fewer than 5,000 tokens."""
    with running_router(tmp_path, policy(mock, limits, "gpt-4.1@fault=no-usage,chunks=5000")) as router:
        answer = chat(router)
        row = rows(tmp_path, 1)[0]

    assert answer.status == 200
    assert row["output_tokens"] >= 5_000


def test_a_completion_in_short_pieces_is_counted_whole(mock: Mock, tmp_path: Path) -> None:
    """`echo: a b c` has five tokens, however it comes."""
    with running_router(tmp_path, policy(mock, "budget_usd_day: 1", "gpt-4.1@fault=no-usage")) as router:
        stream(router, TEXT, prompt="a b c")
        row = rows(tmp_path, 1)[0]

    assert row["output_tokens"] == 5


def test_a_client_that_leaves_a_stream_pays_for_what_came(mock: Mock, tmp_path: Path) -> None:
    """The row is an estimate, the upstream is left too, and the slot is free for the next."""
    model = "m@chunks=1000,gap=20ms,times=1"
    with running_router(tmp_path, policy(mock, "max_parallel: 1, budget_usd_day: 1", model)) as router:
        with connected(router) as client:
            client.sendall(request_bytes({"model": "reasoning", "stream": True, **HELLO}))
            came = b""
            while b"w3" not in came:
                came += client.recv(4096)
            busy = refused(chat(router))
        mock.wait_open(0)
        lost = rows(tmp_path, 1)[0]
        after = eventually(lambda: chat(router), lambda answer: answer.status == 200)

    assert busy["code"] == "parallel_requests_exceeded"
    assert mock.requests()[0]["state"] == "disconnected"
    assert (lost["status"], lost["estimated"]) == (200, 1)
    assert 3 <= lost["output_tokens"] < 1_000
    assert lost["cost_nanousd"] == lost["input_tokens"] * 1_000 + lost["output_tokens"] * 2_000
    left = 10**9 - lost["cost_nanousd"] - 5_000
    assert (after.status, after.headers["x-router-budget-remaining-usd"]) == (200, f"0.{left:09d}")


def test_a_client_that_leaves_before_the_first_event_pays_for_the_input(mock: Mock, tmp_path: Path) -> None:
    """A stream was asked for and none of it has come: the 90 bytes of the body, as they were bounded."""
    body = {"model": "reasoning", "stream": True, **HELLO}
    with running_router(tmp_path, policy(mock, "budget_usd_day: 1", "m@fault=stall-before-headers")) as router:
        with connected(router) as client:
            client.sendall(request_bytes(body))
            mock.wait_open(1)
        mock.wait_open(0)
        row = rows(tmp_path, 1)[0]
        account = used(router)

    assert (row["status"], row["input_tokens"], row["output_tokens"], row["estimated"]) == (499, 90, 0, 1)
    assert row["cost_nanousd"] == 90_000
    assert account == {"usd": 90e-6}


def test_a_plain_answer_that_is_lost_costs_all_that_was_reserved(mock: Mock, tmp_path: Path) -> None:
    """It may have been made: 92 bytes of input and 50 tokens of output, or the budget could be overspent."""
    with running_router(tmp_path, policy(mock, "budget_usd_day: 1", "m@fault=cut")) as router:
        answer = chat(router, **BOUND)
        account = used(router)
        row = rows(tmp_path, 1)[0]

    assert answer.status == 503
    assert (row["status"], row["input_tokens"], row["output_tokens"], row["estimated"]) == (503, 92, 50, 1)
    assert row["cost_nanousd"] == 192_000
    assert account == {"usd": 192e-6}


def test_a_lost_answer_is_booked_once_where_the_next_hop_is_refused(mock: Mock, tmp_path: Path) -> None:
    """The ledger says what the account says: 92 bytes of input and 50 tokens of output."""
    text = policy(mock, "budget_usd_day: 0.0003", "m@fault=cut", second="")
    with running_router(tmp_path, text) as router:
        error = refused(chat(router, **BOUND))
        account = used(router)
        row = rows(tmp_path, 1)[0]

    assert error["code"] == "budget_exceeded"
    assert error["limit"].items() >= {"used": 0.000192, "requested": NEEDED_USD}.items()
    assert account == {"usd": 192e-6}
    assert (row["status"], row["attempts"], row["estimated"]) == (429, 1, 1)
    assert (row["input_tokens"], row["output_tokens"], row["cost_nanousd"]) == (92, 50, 192_000)


@pytest.mark.parametrize("number", [10**19, 10**30])
def test_a_bound_beyond_all_measure_does_not_stop_the_ledger(mock: Mock, tmp_path: Path, number: int) -> None:
    """All output that was asked for is booked when the answer is lost, but never what no database can hold."""
    with running_router(tmp_path, policy(mock, "rpm: 9", "m@fault=cut,times=1")) as router:
        lost = chat(router, max_tokens=number)
        after = chat(router, max_tokens=number)  # an equal request, which the mock answers
        written = rows(tmp_path, 2)

    assert (lost.status, after.status) == (503, 200)
    assert [row["status"] for row in written] == [503, 200]


def test_a_lost_answer_and_the_next_one_are_both_booked(mock: Mock, tmp_path: Path) -> None:
    """All that the first may have cost, and what the second did: the row has the sum."""
    text = policy(mock, "budget_usd_day: 1", "m@fault=cut", second="")
    with running_router(tmp_path, text) as router:
        answer = chat(router, **BOUND)
        account = used(router)
        row = rows(tmp_path, 1)[0]

    # 92 + 1 tokens of input, 50 + 2 of output.
    assert told(answer) == {"x-router-budget-remaining-usd": "0.999803000"}
    assert account == {"usd": 197e-6}
    assert (row["provider"], row["status"], row["attempts"], row["estimated"]) == ("second", 200, 2, 1)
    assert (row["input_tokens"], row["output_tokens"], row["cost_nanousd"]) == (93, 52, 197_000)


def reload(router: RunningRouter, text: str) -> None:
    """Put another policy in force."""
    before = call(router, "GET", "/healthz").json()["policy"]
    router.policy.write_text(text)
    assert eventually(lambda: call(router, "GET", "/healthz").json()["policy"], lambda seen: seen != before) != before


def test_a_new_budget_holds_from_the_next_request_on(mock: Mock, tmp_path: Path) -> None:
    """What is used stays used, whichever way the limit moves, and also while it is not there."""
    with running_router(tmp_path, policy(mock, "budget_usd_day: 0.001")) as router:
        before = chat(router, **BOUND)
        reload(router, policy(mock, "budget_usd_day: 0.0002"))
        lowered = refused(chat(router, **BOUND))
        reload(router, policy(mock, "budget_usd_day: 0.0005"))
        raised = chat(router, **BOUND)
        reload(router, policy(mock, "rpm: 9"))
        free = chat(router, **BOUND)
        reload(router, policy(mock, "budget_usd_day: 0.0003"))
        again = refused(chat(router, **BOUND))

    assert before.headers["x-router-budget-remaining-usd"] == "0.000890000"
    assert lowered["limit"].items() >= {"limit": 0.0002, "used": 0.00011, "requested": NEEDED_USD}.items()
    assert raised.headers["x-router-budget-remaining-usd"] == "0.000280000"
    assert (free.status, free.headers["x-ratelimit-remaining-requests"]) == (200, "8")
    assert again["limit"].items() >= {"limit": 0.0003, "used": 0.00022, "requested": NEEDED_USD}.items()


def test_a_new_rate_holds_from_the_next_request_on(mock: Mock, tmp_path: Path) -> None:
    """Two were made: one a minute refuses, three let one more in."""
    with running_router(tmp_path, policy(mock, "rpm: 2")) as router:
        assert [chat(router).status for _ in range(2)] == [200, 200]
        reload(router, policy(mock, "rpm: 1"))
        lowered = refused(chat(router))
        reload(router, policy(mock, "rpm: 4"))
        raised = chat(router)

    assert lowered["limit"].items() >= {"limit": 1, "used": 2, "requested": 1}.items()
    assert (raised.status, raised.headers["x-ratelimit-limit-requests"]) == (200, "4")
    assert raised.headers["x-ratelimit-remaining-requests"] == "1"


def test_a_second_key_has_no_limits_of_its_own(mock: Mock, tmp_path: Path) -> None:
    """While a key is rotated both open the same account, and what was used stays so when the old one goes."""
    fresh = "sk-acme-fresh-0123456789"
    with running_router(tmp_path, policy(mock, "rpm: 3"), {"acme": f"{ACME_KEY}\n{fresh}\n"}) as router:
        answers = [chat(router), chat(router, headers=identified(fresh))]
        (router.keys / "acme").write_text(fresh)
        eventually(lambda: call(router, "GET", "/v1/models"), lambda answer: answer.status == 401)
        answers += [chat(router, headers=identified(fresh)) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]


def test_limits_outlive_the_router(mock: Mock, tmp_path: Path) -> None:
    """What was used is in the database, exactly; nothing that was only lent stays away."""
    database = f"sqlite:///{tmp_path}/shared.db"
    text = policy(mock, "rpm: 3, budget_usd_day: 0.0005")
    answers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with running_router(tmp_path / name, text, database_url=database) as router:
            answers.append(chat(router, **BOUND))

    assert [
        (answer.headers["x-ratelimit-remaining-requests"], answer.headers["x-router-budget-remaining-usd"])
        for answer in answers
    ] == [("2", "0.000390000"), ("1", "0.000280000")]


def test_account_gauges(mock: Mock, tmp_path: Path) -> None:
    """Limit, used and remaining of each account that was asked for, in its own unit; refusals by their reason."""
    text = policy(mock, "rpm: 2, max_parallel: 5, budget_usd_month: 0.0005", first="budget_usd_day: 1")
    with running_router(tmp_path, text) as router:
        chat(router, **BOUND)
        refused(chat(router, max_tokens=160))  # 93,000 + 320,000 nano-dollars
        refused(chat(router, max_tokens=999), 400)
        chat(router, **BOUND)
        refused(chat(router, **BOUND))
        gauges = samples(router, "litellm_account_")
        throttled = samples(router, "litellm_throttled_total")
        errors = samples(router, "litellm_errors_total")

    expected = {}
    for provider, metric, window, limit, spent, left in (
        ("", "requests", "minute", 2, 2, 0),
        ("", "parallel", "now", 5, 0, 5),
        ("", "usd", "month", 0.0005, 0.00022, 0.00028),
        ("first", "usd", "day", 1, 0.00022, 0.99978),
    ):
        labels = f'{{metric="{metric}",provider="{provider}",tenant="acme",window="{window}"}}'
        expected[f"litellm_account_limit{labels}"] = limit
        expected[f"litellm_account_used{labels}"] = spent
        expected[f"litellm_account_remaining{labels}"] = left
    assert gauges == expected
    assert throttled == {
        'litellm_throttled_total{reason="budget_exceeded",tenant="acme"}': 1,
        'litellm_throttled_total{reason="requests_per_minute_exceeded",tenant="acme"}': 1,
    }
    assert errors == {
        'litellm_errors_total{code="budget_exceeded",tenant="acme"}': 1,
        'litellm_errors_total{code="request_exceeds_limit",tenant="acme"}': 1,
        'litellm_errors_total{code="requests_per_minute_exceeded",tenant="acme"}': 1,
    }
