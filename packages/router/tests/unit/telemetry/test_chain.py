"""The chain's format, checked by other means than its own."""

import hashlib
import hmac
import json

import pytest
from stratmaster_router.telemetry.chain import START, Link, Seal, chained, read

KEY = bytes(range(32))
CHAIN = b"0123456789abcdef"
RECORDS = [
    b'{"event":"first"}',
    b'{"event":"second","text":"a \\"quoted\\" text"}',
    '{"event":"dritter","ü":1}'.encode(),
]


@pytest.mark.parametrize("key", [b"", b"k", KEY, bytes(64)], ids=["no key", "short", "32 bytes", "64 bytes"])
def test_hash_is_that_of_the_standards(key: bytes) -> None:
    """SHA-256 without a key, HMAC-SHA-256 with one, whatever the length of what is hashed."""
    for body in (b"", b"x", bytes(2047), bytes(2048), bytes(100_000)):
        standard = hmac.digest(key, body, "sha256").hex() if key else hashlib.sha256(body).hexdigest()
        assert Seal(key).hash(body) == standard.encode()


def test_key_is_no_longer_than_a_block() -> None:
    """HMAC would hash it first, which nothing here needs."""
    with pytest.raises(ValueError, match="64 bytes"):
        Seal(bytes(65))


@pytest.mark.parametrize("key", [b"", KEY], ids=["no key", "key"])
def test_lines_are_json_and_follow_each_other(key: bytes) -> None:
    """As docs/audit.md has it: members in this order, the hash over all before it, `prev` that of the line before."""
    last, lines = chained(Link(CHAIN, 0, START), RECORDS, Seal(key))

    assert lines.endswith(b"\n")
    prev = "0" * 64
    for number, (line, record) in enumerate(zip(lines.splitlines(), RECORDS, strict=True), 1):
        found = json.loads(line)
        assert list(found)[:3] == ["chain", "seq", "prev"]
        assert list(found)[-1] == "hash"
        own = found.pop("hash")
        assert found == {"chain": CHAIN.decode(), "seq": number, "prev": prev, **json.loads(record)}
        body = line.removesuffix(f',"hash":"{own}"}}'.encode())
        assert own == (hmac.digest(key, body, "sha256").hex() if key else hashlib.sha256(body).hexdigest())
        prev = own
    assert last == Link(CHAIN, 3, prev.encode())


def test_batches_make_the_same_lines_as_one() -> None:
    """Where a chain is cut into batches is not to be seen."""
    seal = Seal(KEY)
    last, lines = chained(Link(CHAIN, 0, START), RECORDS, seal)
    middle, first = chained(Link(CHAIN, 0, START), RECORDS[:1], seal)

    assert chained(middle, [], seal) == (middle, b"")
    assert chained(middle, RECORDS[1:], seal) == (last, lines[len(first) :])


def test_a_line_is_read_as_it_was_written() -> None:
    """Each part of it, and whether its hash is right."""
    seal = Seal(KEY)
    _, lines = chained(Link(CHAIN, 41, b"a" * 64), [b'{"event":"x","hash":"no","seq":7}'], seal)
    line = lines.removesuffix(b"\n")
    entry = read(line)

    assert entry is not None
    assert entry.link == Link(CHAIN, 42, line[-66:-2])
    assert (entry.prev, entry.members) == (b"a" * 64, b'"event":"x","hash":"no","seq":7')
    assert seal.holds(line)
    assert not Seal(b"").holds(line)
    assert not Seal(bytes(32)).holds(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"event":"access"}',
        b'{"chain":"0123456789abcdef","seq":0,"prev":"%b","a":1,"hash":"%b"}' % (START, START),
        b'{"chain":"0123456789abcdef","seq":01,"prev":"%b","a":1,"hash":"%b"}' % (START, START),
        b'{"chain":"0123456789ABCDEF","seq":1,"prev":"%b","a":1,"hash":"%b"}' % (START, START),
        b'{"chain":"0123456789abcdef","seq":1,"prev":"%b","hash":"%b"}' % (START, START),
        b'{"chain":"0123456789abcdef","seq":1,"prev":"%b","a":1,"hash":"%b"} ' % (START, START),
        b'{"chain":"0123456789abcdef", "seq":1,"prev":"%b","a":1,"hash":"%b"}' % (START, START),
        b'{"chain":"0123456789abcdef","seq":1,"prev":"%b","a":1,"hash":"%b"}' % (START, START[1:]),
    ],
)
def test_other_lines_are_no_records(line: bytes) -> None:
    """Only what is written to the byte as the router writes it is one."""
    assert read(line) is None
