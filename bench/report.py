"""From raw values to medians, ratios, verdicts, Markdown and JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .gateways import AT_THE_CAP, BRIDGED, POSTGRES, ROUTER, UNLIMITED
from .measure import DIRECT, Results, Values


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, the least and the greatest value."""

    median: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """As a table shows it."""
        if self.low == self.high:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


@dataclass(frozen=True)
class Column:
    """A metric as a column of a table."""

    metric: str
    title: str
    digits: int = 0


# Metrics named added_* are differences with `direct` in the same round.
TABLES: dict[str, list[Column]] = {
    "Answers of 0.5 KB to requests of 0.3 KB, 32 connections": [
        Column("c32_rps", "requests/s"),
        Column("c32_cpu_us", "CPU µs/request"),
        Column("added_c32_p50_ms", "added p50 ms", 2),
        Column("added_c32_p99_ms", "added p99 ms", 2),
        Column("c32_errors", "errors"),
    ],
    "The same at one connection": [
        Column("c1_rps", "requests/s"),
        Column("added_c1_p50_ms", "added p50 ms", 3),
        Column("added_c1_p99_ms", "added p99 ms", 3),
    ],
    "Requests of 32 KB, 32 connections": [
        Column("large_rps", "requests/s"),
        Column("large_cpu_us", "CPU µs/request"),
        Column("added_large_p50_ms", "added p50 ms", 2),
        Column("added_large_p99_ms", "added p99 ms", 2),
        Column("large_errors", "errors"),
    ],
    "Streams: 64 at once, a chunk each 10 ms": [
        Column("stream_cpu_us", "CPU µs/chunk", 1),
        Column("added_stream_first_p50_ms", "added time to first event p50 ms", 2),
        Column("added_stream_first_p99_ms", "p99 ms", 2),
        Column("stream_chunks_per_s", "chunks/s"),
        Column("identical_share", "identical to upstream's bytes, %"),
    ],
    "Process": [
        Column("cold_start_s", "cold start s", 2),
        Column("rss_idle_mb", "RSS of largest process MB, idle"),
        Column("rss_loaded_mb", "after load"),
        Column("tree_pss_mb", "whole tree (PSS) MB, after load"),
    ],
}
_QUIET_CORES = 0.1
_DIFFERENCES = ("c32_p50_ms", "c32_p99_ms", "c1_p50_ms", "c1_p99_ms", "large_p50_ms", "large_p99_ms")
_STREAM_DIFFERENCES = ("stream_first_p50_ms", "stream_first_p99_ms")


def _derived(values: Values, direct: Values) -> Values:
    """The round's values, with what the gateway adds to the direct way in the same round."""
    added = {
        f"added_{metric}": values[metric] - direct[metric]
        for metric in _DIFFERENCES + _STREAM_DIFFERENCES
        if metric in values and metric in direct
    }
    if values.get("stream_complete"):
        added["identical_share"] = 100 * values["stream_identical"] / values["stream_complete"]
    return values | added


def summary(results: Results) -> dict[str, dict[str, Spread]]:
    """Per participant and metric: the median over rounds, the least and the greatest value."""
    direct = results.rounds.get(DIRECT, [])
    spreads: dict[str, dict[str, Spread]] = {}
    for name, rounds in results.rounds.items():
        gathered: dict[str, list[float]] = {}
        for values, reference in zip(rounds, direct, strict=False):
            for metric, value in (values if name == DIRECT else _derived(values, reference)).items():
                gathered.setdefault(metric, []).append(value)
        spreads[name] = {m: Spread(statistics.median(v), min(v), max(v)) for m, v in gathered.items()}
    return spreads


def ratio(results: Results, name: str, other: str, metric: str) -> float | None:
    """The median of the ratios within each round: what slowed a whole round cancels out."""
    pairs = zip(results.rounds.get(name, []), results.rounds.get(other, []), strict=False)
    ratios = [a[metric] / b[metric] for a, b in pairs if metric in a and b.get(metric)]
    return statistics.median(ratios) if ratios else None


