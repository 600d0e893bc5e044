"""Prometheus metrics, named as the mission names them. Labels come from the policy, never from what a client typed.

The numbers are plain Python, because counting in prometheus-client costs more than the rest of the record of a request
(docs/decisions/0005); prometheus-client renders them. With several workers each writes its numbers to a file of a
folder that they share, and a scrape adds them up.
"""

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from stratmaster_router.domain.usage import Usage

NONE = "none"  # the label of a request that reached no provider

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

_LANE = ("tenant", "provider", "model")
_HOP = ("provider", "model")

Labels = tuple[str, ...]
# The numbers of a family's children: one for a counter; one for each bucket, and the sum, for a histogram.
Numbers = dict[Labels, list[float]]


class Counter:
    """A family of counters."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.numbers: Numbers = {} if labels else {(): [0]}

    def child(self, *labels: str) -> list[float]:
        """The counter with these labels, made when first asked for: a list of one number, to be added to."""
        return self.numbers.setdefault(labels, [0])

    def metric(self, numbers: Numbers) -> Metric:
        """The family as prometheus-client renders it."""
        metric = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, (value,) in numbers.items():
            metric.add_metric(labels, value)
        return metric


class Histogram:
    """A family of histograms."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.bounds = bounds
        self.numbers: Numbers = {} if labels else {(): [0] * (len(bounds) + 2)}

    def child(self, *labels: str) -> list[float]:
        """The histogram with these labels, made when first asked for; `observe` adds to it."""
        return self.numbers.setdefault(labels, [0] * (len(self.bounds) + 2))

    def observe(self, child: list[float], value: float) -> None:
        """Count `value` in `child`."""
        child[bisect_left(self.bounds, value)] += 1
        child[-1] += value

    def metric(self, numbers: Numbers) -> Metric:
        """The family as prometheus-client renders it."""
        metric = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for labels, counts in numbers.items():
            buckets = []
            total = 0.0
            for bound, count in zip((*map(str, self.bounds), "+Inf"), counts[:-1], strict=True):
                total += count
                buckets.append((bound, total))
            metric.add_metric(labels, buckets, counts[-1])
        return metric


class Lane:
    """The metrics of one (tenant, provider, model), at hand."""

    __slots__ = ("_answered", "_duration", "_labels", "_metrics")

    def __init__(self, metrics: "Metrics", labels: Labels) -> None:
        self._metrics = metrics
        self._labels = labels
        self._duration = metrics.duration.child(*labels)
        self._answered: tuple[list[float], list[float], list[float]] | None = None

    def count(self, seconds: float) -> None:
        """Count a request that took `seconds` in all."""
        self._metrics.duration.observe(self._duration, seconds)

    def answered(self, upstream_seconds: float, first_event: float | None, usage: Usage | None) -> None:
        """Count an answer: seconds until the upstream committed, until a stream's first event, and tokens."""
        metrics = self._metrics
        if self._answered is None:
            self._answered = (
                metrics.input_tokens.child(*self._labels),
                metrics.output_tokens.child(*self._labels),
                metrics.upstream_latency.child(*self._labels[1:]),
            )
        input_tokens, output_tokens, upstream = self._answered
        metrics.upstream_latency.observe(upstream, upstream_seconds)
        if first_event is not None:
            metrics.first_event.observe(metrics.first_event.child(*self._labels[1:]), first_event)
        if usage is not None:
            input_tokens[0] += usage.input
            output_tokens[0] += usage.output


class AccountState(msgspec.Struct, frozen=True):
    """A limit as a worker last saw it, in requests, tokens, slots or US dollars; `seen` orders what workers saw."""

    tenant: str
    provider: str
    metric: str
    window: str
    limit: float
    used: float
    remaining: float
    seen: int


class Gauges(msgspec.Struct):
    """What is not counted but looked at. `audited` is the `seq` of the audit log's last record, 0 where there is none.

    `breakers` has the state of each (provider, model), `key_ages` the seconds of each (tenant, id of a key).
    """

    in_flight: int = 0
    audited: int = 0
    accounts: list[AccountState] = []
    breakers: dict[tuple[str, str], int] = {}
    key_ages: dict[tuple[str, str], float] = {}


