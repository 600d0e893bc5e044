"""An audit log in a file, which any number of processes continue as one chain.

Beside the log stands `FILE.head`: the lock that a process holds while it writes, and the last link of the chain. By it
the chain goes on in the next file when the log is rotated (renamed; never copied and truncated), and the end of the log
cannot be cut off unseen. It is written after the records, so a process that is killed leaves it behind the log's end
at the most, and the log's end then counts.
"""

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from stratmaster_router.telemetry.audit_records import Record, TornRecord, encoded
from stratmaster_router.telemetry.chain import START, Link, Seal, chained, read

BATCH = 128
"""Records that are made into lines in one go: half a millisecond in which the event loop does not run."""

_PATIENCE = 2.0  # seconds to wait for another process that writes
_LOOK_AGAIN = 0.002  # seconds
_ENDS = (64 * 1024, 1024 * 1024)  # bytes of the log's end in which its last record must be

_head = re.compile(rb"([0-9a-f]{16}) ([0-9]+) ([0-9a-f]{64})\n").match


def read_head(log: Path) -> Link | None:
    """The last link of the chain as `FILE.head` beside `log` has it; None where there is none. Raises OSError."""
    head = _head_of(log)
    return _link(head.read_bytes()) if head.exists() else None


class AuditFile:
    """One process's hand on the log. Its methods block, and one thread calls them.

    `last` is the last link that this process wrote or found.
    """

    def __init__(self, path: Path, seal: Seal) -> None:
        """Raises OSError where the log or its head cannot be written, or where the file is no audit log."""
        self._seal = seal
        # Appending, whatever another process does meanwhile; reading, for the log's end.
        self._log = _Named(path, os.O_RDWR | os.O_APPEND)
        self._head = _Named(_head_of(path), os.O_RDWR)
        with self._locked():
            self.last, _, _ = self._resume()

    def append(self, records: list[Record]) -> None:
        """Write `records`, taking from them what has been written, and have the disk keep it.

        Raises OSError; what is left then is to be tried again.
        """
        with self._locked():
            self.last, torn, ended = self._resume()
            while records:
                batch: list[Record] = [*torn, *records[:BATCH]]
                link, lines = chained(self.last, map(encoded, batch), self._seal)
                self._write(lines if ended else b"\n" + lines)
                del records[:BATCH]
                self.last, torn, ended = link, [], True
                os.pwrite(self._head.file, b"%b %d %b\n" % link, 0)
        os.fdatasync(self._log.file)

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._log.file)
        os.close(self._head.file)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, with the files open that have the names now."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            self._head.follow()
            try:
                fcntl.flock(self._head.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Never for ever: a process that is stopped may hold it.
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "another process holds it", str(self._head.path)) from None
                time.sleep(_LOOK_AGAIN)
                continue
            if self._head.is_named():
                break
        try:
            self._log.follow()
            yield
        finally:
            fcntl.flock(self._head.file, fcntl.LOCK_UN)

    def _resume(self) -> tuple[Link, list[Record], bool]:
        """Where the chain goes on; a record of what is torn, if anything is; whether the log's last line is ended."""
        tail, rest, ended = self._tail()
        link = _link(os.pread(self._head.file, 200, 0))
        if tail is not None and (link is None or (tail.chain == link.chain and tail.seq > link.seq)):
            link = tail
        torn: list[Record] = []
        if rest:
            junk = rest.removesuffix(b"\n")
            torn.append(TornRecord(datetime.now(UTC), len(junk), sha256(junk).hexdigest()))
        return link or Link(token_hex(8).encode(), 0, START), torn, ended

    def _tail(self) -> tuple[Link | None, bytes, bool]:
        """The last record of the log, what stands behind it, and whether the last line is ended."""
        size = os.fstat(self._log.file).st_size
        for end in _ENDS:
            data = os.pread(self._log.file, end, max(0, size - end))
            ended = not data or data.endswith(b"\n")
            lines = data.split(b"\n")
            for number in range(len(lines) - 1, -1, -1):
                entry = read(lines[number])
                if entry is not None:
                    return entry.link, b"\n".join(lines[number + 1 :]), ended
            if size <= end:
                return None, data, ended
        raise OSError(errno.EINVAL, "its end is not that of an audit log", str(self._log.path))

    def _write(self, lines: bytes) -> None:
        """Write all of `lines` or nothing. Raises OSError."""
        begin = os.fstat(self._log.file).st_size
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._log.file, rest) :]
        except OSError:
            # Where this fails too (an append-only file) the part stays, and is marked as torn by who writes next.
            with contextlib.suppress(OSError):
                os.ftruncate(self._log.file, begin)
            raise


class _Named:
    """An open file, and the name that it should have; it is made where there is none."""

    def __init__(self, path: Path, flags: int) -> None:
        """Raises OSError."""
        self.path = path
        self._flags = flags | os.O_CREAT | os.O_CLOEXEC
        self.file = os.open(path, self._flags, 0o640)

    def is_named(self) -> bool:
        """Whether the name is still this file's."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.file))
        except FileNotFoundError:
            return False

    def follow(self) -> None:
        """Open the file that has the name now, if that is another one. Raises OSError."""
        if not self.is_named():
            fresh = os.open(self.path, self._flags, 0o640)
            os.close(self.file)
            self.file = fresh


def _link(head: bytes) -> Link | None:
    found = _head(head)
    return None if found is None else Link(found[1], int(found[2]), found[3])


def _head_of(log: Path) -> Path:
    return log.with_name(f"{log.name}.head")