def differences(results: Results, name: str, other: str, metric: str) -> list[float]:
    """What `name` took more than `other` in each turn of those that were compared side by side, in order of size."""
    pairs = zip(results.pairs.get(name, []), results.pairs.get(other, []), strict=False)
    return sorted(a[metric] - b[metric] for a, b in pairs)


def difference(results: Results, name: str, other: str, metric: str) -> float | None:
    """The median of the differences of all turns."""
    found = differences(results, name, other, metric)
    return statistics.median(found) if found else None


@dataclass(frozen=True)
class Verdict:
    """A promise, and whether this run kept it."""

    what: str
    value: float | None
    must: str
    aim: str
    verdict: str


def _judge(what: str, value: float | None, sense: str, *, must: float, aim: float | None, unit: str = "") -> Verdict:
    def holds(bound: float) -> bool:
        assert value is not None
        return value <= bound if sense == "≤" else value >= bound

    if value is None or math.isnan(value):
        verdict = "not measured"
    elif not holds(must):
        verdict = "MISSED"
    else:
        verdict = "aim reached" if aim is not None and holds(aim) else "reached"
    return Verdict(what, value, f"{sense} {must:g}{unit}", f"{sense} {aim:g}{unit}" if aim is not None else "", verdict)


def verdicts(results: Results) -> list[Verdict]:
    """The promises, judged by this run alone."""
    router = summary(results).get(ROUTER, {})
    crowd = results.crowd

    def median(metric: str) -> float | None:
        return router[metric].median if metric in router else None

    worst_rss = max((v for v in (median("rss_idle_mb"), median("rss_loaded_mb")) if v is not None), default=None)
    return [
        _judge("CPU per request ÷ smg's", ratio(results, ROUTER, "smg", "c32_cpu_us"), "≤", must=1.15, aim=1.0),
        _judge(
            "requests/s, 1 worker ÷ smg's (2 threads)",
            ratio(results, ROUTER, "smg", "c32_rps"),
            "≥",
            must=0.65,
            aim=None,
        ),
        _judge("requests/s, 2 workers ÷ smg's", ratio(results, "router-2w", "smg", "c32_rps"), "≥", must=0.65, aim=1.0),
        _judge("requests/s, 1 worker ÷ LiteLLM's", ratio(results, ROUTER, "litellm", "c32_rps"), "≥", must=60, aim=120),
        _judge(
            "requests/s through the bridge ÷ LiteLLM's",
            ratio(results, BRIDGED, "litellm", "c32_rps"),
            "≥",
            must=4,
            aim=None,
        ),
        _judge("added p99 at one connection", median("added_c1_p99_ms"), "≤", must=0.6, aim=0.3, unit=" ms"),
        _judge("CPU per SSE chunk", median("stream_cpu_us"), "≤", must=25, aim=15, unit=" µs"),
        _judge(
            "CPU for three limits",
            difference(results, ROUTER, UNLIMITED, "c32_cpu_us"),
            "≤",
            must=12,
            aim=None,
            unit=" µs",
        ),
        _judge(
            "breakers, retries, steps and a hedge that is not needed, in a loop",
            sum(results.parts.values()) if results.parts else None,
            "≤",
            must=5,
            aim=None,
            unit=" µs",
        ),
        _judge(
            "added p99, limits in PostgreSQL, far from the cap",
            difference(results, POSTGRES, UNLIMITED, "c1_p99_ms"),
            "≤",
            must=1,
            aim=None,
            unit=" ms",
        ),
        _judge(
            "added p99, limits in PostgreSQL, at the cap",
            difference(results, AT_THE_CAP, UNLIMITED, "c1_p99_ms"),
            "≤",
            must=10,
            aim=None,
            unit=" ms",
        ),
        _judge("database transactions/s, 1 worker", results.steady.get("transactions_per_s"), "≤", must=5, aim=None),
        _judge("1,000 concurrent streams, byte-identical", crowd.get("identical"), "≥", must=1000, aim=None),
        _judge("RSS per worker", worst_rss, "≤", must=110, aim=80, unit=" MB"),
        _judge("cold start to healthy", median("cold_start_s"), "≤", must=1.5, aim=0.8, unit=" s"),
    ]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    lines.insert(1, "| --- |" + " ---: |" * (len(header) - 1))
    return "\n".join(lines)


