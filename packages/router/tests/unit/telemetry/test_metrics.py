"""The metrics: their names and labels, how they are rendered, and how several workers' numbers add up."""

import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from prometheus_client.parser import text_string_to_metric_families
from stratmaster_router.domain.usage import Usage
from stratmaster_router.telemetry.metrics import NONE, Metrics

Samples = dict[str, float]


def samples(text: str) -> Samples:
    """All samples but the buckets, as `name{labels}`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


UNTOUCHED: Samples = {
    "litellm_requests_in_flight{}": 0,
    "litellm_policy_reload_failures_total{}": 0,
    "litellm_audit_lost_total{}": 0,
    "litellm_router_overhead_seconds_count{}": 0,
    "litellm_router_overhead_seconds_sum{}": 0,
}
LANE = "model=gpt-4.1,provider=openai,tenant=acme"
HOP = "model=gpt-4.1,provider=openai"


def test_fresh_metrics_hold_nothing_but_zeros() -> None:
    """Without requests only the metrics without labels are there, and no times of creation."""
    assert samples(Metrics().render().decode()) == UNTOUCHED


def test_requests_and_answers_are_counted_by_lane() -> None:
    """Each request counts for its tenant, provider and model; an answer adds latency and tokens, a stream its start."""
    metrics = Metrics()
    lane = metrics.lane(("acme", "openai", "gpt-4.1"))
    lane.count(0.5)
    lane.answered(0.25, None, Usage(7, 3, 5, 2))
    lane.count(1.5)
    lane.answered(0.5, 0.75, Usage(2, 4))
    lane.count(0.25)
    lane.answered(0.125, 0.25, None)
    metrics.lane(("acme", NONE, NONE)).count(2.0)

    assert samples(metrics.render().decode()) == {
        **UNTOUCHED,
        f"litellm_requests_total{{{LANE}}}": 3,
        f"litellm_request_duration_seconds_count{{{LANE}}}": 3,
        f"litellm_request_duration_seconds_sum{{{LANE}}}": 2.25,
        f"litellm_input_tokens_total{{{LANE}}}": 9,
        f"litellm_output_tokens_total{{{LANE}}}": 7,
        f"litellm_upstream_latency_seconds_count{{{HOP}}}": 3,
        f"litellm_upstream_latency_seconds_sum{{{HOP}}}": 0.875,
        f"litellm_time_to_first_token_seconds_count{{{HOP}}}": 2,
        f"litellm_time_to_first_token_seconds_sum{{{HOP}}}": 1.0,
        "litellm_requests_total{model=none,provider=none,tenant=acme}": 1,
        "litellm_request_duration_seconds_count{model=none,provider=none,tenant=acme}": 1,
        "litellm_request_duration_seconds_sum{model=none,provider=none,tenant=acme}": 2,
    }


def test_lane_is_made_once() -> None:
    """The same three names are the same lane; each other name is another."""
    metrics = Metrics()
    lane = metrics.lane(("acme", "openai", "gpt-4.1"))

    assert metrics.lane(("acme", "openai", "gpt-4.1")) is lane
    assert metrics.lane(("globex", "openai", "gpt-4.1")) is not lane


def test_other_metrics_have_these_names_and_labels() -> None:
    """Throttling, errors, failed attempts, reloads, the audit log, overhead and requests in flight."""
    metrics = Metrics()
    metrics.throttled.child("acme", "tokens_per_minute_exceeded")[0] += 1
    metrics.errors.child("acme", "model_not_found")[0] += 2
    metrics.upstream_failures.child("openai", "gpt-4.1", "upstream_timeout")[0] += 3
    metrics.reload_failures.child()[0] += 1
    metrics.overhead.observe(metrics.overhead_child, 0.0005)
    metrics.gauges.in_flight = 4
    metrics.audit_lost.child()[0] = 5
    metrics.gauges.audited = 17

    assert samples(metrics.render().decode()) == {
        "litellm_throttled_total{reason=tokens_per_minute_exceeded,tenant=acme}": 1,
        "litellm_errors_total{code=model_not_found,tenant=acme}": 2,
        "litellm_upstream_failures_total{code=upstream_timeout,model=gpt-4.1,provider=openai}": 3,
        "litellm_policy_reload_failures_total{}": 1,
        "litellm_audit_lost_total{}": 5,
        "litellm_audit_last_seq{}": 17,
        "litellm_router_overhead_seconds_count{}": 1,
        "litellm_router_overhead_seconds_sum{}": 0.0005,
        "litellm_requests_in_flight{}": 4,
    }


def test_each_metric_has_its_type() -> None:
    """A dashboard's queries depend on the types."""
    text = Metrics().render().decode()

    assert dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)) == {
        "litellm_requests_total": "counter",
        "litellm_request_duration_seconds": "histogram",
        "litellm_throttled_total": "counter",
        "litellm_input_tokens_total": "counter",
        "litellm_output_tokens_total": "counter",
        "litellm_upstream_latency_seconds": "histogram",
        "litellm_time_to_first_token_seconds": "histogram",
        "litellm_breaker_state": "gauge",
        "litellm_api_key_age_seconds": "gauge",
        "litellm_requests_in_flight": "gauge",
        "litellm_account_limit": "gauge",
        "litellm_account_remaining": "gauge",
        "litellm_account_used": "gauge",
        "litellm_errors_total": "counter",
        "litellm_upstream_failures_total": "counter",
        "litellm_policy_reload_failures_total": "counter",
        "litellm_audit_lost_total": "counter",
        "litellm_audit_last_seq": "gauge",
        "litellm_router_overhead_seconds": "histogram",
    }


