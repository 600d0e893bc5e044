import json
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.calls import HELLO, call, chat, connected, identified, read_answer, request_bytes, send_raw
from support.policies import one_hop
from support.servers import ACME_KEY, GLOBEX_KEY, Mock, RunningRouter, running_mock, running_router

AUTHENTICATION = "authentication_error"
INVALID = "invalid_request_error"
PERMISSION = "permission_error"
POLICY = """
providers:
  first: {{base_url: "{mock}/v1"}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
          embedding: {{default: text-embedding-3-small}}
  globex:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
"""
LIMIT = 200_000


@pytest.fixture(scope="module")
def upstream() -> Iterator[Mock]:
    """One mocked provider for the module; no test here may reach it."""
    with running_mock() as mock:
        yield mock


@pytest.fixture(scope="module")
def strict(upstream: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """One router for the module, whose requests all fail before any upstream is asked."""
    folder = tmp_path_factory.mktemp("router")
    with running_router(folder, POLICY.format(mock=upstream.url), body_limit=LIMIT, body_timeout=0.3) as router:
        yield router
    assert upstream.requests() == []


def _judged(**headers: str | None) -> dict[str, str]:
    """The headers of acme but for those given; None leaves one out."""
    names = {"authorization": "Authorization", "tenant": "X-Tenant-ID"}
    merged = {**identified(), **{names.get(name, name.replace("_", "-")): value for name, value in headers.items()}}
    return {name: value for name, value in merged.items() if value is not None}


BEARER = {
    "no header": (None, "missing_api_key"),
    "empty": ("", "missing_api_key"),
    "scheme alone": ("Bearer", "missing_api_key"),
    "scheme and a space": ("Bearer ", "missing_api_key"),
    "no scheme": (ACME_KEY, "missing_api_key"),
    "basic": (f"Basic {ACME_KEY}", "missing_api_key"),
    "scheme glued on": (f"Bearer{ACME_KEY}", "missing_api_key"),
    "unknown": ("Bearer sk-unknown", "invalid_api_key"),
    "a character short": (f"Bearer {ACME_KEY[:-1]}", "invalid_api_key"),
    "a character long": (f"Bearer {ACME_KEY}x", "invalid_api_key"),
    "upper case": (f"Bearer {ACME_KEY.upper()}", "invalid_api_key"),
    "two keys": (f"Bearer {ACME_KEY} {GLOBEX_KEY}", "invalid_api_key"),
    "a list": (f"Bearer {ACME_KEY}, Bearer {GLOBEX_KEY}", "invalid_api_key"),
    "injection": ("Bearer ' OR 1=1 --", "invalid_api_key"),
    "path": ("Bearer ../../keys/acme", "invalid_api_key"),
    "jwt": ("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhY21lIn0.", "invalid_assertion"),
    "long": (f"Bearer {ACME_KEY * 1000}", "invalid_api_key"),
    "latin-1": ("Bearer sk-\xe9\xff", "invalid_api_key"),
}


@pytest.mark.parametrize("tenant", ["acme", "globex", "nobody", None])
@pytest.mark.parametrize("case", BEARER)
def test_bad_credential_is_401_whatever_the_tenant(strict: RunningRouter, case: str, tenant: str | None) -> None:
    """The key is judged first, and its answer tells nothing of tenants: the same to the byte for each of them."""
    value, code = BEARER[case]
    messages = {
        "missing_api_key": "An API key is required: send it as 'Authorization: Bearer <key>'.",
        "invalid_api_key": "The API key is not valid. Check it with the team that runs the router.",
        "invalid_assertion": "The assertion is not valid. Check its issuer, audience, subject and key with the team "
        "that runs the router.",
    }

    answer = chat(strict, headers=_judged(authorization=value, tenant=tenant, x_request_id="the-id"))

    assert answer.json() == {
        "error": {
            "message": messages[code],
            "type": AUTHENTICATION,
            "param": None,
            "code": code,
            "retryable": False,
            "request_id": "the-id",
        }
    }
    assert (answer.status, answer.headers) == (
        401,
        {
            "content-type": "application/json",
            "content-length": str(len(answer.body)),
            "x-request-id": "the-id",
            "x-should-retry": "false",
        },
    )


RAW_DOCS = {
    "model": "reasoning",
    "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}],
}
UNKNOWN = {"model": "gpt-5", "messages": HELLO["messages"]}
GLOBEX = {"authorization": f"Bearer {GLOBEX_KEY}", "tenant": "globex"}
CHAT = "/v1/chat/completions"
# Each row: the request, what is changed of its headers, and the error. Where two things are wrong, the first is told.
TABLE: dict[str, tuple[str, str, Any, dict[str, Any], int, str, str, str | None]] = {
    "no tenant": ("POST", CHAT, HELLO, {"tenant": None}, 400, INVALID, "tenant_required", None),
    "empty tenant": ("POST", CHAT, HELLO, {"tenant": ""}, 400, INVALID, "tenant_required", None),
    "no tenant, bad body": ("POST", CHAT, b"{", {"tenant": None}, 400, INVALID, "tenant_required", None),
    "no tenant, no path": ("GET", "/v1/no", None, {"tenant": None}, 400, INVALID, "tenant_required", None),
    "other tenant": ("POST", CHAT, HELLO, {"tenant": "globex"}, 403, PERMISSION, "tenant_mismatch", None),
    "unknown tenant": ("POST", CHAT, HELLO, {"tenant": "nobody"}, 403, PERMISSION, "tenant_mismatch", None),
    "tenant in capitals": ("POST", CHAT, HELLO, {"tenant": "ACME"}, 403, PERMISSION, "tenant_mismatch", None),
    "two tenants": ("POST", CHAT, HELLO, {"tenant": "acme, acme"}, 403, PERMISSION, "tenant_mismatch", None),
    "other tenant, bad body": ("POST", CHAT, b"{", {"tenant": "globex"}, 403, PERMISSION, "tenant_mismatch", None),
    "other tenant, no path": ("GET", "/v1/no", None, {"tenant": "globex"}, 403, PERMISSION, "tenant_mismatch", None),
    "text": ("POST", CHAT, HELLO, {"Content-Type": "text/plain"}, 415, INVALID, "unsupported_media_type", None),
    "form": (
        "POST",
        CHAT,
        b"model=reasoning",
        {"Content-Type": "application/x-www-form-urlencoded"},
        415,
        INVALID,
        "unsupported_media_type",
        None,
    ),
    "json lines": (
        "POST",
        CHAT,
        HELLO,
        {"Content-Type": "application/x-ndjson"},
        415,
        INVALID,
        "unsupported_media_type",
        None,
    ),
    "gzip": ("POST", CHAT, b"\x1f\x8b", {"Content-Encoding": "gzip"}, 415, INVALID, "unsupported_media_type", None),
    "brotli": ("POST", CHAT, HELLO, {"Content-Encoding": "br"}, 415, INVALID, "unsupported_media_type", None),
    "too large": ("POST", CHAT, b" " * (LIMIT + 1), {}, 413, INVALID, "request_too_large", None),
    "bad JSON": ("POST", CHAT, b"{", {}, 400, INVALID, "invalid_json", None),
    "no messages": ("POST", CHAT, {"model": "reasoning"}, {}, 400, INVALID, "invalid_request", "messages"),
    "unknown model": ("POST", CHAT, UNKNOWN, {}, 404, INVALID, "model_not_found", "model"),
    "unknown model, raw": ("POST", CHAT, {**RAW_DOCS, "model": "no"}, {}, 404, INVALID, "model_not_found", "model"),
    "model of another provider": (
        "POST",
        CHAT,
        {**HELLO, "model": "openai/gpt-4.1"},
        {},
        404,
        INVALID,
        "model_not_found",
        "model",
    ),
    "model with a blank": (
        "POST",
        CHAT,
        {**HELLO, "model": "reasoning "},
        {},
        404,
        INVALID,
        "model_not_found",
        "model",
    ),
    "surrogate model": (
        "POST",
        CHAT,
        b'{"model":"\\ud800","messages":[{"role":"user"}]}',
        {},
        404,
        INVALID,
        "model_not_found",
        "model",
    ),
    "unknown path": ("POST", "/v1/responses", HELLO, {}, 404, INVALID, "not_found", None),
    "slash at the end": ("POST", CHAT + "/", HELLO, {}, 404, INVALID, "not_found", None),
    "path in capitals": ("POST", "/V1/chat/completions", HELLO, {}, 404, INVALID, "not_found", None),
    "two slashes": ("POST", "//v1/chat/completions", HELLO, {}, 404, INVALID, "not_found", None),
    "unknown path in the open": ("GET", "/nope", None, {"authorization": None}, 404, INVALID, "not_found", None),
    "the root": ("GET", "/", None, {"authorization": None}, 404, INVALID, "not_found", None),
    "no model of that name": ("GET", "/v1/models/gpt-5", None, {}, 404, INVALID, "model_not_found", "model"),
}


@pytest.mark.parametrize("case", TABLE)
def test_error_has_its_row_of_the_table(strict: RunningRouter, case: str) -> None:
    """Status, type, code, param and the advice on retrying are wire.md's, and the body's id is the header's."""
    method, path, body, changes, status, kind, code, param = TABLE[case]
    request_id = secrets.token_hex(8)

    answer = call(strict, method, path, body, {**_judged(**changes), "x-request-id": request_id})

    assert answer.error() == {"type": kind, "param": param, "code": code, "retryable": False, "request_id": request_id}
    headers = dict(answer.headers)
    if (policy := headers.pop("x-router-policy", None)) is not None:
        assert re.fullmatch("[0-9a-f]{12}", policy)
    headers.pop("x-router-attempts", None)
    assert (answer.status, headers) == (
        status,
        {
            "content-type": "application/json",
            "content-length": str(len(answer.body)),
            "x-request-id": request_id,
            "x-should-retry": "false",
        },
    )


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/models", "/v1/nope", "/v1/%6dodels", "/%76%31/models", "/admin", "/admin/x"]
)
def test_guarded_path_needs_a_key_even_where_there_is_nothing(strict: RunningRouter, path: str) -> None:
    """Without a key nothing can be learnt of what lies below `/v1` and `/admin`."""
    answer = call(strict, "GET", path, None, _judged(authorization=None))

    assert (answer.status, answer.error()["code"]) == (401, "missing_api_key")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        *((method, CHAT, "POST") for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")),
        ("GET", "/v1/completions", "POST"),
        ("GET", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/gpt-4.1", "GET"),
        ("POST", "/healthz", "GET"),
        ("POST", "/readyz", "GET"),
        ("PUT", "/internal/metrics", "GET"),
    ],
)
def test_wrong_method_is_405_with_allow(strict: RunningRouter, method: str, path: str, allow: str) -> None:
    """A path that exists says which methods it takes."""
    answer = call(strict, method, path)

    assert (answer.status, answer.headers["allow"], answer.headers["x-should-retry"]) == (405, allow, "false")
    if method != "HEAD":
        assert answer.error() == {
            "type": INVALID,
            "param": None,
            "code": "method_not_allowed",
            "retryable": False,
            "request_id": answer.headers["x-request-id"],
        }


