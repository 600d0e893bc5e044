"""What an audit record costs: on the request's way, and in the thread that writes.

    PYTHONPATH=packages/router/tests .venv/bin/python scripts/measure_audit.py

Microseconds of CPU a record, the best of five rounds, for a request with a trace of two lines and one attempt.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any, cast

from stratmaster_router.domain.routing import Considered, Decision, Hop, Provider
from stratmaster_router.domain.usage import Usage
from stratmaster_router.gateway.settlement import Recorder, Settlement
from stratmaster_router.limits.reservation import Reservation
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.redact import Redactor
from stratmaster_router.telemetry.access_log import AccessLog
from stratmaster_router.telemetry.audit import AuditLog
from stratmaster_router.telemetry.audit_file import AuditFile
from stratmaster_router.telemetry.audit_records import Record
from stratmaster_router.telemetry.chain import Seal
from stratmaster_router.telemetry.metrics import Metrics
from stratmaster_router.telemetry.verify import Verifier
from stratmaster_router.upstream.attempts import Attempt
from stratmaster_router.upstream.trip import Trip

COUNT = 20_000
ROUNDS = 5
KEY = bytes(32)


def settlement(number: int) -> Settlement:
    hop = Hop(Provider("openai", "openai", "http://openai/v1"), "gpt-4.1")
    trace = (
        Considered("openai", "gpt-4.1", True, "default of the task"),
        Considered("openai", "gpt-4o-mini", True, "fallback of the task"),
    )
    attempt = Attempt("openai", "gpt-4.1", 200, None, 1.94)
    # A reservation that is settled, as far as records read it; one of a limiter's would be measured too.
    reservation = SimpleNamespace(used=Usage(2, 3), cost=28_000, estimated=False, settled=True)
    return Settlement(
        f"req_ceee72fcb6ff1317{number:08x}",
        "POST",
        "/v1/chat/completions",
        perf_counter(),
        tenant="acme",
        credential="folder",
        decision=Decision("22b1c921ca0c", "reasoning", (hop,), None, trace),
        trip=Trip([attempt], 0.002, calls=1, last=attempt),
        hop=hop,
        usage=Usage(2, 3),
        status=200,
        overhead=0.0001,
        reservation=cast(Reservation, reservation),
    )


def settled(audit: AuditLog) -> Callable[[], None]:
    """Settling `COUNT` requests."""
    recorder = Recorder(Metrics(), AccessLog("off"), audit, lambda _: None, Redactor(Detector, KEY))
    settlements = [settlement(number) for number in range(COUNT)]

    def run() -> None:
        for each in settlements:
            recorder.settle(each)

    return run


def best(make: Callable[[], Callable[[], Any]]) -> float:
    """Microseconds of CPU for each of `COUNT`."""
    found = []
    for _ in range(ROUNDS):
        run = make()
        began = process_time()
        run()
        found.append(process_time() - began)
    return min(found) / COUNT * 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "audit.log"
        on = AuditLog(str(log), KEY, "p")
        # Past the most that may be pending records are dropped, so each round has a log of its own.
        without = best(lambda: settled(AuditLog(None, b"", "p")))
        path = best(lambda: settled(AuditLog(str(log), KEY, "p")))
        settled(on)()
        records: list[Record] = on._pending
        print(f"on the request's way: {path - without:.2f} µs (settling without: {without:.2f})")
        for name, key in (("HMAC-SHA-256", KEY), ("SHA-256", b"")):
            file = AuditFile(Path(folder) / f"{name}.log", Seal(key))
            cost = best(lambda file=file: lambda copy=records[:]: file.append(copy))  # type: ignore[misc]
            print(f"in the thread, {name}: {cost:.2f} µs")
            lines = (Path(folder) / f"{name}.log").read_bytes().splitlines(keepends=True)
            verifier = Verifier(Seal(key), set())
            began = process_time()
            broken = [finding for line in lines for finding in verifier.line(line)]
            assert broken == []
            print(f"verifying, {name}: {(process_time() - began) / len(lines) * 1e6:.2f} µs")
        print(f"a line: {len(lines[-1])} bytes")


main()
