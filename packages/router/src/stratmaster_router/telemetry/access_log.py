"""The access log: one JSON line for each request, with names, numbers and verdicts but never content or secrets.

Lines are gathered in memory and written by a thread several times a second, so that a slow disk or a full pipe never
stops the loop. A process that is killed loses the lines of its last interval; the ledger (not this log) is what counts.
"""

import asyncio
import contextlib
import os
import sys
from datetime import datetime

import msgspec
from msgspec import Struct

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


class AccessLog:
    """Writes to `target`: `stdout`, a file's path, or `off`. Raises OSError where the file cannot be opened."""

    def __init__(self, target: str) -> None:
        self.dropped = 0
        self._encode = msgspec.json.Encoder().encode
        self._pending: list[bytes] = []
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

    def write(self, line: AccessLine) -> None:
        """Add a line; it is written within `_INTERVAL`."""
        if len(self._pending) >= _MOST_PENDING:
            self.dropped += 1
            return
        self._pending.append(self._encode(line))

    def start(self) -> None:
        """Begin to write, on the running loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what is left and stop; lines that a thread is writing come first."""
        self._stop.set()
        if self._task is not None:
            await self._task
        await asyncio.to_thread(self._write, self._take())

    async def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _INTERVAL)
            if self._pending:
                await asyncio.to_thread(self._write, self._take())

    def _take(self) -> list[bytes]:
        taken, self._pending = self._pending, []
        return taken

    def _write(self, lines: list[bytes]) -> None:
        if self._file is None:
            return
        view = memoryview(b"".join([line + b"\n" for line in lines]))
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            # A full disk or a closed pipe may be mended while the router runs: only these lines are lost.
            self.dropped += bytes(view).count(b"\n")
