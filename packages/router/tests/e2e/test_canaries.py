"""40 secrets and personal data go through every endpoint, error path and stream, and leave no trace behind them.

The only places where they may be are the provider that the policy names, and the client's own answer.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from support.acts import DONE, FINISH
from support.calls import identified
from support.canaries import CANARIES, TOLD
from support.processes import Line, Served, serving, wait_until
from support.scripted import Exchange, running_scripted

ALL = " and ".join(TOLD.values())
UPSTREAM_KEY = "sk-canary-upstream-key-0123456789"
PEPPER = "canary-pepper-0123456789abcdef0123456789"
HIDDEN = {**CANARIES, "upstream_key": UPSTREAM_KEY, "pepper": PEPPER}
# What a model does with a request, by its name.
_STATUSES = {
    "broken": "500 Internal Server Error",
    "unauthorized": "401 Unauthorized",
    "limited": "429 Too Many Requests",
}
MODELS = ("well", "broken", "unauthorized", "limited", "rejecting", "malformed", "lying", "cut", "closing")

TEXTS: dict[str, dict[str, Any]] = {
    "chat": {
        "messages": [
            {"role": "system", "content": ALL},
            {"role": "user", "name": "canary", "content": [{"type": "text", "text": ALL}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": ALL})}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": ALL},
        ],
        "user": CANARIES["email"],
        "metadata": {"note": ALL},
        "stop": [CANARIES["openai_key"]],
        "tools": [{"type": "function", "function": {"name": "f", "description": ALL, "parameters": {"title": ALL}}}],
        "x_unknown": {ALL: ALL},
    },
    "completions": {"prompt": ALL, "suffix": ALL, "user": CANARIES["email"]},
    "embeddings": {"input": [ALL, *TOLD.values()]},
}
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}


def script(exchange: Exchange) -> None:
    """A provider that repeats what it was told in all that it says, right or wrong."""
    asked = json.loads(exchange.body)
    model, text = asked["model"], json.dumps(ALL).encode()
    error = b'{"error":{"message":%b,"type":"t","param":%b}}' % (text, text)
    if model in _STATUSES:
        exchange.answer(error, "application/json", status=_STATUSES[model])
    elif model == "rejecting":
        exchange.answer(error, "application/json", status="400 Bad Request")
    elif model == "malformed":
        exchange.answer(b'{"choices": [' + text, "application/json")
    elif model == "lying":
        exchange.answer(error, "application/json")
    elif model == "closing":
        exchange.close()
    elif asked.get("stream") is True:
        event = b'data: {"choices":[{"index":0,"delta":{"content":%b},"text":%b,"finish_reason":null}]}\n\n' % (
            text,
            text,
        )
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in (event, event) if model == "cut" else (event, FINISH, DONE, b""):
            exchange.chunk(chunk)
        if model == "cut":
            exchange.close()
    elif model == "cut":
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n" + text)
        exchange.close()
    elif exchange.path.endswith("/embeddings"):
        exchange.answer(b'{"data":[{"index":0,"embedding":[0.5]}],"note":%b}' % text)
    else:
        whole = b'{"choices":[{"index":0,"message":{"role":"assistant","content":%b},"text":%b}]}' % (text, text)
        exchange.answer(whole)


def policy(port: int) -> str:
    """Acme's, with snippets in the log, limits, and each model a task of its own."""
    tasks = ", ".join(f"{model}: {{default: {model}}}" for model in (*MODELS, "embedding"))
    prices = "".join(
        f"  {model}: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n" for model in (*MODELS, "embedding")
    )
    return f"""
providers:
  p:
    base_url: "http://127.0.0.1:{port}/v1"
    api_key: {{env: CANARY_UPSTREAM_KEY}}
    retries: {{max: 0}}
    breaker: {{failures: 100000}}
models:
{prices}
tenants:
  acme:
    limits: {{rpm: 100000, budget_usd_day: 1000}}
    logging: {{prompt_snippets: redacted, snippet_chars: 4000}}
    providers:
      p: {{models: {{{tasks}}}, privacy: {{send_raw_docs: false}}}}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A router of two workers after all the canaries have gone through it, stopped."""
    folder = tmp_path_factory.mktemp("canaries")
    environ = {
        "CANARY_UPSTREAM_KEY": UPSTREAM_KEY,
        "ROUTER_KEY_PEPPER": PEPPER,
        "ROUTER_LOG_LEVEL": "debug",
        "ROUTER_AUDIT_LOG": str(folder / "audit.log"),
        "ROUTER_DATABASE_URL": f"sqlite:///{folder}/router.db",
    }
    with (
        running_scripted(script) as upstream,
        serving(folder, policy(upstream.port), workers=2, environ=environ) as router,
    ):
        _sing(router)
        scraped = router.call("GET", "/internal/metrics").body + router.call("GET", "/internal/status").body
        (folder / "scraped").write_bytes(scraped)
        router.terminate()
        yield router