def test_buckets_are_cumulative_to_infinity() -> None:
    """The overhead's buckets reach from a tenth of a millisecond to half a second."""
    metrics = Metrics()
    for seconds in (0.0001, 0.0003, 0.02, 9.0):
        metrics.overhead.observe(metrics.overhead_child, seconds)

    text = metrics.render().decode()

    assert re.findall(r'^litellm_router_overhead_seconds_bucket\{le="(\S+)"\} (\S+)$', text, re.MULTILINE) == [
        ("0.0001", "1.0"),
        ("0.00025", "1.0"),
        ("0.0005", "2.0"),
        ("0.001", "2.0"),
        ("0.0025", "2.0"),
        ("0.005", "2.0"),
        ("0.01", "2.0"),
        ("0.025", "3.0"),
        ("0.05", "3.0"),
        ("0.1", "3.0"),
        ("0.5", "3.0"),
        ("+Inf", "4.0"),
    ]


WORKER = """
import sys
from pathlib import Path
from stratmaster_router.domain.usage import Usage
from stratmaster_router.telemetry.metrics import Metrics

metrics = Metrics(Path(sys.argv[1]))
for command in sys.stdin:
    name, *numbers = command.split()
    if name == "work":
        in_flight, requests, tokens = map(int, numbers)
        metrics.gauges.in_flight = in_flight
        lane = metrics.lane(("acme", "openai", "gpt-4.1"))
        for _ in range(requests):
            lane.count(0.5)
            lane.answered(0.25, None, Usage(tokens, 1))
        metrics.errors.child("acme", "model_not_found")[0] += 1
        metrics.share()
        print("done", flush=True)
    else:
        print(metrics.render().decode() + "END", flush=True)
"""


