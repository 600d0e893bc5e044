"""Whatever is done to an audit log is found, and told at the place where it was done."""

import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.telemetry.chain import START, Link, Seal, chained
from stratmaster_router.telemetry.verify import Finding, Verifier
from support.bodies import json_objects, unhurried

KEY = bytes(range(32))
CHAIN = b"0123456789abcdef"


def check(lines: Sequence[bytes], key: bytes, *wanted: bytes) -> tuple[list[Finding], Verifier]:
    """What is told of these lines, and who told it."""
    verifier = Verifier(Seal(key), set(wanted))
    verifier.open("audit.log")
    found = [finding for line in lines for finding in verifier.line(line)]
    return found + verifier.close(), verifier


@st.composite
def logs(draw: st.DrawFn, least: int = 1) -> tuple[bytes, list[bytes]]:
    """A key, or none, and the lines of a log made with it."""
    key = draw(st.sampled_from([b"", KEY]))
    records = draw(st.lists(json_objects(min_size=1), min_size=least, max_size=9))
    written = [json.dumps(record, separators=(",", ":")).encode() for record in records]
    return key, chained(Link(CHAIN, 0, START), written, Seal(key))[1].splitlines(keepends=True)


@unhurried
@given(logs())
def test_an_untouched_log_has_nothing_to_tell(log: tuple[bytes, list[bytes]]) -> None:
    """Whatever its records hold."""
    key, lines = log
    last = json.loads(lines[-1])["hash"].encode()
    found, verifier = check(lines, key, last)

    assert found == []
    assert verifier.wanted == set()
    assert verifier.intact == len(lines)
    (chain,) = verifier.chains.values()
    assert (chain.first, chain.records, chain.last) == (1, len(lines), Link(CHAIN, len(lines), last))


@unhurried
@given(logs(), st.data())
def test_any_changed_byte_is_found_in_its_line(log: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    """Nothing that follows is doubted, but for what stands in the same line by now."""
    key, lines = log
    number = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.integers(0, len(lines[number]) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != lines[number][at]))
    changed = lines[number][:at] + bytes([value]) + lines[number][at + 1 :]
    text = b"".join([*lines[:number], changed, *lines[number + 1 :]])
    found, _ = check(_lines(text), key)

    assert found
    assert found[0].line == number + 1
    if value != ord("\n") and at < len(lines[number]) - 1:
        assert [finding.line for finding in found] == [number + 1]
        assert found[0].broken


def _lines(text: bytes) -> list[bytes]:
    """As a file gives them: LF ends a line, and nothing else does."""
    *whole, rest = text.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


@unhurried
@given(logs(least=3), st.data())
def test_removed_records_are_missed_where_they_stood(log: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    """The next record tells how many."""
    key, lines = log
    begin = data.draw(st.integers(1, len(lines) - 2))
    end = data.draw(st.integers(begin + 1, len(lines) - 1))
    found, _ = check(lines[:begin] + lines[end:], key)

    what = "1 record is" if end - begin == 1 else f"{end - begin} records are"
    assert found == [Finding("audit.log", begin + 1, end + 1, f"follows record {begin}: {what} missing")]


@unhurried
@given(logs(least=2), st.data())
def test_a_cut_end_is_found_by_a_hash_that_is_kept_elsewhere(
    log: tuple[bytes, list[bytes]], data: st.DataObject
) -> None:
    """In the log itself it is not to be seen; the hash of any record that is gone shows it."""
    key, lines = log
    end = data.draw(st.integers(1, len(lines) - 1))
    gone = data.draw(st.sampled_from(lines[end:]))
    known = json.loads(gone)["hash"].encode()
    found, verifier = check(lines[:end], key, known)

    assert found == []
    assert verifier.wanted == {known}


@unhurried
@given(logs(), st.data())
def test_a_cut_beginning_is_told(log: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    """As the number of the first record: older files may well be gone."""
    key, lines = log
    begin = data.draw(st.integers(0, len(lines) - 1))
    found, verifier = check(lines[begin:], key)

    assert found == []
    assert [chain.first for chain in verifier.chains.values()] == [begin + 1]


@unhurried
@given(logs(), st.data())
def test_repeated_records_are_found_where_they_are_repeated(
    log: tuple[bytes, list[bytes]], data: st.DataObject
) -> None:
    """Wherever the copy stands."""
    key, lines = log
    number = data.draw(st.integers(0, len(lines) - 1))
    to = data.draw(st.integers(number + 1, len(lines)))
    found, _ = check([*lines[:to], lines[number], *lines[to:]], key)

    assert [(finding.line, finding.seq, finding.broken) for finding in found] == [(to + 1, number + 1, True)]


@unhurried
@given(logs(least=2), st.data())
def test_moved_records_are_found(log: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    """In the first place where the order is another one, and no record that stands right is doubted."""
    key, lines = log
    order = data.draw(st.permutations(range(len(lines))).filter(lambda order: order != sorted(order)))
    found, _ = check([lines[number] for number in order], key)

    # What may be in its place: records that are higher than all before them.
    wrong = {place + 1 for place, number in enumerate(order) if any(before > number for before in order[:place])}
    first = next(place for place, number in enumerate(order) if place and number != order[place - 1] + 1)
    assert found[0].line == first + 1
    assert wrong <= {finding.line for finding in found}
    assert all(finding.broken for finding in found)


@unhurried
@given(logs(), st.binary(min_size=1, max_size=40).filter(lambda junk: b'{"event":"access",' not in junk), st.data())
def test_inserted_lines_are_found(log: tuple[bytes, list[bytes]], junk: bytes, data: st.DataObject) -> None:
    """Each is told, but for access lines, which prove nothing; the records around it still follow each other."""
    key, lines = log
    number = data.draw(st.integers(0, len(lines)))
    inserted = _lines(junk if junk.endswith(b"\n") else junk + b"\n")
    found, _ = check([*lines[:number], *inserted, *lines[number:]], key)

    assert [(finding.line, finding.seq) for finding in found] == [
        (number + 1 + place, None) for place in range(len(inserted))
    ]
    assert all(finding.broken for finding in found)


@unhurried
@given(logs(least=2), st.data())
def test_a_record_made_without_the_key_is_found(log: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    """With a key in its own line. Without one anybody can make a record, but not the one that the next one follows."""
    key, lines = log
    number = data.draw(st.integers(0, len(lines) - 2))
    before = json.loads(lines[number - 1])["hash"].encode() if number else START
    _, forged = chained(Link(CHAIN, number, before), [b'{"event":"forged"}'], Seal(b""))
    found, _ = check([*lines[:number], forged, *lines[number + 1 :]], key)

    assert [finding.line for finding in found] == [number + 1 if key else number + 2]


@unhurried
@given(logs(least=2), st.data())
def test_chains_may_be_mixed(log: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    """As several processes mix theirs on one standard output, with their access lines."""
    key, lines = log
    _, others = chained(Link(b"f" * 16, 0, START), [b'{"event":"other"}'] * 5, Seal(key))
    queues = [lines[:], others.splitlines(keepends=True), [b'{"event":"access","status":200}\n'] * 3]
    mixed = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(data.draw(st.sampled_from(queues)).pop(0))
    found, verifier = check(mixed, key)

    assert found == []
    assert {chain.last.seq for chain in verifier.chains.values()} == {len(lines), 5}
