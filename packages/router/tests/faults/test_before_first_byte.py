import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.calls import Answer, call, chat, events, identified, requests_of
from support.policies import one_hop, two_hops
from support.scripted import Exchange, chunked, head, running_scripted, stream_head
from support.servers import Mock, RunningRouter, running_mock, running_router

# (directives of the mock, status and code of the attempt); the same for both kinds of answer.
EITHER: list[tuple[str, int | None, str]] = [
    ("status=500", 500, "upstream_error"),
    ("status=502", 502, "upstream_error"),
    ("status=503", 503, "upstream_error"),
    ("status=504", 504, "upstream_error"),
    ("status=529", 529, "upstream_error"),
    ("status=409", 409, "upstream_error"),
    ("status=408", 408, "upstream_timeout"),
    ("status=429,retry_after=3", 429, "upstream_rate_limited"),
    ("status=401", 401, "upstream_auth_failed"),
    ("status=402", 402, "upstream_auth_failed"),
    ("status=403", 403, "upstream_auth_failed"),
    ("status=404", 404, "upstream_not_found"),
    ("status=301", 301, "upstream_redirected"),
    ("status=302", 302, "upstream_redirected"),
    ("status=307", 307, "upstream_redirected"),
    ("fault=disconnect", None, "upstream_disconnected"),
    ("fault=stall-before-headers", None, "upstream_timeout"),
    ("fault=stall-before-first-byte", 200, "upstream_timeout"),
    ("fault=html", 200, "upstream_invalid_response"),
    ("fault=html,status=503", 503, "upstream_error"),
    ("fault=wrong-content-type", 200, "upstream_invalid_response"),
    ("fault=cut-before-first-event", 200, "upstream_disconnected"),
    ("fault=cut,at=0", 200, "upstream_disconnected"),
    ("fault=reset,at=0", 200, "upstream_disconnected"),
    ("fault=truncated-content-length,at=0", 200, "upstream_disconnected"),
]
PLAIN: list[tuple[str, int | None, str]] = [
    ("fault=reset", 200, "upstream_disconnected"),
    ("fault=cut", 200, "upstream_disconnected"),
    ("fault=truncated-content-length", 200, "upstream_disconnected"),
    ("fault=stall-after-first-byte", 200, "upstream_timeout"),
    ("fault=malformed-json", 200, "upstream_invalid_response"),
    ("fault=half-json", 200, "upstream_invalid_response"),
    ("fault=empty-body", 200, "upstream_invalid_response"),
    ("fault=ok-with-error", 200, "upstream_error_in_body"),
    ("fault=error-first-event", 200, "upstream_error_in_body"),
]
STREAM: list[tuple[str, int | None, str]] = [
    ("fault=malformed-json,at=0", 200, "upstream_stream_invalid"),
    ("fault=half-json,at=0", 200, "upstream_stream_invalid"),
    ("fault=error-first-event", 200, "upstream_stream_error"),
    ("fault=error-in-band,at=0", 200, "upstream_stream_error"),
    ("fault=empty-body", 200, "upstream_stream_truncated"),
    ("fault=ok-with-error", 200, "upstream_invalid_response"),
]
CASES = [
    pytest.param(directives, stream, status, code, id=f"{directives}-{'stream' if stream else 'plain'}")
    for stream, table in ((False, EITHER + PLAIN), (True, EITHER + STREAM))
    for directives, status, code in table
]


