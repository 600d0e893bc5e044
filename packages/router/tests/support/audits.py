"""Reading audit logs in tests."""

import json
from pathlib import Path
from typing import Any

from stratmaster_router.telemetry.chain import Seal
from stratmaster_router.telemetry.verify import Finding, Verifier

_CHAIN = ("chain", "seq", "prev", "hash")


def findings(*files: Path, key: bytes = b"") -> list[Finding]:
    """What there is to tell of a log in these files; that it is one chain, and begins at its first record."""
    verifier = Verifier(Seal(key), set())
    found = []
    for file in files:
        verifier.open(file.name)
        with file.open("rb") as lines:
            for line in lines:
                found += verifier.line(line)
        found += verifier.close()
    assert [chain.first for chain in verifier.chains.values()] == [1]
    return found


def records(*files: Path, key: bytes = b"") -> list[dict[str, Any]]:
    """The records of a log that is one chain with nothing to tell of it, without the members of the chain."""
    assert findings(*files, key=key) == []
    found = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    return [{name: value for name, value in record.items() if name not in _CHAIN} for record in found]