class Metrics:
    """All metrics of one worker. `gauges` are set by their owner before the numbers are read."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is where several workers share their numbers; None where there is only one."""
        self._folder = folder
        self._sharing = threading.Lock()
        self._lanes: dict[Labels, Lane] = {}
        self.gauges = Gauges()
        self.duration = Histogram(
            "litellm_request_duration_seconds", "From a request's head to its answer's last byte.", _LANE, _LATENCY
        )
        self.throttled = Counter("litellm_throttled_total", "Requests refused by a limit.", ("tenant", "reason"))
        self.input_tokens = Counter("litellm_input_tokens_total", "Tokens sent to providers.", _LANE)
        self.output_tokens = Counter("litellm_output_tokens_total", "Tokens answered.", _LANE)
        self.upstream_latency = Histogram(
            "litellm_upstream_latency_seconds",
            "From sending a request to the whole answer, or to the first event of a stream.",
            _HOP,
            _LATENCY,
        )
        self.first_event = Histogram(
            "litellm_time_to_first_token_seconds", "From a request's head to its first event.", _HOP, _LATENCY
        )
        self.errors = Counter("litellm_errors_total", "Requests that ended in an error, by code.", ("tenant", "code"))
        self.upstream_failures = Counter(
            "litellm_upstream_failures_total",
            "Attempts that failed, by code; upstream_auth_failed and upstream_not_found are the operator's to mend.",
            (*_HOP, "code"),
        )
        self.reload_failures = Counter(
            "litellm_policy_reload_failures_total", "Changes of the policy that were refused."
        )
        self.audit_lost = Counter(
            "litellm_audit_lost_total", "Records that the audit log could not take: it was not to be written for long."
        )
        self.overhead = Histogram(
            "litellm_router_overhead_seconds", "Time in the router itself, until an answer's head.", (), _OVERHEAD
        )
        self.overhead_child = self.overhead.child()
        self._families: tuple[Counter | Histogram, ...] = (
            self.duration,
            self.throttled,
            self.input_tokens,
            self.output_tokens,
            self.upstream_latency,
            self.first_event,
            self.errors,
            self.upstream_failures,
            self.reload_failures,
            self.audit_lost,
            self.overhead,
        )

    def lane(self, labels: Labels) -> Lane:
        """The metrics of a (tenant, provider, model); the names must come from the policy."""
        lane = self._lanes.get(labels)
        if lane is None:
            lane = self._lanes[labels] = Lane(self, labels)
        return lane

    def share(self) -> None:
        """Write this worker's numbers where the other workers find them. Blocking."""
        if self._folder is not None:
            # A scrape and the regular sharing come from two threads.
            with self._sharing:
                file = self._folder / f"{os.getpid()}.metrics"
                draft = file.with_suffix(".draft")
                numbers = [list(family.numbers.items()) for family in self._families]
                draft.write_bytes(_encode(_Shared(self.gauges, numbers)))
                draft.rename(file)

    def render(self) -> bytes:
        """The Prometheus text format, added up over all workers. Blocking."""
        if self._folder is None:
            # Copies, because requests go on to count while this renders in a thread.
            own = [dict(family.numbers) for family in self._families]
            return generate_latest(_Collected(self._metrics(own, self.gauges)))
        self.share()
        gauges = Gauges()
        total: list[Numbers] = [{} for _ in self._families]
        for file in self._folder.glob("*.metrics"):
            shared = _decode(file.read_bytes())
            if Path(f"/proc/{file.stem}").exists():
                # What a killed worker had under way is gone; what it counted stays.
                gauges.in_flight += shared.gauges.in_flight
                gauges.accounts += shared.gauges.accounts
                gauges.audited = max(gauges.audited, shared.gauges.audited)
                for hop, state in shared.gauges.breakers.items():
                    gauges.breakers[hop] = max(state, gauges.breakers.get(hop, state))
                gauges.key_ages.update(shared.gauges.key_ages)
            for numbers, worker in zip(total, shared.families, strict=True):
                for labels, values in worker:
                    known = numbers.get(labels)
                    numbers[labels] = values if known is None else [a + b for a, b in zip(known, values, strict=True)]
        return generate_latest(_Collected(self._metrics(total, gauges)))

    def _metrics(self, families: list[Numbers], gauges: Gauges) -> Iterator[Metric]:
        # Each request has a duration, so the histogram's count is the counter.
        requests: Numbers = {labels: [sum(counts[:-1])] for labels, counts in families[0].items()}
        yield Counter("litellm_requests_total", "Requests, by what answered them.", _LANE).metric(requests)
        for family, numbers in zip(self._families, families, strict=True):
            yield family.metric(numbers)
        yield GaugeMetricFamily("litellm_requests_in_flight", "Requests under way.", value=gauges.in_flight)
        audited = GaugeMetricFamily("litellm_audit_last_seq", "The number of the audit log's last record.")
        if gauges.audited:
            audited.add_metric((), gauges.audited)
        yield audited
        breakers = GaugeMetricFamily(
            "litellm_breaker_state",
            "0 closed, 1 half-open, 2 open or parked; of several workers the highest.",
            labels=_HOP,
        )
        for hop, state in gauges.breakers.items():
            breakers.add_metric(hop, state)
        yield breakers
        ages = GaugeMetricFamily(
            "litellm_api_key_age_seconds", "Seconds since a live self-service key was made.", labels=("tenant", "key")
        )
        for key, age in gauges.key_ages.items():
            ages.add_metric(key, age)
        yield ages
        latest = {(a.tenant, a.provider, a.metric, a.window): a for a in sorted(gauges.accounts, key=lambda a: a.seen)}
        for name, text, value in _ACCOUNT_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=("tenant", "provider", "metric", "window"))
            for labels, account in latest.items():
                gauge.add_metric(labels, value(account))
            yield gauge


_ACCOUNT_GAUGES: tuple[tuple[str, str, Callable[[AccountState], float]], ...] = (
    ("litellm_account_limit", "The cap: requests, tokens, slots or US dollars.", lambda account: account.limit),
    ("litellm_account_used", "What is used or reserved of the cap.", lambda account: account.used),
    ("litellm_account_remaining", "What is left of the cap.", lambda account: account.remaining),
)


class _Shared(msgspec.Struct):
    gauges: Gauges
    families: list[list[tuple[Labels, list[float]]]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Shared).decode


class _Collected:
    """What `generate_latest` wants of a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
