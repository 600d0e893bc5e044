"""The access log: one JSON line for each request, with names, numbers and verdicts but never content or secrets.

Where the policy of a tenant says so a line has the redacted beginning of the prompt; that is written by the thread too.

Lines are gathered in memory and written by a thread several times a second, so that a slow disk or a full pipe never
stops the loop. A process that is killed loses the lines of its last interval; the ledger (not this log) is what counts.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from datetime import datetime

import msgspec
import structlog
from msgspec import Struct

from stratmaster_router.telemetry.lines import write_lines

log = structlog.stdlib.get_logger("stratmaster_router")

_INTERVAL = 0.2  # seconds
_MOST_PENDING = 50_000  # lines; where the sink stands still, lines past this are dropped and counted


class AccessLine(Struct, tag_field="event", tag="access", omit_defaults=True):
    """One line. Names come from the policy; times are in milliseconds."""

    time: datetime
    request_id: str
    method: str
    path: str
    status: int
    ms: float
    tenant: str | None = None
    task: str | None = None
    provider: str | None = None
    model: str | None = None
    stream: bool = False
    code: str | None = None
    attempts: int = 0
    overhead_ms: float | None = None
    first_event_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    policy: str | None = None
    redacted: str | None = None
    prompt: str | None = None
    prompt_fingerprint: str | None = None


LateLine = Callable[[], AccessLine]
"""Gives a line when it is written; called in the thread, and never raises."""


class AccessLog:
    """Writes to `target`: `stdout`, a file's path, or `off`. Raises OSError where the file cannot be opened.

    `dropped` counts the lines that were given up: past `_MOST_PENDING` of them, or unwritten at the end.
    """

    def __init__(self, target: str) -> None:
        self.dropped = 0
        self._encode = msgspec.json.Encoder().encode
        self._pending: list[bytes | LateLine] = []
        self._unwritten = bytearray()
        self._late = False  # whether `_pending` has late lines
        self._failing = False
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._file: int | None = None
        if target == "stdout":
            self._file = sys.stdout.fileno()
        elif target != "off":
            # Appending, so that the lines of several workers never overwrite each other.
            self._file = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    @property
    def enabled(self) -> bool:
        """Whether lines go anywhere."""
        return self._file is not None

    def write(self, line: AccessLine | LateLine) -> None:
        """Add a line; it is written within `_INTERVAL`."""
        if len(self._pending) >= _MOST_PENDING:
            self.dropped += 1
            return
        if isinstance(line, AccessLine):
            self._pending.append(self._encode(line))
        else:
            self._late = True
            self._pending.append(line)

    def start(self) -> None:
        """Begin to write, on the running loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what is left and stop; a write under way comes first."""
        self._stop.set()
        if self._task is not None:
            await self._task
        await self._flush()
        self.dropped += len(self._pending) + self._unwritten.count(b"\n")

    async def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._stop.wait()
            await self._flush()

    async def _flush(self) -> None:
        if not self._unwritten:
            # While the sink fails its lines stay pending, where they are counted.
            taken, self._pending = self._pending, []
            late, self._late = self._late, False
            self._unwritten += await asyncio.to_thread(self._joined, taken) if late else self._joined(taken)
        if self._unwritten:
            await asyncio.to_thread(self._write)

    def _joined(self, lines: list[bytes | LateLine]) -> bytes:
        return b"".join([(line if isinstance(line, bytes) else self._encode(line())) + b"\n" for line in lines])

    def _write(self) -> None:
        """Write `_unwritten`, taking from it what has been written; the rest is tried again."""
        file, lines = self._file, self._unwritten
        if file is None:
            lines.clear()
            return
        try:
            write_lines(file, lines)
        except OSError as error:
            if not self._failing:
                log.error("access log not written; its lines are kept and tried again", reason=error.strerror)
            self._failing = True
        else:
            self._failing = False
