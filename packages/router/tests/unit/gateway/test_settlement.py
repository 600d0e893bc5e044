"""What is recorded of a request, exactly once, for each way that it can end."""

import json
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.routing import Decision, Hop, Provider, Refusal
from stratmaster_router.domain.usage import Usage
from stratmaster_router.gateway.settlement import CLIENT_CLOSED, Recorder, Settlement
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.redact import Redactor
from stratmaster_router.telemetry.access_log import AccessLog
from stratmaster_router.telemetry.audit import AuditLog
from stratmaster_router.telemetry.metrics import Metrics
from stratmaster_router.upstream.attempts import Attempt
from stratmaster_router.upstream.trip import Trip

Ledger = list[LedgerRow]
CHAT = "/v1/chat/completions"
REDACTOR = Redactor(Detector, b"key of fingerprints")
FIRST = Hop(Provider("first", "openai", "http://first/v1"), "gpt-4.1")
SECOND = Hop(Provider("second", "openai", "http://second/v1"), "gpt-4o-mini")
TASK = Decision("0123456789ab", "reasoning", (FIRST, SECOND), None, ())
NAMED = Decision("0123456789ab", None, (FIRST,), None, ())
REFUSED = Decision("0123456789ab", "reasoning", (), Refusal.RAW_DOCS_FORBIDDEN, ())

ANSWERED = Attempt("first", "gpt-4.1", 200, None, 250.0)
FAILED = Attempt("first", "gpt-4.1", 503, "upstream_error", 125.0)
FALLBACK = Attempt("second", "gpt-4o-mini", 200, None, 500.0)
FAILED_TOO = Attempt("second", "gpt-4o-mini", None, "upstream_connect_failed", 2.0)
NO_AUDIT = AuditLog(None, b"", "test")
TOOK = 2.0  # seconds that each request had taken when it was settled, at the least


def trip(*attempts: Attempt) -> Trip:
    """A way through the plan with these attempts."""
    made = [attempt for attempt in attempts if attempt.called]
    seconds = sum(attempt.ms for attempt in attempts) / 1000
    return Trip(list(attempts), seconds, calls=len(made), last=made[-1] if made else None)


def lane(provider: str = "none", model: str = "none", tenant: str = "acme") -> str:
    """The labels of a lane."""
    return f"{{model={model},provider={provider},tenant={tenant}}}"


def hop(provider: str, model: str, **more: str) -> str:
    """The labels of a hop, with others before them in the alphabet."""
    return (
        "{"
        + ",".join([*(f"{name}={value}" for name, value in more.items()), f"model={model},provider={provider}"])
        + "}"
    )


