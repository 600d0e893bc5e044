import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from support.calls import call, chat, identified, samples
from support.policies import UPSTREAM_KEY, two_hops
from support.scripted import Exchange, running_scripted
from support.servers import Mock, running_router

PHRASES = {400: "400 Bad Request", 413: "413 Payload Too Large", 422: "422 Unprocessable Entity"}


def _answer_with(status: int, body: bytes, content_type: str = "application/json") -> Any:
    return lambda exchange: exchange.answer(body, content_type, status=PHRASES[status])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 413, 422])
def test_upstream_rejection_passes_through_without_fallback(
    mock: Mock, tmp_path: Path, status: int, stream: bool
) -> None:
    """What an upstream says of a wrong request, status, message and param, is the answer; no hop follows."""
    refusal = {"error": {"message": "Bad temperature.", "type": "x", "param": "temperature", "code": "y"}}
    request_id = secrets.token_hex(8)
    with (
        running_scripted(_answer_with(status, json.dumps(refusal).encode())) as strict,
        running_router(tmp_path, two_hops(strict.url, mock.url, tmp_path)) as router,
    ):
        answer = chat(router, stream=stream, headers=identified(x_request_id=request_id))

    assert answer.json() == {
        "error": {
            "message": "Bad temperature.",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "upstream_rejected",
            "retryable": False,
            "request_id": request_id,
        }
    }
    headers = dict(answer.headers)
    assert len(headers.pop("x-router-policy")) == 12
    assert (answer.status, headers) == (
        status,
        {
            "content-type": "application/json",
            "content-length": str(len(answer.body)),
            "x-request-id": request_id,
            "x-should-retry": "false",
            "x-router-attempts": "1",
        },
    )
    assert len(strict.exchanges) == 1
    assert mock.requests() == []


@pytest.mark.parametrize(("path", "body"), [("completions", {"prompt": "a"}), ("embeddings", {"input": "a"})])
def test_rejection_of_other_endpoints_passes_through(
    mock: Mock, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    """Completions and embeddings are refused by the same rule."""
    refusal = b'{"error":{"message":"No such dimension.","param":null}}'
    model = "embedding" if path == "embeddings" else "reasoning"
    with (
        running_scripted(_answer_with(422, refusal)) as strict,
        running_router(tmp_path, two_hops(strict.url, mock.url, tmp_path)) as router,
    ):
        answer = call(router, "POST", f"/v1/{path}", {"model": model, **body})

    assert (answer.status, answer.json()["error"]["message"]) == (422, "No such dimension.")
    assert mock.requests() == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"detail":"no"}',
        b' {"detail":"no"',
        b'{"error":"no"}',
        b'{"error":{"message":5}}',
        b'{"error":{"message":null}}',
        b'{"error":' + b"[" * 60_000,
        b'{"error":{"message":"' + b"x" * 200_000 + b'"}}',
    ],
    ids=["detail", "half", "string", "number", "null", "deep", "huge"],
)
def test_rejection_in_another_shape_gets_the_one_shape(mock: Mock, tmp_path: Path, body: bytes) -> None:
    """Whatever object stands with a 400, the client reads the one shape with a message of the router's own."""
    with (
        running_scripted(_answer_with(400, body)) as strict,
        running_router(tmp_path, two_hops(strict.url, mock.url, tmp_path)) as router,
    ):
        answer = chat(router)

    error = answer.json()["error"]
    assert (answer.status, error["message"], error["param"], error["code"]) == (
        400,
        "The provider rejected the request with status 400.",
        None,
        "upstream_rejected",
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("body", [b"", b"<html>Bad Request</html>", b'["no"]', b"[" * 60_000])
def test_page_of_a_server_before_the_api_is_a_failed_hop(
    mock: Mock, tmp_path: Path, body: bytes, status: int, stream: bool
) -> None:
    """What holds no JSON object says nothing of the request: the next hop answers, and the operator is told."""
    with (
        running_scripted(_answer_with(status, body, "text/html")) as strict,
        running_router(tmp_path, two_hops(strict.url, mock.url, tmp_path)) as router,
    ):
        answer, alone = chat(router, stream=stream), chat(router, model="first/gpt-4.1", stream=stream)
        failures = samples(router, "litellm_upstream_failures_total")

    assert (answer.status, answer.headers["x-router-provider"]) == (200, "second")
    (attempt,) = alone.json()["error"]["attempts"]
    assert (alone.status, attempt["status"], attempt["code"]) == (503, status, "upstream_invalid_response")
    labels = 'code="upstream_invalid_response",model="gpt-4.1",provider="first"'
    assert failures == {f"litellm_upstream_failures_total{{{labels}}}": 2.0}


@pytest.mark.parametrize("field", ["message", "param"])
@pytest.mark.parametrize(
    "place",
    ["http://{address}/v1/chat/completions", "HTTP://{address}/v1", "host {address} said", "({address})", "{key}"],
)
def test_rejection_is_scrubbed_of_address_and_key(mock: Mock, tmp_path: Path, field: str, place: str) -> None:
    """An upstream that repeats its own address or our key does not give it to the client."""

    def script(exchange: Exchange) -> None:
        text = place.format(address=exchange.headers["host"], key=exchange.headers["authorization"])
        error = {"message": "No.", "param": None, field: f"Wrong: {text}."}
        exchange.answer(json.dumps({"error": error}).encode(), status=PHRASES[400])

    with (
        running_scripted(script) as strict,
        running_router(tmp_path, two_hops(strict.url, mock.url, tmp_path)) as router,
    ):
        answer = chat(router)
        port = strict.port

    assert (answer.status, answer.json()["error"]["code"]) == (400, "upstream_rejected")
    assert UPSTREAM_KEY not in answer.body.decode()
    assert f"127.0.0.1:{port}" not in answer.body.decode()


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Oops"])
def test_message_of_an_operators_fault_does_not_reach_the_client(mock: Mock, tmp_path: Path, status: str) -> None:
    """What an upstream says of a bad key or a missing model is for the operator: the client sees a code alone."""

    def script(exchange: Exchange) -> None:
        said = f"Incorrect key {exchange.headers['authorization']} at {exchange.headers['host']}"
        exchange.answer(json.dumps({"error": {"message": said}}).encode(), status=status)

    with (
        running_scripted(script) as strict,
        running_router(tmp_path, two_hops(strict.url, mock.url, tmp_path)) as router,
    ):
        answer = chat(router, model="first/gpt-4.1")
        port = strict.port

    assert answer.status == 503
    assert UPSTREAM_KEY not in answer.body.decode()
    assert "Incorrect" not in answer.body.decode()
    assert str(port) not in answer.body.decode()
