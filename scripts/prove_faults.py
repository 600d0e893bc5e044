#!/usr/bin/env python3
"""Proves what a failing provider does to a client: `make prove-faults ARGS="--rounds 5"`.

First the fault matrix (packages/router/tests/support/matrix.py): each fault in each phase, plain and streamed, with
the status, code, attempts and cost that are due. Then times: how far a request outlives its total deadline, what a dead
provider adds once its breaker is open, how long an upstream is held after its client has left, and what the death of
the LiteLLM bridge costs others. Each line that has a bound says whether it was held, and the end says which were not;
then it exits 1. On a busy machine the times mean little: the load is printed at first, and the end says where it was
more than there are cores.

Run it by `make prove-faults`, which has what it imports; `make prove-faults ARGS=--help` lists the options.
"""

import argparse
import asyncio
import faulthandler
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support.figures import Added, Figure, dead_bridge, dead_providers, disconnects, overruns
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


def matrix() -> list[str]:
    """Run all cells and print the table; those that are not as expected."""
    print(f"{'phase':24} {'fault':34} {'':6}  {'found: status, code, attempts, nano-dollars':52}  expected")
    with folder() as here, running_matrix(here) as running, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(running.run, CELLS))
    failed = []
    for cell, outcome in zip(CELLS, found, strict=True):
        same = outcome == cell.expected
        if not same:
            failed.append(cell.name)
        kind = "stream" if cell.stream else "plain"
        verdict = "the same: ok" if same else f"{told(cell.expected)}: DIFFERS"
        print(f"{cell.phase:24} {cell.fault:34} {kind:6}  {told(outcome):52}  {verdict}")
    print(f"{len(CELLS) - len(failed)} of {len(CELLS)} cells as expected\n", flush=True)
    return failed


def timed(figures: list[Figure]) -> list[str]:
    """Print what was measured; the kinds of request of which one took too long."""
    for figure in figures:
        print(figure, "held" if figure.worst <= figure.most else "TOO LONG")
    return [figure.what for figure in figures if figure.worst > figure.most]


def added(kind: str, rounds: list[Added]) -> list[str]:
    """Print what a dead provider adds; the kind, where the median of the rounds is too much."""
    p50, p99 = ([each.more(percent) for each in rounds] for percent in (50, 99))
    held = statistics.median(p99) <= ADDED_AT_MOST
    alone = statistics.median(each.alone[len(each.alone) // 2] for each in rounds)
    more = ", ".join(
        f"{name} {statistics.median(found):+.2f} [{min(found):+.2f} … {max(found):+.2f}]"
        for name, found in (("p50", p50), ("p99", p99))
    )
    verdict = "held" if held else "TOO MUCH"
    print(f"{kind:8} p50 without it {alone:.2f}, added {more} (p99 at most {ADDED_AT_MOST:g}): {verdict}")
    return [] if held else [f"added to {kind}"]


def busy() -> bool:
    """Print the load of the last minute; whether it is more than the machine has cores for."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    print(f"Load {load:.1f} on {cores} cores")
    return load > cores


def main() -> None:
    """Run all and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--count", type=int, default=40, help="requests of each kind that stalls or is left; 4 at least"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds behind a dead provider")
    parser.add_argument("--requests", type=int, default=1000, help="requests of each kind in a round")
    parser.add_argument("--deaths", type=int, default=5, help="deaths of the LiteLLM bridge")
    parser.add_argument("--minutes", type=float, default=10.0, help="give up after so long")
    given = parser.parse_args()
    faulthandler.dump_traceback_later(given.minutes * 60, exit=True)
    was_busy = busy()  # before: what is measured here is a load itself
    failed = matrix()

    print("Beyond the total deadline of 500 ms, in ms")
    with folder() as here:
        figures = asyncio.run(overruns(here, given.count))
    failed += timed(figures)
    print("\nUntil the upstream is let go after the client has left, in ms")
    with folder() as here:
        left = asyncio.run(disconnects(here, given.count))
    failed += timed(left)

    print(f"\nBehind a dead provider whose breaker is open, {given.rounds} rounds of {given.requests}, in ms")
    with folder() as here:
        rounds = asyncio.run(dead_providers(here, given.rounds, given.requests))
    for kind, found in rounds.items():
        failed += added(kind, found)

    print(f"\nNative requests while the LiteLLM bridge is dead and comes back, {given.deaths} deaths, in ms")
    with folder() as here:
        failed += added("bridge", asyncio.run(dead_bridge(here, given.deaths, given.requests)))
    print("All held." if not failed else "\n".join(["NOT held:", *failed]))
    if was_busy:
        print("The machine was busy with other work before this began, so the times mean little.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