# What is known when a request ends; the fields of its access line beside request_id, time, ms, method and path; what
# was counted, but for the requests' duration.
ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, float]]] = {
    "a whole answer": (
        {
            "tenant": "acme",
            "decision": TASK,
            "trip": trip(ANSWERED),
            "hop": FIRST,
            "usage": Usage(7, 3, 5, 2),
            "status": 200,
            "overhead": 0.000125,
        },
        {
            "status": 200,
            "tenant": "acme",
            "task": "reasoning",
            "provider": "first",
            "model": "gpt-4.1",
            "attempts": 1,
            "overhead_ms": 0.125,
            "input_tokens": 7,
            "output_tokens": 3,
            "policy": "0123456789ab",
        },
        {
            f"litellm_requests_total{lane('first', 'gpt-4.1')}": 1,
            f"litellm_input_tokens_total{lane('first', 'gpt-4.1')}": 7,
            f"litellm_output_tokens_total{lane('first', 'gpt-4.1')}": 3,
            f"litellm_upstream_latency_seconds_count{hop('first', 'gpt-4.1')}": 1,
            f"litellm_upstream_latency_seconds_sum{hop('first', 'gpt-4.1')}": 0.25,
            "litellm_router_overhead_seconds_count{}": 1,
            "litellm_router_overhead_seconds_sum{}": 0.000125,
        },
    ),
    "an answer without usage, to a model's name": (
        {
            "tenant": "acme",
            "decision": NAMED,
            "trip": trip(ANSWERED),
            "hop": FIRST,
            "status": 200,
            "overhead": 0.0005,
        },
        {
            "status": 200,
            "tenant": "acme",
            "provider": "first",
            "model": "gpt-4.1",
            "attempts": 1,
            "overhead_ms": 0.5,
            "policy": "0123456789ab",
        },
        {
            f"litellm_requests_total{lane('first', 'gpt-4.1')}": 1,
            f"litellm_input_tokens_total{lane('first', 'gpt-4.1')}": 0,
            f"litellm_output_tokens_total{lane('first', 'gpt-4.1')}": 0,
            f"litellm_upstream_latency_seconds_count{hop('first', 'gpt-4.1')}": 1,
            f"litellm_upstream_latency_seconds_sum{hop('first', 'gpt-4.1')}": 0.25,
            "litellm_router_overhead_seconds_count{}": 1,
            "litellm_router_overhead_seconds_sum{}": 0.0005,
        },
    ),
    "a stream of the second hop": (
        {
            "tenant": "acme",
            "stream": True,
            "decision": TASK,
            "trip": trip(FAILED, FALLBACK),
            "hop": SECOND,
            "usage": Usage(7, 0),
            "status": 200,
            "overhead": 0.001,
            "first_event": 0.75,
        },
        {
            "status": 200,
            "tenant": "acme",
            "task": "reasoning",
            "provider": "second",
            "model": "gpt-4o-mini",
            "stream": True,
            "attempts": 2,
            "overhead_ms": 1.0,
            "first_event_ms": 750.0,
            "input_tokens": 7,
            "output_tokens": 0,
            "policy": "0123456789ab",
        },
        {
            f"litellm_requests_total{lane('second', 'gpt-4o-mini')}": 1,
            f"litellm_input_tokens_total{lane('second', 'gpt-4o-mini')}": 7,
            f"litellm_output_tokens_total{lane('second', 'gpt-4o-mini')}": 0,
            f"litellm_upstream_latency_seconds_count{hop('second', 'gpt-4o-mini')}": 1,
            f"litellm_upstream_latency_seconds_sum{hop('second', 'gpt-4o-mini')}": 0.5,
            f"litellm_time_to_first_token_seconds_count{hop('second', 'gpt-4o-mini')}": 1,
            f"litellm_time_to_first_token_seconds_sum{hop('second', 'gpt-4o-mini')}": 0.75,
            f"litellm_upstream_failures_total{hop('first', 'gpt-4.1', code='upstream_error')}": 1,
            "litellm_router_overhead_seconds_count{}": 1,
            "litellm_router_overhead_seconds_sum{}": 0.001,
        },
    ),
    "a stream that broke": (
        {
            "tenant": "acme",
            "stream": True,
            "decision": TASK,
            "trip": trip(ANSWERED),
            "hop": FIRST,
            "status": 200,
            "code": "upstream_stream_truncated",
            "overhead": 0.0005,
            "first_event": 0.5,
        },
        {
            "status": 200,
            "tenant": "acme",
            "task": "reasoning",
            "provider": "first",
            "model": "gpt-4.1",
            "stream": True,
            "code": "upstream_stream_truncated",
            "attempts": 1,
            "overhead_ms": 0.5,
            "first_event_ms": 500.0,
            "policy": "0123456789ab",
        },
        {
            f"litellm_requests_total{lane('first', 'gpt-4.1')}": 1,
            f"litellm_input_tokens_total{lane('first', 'gpt-4.1')}": 0,
            f"litellm_output_tokens_total{lane('first', 'gpt-4.1')}": 0,
            f"litellm_upstream_latency_seconds_count{hop('first', 'gpt-4.1')}": 1,
            f"litellm_upstream_latency_seconds_sum{hop('first', 'gpt-4.1')}": 0.25,
            f"litellm_time_to_first_token_seconds_count{hop('first', 'gpt-4.1')}": 1,
            f"litellm_time_to_first_token_seconds_sum{hop('first', 'gpt-4.1')}": 0.5,
            "litellm_errors_total{code=upstream_stream_truncated,tenant=acme}": 1,
            "litellm_router_overhead_seconds_count{}": 1,
            "litellm_router_overhead_seconds_sum{}": 0.0005,
        },
    ),
    "a bad key": (
        {"status": 401, "code": "invalid_api_key"},
        {"status": 401, "code": "invalid_api_key"},
        {"litellm_errors_total{code=invalid_api_key,tenant=none}": 1},
    ),
    "a wrong body": (
        {"tenant": "acme", "trip": trip(), "status": 400, "code": "invalid_json"},
        {"status": 400, "tenant": "acme", "code": "invalid_json"},
        {
            f"litellm_requests_total{lane()}": 1,
            "litellm_errors_total{code=invalid_json,tenant=acme}": 1,
        },
    ),
    "a refusal": (
        {"tenant": "acme", "decision": REFUSED, "trip": trip(), "status": 403, "code": "raw_docs_forbidden"},
        {
            "status": 403,
            "tenant": "acme",
            "task": "reasoning",
            "code": "raw_docs_forbidden",
            "policy": "0123456789ab",
        },
        {
            f"litellm_requests_total{lane()}": 1,
            "litellm_errors_total{code=raw_docs_forbidden,tenant=acme}": 1,
        },
    ),
    "an exhausted plan": (
        {
            "tenant": "acme",
            "stream": True,
            "decision": TASK,
            "trip": trip(FAILED, FAILED_TOO),
            "status": 503,
            "code": "all_providers_unavailable",
        },
        {
            "status": 503,
            "tenant": "acme",
            "task": "reasoning",
            "stream": True,
            "code": "all_providers_unavailable",
            "attempts": 2,
            "policy": "0123456789ab",
        },
        {
            f"litellm_requests_total{lane()}": 1,
            f"litellm_upstream_failures_total{hop('first', 'gpt-4.1', code='upstream_error')}": 1,
            f"litellm_upstream_failures_total{hop('second', 'gpt-4o-mini', code='upstream_connect_failed')}": 1,
            "litellm_errors_total{code=all_providers_unavailable,tenant=acme}": 1,
        },
    ),
    "a client that went away": (
        {
            "tenant": "acme",
            "decision": TASK,
            "trip": trip(Attempt("first", "gpt-4.1", None, "client_disconnected", 40.0)),
            "code": "client_disconnected",
        },
        {
            "status": CLIENT_CLOSED,
            "tenant": "acme",
            "task": "reasoning",
            "code": "client_disconnected",
            "attempts": 1,
            "policy": "0123456789ab",
        },
        {
            f"litellm_requests_total{lane()}": 1,
            f"litellm_upstream_failures_total{hop('first', 'gpt-4.1', code='client_disconnected')}": 1,
            "litellm_errors_total{code=client_disconnected,tenant=acme}": 1,
        },
    ),
    "a cancelled request": (
        {"tenant": "acme", "decision": TASK, "trip": trip()},
        {"status": CLIENT_CLOSED, "tenant": "acme", "task": "reasoning", "policy": "0123456789ab"},
        {f"litellm_requests_total{lane()}": 1},
    ),
    "an answer of the router's own": ({"tenant": "acme", "status": 200}, {"status": 200, "tenant": "acme"}, {}),
}