class Worker:
    """A worker process of its own, told what to do line by line."""

    def __init__(self, folder: Path) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", WORKER, str(folder)]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def work(self, in_flight: int, requests: int, tokens: int) -> None:
        """Count some requests of `tokens` input tokens each, and set the gauge."""
        self._tell(f"work {in_flight} {requests} {tokens}")
        assert self._out.readline() == "done\n"

    def render(self) -> Samples:
        """What a scrape of this worker gives."""
        self._tell("render")
        text = ""
        while not text.endswith("END\n"):
            text += self._out.readline()
        return samples(text.removesuffix("END\n"))

    def end(self, by: signal.Signals | None = None) -> None:
        """Let it end by itself, or kill it, and wait until it is gone."""
        assert self.process.stdin is not None
        if by is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(by)
        self.process.wait(30)
        if by is not None:
            self.process.stdin.close()
        self._out.close()

    @property
    def _out(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")


def expected(in_flight: int, requests: int, tokens: int, workers: int) -> Samples:
    """What all workers together must show."""
    return {
        "litellm_requests_in_flight{}": in_flight,
        f"litellm_requests_total{{{LANE}}}": requests,
        f"litellm_request_duration_seconds_count{{{LANE}}}": requests,
        f"litellm_request_duration_seconds_sum{{{LANE}}}": requests * 0.5,
        f"litellm_input_tokens_total{{{LANE}}}": tokens,
        f"litellm_output_tokens_total{{{LANE}}}": requests,
        f"litellm_upstream_latency_seconds_count{{{HOP}}}": requests,
        f"litellm_upstream_latency_seconds_sum{{{HOP}}}": requests * 0.25,
        "litellm_errors_total{code=model_not_found,tenant=acme}": workers,
        "litellm_policy_reload_failures_total{}": 0,
        "litellm_audit_lost_total{}": 0,
        "litellm_router_overhead_seconds_count{}": 0,
        "litellm_router_overhead_seconds_sum{}": 0,
    }


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, None], ids=["killed", "ended"])
def test_scrape_of_any_worker_adds_up_all_of_them(tmp_path: Path, signal_number: signal.Signals | None) -> None:
    """Counters of all workers count, those of the dead included; requests in flight are only those of the living."""
    first, second = Worker(tmp_path), Worker(tmp_path)
    first.work(in_flight=3, requests=2, tokens=10)
    second.work(in_flight=5, requests=4, tokens=100)

    assert first.render() == expected(in_flight=8, requests=6, tokens=420, workers=2)
    assert second.render() == first.render()

    second.end(signal_number)
    assert first.render() == expected(in_flight=3, requests=6, tokens=420, workers=2)

    third = Worker(tmp_path)
    third.work(in_flight=1, requests=1, tokens=1000)
    assert first.render() == third.render() == expected(in_flight=4, requests=7, tokens=1420, workers=3)
    first.end()
    third.end()


def test_worker_that_shares_nothing_yet_is_not_missed(tmp_path: Path) -> None:
    """A scrape of the only worker shows its latest numbers, also before it has ever shared them."""
    metrics = Metrics(tmp_path)
    metrics.errors.child("acme", "model_not_found")[0] += 1
    metrics.gauges.in_flight = 2

    found = samples(metrics.render().decode())

    assert found == {
        **UNTOUCHED,
        "litellm_requests_in_flight{}": 2,
        "litellm_errors_total{code=model_not_found,tenant=acme}": 1,
    }


def test_sharing_and_scraping_at_once_do_not_meet(tmp_path: Path) -> None:
    """The worker shares from a thread while it is scraped from the loop: neither fails nor sees half a file."""
    metrics = Metrics(tmp_path)
    metrics.errors.child("acme", "model_not_found")[0] += 7
    rounds = 300

    def share() -> None:
        for _ in range(rounds):
            metrics.share()

    def scrape() -> set[float]:
        name = "litellm_errors_total{code=model_not_found,tenant=acme}"
        return {samples(metrics.render().decode())[name] for _ in range(rounds // 3)}

    with ThreadPoolExecutor(2) as threads:
        sharing, scraping = threads.submit(share), threads.submit(scrape)

        assert (sharing.result(), scraping.result()) == (None, {7})


def test_provider_may_have_any_name() -> None:
    """A provider whose name is that of the label for none is counted like every other."""
    metrics = Metrics()
    lane = metrics.lane(("acme", NONE, "gpt-4.1"))

    lane.count(0.5)
    lane.answered(0.25, None, Usage(7, 3))

    found = samples(metrics.render().decode())
    assert found["litellm_input_tokens_total{model=gpt-4.1,provider=none,tenant=acme}"] == 7
    assert found["litellm_output_tokens_total{model=gpt-4.1,provider=none,tenant=acme}"] == 3
