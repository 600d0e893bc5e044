#!/usr/bin/env python3
"""Proves what a failing provider does to a client: `make prove-faults ARGS="--rounds 5"`.

First the fault matrix (packages/router/tests/support/matrix.py): each fault in each phase, plain and streamed, with
the status, code, attempts and cost that are due. Then times: how far a request outlives its total deadline, what a dead
provider adds once its breaker is open, how long an upstream is held after its client has left, and what the death of
the LiteLLM bridge costs others. Exits 1 where a cell differs or a time is too long. On a busy machine the times mean
little.
"""

import argparse
import asyncio
import faulthandler
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support.figures import Added, dead_bridge, dead_providers, disconnects, overruns
from support.matrix import CELLS, Outcome
from support.matrix_run import running_matrix

ADDED_AT_MOST = 5.0  # milliseconds, at p99


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one run."""
    with tempfile.TemporaryDirectory(prefix="prove-faults-") as name:
        yield Path(name)


def told(outcome: Outcome) -> str:
    """An outcome in a line; `~` marks an estimate."""
    mark = "~" if outcome.estimated else ""
    words = f"{outcome.status} {outcome.code or '-'} {outcome.attempts} {mark}{outcome.cost}"
    return " ".join([words, *(f"[{problem}]" for problem in outcome.problems)])


def matrix() -> bool:
    """Run all cells and print the table; whether each is as expected."""
    print(f"{'phase':24} {'fault':34} {'':6}  {'found: status, code, attempts, nano-dollars':52}  expected")
    with folder() as here, running_matrix(here) as running, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(running.run, CELLS))
    held = 0
    for cell, outcome in zip(CELLS, found, strict=True):
        same = outcome == cell.expected
        held += same
        kind = "stream" if cell.stream else "plain"
        verdict = "the same: ok" if same else f"{told(cell.expected)}: DIFFERS"
        print(f"{cell.phase:24} {cell.fault:34} {kind:6}  {told(outcome):52}  {verdict}")
    print(f"{held} of {len(CELLS)} cells as expected\n", flush=True)
    return held == len(CELLS)


def added(kind: str, rounds: list[Added]) -> bool:
    """Print what a dead provider adds; whether the median of the rounds is small enough."""
    p50, p99 = ([each.more(percent) for each in rounds] for percent in (50, 99))
    held = statistics.median(p99) <= ADDED_AT_MOST
    alone = statistics.median(each.alone[len(each.alone) // 2] for each in rounds)
    more = ", ".join(
        f"{name} {statistics.median(found):+.2f} [{min(found):+.2f} … {max(found):+.2f}]"
        for name, found in (("p50", p50), ("p99", p99))
    )
    verdict = "held" if held else "TOO MUCH"
    print(f"{kind:8} p50 without it {alone:.2f}, added {more} (p99 at most {ADDED_AT_MOST:g}): {verdict}")
    return held


def main() -> None:
    """Run all and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="requests of each kind that stalls or is left")
    parser.add_argument("--rounds", type=int, default=5, help="rounds behind a dead provider")
    parser.add_argument("--requests", type=int, default=1000, help="requests of each kind in a round")
    parser.add_argument("--deaths", type=int, default=5, help="deaths of the LiteLLM bridge")
    parser.add_argument("--minutes", type=float, default=10.0, help="give up after so long")
    given = parser.parse_args()
    faulthandler.dump_traceback_later(given.minutes * 60, exit=True)
    held = [matrix()]

    print("Beyond the total deadline of 500 ms, in ms")
    with folder() as here:
        figures = asyncio.run(overruns(here, given.count))
    print("\n".join(map(str, figures)))
    print("\nUntil the upstream is let go after the client has left, in ms")
    with folder() as here:
        left = asyncio.run(disconnects(here, given.count))
    print("\n".join(map(str, left)))
    held += [figure.worst <= figure.most for figure in (*figures, *left)]

    print(f"\nBehind a dead provider whose breaker is open, {given.rounds} rounds of {given.requests}, in ms")
    with folder() as here:
        rounds = asyncio.run(dead_providers(here, given.rounds, given.requests))
    held += [added(kind, found) for kind, found in rounds.items()]

    print(f"\nNative requests while the LiteLLM bridge is dead and comes back, {given.deaths} deaths, in ms")
    with folder() as here:
        held.append(added("bridge", asyncio.run(dead_bridge(here, given.deaths, given.requests))))
    print("All held." if all(held) else "NOT all held.")
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
