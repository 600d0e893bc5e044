"""What is measured of each participant, in which order."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from support.postgres import Postgres, running_postgres

from . import gateways, install, proctree, sse_client, upstreams
from .gateways import Gateway, Started
from .load import Target, chat_body, wrk
from .servers import NotStarted, Server, get
from .sse_client import Stream

DIRECT = "direct"
SMALL_BYTES = 300
LARGE_BYTES = 32 * 1024
CONNECTIONS = 32
STREAMS = 64
CROWD = 1000
_WARM_UP_S = 1.0
_WARM_UP_REQUESTS = 200
_WARM_UP_MAX_S = 10.0

# Differences of a few microseconds are seen only side by side, in short turns: a shared machine's speed moves more
# than that from one second to the next.
_PAIRS = 30
_TURN_S = 1.0
_STEADY_S = 20.0

Values = dict[str, float]


@dataclass(frozen=True)
class Options:
    """How long to measure, and how fast the streams are paced."""

    rounds: int = 5
    seconds: float = 6.0
    pairs: int = _PAIRS
    pace_ms: float = 10.0
    crowd_pace_ms: float = 100.0


@dataclass
class Results:
    """Raw values: one mapping of metrics per participant and round, empty where a round failed.

    `pairs` has one mapping per participant and turn, of those that were compared side by side.
    """

    rounds: dict[str, list[Values]] = field(default_factory=dict)
    pairs: dict[str, list[Values]] = field(default_factory=dict)
    steady: Values = field(default_factory=dict)
    parts: Values = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    crowd: Values = field(default_factory=dict)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of values that need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Bench:
    """One benchmark run: the upstreams are up for as long as this is used."""

    def __init__(self, options: Options, cache: Path, scratch: Path, say: Callable[[str], None]) -> None:
        self._options = options
        self._cache = cache
        self._scratch = scratch
        self._say = say
        self._upstreams: list[int] = []
        self.results = Results()

    def run(self, chosen: Sequence[Gateway]) -> None:
        """Visit every participant in every round (A B C, A B C, …), so that drift of the machine hits all alike."""
        with (
            upstreams.static(self._scratch) as plain,
            upstreams.paced(self._scratch, self._options.pace_ms) as paced,
        ):
            self._upstreams = [plain.pid, paced.pid]
            for number in range(1, self._options.rounds + 1):
                self._visit(DIRECT, number, partial(self._direct, plain, paced))
                for gateway in chosen:
                    if gateway.name not in self.results.skipped:
                        self._visit(gateway.name, number, partial(self._gateway, gateway, plain, paced))

    def run_pairs(self, chosen: Sequence[Gateway]) -> None:
        """All at once, loaded in turns, forwards and backwards: whatever slows the machine slows neighbours alike."""
        with upstreams.static(self._scratch) as plain, contextlib.ExitStack() as stack:
            up: dict[str, Started] = {}
            postgres = stack.enter_context(running_postgres())
            databases = {gateway.name: postgres.database() for gateway in chosen if gateway.postgres}
            for gateway in chosen:
                self._say(f"side by side: starting {gateway.name}")
                address = databases.get(gateway.name)
                up[gateway.name] = stack.enter_context(
                    gateways.started(gateway, plain, self._cache, self._scratch / "pairs", database=address)
                )
                self._warm_up(up[gateway.name], self._body(up[gateway.name], SMALL_BYTES))
            if gateways.POSTGRES in up:
                self._say(f"side by side: {_STEADY_S:.0f} s of load on {gateways.POSTGRES}")
                self.results.steady = self._steady(up[gateways.POSTGRES], postgres, databases[gateways.POSTGRES])
            self._say(f"side by side: {self._options.pairs} turns of {', '.join(up)}")
            for number in range(self._options.pairs):
                for name in list(up)[:: -1 if number % 2 else 1]:
                    self.results.pairs.setdefault(name, []).append(self._turn(up[name]))

    def run_parts(self) -> None:
        """What is measured in a loop because it cannot be switched off."""
        python = install.router(self._cache, "runtime.txt") / "python"
        command = [str(python), str(Path(__file__).with_name("parts.py"))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        self.results.parts = json.loads(done.stdout)

    def _turn(self, up: Started) -> Values:
        body = self._body(up, SMALL_BYTES)
        values = {"c1_p99_ms": wrk(up.target, body, 1, _TURN_S).p99_ms}
        before = proctree.cpu_seconds_exactly(up.server.pid)
        load = wrk(up.target, body, CONNECTIONS, _TURN_S)
        used = proctree.cpu_seconds_exactly(up.server.pid) - before
        return values | {"c32_cpu_us": used / max(1, load.requests) * 1e6, "c32_rps": load.rate}

    def _steady(self, up: Started, postgres: Postgres, database: str) -> Values:
        body = self._body(up, SMALL_BYTES)
        wrk(up.target, body, CONNECTIONS, _TURN_S)  # leases and the database's own counting fall into step
        began, before = time.monotonic(), postgres.transactions(database)
        load = wrk(up.target, body, CONNECTIONS, _STEADY_S)
        made = postgres.transactions(database) - before
        return {"transactions_per_s": made / (time.monotonic() - began), "rps": load.rate}

    def run_crowd(self, gateway: Gateway) -> None:
        """CROWD streams at once through the gateway, each compared with what the upstream sent."""
        with upstreams.paced(self._scratch, self._options.crowd_pace_ms) as paced:
            try:
                with gateways.started(gateway, paced, self._cache, self._scratch, stream=True) as up:
                    self._say(f"{CROWD} streams at once through {gateway.name}")
                    self.results.crowd = self._crowd(up, paced)
            except NotStarted as reason:
                self._say(f"  skipped: {reason}")

    def _visit(self, name: str, number: int, measure: Callable[[], Values]) -> None:
        self._say(f"round {number}/{self._options.rounds}: {name}")
        values: Values = {}
        machine, own, began = proctree.machine_cpu_seconds(), self._own_cpu_seconds(), time.monotonic()
        try:
            values = measure()
            # The gateway has ended and been waited for, so that its time is in that of our children by now.
            busy = proctree.machine_cpu_seconds() - machine - (self._own_cpu_seconds() - own)
            values["others_cores"] = max(0.0, busy / (time.monotonic() - began))
        except (NotStarted, subprocess.SubprocessError) as reason:
            # What cannot be started now will not be in the next round; a lost load run may.
            if isinstance(reason, NotStarted):
                self.results.skipped[name] = str(reason)
            self._say(f"  failed: {reason}")
        self.results.rounds.setdefault(name, []).append(values)

    def _own_cpu_seconds(self) -> float:
        """CPU time of the harness, its upstreams and load generators, and of gateways that have ended."""
        return sum(os.times()[:4]) + sum(proctree.cpu_seconds(pid) for pid in self._upstreams)

    def _direct(self, plain: Server, paced: Server) -> Values:
        headers = {"Content-Type": "application/json"}
        chat = Started(plain, Target(plain.port, headers), upstreams.MODEL)
        stream = Started(paced, Target(paced.port, headers), upstreams.MODEL)
        values = self._answers(chat) | self._streams(stream, paced)
        # Those are the upstream's own, which are no part of the comparison.
        return {name: value for name, value in values.items() if not name.endswith(("_cpu_us", "_mb"))}

    def _gateway(self, gateway: Gateway, plain: Server, paced: Server) -> Values:
        with gateways.started(gateway, plain, self._cache, self._scratch) as up:
            values = {"cold_start_s": up.server.cold_start_s, "rss_idle_mb": self._rss(up)}
            values |= self._answers(up)
        if gateway.streams:
            with gateways.started(gateway, paced, self._cache, self._scratch, stream=True) as up:
                values |= self._streams(up, paced)
        return values

    def _rss(self, up: Started) -> float:
        return proctree.memory(up.server.pid).largest_rss_mb

    def _answers(self, up: Started) -> Values:
        small = self._body(up, SMALL_BYTES)
        self._warm_up(up, small)
        values = self._loaded(up, small, CONNECTIONS, "c32")
        values |= self._loaded(up, small, 1, "c1")
        values |= self._loaded(up, self._body(up, LARGE_BYTES), CONNECTIONS, "large")
        memory = proctree.memory(up.server.pid)
        return values | {"rss_loaded_mb": memory.largest_rss_mb, "tree_pss_mb": memory.total_pss_mb}

    def _body(self, up: Started, size: int) -> Path:
        path = self._scratch / f"{up.model}-{size}.json"
        path.write_bytes(chat_body(up.model, size))
        return path

    def _warm_up(self, up: Started, body: Path) -> None:
        """Load until caches, pools and lazy imports have settled; a slow gateway is given longer."""
        began, requests = time.monotonic(), 0
        while requests < _WARM_UP_REQUESTS and time.monotonic() - began < _WARM_UP_MAX_S:
            requests += wrk(up.target, body, CONNECTIONS, _WARM_UP_S).requests

    def _loaded(self, up: Started, body: Path, connections: int, prefix: str) -> Values:
        before = proctree.cpu_seconds(up.server.pid)
        load = wrk(up.target, body, connections, self._options.seconds)
        used = proctree.cpu_seconds(up.server.pid) - before
        values = {"rps": load.rate, "p50_ms": load.p50_ms, "p99_ms": load.p99_ms, "errors": float(load.errors)}
        if load.requests:
            values["cpu_us"] = used / load.requests * 1e6
        return {f"{prefix}_{name}": value for name, value in values.items()}

    def _streams(self, up: Started, upstream: Server) -> Values:
        length_s = upstreams.CHUNKS * self._options.pace_ms / 1000
        # Long enough for streams to be seen to their end.
        seconds = max(self._options.seconds, 2.5 * length_s)

        def body(user: str) -> bytes:
            return chat_body(up.model, SMALL_BYTES, stream_as=user)

        sse_client.run(up.target, body, connections=STREAMS // 4, seconds=_WARM_UP_S, spread_s=0, mark="w")
        before = proctree.cpu_seconds(up.server.pid)
        # Started over the length of a stream, so that neither beginnings nor chunks of streams come in step.
        streams = sse_client.run(up.target, body, connections=STREAMS, seconds=seconds, spread_s=length_s)
        used = proctree.cpu_seconds(up.server.pid) - before
        first = [s.first_event_s * 1000 for s in streams if s.first_event_s is not None]
        chunks = sum(s.chunks for s in streams)
        if not first or not chunks:
            return {}
        identical, complete = _compare(streams, upstream)
        return {
            "stream_first_p50_ms": percentile(first, 0.50),
            "stream_first_p99_ms": percentile(first, 0.99),
            "stream_cpu_us": used / chunks * 1e6,
            "stream_chunks_per_s": chunks / seconds,
            "stream_complete": float(complete),
            "stream_identical": float(identical),
        }

    def _crowd(self, up: Started, upstream: Server) -> Values:
        def body(user: str) -> bytes:
            return chat_body(up.model, SMALL_BYTES, stream_as=user)

        length_s = upstreams.CHUNKS * self._options.crowd_pace_ms / 1000
        before, began = proctree.cpu_seconds(up.server.pid), time.monotonic()
        streams = sse_client.run(
            up.target, body, connections=CROWD, seconds=3 * length_s + 30, spread_s=2, per_connection=1, mark="crowd-"
        )
        took = time.monotonic() - began
        used = proctree.cpu_seconds(up.server.pid) - before
        first = [s.first_event_s * 1000 for s in streams if s.first_event_s is not None] or [float("nan")]
        identical, complete = _compare(streams, upstream)
        return {
            "streams": float(CROWD),
            "complete": float(complete),
            "identical": float(identical),
            "seconds": took,
            "cpu_us_per_chunk": used / max(1, sum(s.chunks for s in streams)) * 1e6,
            "first_p50_ms": statistics.median(first),
            "first_p99_ms": percentile(first, 0.99),
            "rss_loaded_mb": self._rss(up),
        }


def _compare(streams: Sequence[Stream], upstream: Server) -> tuple[int, int]:
    """How many streams are byte for byte what the upstream says it sent, and how many are complete."""
    received = get(upstream.port, "/sent", timeout=10)[1].partition(b"\r\n\r\n")[2]
    sent: dict[str, str] = json.loads(received)
    complete = [stream for stream in streams if stream.complete]
    return sum(stream.digest == sent.get(stream.user) for stream in complete), len(complete)