def _policy(mock: str) -> str:
    directives = sorted({line[0] for line in EITHER + PLAIN + STREAM})
    tasks = "\n".join(f'          task{n}: {{default: "gpt-4.1@{each}"}}' for n, each in enumerate(directives))
    spare = "\n".join(f"          task{n}: {{default: gpt-4o-mini}}" for n in range(len(directives)))
    return f"""
providers:
  first:
    base_url: {mock}/v1
    timeouts: {{connect: 200ms, first_byte: 300ms, idle: 400ms, total: 5s}}
    retries: {{max: 0}}
    breaker: {{failures: 1000}}
  second:
    base_url: {mock}/v1
tenants:
  acme:
    providers:
      first:
        models:
{tasks}
      second:
        models:
{spare}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Mock]:
    """One mocked provider for the module; tests tell their requests apart by id."""
    with running_mock() as mock:
        yield mock


@pytest.fixture(scope="module")
def failing(upstream: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router with one task for each way to fail: `first` fails, `second` answers."""
    with running_router(tmp_path_factory.mktemp("router"), _policy(upstream.url)) as router:
        yield router


def _task(directives: str) -> str:
    return f"task{sorted({line[0] for line in EITHER + PLAIN + STREAM}).index(directives)}"


def _attempts(answer: Answer) -> list[dict[str, Any]]:
    """The attempts of a 503, their times taken out after a look."""
    attempts: list[dict[str, Any]] = answer.error()["attempts"]
    for attempt in attempts:
        assert 0 <= attempt.pop("ms") < 10_000
    return attempts


@pytest.mark.parametrize(("directives", "stream", "status", "code"), CASES)
def test_failure_before_the_first_byte_falls_over_to_the_next_hop(
    failing: RunningRouter, upstream: Mock, directives: str, stream: bool, status: int | None, code: str
) -> None:
    """Whatever happens before the first byte, the client gets the next hop's whole answer and no trace of the first."""
    del status, code
    request_id = secrets.token_hex(8)

    answer = chat(failing, model=_task(directives), stream=stream, headers=identified(x_request_id=request_id))

    assert answer.status == 200
    assert (answer.headers["x-router-provider"], answer.headers["x-router-model"]) == ("second", "gpt-4o-mini")
    assert answer.headers["x-router-attempts"] == "2"
    if stream:
        assert events(answer.body)[-1] == b"data: [DONE]\n\n"
        assert b'"content":" hello"' in answer.body
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "echo: hello"
    asked = requests_of(upstream, request_id)
    assert [(request["path"], request["model"]) for request in asked] == [
        ("/v1/chat/completions", f"gpt-4.1@{directives}"),
        ("/v1/chat/completions", "gpt-4o-mini"),
    ]


@pytest.mark.parametrize(("directives", "stream", "status", "code"), CASES)
def test_exhausted_plan_lists_each_attempt_with_its_code(
    failing: RunningRouter, directives: str, stream: bool, status: int | None, code: str
) -> None:
    """A plan that is exhausted is a 503 in the one shape, streams too, with what each hop did and what to do now."""
    model = f"gpt-4.1@{directives}"
    request_id = secrets.token_hex(8)

    answer = chat(failing, model=model, stream=stream, headers=identified(x_request_id=request_id))

    wait = 3 if "retry_after" in directives else 1
    assert _attempts(answer) == [{"provider": "first", "model": model, "status": status, "code": code}]
    error = answer.error()
    del error["attempts"]
    assert error.pop("fallback") == {
        "action": "use_cached_recommendations",
        "message": "Answer from cached recommendations until a provider is back.",
    }
    assert error == {
        "type": "api_error",
        "param": None,
        "code": "all_providers_unavailable",
        "retryable": True,
        "request_id": request_id,
    }
    headers = dict(answer.headers)
    assert len(headers.pop("x-router-policy")) == 12
    assert (answer.status, headers) == (
        503,
        {
            "content-type": "application/json",
            "content-length": str(len(answer.body)),
            "x-request-id": request_id,
            "x-should-retry": "true",
            "retry-after": str(wait),
            "retry-after-ms": str(wait * 1000),
            "x-router-attempts": "1",
        },
    )


