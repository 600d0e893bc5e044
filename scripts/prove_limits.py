#!/usr/bin/env python3
"""Proves that caps hold, by counting at the upstream: `make prove-limits ARGS="--runs 20 --seconds 60"`.

Four router processes, 64 clients each, one budget of a dollar and one bucket of 100,000 tokens a minute, on SQLite and
on PostgreSQL; with and without a process killed every two seconds. Then one client that spends a budget through four
processes in turn, and a database that is away for ten seconds. Exits 1 where a promise was broken.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.postgres import Postgres, running_postgres
from support.storm import Report, outage, spend_in_turn, storm


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one run."""
    with tempfile.TemporaryDirectory(prefix="prove-limits-") as name:
        yield Path(name)


def line(what: str, database: str, seed: int, verdict: list[str], detail: str) -> bool:
    """Print one run; whether it held."""
    print(f"{what:22} {database:10} {seed:4}  {'held' if not verdict else 'BROKEN'}  {detail}", flush=True)
    for problem in verdict:
        print(f"    {problem}", flush=True)
    return not verdict


def told(report: Report) -> str:
    """A storm in a line."""
    cost = report.billed.nanousd
    return (
        f"billed {cost / 1e9:.9f} recorded {report.recorded / 1e9:.9f} presumed {report.presumed / 1e9:.9f} "
        f"tokens {report.billed.input + report.billed.output} answered {report.statuses.get('200', 0)} "
        f"refused {sum(n for s, n in report.statuses.items() if s.startswith('429'))} kills {report.kills}"
    )


def main() -> None:
    """Run all proofs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="seeded runs of each storm")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a storm lasts")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further run after so long")
    given = parser.parse_args()
    ends = time.monotonic() + given.minutes * 60
    held = []
    print("proof                  database   seed  verdict")
    with running_postgres() as postgres:
        for seed in range(1, given.runs + 1):
            for database in ("sqlite", "postgresql"):
                for what, kill_every in (("G1 G3 storm", None), ("G1 G2 storm with kills", 2.0)):
                    if time.monotonic() < ends:
                        with folder() as here:
                            url = _url(database, here, postgres)
                            report = asyncio.run(
                                storm(here, url, seed=seed, seconds=given.seconds, kill_every=kill_every)
                            )
                        held.append(line(what, database, seed, report.problems(), told(report)))
        for database in ("sqlite", "postgresql"):
            with folder() as here:
                turn = asyncio.run(spend_in_turn(here, _url(database, here, postgres), seed=1))
            detail = f"answered {turn.answered}, refused {turn.needed} with {turn.left} left"
            held.append(line("nobody wrongly refused", database, 1, turn.problems(), detail))
        with folder() as here:
            away: Any = asyncio.run(outage(here, postgres.database(), postgres.stop, postgres.start))
        held.append(
            line("database away", "postgresql", 1, away.problems(), f"{away.statuses}, back in {away.recovery:.2f} s")
        )
    print(f"{sum(held)} of {len(held)} held")
    sys.exit(not all(held))


def _url(database: str, here: Path, postgres: Postgres) -> str:
    return postgres.database() if database == "postgresql" else f"sqlite:///{here}/router.db"


if __name__ == "__main__":
    main()