def counted(metrics: Metrics) -> dict[str, float]:
    """All samples but buckets and durations, and without what is zero from the start."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.labels.keys() - {"le"} or sample.value:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
    return {name: value for name, value in found.items() if "_bucket{" not in name and "_duration_" not in name}


def durations(metrics: Metrics) -> tuple[float, float]:
    """Number and sum of the requests' durations."""
    families = text_string_to_metric_families(metrics.render().decode())
    found = [sample for family in families for sample in family.samples if "_request_duration_" in sample.name]
    count = sum(sample.value for sample in found if sample.name.endswith("_count"))
    return count, sum(sample.value for sample in found if sample.name.endswith("_sum"))


@pytest.mark.parametrize(("known", "line", "numbers"), ENDS.values(), ids=ENDS)
async def test_end_is_recorded_whole_and_once(
    tmp_path: Path, known: dict[str, Any], line: dict[str, Any], numbers: dict[str, float]
) -> None:
    """Each end has its one access line and its numbers; settling again, as a `finally` may, adds nothing."""
    metrics = Metrics()
    log = AccessLog(str(tmp_path / "access.log"))
    recorder = Recorder(metrics, log, NO_AUDIT, Ledger().append, REDACTOR)
    settlement = Settlement("req_1", "POST", CHAT, perf_counter() - TOOK, **known)
    before = datetime.now(UTC)

    for _ in range(3):
        recorder.settle(settlement)
    await log.close()

    (written,) = [json.loads(text) for text in (tmp_path / "access.log").read_text().splitlines()]
    assert before <= datetime.fromisoformat(written.pop("time")) <= datetime.now(UTC)
    milliseconds = written.pop("ms")
    assert milliseconds >= TOOK * 1000
    assert written == {"event": "access", "request_id": "req_1", "method": "POST", "path": CHAT, **line}
    assert counted(metrics) == numbers
    requests = 1 if "trip" in known else 0
    count, seconds = durations(metrics)
    assert count == requests
    assert seconds == pytest.approx(requests * milliseconds / 1000, abs=0.001)


async def test_numbers_are_kept_without_an_access_log(tmp_path: Path) -> None:
    """`off` switches the lines off, not the metrics."""
    metrics = Metrics()
    known, _, numbers = ENDS["a whole answer"]

    settlement = Settlement("req_1", "POST", CHAT, perf_counter(), **known)
    Recorder(metrics, AccessLog("off"), NO_AUDIT, Ledger().append, REDACTOR).settle(settlement)

    assert counted(metrics) == numbers


def test_each_request_counts() -> None:
    """Two requests that end alike are two."""
    metrics = Metrics()
    recorder = Recorder(metrics, AccessLog("off"), NO_AUDIT, Ledger().append, REDACTOR)
    known, _, _ = ENDS["a refusal"]
    for number in range(2):
        recorder.settle(Settlement(f"req_{number}", "POST", CHAT, perf_counter(), **known))

    assert counted(metrics) == {
        f"litellm_requests_total{lane()}": 2,
        "litellm_errors_total{code=raw_docs_forbidden,tenant=acme}": 2,
    }
