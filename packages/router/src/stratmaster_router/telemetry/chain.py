"""The chain of the audit log: every record holds the hash of the one before it. Pure.

A line is one JSON object: the members `chain`, `seq` and `prev`, those of the record, and last `hash`, which is over
every byte of the line before it. With a key it is HMAC-SHA-256 (RFC 2104), so that nobody without the key can make
one; without a key it is SHA-256. `seq` counts from 1, and `prev` is the `hash` of record `seq` - 1 of the same chain.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

START = b"0" * 64
"""`prev` of the first record."""

_BLOCK = 64  # bytes; SHA-256's (FIPS 180-4)
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_END = len(',"hash":""}') + len(START)

_BEGIN = b'{"chain":"'
_finished = re.compile(rb',"hash":"[0-9a-f]{64}"\}').search
_record = re.compile(
    rb'\{"chain":"([0-9a-f]{16})","seq":([1-9][0-9]{0,18}),"prev":"([0-9a-f]{64})",(.+),"hash":"([0-9a-f]{64})"\}'
).fullmatch


class Link(NamedTuple):
    """A place of a chain: what the next record follows. `seq` 0 and `START` are the place before the first one."""

    chain: bytes
    seq: int
    hash: bytes


class Entry(NamedTuple):
    """A line as it is written. `link` is what it says of itself, `members` are those of the record."""

    link: Link
    prev: bytes
    members: bytes


class Seal:
    """Makes the hashes.

    HMAC is spelled out, because `hmac.digest` lets go of the interpreter for each record: in a thread beside a busy
    event loop getting it back costs up to 5 ms each time. `sha256` keeps it for what is shorter than 2 KB.
    """

    def __init__(self, key: bytes) -> None:
        """`key` is secret; empty where there is none. Raises ValueError for one of more than 64 bytes."""
        if len(key) > _BLOCK:
            raise ValueError("a key of the chain has 64 bytes at the most")
        self.keyed = bool(key)
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = padded.translate(_INNER)
        self._outer = padded.translate(_OUTER)

    def hash(self, body: bytes) -> bytes:
        """The hash of a line's bytes before `,"hash":`, as 64 hex characters."""
        if not self.keyed:
            return sha256(body).hexdigest().encode()
        return sha256(self._outer + sha256(self._inner + body).digest()).hexdigest().encode()

    def holds(self, line: bytes) -> bool:
        """Whether the hash of a line that `read` can read is that of its bytes."""
        return self.hash(line[:-_END]) == line[-_END + len(',"hash":"') : -2]


def chained(link: Link, records: Iterable[bytes], seal: Seal) -> tuple[Link, bytes]:
    """The lines of `records` behind `link`, and the link that the last of them makes.

    A record is a JSON object with at least one member, without white space around it.
    """
    chain, seq, last = link
    lines = []
    for record in records:
        seq += 1
        body = b'{"chain":"%b","seq":%d,"prev":"%b",%b' % (chain, seq, last, record[1:-1])
        last = seal.hash(body)
        lines.append(b'%b,"hash":"%b"}\n' % (body, last))
    return Link(chain, seq, last), b"".join(lines)


def read(line: bytes) -> Entry | None:
    """What stands in a line (without its end); None for what was not written as a record. Checks no hash."""
    found = _record(line)
    if found is None:
        return None
    chain, seq, prev, members, own = found.groups()
    return Entry(Link(chain, int(seq), own), prev, members)


def torn(line: bytes) -> bool:
    """Whether a line, which is no record, is the beginning of one."""
    return (line.startswith(_BEGIN) or _BEGIN.startswith(line)) and not _finished(line)
