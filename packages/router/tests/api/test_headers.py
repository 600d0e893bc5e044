import json
import re
from collections.abc import Iterator

import pytest
from openai import OpenAI
from support.calls import HELLO, call, chat, identified, request_bytes, requests_of, send_raw
from support.policies import UPSTREAM_KEY, two_hops
from support.servers import ACME_KEY, GLOBEX_KEY, Mock, RunningRouter, running_mock, running_router

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Mock]:
    """One mocked provider for the module; tests tell their requests apart by id."""
    with running_mock() as mock:
        yield mock


@pytest.fixture(scope="module")
def passing(upstream: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router whose first provider has a key and whose second has none."""
    folder = tmp_path_factory.mktemp("router")
    patient = "{first_byte: 5s, idle: 5s, total: 10s}"
    with running_router(folder, two_hops(upstream.url, upstream.url, folder, patient)) as router:
        yield router


@pytest.mark.parametrize("wanted", ["a", "0", "req_1.2:3-4", "A" * 128, "7f8a-b9c0"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/nope", "/nope", "/healthz", "/readyz"])
def test_well_formed_request_id_is_honoured_everywhere(passing: RunningRouter, path: str, wanted: str) -> None:
    """A client's own id comes back, whatever is asked and however it is answered."""
    method = "POST" if path.endswith("completions") else "GET"

    answer = call(passing, method, path, HELLO if method == "POST" else None, identified(x_request_id=wanted))

    assert answer.headers["x-request-id"] == wanted
    if answer.status >= 400:
        assert answer.json()["error"]["request_id"] == wanted


@pytest.mark.parametrize(
    "wanted",
    [
        b"",
        b"a b",
        b"a\tb",
        b"a/b",
        b"<b>",
        b'"a"',
        b"a,b",
        b"a;b",
        b"%0d%0a",
        b"\xc3\xa9",
        b"\xff",
        b"A" * 129,
        b"A" * 9000,
    ],
    ids=lambda value: repr(value[:10]),
)
@pytest.mark.parametrize("who", [None, b"X-No-Key: 1"], ids=["answered", "refused"])
def test_malformed_request_id_is_replaced(
    passing: RunningRouter, upstream: Mock, wanted: bytes, who: bytes | None
) -> None:
    """An id that could do harm in a log or a header is replaced by one of the router's own, upstream too."""
    answer = send_raw(passing, request_bytes(HELLO, b"x-request-id: " + wanted, who=who))

    given = answer.headers["x-request-id"]
    assert answer.status == (200 if who is None else 401)
    assert re.fullmatch("req_[0-9a-f]{24}", given)
    assert len(requests_of(upstream, given)) == (1 if who is None else 0)


def test_request_ids_of_the_router_differ(passing: RunningRouter) -> None:
    """No two requests get the same id."""
    ids = [chat(passing).headers["x-request-id"] for _ in range(10)]

    assert len(set(ids)) == 10


def test_request_id_sent_twice_is_replaced(passing: RunningRouter) -> None:
    """Of two ids neither is believed."""
    answer = send_raw(passing, request_bytes(HELLO, b"x-request-id: one", b"x-request-id: two"))

    assert re.fullmatch("req_[0-9a-f]{24}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    "line",
    [
        b"x-request-id: a\rx-evil: 1",
        b"x-request-id: a\nx-evil: 1",
        b"x-request-id: a\r\n x-evil: 1",
        b"x-request-id: a\r\nx-evil: 1",
        b"x-request-id: a\x00b",
        b"traceparent: " + TRACE.encode() + b"\rx-evil: 1",
        b"traceparent: " + TRACE.encode() + b"\nx-evil: 1",
        b"tracestate: a=1\rx-evil: 1",
        b"idempotency-key: a\nx-evil: 1",
        b"openai-beta: a\r\n\tx-evil: 1",
        b"idempotency-key: a\x00b",
        b"idempotency-key: a\x7fb",
        b"idempotency-key: \xff\xfe",
    ],
    ids=repr,
)
def test_no_header_can_be_smuggled_in_another(passing: RunningRouter, upstream: Mock, line: bytes) -> None:
    """Whatever stands in a header, neither the answer nor the upstream's request gets a header more from it."""
    traced = line if line.startswith(b"traceparent") else b"traceparent: " + TRACE.encode() + b"\r\n" + line
    before = len(upstream.requests())

    answer = send_raw(passing, request_bytes(HELLO, traced))

    assert answer.status in (200, 400)  # taken as a value, or refused by the HTTP parser; never a failure of ours
    assert "x-evil" not in answer.headers
    asked = upstream.requests()[before:]
    assert len(asked) == (1 if answer.status == 200 else 0)
    assert [request for request in asked if "x-evil" in request["headers"]] == []


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ([b"Authorization: Bearer %s" % ACME_KEY.encode()] * 2, 401, "invalid_api_key"),
        ([b"Authorization: Bearer %s" % ACME_KEY.encode(), b"Authorization: Bearer x"], 401, "invalid_api_key"),
        ([b"Authorization: Bearer x", b"Authorization: Bearer %s" % ACME_KEY.encode()], 401, "invalid_api_key"),
        ([b"Authorization: Basic x", b"Authorization: Bearer %s" % ACME_KEY.encode()], 401, "missing_api_key"),
    ],
    ids=["same", "good first", "bad first", "two schemes"],
)
def test_authorization_sent_twice_is_refused(
    passing: RunningRouter, lines: list[bytes], status: int, code: str
) -> None:
    """Two credentials are none: a proxy in front may have judged the other one."""
    answer = send_raw(passing, request_bytes(HELLO, who=b"\r\n".join([*lines, b"X-Tenant-ID: acme"])))

    assert (answer.status, answer.error()["code"]) == (status, code)