def test_exhausted_plan_names_its_hops_in_order_and_waits_as_the_soonest_asks(mock: Mock, tmp_path: Path) -> None:
    """Each hop stands in the list once, in the plan's order; `retry-after` is the shortest that an upstream wished."""
    models = ["a@status=429,retry_after=30", "b@fault=disconnect", "c@status=503,retry_after=2500ms", "d@status=401"]
    with running_router(tmp_path, one_hop(mock.url, *models)) as router:
        answer = chat(router)

    assert _attempts(answer) == [
        {"provider": "only", "model": models[0], "status": 429, "code": "upstream_rate_limited"},
        {"provider": "only", "model": models[1], "status": None, "code": "upstream_disconnected"},
        {"provider": "only", "model": models[2], "status": 503, "code": "upstream_error"},
        {"provider": "only", "model": models[3], "status": 401, "code": "upstream_auth_failed"},
    ]
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("3", "2500")
    assert answer.headers["x-router-attempts"] == "4"
    assert [request["model"] for request in mock.requests()] == models  # each once: a 404 or 401 is not retried


@pytest.mark.parametrize("stream", [False, True])
def test_redirect_is_not_followed(failing: RunningRouter, upstream: Mock, stream: bool) -> None:
    """A key must not follow a redirect to another place: the target is never asked."""
    request_id = secrets.token_hex(8)

    answer = chat(failing, model="gpt-4.1@status=307", stream=stream, headers=identified(x_request_id=request_id))

    assert answer.status == 503
    assert [request["path"] for request in requests_of(upstream, request_id)] == ["/v1/chat/completions"]
    assert not [request for request in upstream.requests() if request["path"].startswith("/mock/redirected")]