def _post(router: Served, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, bytes]:
    line = Line(router.port)
    try:
        line.send("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)
        answer = line.receive()
        return answer.status, answer.body
    finally:
        line.close()


def _sing(router: Served) -> None:
    """Send the canaries everywhere; what the router itself says in refusing must not repeat them."""
    own: list[bytes] = []
    for endpoint, fields in TEXTS.items():
        path = PATHS[endpoint]
        for model in MODELS:
            for stream in (False, True) if endpoint != "embeddings" else (False,):
                body = {"model": model if endpoint != "embeddings" or model != "well" else "embedding", **fields}
                status, said = _post(router, path, {**body, **({"stream": True} if stream else {})}, identified())
                if status not in (200, 400):  # the answer, and what a provider says of the client's own request
                    own.append(said)
        refused: list[tuple[Mapping[str, str], Any]] = [
            (identified(key=CANARIES["openai_key"]), {"model": "well", **fields}),
            (identified(tenant=CANARIES["email"]), {"model": "well", **fields}),
            (identified(key=CANARIES["jwt"]), {"model": "well", **fields}),
            (identified(x_data_class="raw-docs"), {"model": "well", **fields}),
            (identified(x_data_class=CANARIES["email"]), {"model": CANARIES["email"], **fields}),
            (identified(x_request_id=CANARIES["phone_us"]), {"model": ALL[:200], **fields}),
            (identified(x_request_timeout_ms=CANARIES["card_amex"]), {"model": "well", **fields}),
            (identified(content_type=CANARIES["email"]), {"model": "well", **fields}),
            (identified(), {"model": ALL, **fields}),
            (identified(), {"model": {ALL: ALL}, **fields}),
            (identified(), {"model": "well", **fields, "documents": [ALL]}),
            (identified(), {"model": "well", **fields, "stream": ALL}),
            (identified(), {"model": "well", **fields, "max_tokens": ALL}),
            (identified(), {"model": "well", "messages": ALL, "prompt": {ALL: ALL}, "input": {ALL: ALL}}),
            (identified(), b'{"model": "well", "' + ALL.encode() + b'": '),
            (identified(), json.dumps(ALL).encode()),
            (identified(), b'{"a": 1, "a": 2, "b": ' + json.dumps(ALL).encode() + b"}"),
            (identified(), ALL.encode().replace(b"canary", b"\xff\xfe")),
        ]
        for headers, sent in refused:
            status, said = _post(router, path, sent, headers)
            assert status < 500, said
            if status != 200:  # an endpoint that does not know the field
                own.append(said)
    for path in (
        f"/v1/models/{CANARIES['email']}",
        f"/v1/{CANARIES['github_token']}",
        f"/admin/{CANARIES['aws_access_key']}",
    ):
        for query in ("", f"?api_key={CANARIES['openai_key']}"):
            own.append(_post(router, path + query, {"a": ALL}, identified())[1])
            own.append(router.call("GET", path + query).body)
    _leave(router)
    for name, value in HIDDEN.items():
        for said in own:
            assert value.encode() not in said, (name, said)


def _leave(router: Served) -> None:
    """A client that goes away in the middle of its request, and one in the middle of its stream."""
    sent = json.dumps({"model": "well", "stream": True, **TEXTS["chat"]}).encode()
    lines = [f"{name}: {value}" for name, value in identified().items()]
    head = "\r\n".join(
        ["POST /v1/chat/completions HTTP/1.1", "Host: r", *lines, f"Content-Length: {len(sent)}", "", ""]
    )
    for part in (len(sent) // 2, len(sent)):
        with socket.create_connection(("127.0.0.1", router.port), 20) as client:
            client.sendall(head.encode() + sent[:part])
            if part == len(sent):
                client.recv(100)


def traces(text: bytes) -> list[str]:
    """Which canaries are in `text`, as they are or as JSON writes them; of one with several lines, any line."""
    return [
        name
        for name, value in HIDDEN.items()
        for form in {*value.split("\n"), json.dumps(value)[1:-1]}
        if len(form) > 8 and form.encode() in text
    ]


def test_no_canary_is_in_any_file(served: Served) -> None:
    """Logs of all kinds, metrics, status and every byte of the database's files."""
    folder = served.policy.parent
    found = {
        str(file.relative_to(folder)): traces(file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "policy.yaml" and "keys" not in file.relative_to(folder).parts
    }
    assert {name: canaries for name, canaries in found.items() if canaries} == {}
    assert {"access.log", "router.db", "scraped"} <= set(found)


def test_no_canary_is_in_what_the_process_says(served: Served) -> None:
    """Standard output and error, at the level of debugging."""
    assert (traces(served.stdout().encode()), traces(served.stderr().encode())) == ([], [])


def test_the_requests_were_recorded(served: Served) -> None:
    """So that the silence of the logs is not that of a router which was never asked."""
    wait_until(lambda: len(served.access_lines()) >= 90, "all requests are in the access log")
    codes = {line.get("code") for line in served.access_lines()}
    wanted = {"all_providers_unavailable", "upstream_rejected", "upstream_stream_truncated"}
    wanted |= {"invalid_api_key", "tenant_mismatch", "raw_docs_forbidden"}
    assert {None, *wanted, "model_not_found", "invalid_request", "invalid_json"} <= codes


def test_the_canaries_are_what_they_seem() -> None:
    """40 of them, none part of another, so that each is looked for by itself."""
    assert len(CANARIES) == 40
    values = list(CANARIES.values())
    assert not [one for one in values if sum(one in other for other in values) > 1]
