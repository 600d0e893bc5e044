"""Checking an audit log, line by line: what is broken, and where. Pure.

The laws, for the records of one chain in the order of their lines:

- the hash of each is that of its bytes, else it was altered;
- each has the `seq` after that of the one before, else records are missing, or it stands in the wrong place;
- each has the hash of the one before in `prev`, else one of the two was replaced.

A line that is no record breaks the log, but for access lines (of a router that writes both logs to one place) and for
the beginning of a record that a process was killed in the middle of: the record after it tells of it.
"""

from hashlib import sha256

import msgspec
from msgspec import Struct

from stratmaster_router.telemetry.audit_records import GapRecord, TornRecord
from stratmaster_router.telemetry.chain import START, Entry, Link, Seal, read, torn

LONGEST = 1024 * 1024
"""Bytes of a line at the most, and of what can be marked as torn."""

_ACCESS = b'{"event":"access",'

_decode = msgspec.json.Decoder(GapRecord | TornRecord).decode


class Finding(Struct, frozen=True):
    """Something to tell of a place. `seq` is that of the record there, None where there is none.

    `broken` is False for what happened without anybody's hand on the log.
    """

    file: str
    line: int
    seq: int | None
    text: str
    broken: bool = True


class Chain(Struct):
    """One chain as far as it was followed: its first number in these files, its last link, how many lines it has.

    `damaged` is how many damaged lines had been seen in all when it was last followed.
    """

    first: int
    last: Link
    records: int
    damaged: int


class Verifier:
    """Takes the lines of one or several files, in their order.

    `chains` are those that they hold; `intact` is the number of records whose hash is right; `wanted` are the hashes
    that have not been seen yet of those that should be there.
    """

    def __init__(self, seal: Seal, wanted: set[bytes]) -> None:
        self.chains: dict[bytes, Chain] = {}
        self.intact = 0
        self.wanted = set(wanted)
        self._seal = seal
        self._damaged = 0
        self._file = ""
        self._line = 0
        # Lines that are no record, until the next record says whether it knows of them.
        self._strange: list[Finding] = []
        self._bytes = bytearray()

    def open(self, file: str) -> None:
        """Go on with the first line of `file`."""
        self._file = file
        self._line = 0

    def line(self, data: bytes) -> list[Finding]:
        """What is to be told once `data` has come: a line with its end, or the last one of a file without it."""
        self._line += 1
        line = data.removesuffix(b"\n")
        entry = read(line)
        if entry is not None:
            return self._record(line, entry)
        if line.startswith(_ACCESS):
            return []
        self._strange.append(self._finding(None, "is no record"))
        self._bytes += data
        return self._told() if len(self._bytes) > LONGEST else []

    def close(self) -> list[Finding]:
        """What is to be told at the end of a file. The beginning of a record may stand there, and nobody have told."""
        last = self._bytes[self._bytes.rfind(b"\n") + 1 :]
        if last and torn(bytes(last)):
            text = "is the beginning of a record: a process was killed, or what followed was cut off"
            self._strange[-1] = self._finding(None, text, broken=False)
        return self._told()

    def _finding(self, entry: Entry | None, text: str, *, broken: bool = True) -> Finding:
        return Finding(self._file, self._line, None if entry is None else entry.link.seq, text, broken)

    def _told(self) -> list[Finding]:
        found, self._strange, self._bytes = self._strange, [], bytearray()
        self._damaged += sum(finding.broken for finding in found)
        return found

    def _record(self, line: bytes, entry: Entry) -> list[Finding]:
        if not self._seal.holds(line):
            altered = self._finding(entry, "was altered: its hash is not that of its content")
            self._damaged += 1
            return [*self._told(), altered]
        self.intact += 1
        self.wanted.discard(entry.link.hash)
        found: list[Finding] = []
        if entry.members.startswith((b'"event":"torn"', b'"event":"gap"')):
            found += self._event(entry)
        found += self._told()
        return found + self._follow(entry)

    def _event(self, entry: Entry) -> list[Finding]:
        try:
            event = _decode(b"{%b}" % entry.members)
        except msgspec.DecodeError:
            return []
        if isinstance(event, GapRecord):
            return [
                self._finding(entry, f"tells of {event.lost} records before it that could not be written", broken=False)
            ]
        line = bytes(self._bytes.removesuffix(b"\n"))
        if len(self._strange) != 1 or not torn(line) or event.sha256 != sha256(line).hexdigest():
            return []  # what it tells of is not there; what is there instead is broken
        text = f"tells of the {event.size} bytes before it, which a process was killed in the middle of"
        self._strange, self._bytes = [], bytearray()
        return [self._finding(entry, text, broken=False)]

    def _follow(self, entry: Entry) -> list[Finding]:
        link = entry.link
        chain = self.chains.get(link.chain)
        if chain is None:
            self.chains[link.chain] = Chain(link.seq, link, 1, self._damaged)
            if link.seq == 1 and entry.prev != START:
                return [self._finding(entry, "is the first of its chain and names one before it")]
            return []
        chain.records += 1
        last = chain.last
        if link.seq <= last.seq:
            how = "is there twice" if link == last else f"stands behind record {last.seq}: moved or repeated"
            return [self._finding(entry, how)]
        missing = link.seq - last.seq - 1
        # Damaged lines, which were told of, stand for as many records.
        unexplained = missing - (self._damaged - chain.damaged)
        chain.last, chain.damaged = link, self._damaged
        if unexplained > 0:
            what = "1 record is" if unexplained == 1 else f"{unexplained} records are"
            return [self._finding(entry, f"follows record {last.seq}: {what} missing")]
        if missing == 0 and entry.prev != last.hash:
            return [self._finding(entry, f"does not follow the record {last.seq} before it: one was replaced")]
        return []
