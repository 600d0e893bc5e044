"""Prometheus metrics, named as the mission names them. Labels come from the policy, never from what a client typed.

With several workers each keeps its numbers in files of `PROMETHEUS_MULTIPROC_DIR` and a scrape adds them up; the
variable must be set before this module is imported (`serve` does so). Children are looked up once for each lane and
then kept: `labels()` costs more than the counting.
"""

import os
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from stratmaster_router.domain.usage import Usage

NONE = "none"  # the label of a request that reached no provider

# Half of all series would be the time at which the other half began, which no dashboard asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


class LaneMetrics:
    """The metrics of one (tenant, provider, model), their children at hand."""

    __slots__ = ("_answered", "_duration", "_labels", "_metrics", "_requests")

    def __init__(self, metrics: "Metrics", tenant: str, provider: str, model: str) -> None:
        self._metrics = metrics
        self._labels = (tenant, provider, model)
        self._requests = metrics.requests.labels(*self._labels)
        self._duration = metrics.duration.labels(*self._labels)
        self._answered: tuple[Counter, Counter, Histogram] | None = None

    def count(self, seconds: float) -> None:
        """Count a request that took `seconds` in all."""
        self._requests.inc()
        self._duration.observe(seconds)

    def answered(self, upstream_seconds: float, first_event: float | None, usage: Usage | None) -> None:
        """Count an answer: seconds until the upstream committed, until a stream's first event, and tokens."""
        if self._answered is None:
            metrics = self._metrics
            self._answered = (
                metrics.input_tokens.labels(*self._labels),
                metrics.output_tokens.labels(*self._labels),
                metrics.upstream_latency.labels(*self._labels[1:]),
            )
        input_tokens, output_tokens, upstream_latency = self._answered
        upstream_latency.observe(upstream_seconds)
        if first_event is not None:
            self._metrics.first_event.labels(*self._labels[1:]).observe(first_event)
        if usage is not None:
            input_tokens.inc(usage.input)
            output_tokens.inc(usage.output)


class Metrics:
    """All metrics of the router, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        lane = ("tenant", "provider", "model")
        hop = ("provider", "model")
        self.requests = Counter("litellm_requests_total", "Requests, by what answered them.", lane, registry=registry)
        self.duration = Histogram(
            "litellm_request_duration_seconds",
            "From the request's head to the answer's last byte.",
            lane,
            buckets=_LATENCY,
            registry=registry,
        )
        self.throttled = Counter(
            "litellm_throttled_total", "Requests refused by a limit.", ("tenant", "reason"), registry=registry
        )
        self.input_tokens = Counter("litellm_input_tokens_total", "Tokens sent to providers.", lane, registry=registry)
        self.output_tokens = Counter("litellm_output_tokens_total", "Tokens answered.", lane, registry=registry)
        self.upstream_latency = Histogram(
            "litellm_upstream_latency_seconds",
            "From sending the request to a whole answer, or to a stream's first event.",
            hop,
            buckets=_LATENCY,
            registry=registry,
        )
        self.first_event = Histogram(
            "litellm_time_to_first_token_seconds",
            "From the request's head to the first event of a stream.",
            hop,
            buckets=_LATENCY,
            registry=registry,
        )
        self.in_flight = Gauge(
            "litellm_requests_in_flight", "Requests under way.", registry=registry, multiprocess_mode="livesum"
        )
        self.errors = Counter("litellm_errors_total", "Error answers, by code.", ("tenant", "code"), registry=registry)
        self.upstream_failures = Counter(
            "litellm_upstream_failures_total",
            "Attempts that failed, by code; upstream_auth_failed and upstream_not_found are the operator's to mend.",
            (*hop, "code"),
            registry=registry,
        )
        self.reload_failures = Counter(
            "litellm_policy_reload_failures_total", "Changes of the policy that were refused.", registry=registry
        )
        self.overhead = Histogram(
            "litellm_router_overhead_seconds",
            "Time spent in the router itself, until an answer's head.",
            buckets=_OVERHEAD,
            registry=registry,
        )
        self._lanes: dict[tuple[str, str, str], LaneMetrics] = {}

    def lane(self, tenant: str, provider: str, model: str) -> LaneMetrics:
        """The metrics of a lane; the three names must come from the policy."""
        key = (tenant, provider, model)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = LaneMetrics(self, tenant, provider, model)
        return lane

    def render(self) -> bytes:
        """The Prometheus text format, added up over all workers."""
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory is None:
            return generate_latest(self._registry)
        _forget_dead_workers(directory)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _forget_dead_workers(directory: str) -> None:
    """Drop the gauges of workers that were killed; their counters stay."""
    for file in Path(directory).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]