def _scripted_case(name: str, stream: bool) -> tuple[Any, int | None, str]:
    body = b'{"object":"chat.completion","choices":[{"message":{"content":"x"}}]}'
    event = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'

    def gzipped(exchange: Exchange) -> None:
        exchange.answer(
            b"\x1f\x8b" + body, "text/event-stream" if stream else "application/json", "Content-Encoding: gzip"
        )

    def garbage(exchange: Exchange) -> None:
        exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n")
        exchange.close()

    def half_a_head(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
        exchange.close()

    def bad_chunk(exchange: Exchange) -> None:
        exchange.send(stream_head() + b"zz\r\n" + event)
        exchange.close()

    def status(line: str) -> Any:
        return lambda exchange: exchange.answer(b"", status=line)

    def comments(exchange: Exchange) -> None:
        exchange.send(stream_head())
        exchange.chunk(b": working\n\n")
        exchange.wait_closed()

    def error_with_its_end_missing(exchange: Exchange) -> None:
        exchange.send(head("application/json", "Content-Length: 1000", status="500 Oops") + b"{")
        exchange.wait_closed()

    def huge_header(exchange: Exchange) -> None:
        exchange.answer(body, "application/json", "X-Huge: " + "x" * 100_000)

    cases: dict[str, tuple[Any, int | None, str]] = {
        "huge header": (huge_header, None, "upstream_disconnected"),
        "gzip": (gzipped, 200, "upstream_invalid_response"),
        "garbage": (garbage, None, "upstream_disconnected"),
        "half a head": (half_a_head, None, "upstream_disconnected"),
        "bad chunk": (bad_chunk, None, "upstream_disconnected"),
        "status 201": (status("201 Created"), 201, "upstream_error"),
        "status 204": (lambda exchange: exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n"), 204, "upstream_error"),
        "comments only": (comments, 200, "upstream_timeout"),
        "half an event": (chunked(event[:20]), 200, "upstream_stream_invalid"),
        "not an object": (chunked(b"data: [1]\n\n"), 200, "upstream_stream_invalid"),
        "a string": (lambda exchange: exchange.answer(b'"ok"'), 200, "upstream_invalid_response"),
        "no choices": (
            lambda exchange: exchange.answer(b'{"object":"chat.completion"}'),
            200,
            "upstream_invalid_response",
        ),
        "deep": (lambda exchange: exchange.answer(b"[" * 100_000), 200, "upstream_invalid_response"),
        "error without its end": (error_with_its_end_missing, 500, "upstream_timeout"),
    }
    return cases[name]


BOTH = [
    "gzip",
    "garbage",
    "huge header",
    "half a head",
    "bad chunk",
    "status 201",
    "status 204",
    "error without its end",
]


@pytest.mark.parametrize(
    ("name", "stream"),
    [(name, stream) for name in BOTH for stream in (False, True)]
    + [("comments only", True), ("half an event", True), ("not an object", True)]
    + [("a string", False), ("no choices", False), ("deep", False)],
)
def test_broken_protocol_falls_over(mock: Mock, tmp_path: Path, name: str, stream: bool) -> None:
    """What no honest server sends is a failed hop as well, and the next one is asked."""
    script, status, code = _scripted_case(name, stream)
    with (
        running_scripted(script) as broken,
        running_router(tmp_path, two_hops(broken.url, mock.url, tmp_path)) as router,
    ):
        answer = chat(router, stream=stream)
        alone = chat(router, model="first/gpt-4.1", stream=stream)

    assert (answer.status, answer.headers["x-router-provider"]) == (200, "second")
    assert _attempts(alone) == [{"provider": "first", "model": "gpt-4.1", "status": status, "code": code}]


def test_slow_trickle_before_the_first_event_ends_at_the_first_byte_limit(mock: Mock, tmp_path: Path) -> None:
    """Comments keep a connection busy but are no answer: they do not put off the limit for the first byte."""

    def script(exchange: Exchange) -> None:
        exchange.send(stream_head())
        for _ in count():
            exchange.chunk(b": still here\n\n")

    with running_scripted(script) as busy, running_router(tmp_path, two_hops(busy.url, mock.url, tmp_path)) as router:
        answer = chat(router, stream=True)

    assert (answer.status, answer.headers["x-router-provider"]) == (200, "second")


def test_body_that_keeps_coming_is_not_cut_at_the_first_byte_limit(mock: Mock, tmp_path: Path) -> None:
    """`first_byte` ends with the first byte: a whole answer that trickles in within `idle` is waited for."""
    # A body in 8 writes, 100 ms apart: 700 ms in all, with the limits of connect and first_byte at 400 ms together.
    timeouts = "{connect: 100ms, first_byte: 300ms, idle: 400ms, total: 5s}"
    policy = one_hop(mock.url, "gpt-4.1@fault=slow-body,gap=100ms", timeouts=timeouts)
    with running_router(tmp_path, policy) as router:
        answer = chat(router)

    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "echo: hello"


@pytest.mark.parametrize("path", ["completions", "embeddings"])
def test_other_endpoints_fall_over_too(mock: Mock, tmp_path: Path, path: str) -> None:
    """A failed hop of a completion or an embedding is no end either."""
    body = {"model": "reasoning", "prompt": "one"} if path == "completions" else {"model": "embedding", "input": "one"}
    with (
        running_scripted(lambda exchange: exchange.close()) as broken,
        running_router(tmp_path, two_hops(broken.url, mock.url, tmp_path)) as router,
    ):
        answer = call(router, "POST", f"/v1/{path}", body)

    assert (answer.status, answer.headers["x-router-provider"], answer.headers["x-router-attempts"]) == (
        200,
        "second",
        "2",
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["refused", "unanswered", "not TLS", "no key", "no certificate"])
def test_unreachable_provider_falls_over(mock: Mock, tmp_path: Path, how: str, stream: bool) -> None:
    """A provider that cannot be reached, or not as the policy wants it, is a failed hop and no more."""
    codes = {
        "refused": "upstream_connect_failed",
        "unanswered": "upstream_connect_timeout",
        "not TLS": "upstream_tls_failed",
        "no key": "upstream_misconfigured",
        "no certificate": "upstream_misconfigured",
    }
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        if how == "refused":
            listener.close()
        elif how == "unanswered":
            # A queue of one that nobody accepts from is full after the first connection: the rest gets no answer.
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        address = mock.url.replace("http:", "https:") if how == "not TLS" else f"http://127.0.0.1:{port}"
        policy = two_hops(address, mock.url, tmp_path)
        if how == "no key":
            (tmp_path / "upstream.key").unlink()
        elif how == "no certificate":
            address = address.replace("http:", "https:")
            policy = two_hops(address, mock.url, tmp_path)
            policy = policy.replace(
                "  second:\n    base", f"    tls: {{ca: {tmp_path}/absent.pem}}\n  second:\n    base", 1
            )
        router = stack.enter_context(running_router(tmp_path, policy))
        answer = chat(router, stream=stream)
        alone = chat(router, model="first/gpt-4.1", stream=stream)

    assert (answer.status, answer.headers["x-router-provider"], answer.headers["x-router-attempts"]) == (
        200,
        "second",
        "2",
    )
    assert _attempts(alone) == [{"provider": "first", "model": "gpt-4.1", "status": None, "code": codes[how]}]
    assert str(port) not in alone.body.decode()


def test_raw_documents_never_reach_a_forbidden_hop_on_fallback(mock: Mock, tmp_path: Path) -> None:
    """The hop after a failed one is asked only if the request's data may go there (policy.md, rule 4)."""
    policy = f"""
providers:
  trusted: {{base_url: "{mock.url}/v1", retries: {{max: 0}}}}
  stranger: {{base_url: "{mock.url}/v1"}}
  partner: {{base_url: "{mock.url}/v1", retries: {{max: 0}}}}
tenants:
  acme:
    providers:
      trusted: {{models: {{reasoning: {{default: "t@status=503"}}}}, privacy: {{send_raw_docs: true}}}}
      stranger: {{models: {{reasoning: {{default: s}}}}, privacy: {{send_raw_docs: false}}}}
      partner: {{models: {{reasoning: {{default: "p@status=503", fallbacks: [q]}}}}, privacy: {{send_raw_docs: true}}}}
"""
    with running_router(tmp_path, policy) as router:
        with_documents = chat(router, headers=identified(x_data_class="raw-docs"))
        asked_with = [request["model"] for request in mock.requests()]
        mock.forget()
        without = chat(router)
        asked_without = [request["model"] for request in mock.requests()]

    assert (with_documents.status, with_documents.headers["x-router-model"]) == (200, "q")
    assert asked_with == ["t@status=503", "p@status=503", "q"]
    assert (without.status, without.headers["x-router-model"]) == (200, "s")
    assert asked_without == ["t@status=503", "s"]


def test_raw_documents_end_with_the_plan_when_no_permitted_hop_answers(mock: Mock, tmp_path: Path) -> None:
    """When every permitted hop fails, the request fails; the forbidden one is no last resort."""
    policy = f"""
providers:
  trusted: {{base_url: "{mock.url}/v1"}}
  stranger: {{base_url: "{mock.url}/v1"}}
tenants:
  acme:
    providers:
      trusted: {{models: {{reasoning: {{default: "t@fault=error-first-event"}}}}, privacy: {{send_raw_docs: true}}}}
      stranger: {{models: {{reasoning: {{default: s}}}}}}
"""
    body = {
        "model": "reasoning",
        "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}],
    }
    with running_router(tmp_path, policy) as router:
        plain, stream = chat(router, body), chat(router, {**body, "stream": True})

    assert (plain.status, stream.status) == (503, 503)
    assert [request["model"] for request in mock.requests()] == ["t@fault=error-first-event"] * 2


def test_named_model_never_falls_back_to_another(failing: RunningRouter, upstream: Mock) -> None:
    """A model asked for by name fails as that model: a silent substitute could be one the tenant did not choose."""
    request_id = secrets.token_hex(8)

    answer = chat(failing, model="gpt-4.1@status=500", headers=identified(x_request_id=request_id))

    assert answer.status == 503
    assert [request["model"] for request in requests_of(upstream, request_id)] == ["gpt-4.1@status=500"]
