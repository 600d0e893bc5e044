"""`python -m bench`: measure the router and its rivals in one run, and report."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from . import gateways, install, report
from .measure import Bench, Options
from .servers import NotStarted

ROOT = Path(__file__).resolve().parent.parent
_MOST_FILES = 20_000  # the crowd needs some 2,000 in the gateway


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [gateway.name for gateway in gateways.ALL]
    parser.add_argument("--rounds", type=int, help="rounds over all gateways (default: 5)")
    parser.add_argument("--seconds", type=float, help="length of each measurement (default: 6)")
    parser.add_argument("--pairs", type=int, help="turns of those that are compared side by side (default: 30)")
    parser.add_argument("--only", default=",".join(names), help=f"comma-separated, of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 s: to see that it works, not to quote")
    parser.add_argument("--no-crowd", action="store_true", help="leave out the 1,000 concurrent streams")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a 'must' is missed")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "bench", help="where rivals are installed")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="where to write latest.*")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(names):
        parser.error(f"unknown gateways: {', '.join(sorted(unknown))}")
    return arguments


def _machine(options: Options) -> dict[str, str]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": f"{model[0].partition(':')[2].strip() if model else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{gigabytes:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python of the router and of LiteLLM": _version(install.fastest_python()),
        "rounds": f"{options.rounds} of {options.seconds:g} s a measurement",
        "values": "medians over the rounds, least–greatest in brackets; ratios are taken within a round",
    }


def _version(python: str) -> str:
    done = subprocess.run([python, "--version"], capture_output=True, text=True, timeout=20, check=True)
    return f"{done.stdout.strip()}, {Path(python).resolve()}"


def _chart(cache: Path, results: Path) -> None:
    try:
        python = install.python_package(cache, "matplotlib") / "python"
        command = [str(python), str(Path(__file__).with_name("plot.py"))]
        subprocess.run([*command, f"{results}/latest.json", f"{results}/latest.png"], check=True, timeout=120)
    except (NotStarted, subprocess.SubprocessError) as reason:
        print(f"no chart: {reason}", file=sys.stderr)


def _write(bench: Bench, machine: dict[str, str], arguments: argparse.Namespace) -> None:
    chosen = {gateway.name: gateway.what for gateway in gateways.ALL if gateway.name in arguments.only}
    arguments.results.mkdir(parents=True, exist_ok=True)
    values = report.as_json(bench.results, machine, chosen)
    (arguments.results / "latest.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    text = report.markdown(bench.results, machine, chosen)
    (arguments.results / "latest.md").write_text(text)
    _chart(arguments.cache, arguments.results)
    print(text)


def main() -> int:
    """Run, report, and return the exit code."""
    arguments = _arguments()
    # SIGTERM as an exception, so that the servers are ended on the way out as they are on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES if hard < 0 else min(hard, _MOST_FILES), hard))
    if missing := install.tools():
        print(f"missing, and not to be installed by this user: {', '.join(missing)} (Debian packages)", file=sys.stderr)
        return 2
    options = Options(rounds=2, seconds=2, pairs=4, crowd_pace_ms=50) if arguments.quick else Options()
    options = replace(
        options,
        rounds=arguments.rounds or options.rounds,
        seconds=arguments.seconds or options.seconds,
        pairs=arguments.pairs or options.pairs,
    )
    machine = _machine(options)
    chosen = [gateway for gateway in gateways.ALL if gateway.name in arguments.only]
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    arguments.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        bench = Bench(options, arguments.cache.resolve(), Path(scratch), say)
        bench.run([gateway for gateway in chosen if not gateway.paired])
        paired = [gateway for gateway in chosen if gateway.paired or gateway.name == gateways.ROUTER]
        if any(gateway.name == gateways.UNLIMITED for gateway in paired):
            bench.run_pairs(paired)
            bench.run_parts()
        router = next((gateway for gateway in chosen if gateway.name == gateways.ROUTER), None)
        if router is not None and router.name not in bench.results.skipped and not arguments.no_crowd:
            bench.run_crowd(router)
        machine["other work on the machine meanwhile"] = report.others(bench.results)
        _write(bench, machine, arguments)
    missed = [verdict for verdict in report.verdicts(bench.results) if verdict.verdict == "MISSED"]
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
