"""The audit log: a hash-chained record of every request, administrative act and change of the policy.

Records are gathered in memory as values; a thread makes them into lines and writes them several times a second, so that
a slow disk never stops the loop. A process that is killed loses those of its last interval. Where nothing can be
written requests go on: the records wait, and past `_MOST_PENDING` of them they are given up, counted, and a record says
how many, as soon as there can be one.
"""

import asyncio
import contextlib
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Protocol

import structlog

from stratmaster_router.telemetry.audit_file import BATCH, AuditFile
from stratmaster_router.telemetry.audit_records import AdminRecord, GapRecord, Record, encoded
from stratmaster_router.telemetry.chain import START, Link, Seal, chained
from stratmaster_router.telemetry.lines import write_lines

log = structlog.stdlib.get_logger("stratmaster_router")

_INTERVAL = 0.2  # seconds
_MOST_PENDING = 50_000  # records: at 1 KB each what a process can spare


class Sink(Protocol):
    """Where records go: one chain that goes on with each call. Methods block. `last` is the last link written."""

    last: Link

    def append(self, records: list[Record]) -> None:
        """Write `records`, taking from them what has been written. Raises OSError; the rest is to be tried again."""

    def close(self) -> None:
        """Let go of it."""


class AuditStream:
    """Standard output, a pipe or a device: a chain of this process's own, whose lines others write between."""

    def __init__(self, file: int, seal: Seal) -> None:
        """`file` is a descriptor that stays open."""
        self.last = Link(token_hex(8).encode(), 0, START)
        self._file = file
        self._seal = seal
        self._next = self.last
        self._unwritten = bytearray()
        self._batch = 0

    def append(self, records: list[Record]) -> None:
        """As `Sink.append`. A batch that is half written is not made anew: its rest is what is tried again."""
        while records:
            if not self._unwritten:
                batch = records[:BATCH]
                self._next, lines = chained(self.last, map(encoded, batch), self._seal)
                self._unwritten += lines
                self._batch = len(batch)
            write_lines(self._file, self._unwritten)
            self.last = self._next
            del records[: self._batch]

    def close(self) -> None:
        """Nothing: standard output is not this log's alone."""


class AuditLog:
    """Writes to `target`: `stdout`, a file's path, or None for nowhere; `enabled` says whether records go anywhere.

    `lost` counts the records that were given up: past `_MOST_PENDING` of them, or unwritten at the end.
    """

    def __init__(self, target: str | None, key: bytes, process: str) -> None:
        """`key` makes the chain's hashes, empty for none; `process` names this one in records of its own.

        Raises OSError where the file cannot be written or is no audit log.
        """
        self.lost = 0
        self._told = 0
        self._process = process
        self._pending: list[Record] = []
        self._unwritten: list[Record] = []
        self._failing = False
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._sink = None if target is None else _sink(target, Seal(key))
        self.enabled = self._sink is not None

    @property
    def last(self) -> Link | None:
        """The last record that this process wrote, or found when it started."""
        return None if self._sink is None else self._sink.last

    def add(self, record: Record) -> None:
        """Add one of `audit_records`; it is written within `_INTERVAL`. Nothing of it may change any more."""
        if self._sink is None:
            return
        if len(self._pending) >= _MOST_PENDING:
            self.lost += 1
            return
        self._pending.append(record)

    def act(self, administrator: str, act: str, tenant: str, key: str) -> None:
        """Record what an administrator did to a tenant's key: `act` is such as `key.create`, `key` its visible id."""
        self.add(AdminRecord(datetime.now(UTC), administrator, act, tenant, key))

    def start(self) -> None:
        """Begin to write, on the running loop."""
        if self._sink is not None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what is left and stop; a write under way comes first."""
        self._stop.set()
        if self._task is not None:
            await self._task
        if self._sink is not None:
            await self._flush(self._sink)
            self._sink.close()
        self.lost += len(self._pending) + len(self._unwritten)

    async def _run(self) -> None:
        assert self._sink is not None
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._stop.wait()
            await self._flush(self._sink)

    async def _flush(self, sink: Sink) -> None:
        if not self._unwritten:
            # While the sink fails its records stay pending, where they are counted.
            self._unwritten, self._pending = self._pending, []
            if self.lost > self._told:
                self._unwritten.append(GapRecord(datetime.now(UTC), self._process, self.lost - self._told))
                self._told = self.lost
        if self._unwritten:
            await asyncio.to_thread(self._write, sink)

    def _write(self, sink: Sink) -> None:
        try:
            sink.append(self._unwritten)
        except OSError as error:
            if not self._failing:
                log.error("audit log not written; its records are kept and tried again", reason=error.strerror)
            self._failing = True
        else:
            self._failing = False


def _sink(target: str, seal: Seal) -> Sink:
    if target == "stdout":
        return AuditStream(sys.stdout.fileno(), seal)
    path = Path(target)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        return AuditStream(os.open(path, os.O_WRONLY | os.O_APPEND), seal)
    return AuditFile(path, seal)