@pytest.mark.parametrize("tenants", [(b"acme", b"acme"), (b"acme", b"globex"), (b"globex", b"acme")])
def test_tenant_sent_twice_is_refused(passing: RunningRouter, tenants: tuple[bytes, bytes]) -> None:
    """Two tenants are nobody's."""
    lines = [b"Authorization: Bearer " + ACME_KEY.encode(), *(b"X-Tenant-ID: " + tenant for tenant in tenants)]

    answer = send_raw(passing, request_bytes(HELLO, who=b"\r\n".join(lines)))

    assert (answer.status, answer.error()["code"]) == (403, "tenant_mismatch")


@pytest.mark.parametrize(
    "classes", [(b"public", b"raw-docs"), (b"raw-docs", b"public"), (b"RAW-DOCS",), (b"x, raw-docs",)]
)
def test_data_class_cannot_be_hidden_by_another(passing: RunningRouter, classes: tuple[bytes, ...]) -> None:
    """One `raw-docs` among the data classes is enough, in any place and writing."""
    lines = [b"X-Data-Class: " + value for value in classes]

    answer = send_raw(passing, request_bytes(HELLO, *lines))

    assert (answer.status, answer.error()["code"]) == (403, "raw_docs_forbidden")


NOSY = {
    "User-Agent": "secret-agent/1.0",
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "inside.example",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9",
    "Via": "1.1 inside",
    "Cookie": "session=secret",
    "Referer": "http://inside.example/",
    "Origin": "http://inside.example",
    "Accept": "text/plain",
    "Accept-Encoding": "gzip, br",
    "Accept-Language": "de",
    "api-key": "sk-client",
    "x-api-key": "sk-client",
    "Proxy-Authorization": "Basic c2VjcmV0",
    "OpenAI-Organization": "org-client",
    "OpenAI-Project": "proj-client",
    "X-Stainless-Lang": "python",
    "X-Data-Class": "public",
    "X-Mock-Status": "500",
    "Keep-Alive": "timeout=5",
    "TE": "trailers",
    "Baggage": "user=secret",
    "X-B3-TraceId": "0af7651916cd43dd8448eb211c80319c",
}


@pytest.mark.parametrize("stream", [False, True])
def test_upstream_sees_exactly_the_headers_that_it_should(passing: RunningRouter, upstream: Mock, stream: bool) -> None:
    """The whole set: the upstream's own key and what the router itself sends; nothing of who the client is."""
    request_id = f"whole-set-{stream}"
    answer = chat(passing, stream=stream, headers={**identified(x_request_id=request_id), **NOSY})

    (asked,) = requests_of(upstream, request_id)
    assert answer.status == 200
    assert asked["headers"] == {
        "host": upstream.url.removeprefix("http://"),
        "accept": "*/*",
        "accept-encoding": "identity",
        "authorization": f"Bearer {UPSTREAM_KEY}",
        "content-length": str(len(asked["body"])),
        "content-type": "application/json",
        "user-agent": "stratmaster-router",
        "x-request-id": request_id,
    }


def test_upstream_without_a_key_is_sent_none(passing: RunningRouter, upstream: Mock) -> None:
    """A provider without a key gets no credential at all: neither another provider's nor the client's."""
    chat(passing, model="second/gpt-4o-mini", headers={**identified(x_request_id="keyless"), **NOSY})

    (asked,) = requests_of(upstream, "keyless")
    assert "authorization" not in asked["headers"]
    assert ACME_KEY not in json.dumps(asked)
    assert UPSTREAM_KEY not in json.dumps(asked)