def _cell(spreads: Mapping[str, Spread], column: Column) -> str:
    return spreads[column.metric].text(column.digits) if column.metric in spreads else "–"


def others(results: Results) -> str:
    """How much of the machine was used by anyone but the benchmark while it was measuring."""
    shares = [values["others_cores"] for rounds in results.rounds.values() for values in rounds if values]
    if not shares:
        return "unknown"
    median = statistics.median(shares)
    text = f"{median:.2f} cores (median), {max(shares):.2f} at most"
    return text + (": BUSY, do not quote these figures" if median > _QUIET_CORES else "")


def _verdict_table(judged: list[Verdict]) -> str:
    rows = [[v.what, "–" if v.value is None else f"{v.value:,.4g}", v.must, v.aim, v.verdict] for v in judged]
    return _table(["must reach", "this run", "must", "aim", "verdict"], rows)


def _pairs_table(results: Results) -> str:
    """Medians of all turns, and of the differences to the router without limits, with their quartiles."""
    rows = []
    for name, turns in results.pairs.items():
        row = [name]
        for metric, digits in (("c32_cpu_us", 1), ("c1_p99_ms", 2)):
            row.append(f"{statistics.median(turn[metric] for turn in turns):.{digits}f}")
            found = differences(results, name, UNLIMITED, metric)
            if name == UNLIMITED or len(found) < 2:
                row.append("")
                continue
            low, middle, high = statistics.quantiles(found, n=4)
            row.append(f"{middle:+.{digits}f} ({low:+.{digits}f}–{high:+.{digits}f})")
        rows.append(row)
    header = ["", "CPU µs/request", "more (quartiles)", "p99 ms at one connection", "more (quartiles)"]
    return _table(header, rows)


def markdown(results: Results, machine: Mapping[str, str], descriptions: Mapping[str, str]) -> str:
    """The whole report; medians of the rounds, least–greatest in brackets."""
    spreads = summary(results)
    parts = ["# Benchmark", "\n".join(f"- {name}: {value}" for name, value in machine.items())]
    parts += ["## Verdicts", _verdict_table(verdicts(results))]
    for title, columns in TABLES.items():
        measured = [name for name in spreads if any(c.metric in spreads[name] for c in columns)]
        rows = [[name, *(_cell(spreads[name], column) for column in columns)] for name in measured]
        parts += [f"## {title}", _table(["", *(column.title for column in columns)], rows)]
    if results.pairs:
        parts += ["## Side by side, in turns", _pairs_table(results)]
    if results.crowd:
        c = results.crowd
        parts += [
            "## 1,000 concurrent streams of 200 chunks through the router",
            f"{c['complete']:.0f} complete, {c['identical']:.0f} byte-identical to what the upstream sent, in "
            f"{c['seconds']:.1f} s; {c['cpu_us_per_chunk']:.1f} CPU µs per chunk; first event after "
            f"{c['first_p50_ms']:.1f} ms (p50), {c['first_p99_ms']:.1f} ms (p99); RSS {c['rss_loaded_mb']:.0f} MB.",
        ]
    parts += ["## Participants", "\n".join(f"- **{name}**: {what}" for name, what in descriptions.items())]
    if results.skipped:
        parts += ["## Skipped", "\n".join(f"- **{name}**: {why}" for name, why in results.skipped.items())]
    return "\n\n".join(parts) + "\n"


def as_json(results: Results, machine: Mapping[str, str], descriptions: Mapping[str, str]) -> dict[str, object]:
    """Everything: raw values, medians and verdicts."""
    return {
        "machine": dict(machine),
        "participants": dict(descriptions),
        "verdicts": [asdict(verdict) for verdict in verdicts(results)],
        "summary": {
            name: {metric: asdict(spread) for metric, spread in spreads.items()}
            for name, spreads in summary(results).items()
        },
        **asdict(results),
    }
