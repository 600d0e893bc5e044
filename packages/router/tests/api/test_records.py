"""What is recorded of requests: metrics and access log, and what must never be in either."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.calls import HELLO, call, chat, identified, samples, send_raw
from support.policies import UPSTREAM_KEY
from support.servers import ACME_KEY, GLOBEX_KEY, Mock, RunningRouter, running_router

POLICY = """
providers:
  first:
    base_url: {mock}/v1
    api_key: {{file: {folder}/upstream.key}}
    timeouts: {{first_byte: 5s, idle: 5s, total: 10s}}
    retries: {{max: 0}}
  second: {{base_url: "{mock}/v1"}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
          failover: {{default: "gpt-4.1@status=503"}}
          lost: {{default: "gpt-4.1@status=401"}}
          embedding: {{default: text-embedding-3-small}}
          rejecting: {{default: "gpt-4.1@status=422"}}
          cut: {{default: "gpt-4.1@chunks=4,gap=40ms,fault=cut,at=3"}}
          unmetered: {{default: "gpt-4.1@fault=no-usage"}}
      second:
        models:
          failover: {{default: gpt-4o-mini}}
          private: {{default: gpt-4o}}
  globex:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
"""
# Tokens of the whole request bodies, which is what the router counts where nobody else does.
UNMETERED_INPUT = 24
CUT_INPUT = 27
THREE_WORDS = [{"role": "user", "content": "one two three"}]  # 3 tokens; the answer `echo: one two three` has 4


def _policy(mock: Mock, folder: Path) -> str:
    (folder / "upstream.key").write_text(UPSTREAM_KEY)
    return POLICY.format(mock=mock.url, folder=folder)


def _lane(name: str, provider: str, model: str, tenant: str = "acme") -> str:
    return f'{name}{{model="{model}",provider="{provider}",tenant="{tenant}"}}'


def test_metrics_after_a_known_series_of_calls(mock: Mock, tmp_path: Path) -> None:
    """Every counter has exactly the value that the calls add up to, and no other series exists."""
    with running_router(tmp_path, _policy(mock, tmp_path)) as router:
        for _ in range(2):
            chat(router, messages=THREE_WORDS)  # 2 x (3 in, 4 out)
        chat(router, messages=THREE_WORDS, stream=True)  # 3 in, 4 out
        chat(router, messages=THREE_WORDS, headers=identified(GLOBEX_KEY, "globex"))  # 3 in, 4 out
        chat(router, model="failover")  # 1 in, 2 out, at the second hop
        call(router, "POST", "/v1/embeddings", {"model": "embedding", "input": ["a b", "c"]})  # 3 in, 0 out
        call(router, "POST", "/v1/completions", {"model": "reasoning", "prompt": "a b"})  # 2 in, 3 out
        chat(router, model="unmetered")  # the router counts, as OpenAI does
        chat(router, model="lost")
        chat(router, model="rejecting")
        chat(router, model="cut", stream=True)
        chat(router, model="invented")
        chat(router, b"{")
        chat(router, headers={**identified(), "X-Data-Class": "raw-docs"})
        chat(router, headers=identified("sk-wrong"))
        chat(router, headers=identified(tenant="globex"))
        for path in ("/healthz", "/readyz", "/internal/metrics", "/openapi.json"):
            call(router, "GET", path, headers={})
        found = samples(router)

    del found["litellm_requests_in_flight"]
    first, second = ("first", "gpt-4.1"), ("second", "gpt-4o-mini")
    nowhere, embedded = ("none", "none"), ("first", "text-embedding-3-small")
    unmetered, cut = ("first", "gpt-4.1@fault=no-usage"), ("first", "gpt-4.1@chunks=4,gap=40ms,fault=cut,at=3")
    requests: dict[tuple[str, ...], float] = {
        first: 4,
        (*first, "globex"): 1,
        second: 1,
        embedded: 1,
        unmetered: 1,
        cut: 1,
        nowhere: 5,  # lost, rejected, unknown model, not JSON, raw documents
    }
    expected = {_lane("litellm_requests_total", *lane): count for lane, count in requests.items()}
    expected |= {_lane("litellm_request_duration_seconds_count", *lane): count for lane, count in requests.items()}
    tokens: dict[tuple[str, ...], tuple[float, float]] = {
        first: (3 + 3 + 3 + 2, 4 + 4 + 4 + 3),
        (*first, "globex"): (3, 4),
        second: (1, 2),
        embedded: (3, 0),
        unmetered: (UNMETERED_INPUT, 3),
        cut: (CUT_INPUT, 4),
    }
    for lane, (sent, made) in tokens.items():
        expected |= {
            _lane("litellm_input_tokens_total", *lane): sent,
            _lane("litellm_output_tokens_total", *lane): made,
        }
    latencies: dict[tuple[str, str], float] = {first: 5, second: 1, embedded: 1, unmetered: 1, cut: 1}
    for (provider, model), count in latencies.items():
        expected[f'litellm_upstream_latency_seconds_count{{model="{model}",provider="{provider}"}}'] = count
    for provider, model in (first, cut):
        expected[f'litellm_time_to_first_token_seconds_count{{model="{model}",provider="{provider}"}}'] = 1
    errors = {
        ("all_providers_unavailable", "acme"): 1,
        ("upstream_rejected", "acme"): 1,
        ("upstream_stream_truncated", "acme"): 1,
        ("model_not_found", "acme"): 1,
        ("invalid_json", "acme"): 1,
        ("raw_docs_forbidden", "acme"): 1,
        ("invalid_api_key", "none"): 1,
        ("tenant_mismatch", "none"): 1,
    }
    expected |= {f'litellm_errors_total{{code="{code}",tenant="{who}"}}': n for (code, who), n in errors.items()}
    failures = {
        ("upstream_error", "gpt-4.1@status=503"): 1,
        ("upstream_auth_failed", "gpt-4.1@status=401"): 1,
        ("upstream_rejected", "gpt-4.1@status=422"): 1,
    }
    for (code, model), count in failures.items():
        labels = f'code="{code}",model="{model}",provider="first"'
        expected[f"litellm_upstream_failures_total{{{labels}}}"] = count
    for provider, model in (*latencies, *[("first", model) for _, model in failures]):
        expected[f'litellm_breaker_state{{model="{model}",provider="{provider}"}}'] = 0
    expected |= {"litellm_policy_reload_failures_total": 0, "litellm_audit_lost_total": 0}
    expected |= {"litellm_router_overhead_seconds_count": 9}
    assert found == expected


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v1/responses", "not_found"),
        ("GET", "/v1/models/invented", "model_not_found"),
        ("GET", "/v1/chat/completions", "method_not_allowed"),
    ],
)
def test_every_error_answer_is_counted_by_its_code(
    mock: Mock, tmp_path: Path, method: str, path: str, code: str
) -> None:
    """Errors that the framework finds are counted and logged as the others are."""
    with running_router(tmp_path, _policy(mock, tmp_path)) as router:
        answer = call(router, method, path, HELLO if method == "POST" else None)
        errors = samples(router, "litellm_errors_total")
    line = router.access_lines()[-1]

    assert answer.error()["code"] == code
    assert errors == {f'litellm_errors_total{{code="{code}",tenant="acme"}}': 1.0}
    assert (line["status"], line.get("code")) == (answer.status, code)


def test_metrics_are_well_formed(router: RunningRouter) -> None:
    """The text is Prometheus's: each metric with its help and type, each line a sample."""
    chat(router)
    answer = call(router, "GET", "/internal/metrics", headers={})

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for line in answer.body.decode().splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) litellm_\w+ .+|litellm_\w+(\{(\w+="[^"\n]*",?)+\})? [0-9.e+-]+', line)


def _lines(router: RunningRouter) -> list[dict[str, Any]]:
    """The access lines without their times, which are looked at here."""
    lines = router.access_lines()
    for line in lines:
        age = datetime.now(UTC) - datetime.fromisoformat(line.pop("time"))
        assert 0 <= age.total_seconds() < 60
        for name in ("ms", "overhead_ms", "first_event_ms"):
            assert 0 <= line.pop(name, 0.001) < 60_000
    return lines


def test_access_lines_are_whole(mock: Mock, tmp_path: Path) -> None:
    """One line for each request, with names from the policy, verdicts and numbers."""
    with running_router(tmp_path, _policy(mock, tmp_path)) as router:
        policy = call(router, "GET", "/healthz", headers={}).json()["policy"]

        def ask(number: int, method: str, path: str, body: Any = None, **headers: str) -> None:
            call(router, method, path, body, {**identified(), "x-request-id": f"r{number}", **headers})

        ask(1, "POST", "/v1/chat/completions", {"model": "reasoning", "messages": THREE_WORDS})
        ask(2, "POST", "/v1/chat/completions", {"model": "gpt-4.1", "messages": THREE_WORDS, "stream": True})
        ask(3, "POST", "/v1/chat/completions", {**HELLO, "model": "failover"})
        ask(4, "POST", "/v1/embeddings", {"model": "embedding", "input": "a b"})
        ask(5, "POST", "/v1/completions", {"model": "lost", "prompt": "a"})
        ask(6, "POST", "/v1/chat/completions", {**HELLO, "model": "invented"})
        ask(7, "POST", "/v1/chat/completions", HELLO, Authorization="Bearer sk-wrong")
        ask(8, "POST", "/v1/chat/completions", b"{")
        ask(9, "GET", "/v1/models")
        ask(10, "GET", "/v1/models/gpt-4.1")
        ask(11, "POST", "/v1/chat/completions", {**HELLO, "model": "cut", "stream": True})

    common = {"event": "access", "method": "POST", "path": "/v1/chat/completions", "tenant": "acme"}
    first = {"provider": "first", "model": "gpt-4.1", "attempts": 1, "policy": policy}
    assert _lines(router) == [
        {
            **common,
            "request_id": "r1",
            "status": 200,
            **first,
            "task": "reasoning",
            "input_tokens": 3,
            "output_tokens": 4,
        },
        {**common, "request_id": "r2", "status": 200, **first, "stream": True, "input_tokens": 3, "output_tokens": 4},
        {
            **common,
            "request_id": "r3",
            "status": 200,
            "task": "failover",
            "provider": "second",
            "model": "gpt-4o-mini",
            "attempts": 2,
            "policy": policy,
            "input_tokens": 1,
            "output_tokens": 2,
        },
        {
            **common,
            "request_id": "r4",
            "status": 200,
            "path": "/v1/embeddings",
            "task": "embedding",
            "provider": "first",
            "model": "text-embedding-3-small",
            "attempts": 1,
            "policy": policy,
            "input_tokens": 2,
            "output_tokens": 0,
        },
        {
            **common,
            "request_id": "r5",
            "status": 503,
            "path": "/v1/completions",
            "task": "lost",
            "attempts": 1,
            "code": "all_providers_unavailable",
            "policy": policy,
        },
        {**common, "request_id": "r6", "status": 404, "code": "model_not_found", "policy": policy},
        {
            **{name: value for name, value in common.items() if name != "tenant"},
            "request_id": "r7",
            "status": 401,
            "code": "invalid_api_key",
        },
        {**common, "request_id": "r8", "status": 400, "code": "invalid_json"},
        {**common, "request_id": "r9", "status": 200, "method": "GET", "path": "/v1/models"},
        {**common, "request_id": "r10", "status": 200, "method": "GET", "path": "/v1/models/{model:path}"},
        {
            **common,
            "request_id": "r11",
            "status": 200,
            "stream": True,
            "task": "cut",
            "provider": "first",
            "attempts": 1,
            "model": "gpt-4.1@chunks=4,gap=40ms,fault=cut,at=3",
            "policy": policy,
            "code": "upstream_stream_truncated",
            "input_tokens": CUT_INPUT,
            "output_tokens": 4,
        },
    ]


CANARY = "canary7c1e"
WRONG_KEY = "sk-wrong-9b2d4f"


def test_nothing_that_a_client_typed_is_recorded_or_told(
    mock: Mock, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No prompt, key, made-up name or address in log, metrics, errors or headers, however the request goes."""
    with running_router(tmp_path, _policy(mock, tmp_path)) as router:
        said = [{"role": "user", "content": CANARY}]
        answers = [
            chat(router, {"model": model, "messages": said, "stream": stream, "user": CANARY, CANARY: CANARY}, headers)
            for model in ("reasoning", "failover", "lost", "rejecting", "cut", CANARY, f"first/{CANARY}")
            for stream in (False, True)
            for headers in (
                identified(),
                {
                    **identified(),
                    "X-Data-Class": f"raw-docs {CANARY}",
                    "traceparent": CANARY,
                    "x-request-id": f"<{CANARY}>",
                },
                identified(WRONG_KEY),
                identified(tenant=CANARY),
                {**identified(), "Content-Type": f"text/{CANARY}"},
            )
        ]
        answers += [chat(router, body) for body in (f'{{"{CANARY}'.encode(), f'{{"{CANARY}":1,"{CANARY}":2}}'.encode())]
        answers += [chat(router, {"model": "reasoning", "messages": [{"role": "user", "content": {CANARY: 1}}]})]
        answers += [call(router, "GET", f"/{prefix}{CANARY}?q={CANARY}") for prefix in ("", "v1/", "v1/models/")]
        answers += [send_raw(router, f"GET /{CANARY} HTTP/1.1\r\nHost: {CANARY}\r\n{CANARY} : 1\r\n\r\n".encode())]
        metrics = router.metrics()
    log = (tmp_path / "access.log").read_text()
    out, err = capfd.readouterr()

    refused = [answer for answer in answers if answer.status != 200]
    secret = (ACME_KEY, WRONG_KEY, UPSTREAM_KEY)
    told = [json.dumps(answer.headers) for answer in answers] + [answer.body.decode() for answer in refused]
    assert len(log.splitlines()) == len(answers) - 1  # the parser refuses the last one itself
    assert len(refused) == len(answers) - 5  # answered: reasoning and failover in both ways, and the cut stream
    for text in (metrics, log, out, err, *told):
        assert CANARY not in text
        assert [key for key in secret if key in text] == []
    for text in (metrics, log, *told):
        assert mock.url.removeprefix("http://") not in text


def test_made_up_names_do_not_make_series(mock: Mock, tmp_path: Path) -> None:
    """A client that makes up names does not grow the metrics: the series are the same after one and after a hundred."""
    with running_router(tmp_path, _policy(mock, tmp_path)) as router:
        counts = []
        for last in (1, 100):
            for number in range(last):
                chat(router, model=f"invented-{number}")
                chat(router, headers=identified(tenant=f"invented-{number}"))
                chat(router, headers=identified(f"sk-invented-{number}", f"invented-{number}"))
                call(router, "GET", f"/v1/invented-{number}")
            counts.append(len(router.metrics().splitlines()))

    assert counts[0] == counts[1]


def test_traceback_in_the_log_has_no_values(tmp_path: Path) -> None:
    """An unexpected failure is logged with its place and kind, never with the values on its way: keys, prompts."""
    script = tmp_path / "fails.py"
    script.write_text(
        "import logging, structlog\n"
        "from stratmaster_router.telemetry.logs import configure_logs\n"
        "configure_logs('info', str)\n"
        "def serve(authorization, body):\n"
        "    raise RuntimeError('broken')\n"
        "for log in (structlog.stdlib.get_logger('ours'), logging.getLogger('uvicorn.error')):\n"
        "    try:\n"
        "        serve('Bearer sk-' + 'canary', 'my ' + 'prompt')\n"
        "    except RuntimeError as error:\n"
        "        log.error('request failed', exc_info=error)\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, check=True)

    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [(line["event"], line["exception"][0]["exc_type"]) for line in lines] == [
        ("request failed", "RuntimeError")
    ] * 2
    assert "sk-canary" not in ran.stderr
    assert "my prompt" not in ran.stderr