def test_headers_of_the_openai_client_stay_here(passing: RunningRouter, upstream: Mock) -> None:
    """What the official client says of itself and its machine does not reach a provider; its idempotency key does."""
    headers = {"X-Tenant-ID": "acme", "x-request-id": "from-openai", "OpenAI-Beta": "assistants=v2"}
    with OpenAI(base_url=f"{passing.url}/v1", api_key=ACME_KEY, organization="org", default_headers=headers) as client:
        client.chat.completions.create(
            model="reasoning",
            messages=[{"role": "user", "content": "x"}],
            extra_headers={"Idempotency-Key": "once"},
        )

    (asked,) = requests_of(upstream, "from-openai")
    names = {"host", "accept", "accept-encoding", "authorization", "content-length", "content-type", "user-agent"}
    assert set(asked["headers"]) == names | {"x-request-id", "idempotency-key", "openai-beta"}
    assert (asked["headers"]["idempotency-key"], asked["headers"]["openai-beta"]) == ("once", "assistants=v2")


@pytest.mark.parametrize("state", [None, "vendor=1,other=2"])
def test_well_formed_traceparent_is_passed_on(passing: RunningRouter, upstream: Mock, state: str | None) -> None:
    """A trace goes on at the upstream, with its state, unchanged."""
    request_id = f"traced-{state is None}"
    more = {} if state is None else {"tracestate": state}

    chat(passing, headers={**identified(x_request_id=request_id, traceparent=TRACE), **more})

    (asked,) = requests_of(upstream, request_id)
    found = asked["headers"]
    assert (found.get("traceparent"), found.get("tracestate")) == (TRACE, state)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "x",
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "0",
        TRACE + "-extra",
        TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        TRACE.replace("b7ad6b7169203331", "0" * 16),
        "ff" + TRACE[2:],
        TRACE.replace("-", "_"),
        f"{TRACE}, {TRACE}",
    ],
)
def test_malformed_traceparent_is_dropped_with_its_state(passing: RunningRouter, upstream: Mock, parent: str) -> None:
    """A broken trace is not passed on, and its state is nothing without it."""
    answer = chat(passing, headers=identified(traceparent=parent, tracestate="vendor=1"))

    (asked,) = requests_of(upstream, answer.headers["x-request-id"])
    assert answer.status == 200
    assert {"traceparent", "tracestate"} & set(asked["headers"]) == set()


@pytest.mark.parametrize(("stream", "model"), [(False, "reasoning"), (True, "reasoning"), (False, "gpt-4.1")])
def test_success_has_exactly_its_headers(passing: RunningRouter, stream: bool, model: str) -> None:
    """The whole head: the router's own, and nothing of the upstream's but the type of the content."""
    answer = chat(passing, model=model, stream=stream, headers=identified(x_request_id="mine"))

    headers = dict(answer.headers)
    assert re.fullmatch(r"\d+\.\d{3}", headers.pop("x-router-overhead-ms"))
    policy = call(passing, "GET", "/healthz").json()["policy"]
    expected = {
        "x-request-id": "mine",
        "x-router-provider": "first",
        "x-router-model": "gpt-4.1",
        "x-router-policy": policy,
        "x-router-attempts": "1",
    }
    if model == "reasoning":
        expected["x-router-task"] = "reasoning"
    if stream:
        expected |= {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "transfer-encoding": "chunked",
        }
    else:
        expected |= {"content-type": "application/json", "content-length": str(len(answer.body))}
    assert (answer.status, headers) == (200, expected)


def test_another_tenants_key_with_ones_own_tenant_is_a_mismatch(passing: RunningRouter) -> None:
    """A valid key opens its own tenant and no other."""
    assert chat(passing, headers=identified(GLOBEX_KEY, "acme")).error()["code"] == "tenant_mismatch"
    assert chat(passing, headers=identified(ACME_KEY, "globex")).error()["code"] == "tenant_mismatch"


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: -1"],
        [b"Content-Length: 5x"],
        [b"Transfer-Encoding: gzip, chunked, identity"],
        [b"Bad Header: 1", b"Content-Length: 5"],
    ],
    ids=repr,
)
def test_request_of_two_meanings_is_refused(passing: RunningRouter, upstream: Mock, lines: list[bytes]) -> None:
    """Framing that two servers could read differently is how requests are smuggled: it ends at the parser."""
    before = len(upstream.requests())

    answer = send_raw(passing, request_bytes(b"{}", *lines))

    assert answer.status == 400
    assert len(upstream.requests()) == before