def test_embeddings_of_a_tenant_without_them_are_refused_with_the_reason(strict: RunningRouter) -> None:
    """`endpoint_disabled`, whatever the model, with the decision that said so."""
    for model in ("reasoning", "text-embedding-3-small", "nothing"):
        answer = call(strict, "POST", "/v1/embeddings", {"model": model, "input": "x"}, _judged(**GLOBEX))

        policy = answer.headers["x-router-policy"]
        assert (answer.status, answer.error()) == (
            403,
            {
                "type": PERMISSION,
                "param": None,
                "code": "endpoint_disabled",
                "retryable": False,
                "request_id": answer.headers["x-request-id"],
                "decision": {"policy": policy, "task": None, "trace": []},
            },
        )


def test_declared_length_over_the_limit_is_refused_before_the_body_comes(mock: Mock, tmp_path: Path) -> None:
    """A declared length of more than 32 MiB is a 413 although not a byte of the body has been sent."""
    with running_router(tmp_path, one_hop(mock.url)) as router, connected(router) as client:
        client.sendall(request_bytes(b"", b"Content-Length: %d" % (32 * 1024 * 1024 + 1)))
        answer = read_answer(client)

    assert (answer.status, answer.error()["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("length", [b"9" * 18, b"1" + b"0" * 18])
def test_absurd_length_is_refused(strict: RunningRouter, length: bytes) -> None:
    """No length is large enough to slip through."""
    answer = send_raw(strict, request_bytes(b"", b"Content-Length: " + length))

    assert (answer.status, answer.error()["code"]) == (413, "request_too_large")


def test_chunked_body_over_the_limit_is_refused_before_its_end(strict: RunningRouter) -> None:
    """A body without a declared length is refused when it passes the limit, though its end has not come."""
    with connected(strict) as client:
        client.sendall(request_bytes(b"", b"Transfer-Encoding: chunked"))
        client.sendall(b"%x\r\n%s\r\n" % (LIMIT, b" " * LIMIT))
        client.sendall(b"1\r\n \r\n")
        answer = read_answer(client)

    assert (answer.status, answer.error()["code"]) == (413, "request_too_large")


def test_body_at_the_limit_is_read(strict: RunningRouter) -> None:
    """The limit itself is allowed, declared or in chunks: such a body is judged by what is in it."""
    body = b" " * LIMIT
    declared = call(strict, "POST", CHAT, body)
    chunked = send_raw(strict, request_bytes(b"%x\r\n%s\r\n0\r\n\r\n" % (LIMIT, body), b"Transfer-Encoding: chunked"))

    assert [(answer.status, answer.error()["code"]) for answer in (declared, chunked)] == [(400, "invalid_json")] * 2


def test_body_of_33_mib_is_refused_while_it_is_sent(mock: Mock, tmp_path: Path) -> None:
    """A client that sends all of 33 MiB still gets its 413, and the router goes on."""
    with running_router(tmp_path, one_hop(mock.url)) as router:
        answer = call(router, "POST", CHAT, b"x" * (33 * 1024 * 1024))
        after = chat(router)

    assert (answer.status, answer.error()["code"], after.status) == (413, "request_too_large", 200)


@pytest.mark.parametrize(
    ("line", "begun"),
    [
        (b"Content-Length: 100", b'{"model"'),
        (b"Transfer-Encoding: chunked", b'8\r\n{"model"\r\n'),
        (b"Content-Length: 5", b""),
    ],
    ids=["declared", "chunked", "nothing"],
)
def test_body_that_stalls_is_408(strict: RunningRouter, line: bytes, begun: bytes) -> None:
    """A body that does not arrive in time is a 408 that may be tried again; it does not hold the router."""
    answer = send_raw(strict, request_bytes(begun, line))

    assert (answer.status, answer.headers["x-should-retry"], answer.error()) == (
        408,
        "true",
        {
            "type": INVALID,
            "param": None,
            "code": "request_timeout",
            "retryable": True,
            "request_id": answer.headers["x-request-id"],
        },
    )


def test_expecting_client_is_told_to_go_on_only_when_its_body_is_wanted(strict: RunningRouter) -> None:
    """`Expect: 100-continue` with too large a body gets its 413 instead of an invitation to send it."""
    answer = send_raw(strict, request_bytes(b"", b"Expect: 100-continue", b"Content-Length: %d" % (LIMIT + 1)))

    assert (answer.status, answer.error()["code"]) == (413, "request_too_large")


def test_expecting_client_is_told_to_go_on(mock: Mock, tmp_path: Path) -> None:
    """`Expect: 100-continue`, as curl sends it with a large body, gets its `100 Continue`, and then the answer."""
    body = json.dumps(HELLO).encode()
    whole = request_bytes(body, b"Expect: 100-continue")
    with running_router(tmp_path, one_hop(mock.url)) as router, connected(router) as client:
        client.sendall(whole.removesuffix(body))
        invited = client.recv(25, socket.MSG_WAITALL)
        client.sendall(body)
        answer = read_answer(client)

    assert invited == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.status == 200


MESSAGE = b'{"role":"user","content":"x"}'
WHOLE = b'{"model":"reasoning","messages":[%s]}' % MESSAGE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b"[%s]" % WHOLE,
        b'"reasoning"',
        b"null",
        b"1",
        b"not json",
        WHOLE[:-1],
        WHOLE[: len(WHOLE) // 2],
        WHOLE + WHOLE,
        WHOLE + b"x",
        WHOLE + b"\x00",
        b"\xef\xbb\xbf" + WHOLE,
        WHOLE.decode().encode("utf-16"),
        WHOLE.replace(b'"x"', b'"\xff"'),
        WHOLE.replace(b'"x"', b'"\xc3"'),
        WHOLE.replace(b'"x"', b'"\xed\xa0\x80"'),
        WHOLE.replace(b'"x"', b'"\n"'),
        WHOLE.replace(b'"x"', b"'x'"),
        WHOLE.replace(b'"x"', b"x"),
        WHOLE.replace(b'"x"', b'"\\x"'),
        WHOLE.replace(b"]}", b"],}"),
        WHOLE.replace(b"]}", b"]/**/}"),
        WHOLE[:-1] + b',"temperature":NaN}',
        WHOLE[:-1] + b',"temperature":Infinity}',
        WHOLE[:-1] + b',"temperature":-Infinity}',
        WHOLE[:-1] + b',"temperature":01}',
        WHOLE[:-1] + b',"temperature":.5}',
        WHOLE[:-1] + b',"model":"reasoning"}',
        WHOLE[:-1] + b',"mod\\u0065l":"embedding"}',
        WHOLE[:-1] + b',"stream":true,"stream":false}',
        WHOLE.replace(b'"content"', b'"role":"system","content"'),
        WHOLE[:-1] + b',"metadata":{"a":{"b":1,"b":2}}}',
        b'{"model":"reasoning","messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:20] + body[-20:]),
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
def test_body_that_is_not_one_json_object_is_invalid_json(strict: RunningRouter, path: str, body: bytes) -> None:
    """What two parsers could read differently, or none can read, goes no further than the door."""
    answer = call(strict, "POST", path, body)

    assert (answer.status, answer.error()) == (
        400,
        {
            "type": INVALID,
            "param": None,
            "code": "invalid_json",
            "retryable": False,
            "request_id": answer.headers["x-request-id"],
        },
    )


_ANY: dict[str, tuple[Any, ...]] = {
    "model": (None, 1, True, ["reasoning"], {"a": 1}, "", "m" * 257),
    "messages": (None, "hi", 1, {}, [], True),
    "messages[1]": (None, "hi", 1, [], {}),
    "messages[0].content": (1, True, {}, {"type": "text"}, ["text"], [None], [[]]),
    "stream": (1, 0, "true", "", [], {}),
    "stream_options": (1, "x", [], True),
    "stream_options.include_usage": (1, "true", [], {}),
    "prompt": (None, 1, True, {}),
    "input": (None, 1, True, {}),
}
FIELDS: list[tuple[str, dict[str, Any], str]] = [
    *((CHAT, {name: value}, name) for name in ("model", "messages", "stream") for value in _ANY[name]),
    *((CHAT, {"messages": [*HELLO["messages"], value]}, "messages[1]") for value in _ANY["messages[1]"]),
    (CHAT, {"messages": [{"role": 1, "content": "x"}]}, "messages[0]"),
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0]"),
    *(
        (CHAT, {"messages": [{"role": "user", "content": value}]}, "messages[0].content")
        for value in _ANY["messages[0].content"]
    ),
    *((CHAT, {"stream": True, "stream_options": value}, "stream_options") for value in _ANY["stream_options"]),
    *(
        (CHAT, {"stream": True, "stream_options": {"include_usage": value}}, "stream_options.include_usage")
        for value in _ANY["stream_options.include_usage"]
    ),
    *(("/v1/completions", {"prompt": value}, "prompt") for value in _ANY["prompt"]),
    *(("/v1/embeddings", {"input": value}, "input") for value in _ANY["input"]),
]


@pytest.mark.parametrize(("path", "change", "param"), FIELDS, ids=lambda value: str(value)[:60])
def test_field_of_the_wrong_type_is_named(strict: RunningRouter, path: str, change: dict[str, Any], param: str) -> None:
    """A field that the router needs, missing or of the wrong type, is `invalid_request` with its name as `param`."""
    right = {CHAT: HELLO, "/v1/completions": {"prompt": "x"}, "/v1/embeddings": {"input": "x"}}[path]

    answer = call(strict, "POST", path, {"model": "reasoning", **right, **change})

    assert (answer.status, answer.error()) == (
        400,
        {
            "type": INVALID,
            "param": param,
            "code": "invalid_request",
            "retryable": False,
            "request_id": answer.headers["x-request-id"],
        },
    )


def test_model_of_a_megabyte_is_refused_and_not_repeated(mock: Mock, tmp_path: Path) -> None:
    """A huge name is no name: it is refused in few words, and stands neither in the answer, the log nor the metrics."""
    with running_router(tmp_path, one_hop(mock.url)) as router:
        answer = chat(router, model="m" * 1_000_000)
        metrics = router.metrics()
    log = (tmp_path / "access.log").read_text()

    assert (answer.status, answer.error()["code"], answer.json()["error"]["param"]) == (400, "invalid_request", "model")
    assert "mmmm" not in answer.body.decode() + str(answer.headers) + metrics + log
    assert len(answer.body) < 400


@pytest.mark.parametrize(
    "content_type", [None, "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"]
)
def test_json_by_any_of_its_names_is_taken(mock: Mock, tmp_path: Path, content_type: str | None) -> None:
    """A body is taken as JSON when it is declared as such, or not declared."""
    with running_router(tmp_path, one_hop(mock.url)) as router:
        answer = chat(router, headers=_judged(**{"Content-Type": content_type}))

    assert answer.status == 200
