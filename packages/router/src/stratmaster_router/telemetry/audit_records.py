"""The records of the audit log, each a JSON object with its kind in `event`. A field without a value is left out.

They hold names from the policy, numbers and verdicts; of content no more than a snippet that is redacted already.
"""

import json
from collections.abc import Callable
from datetime import datetime

import msgspec
from msgspec import Struct

from stratmaster_router.domain.routing import Considered, Refusal


class RequestRecord(Struct, gc=False, tag_field="event", tag="request", omit_defaults=True):
    """One request. `time` is when it ended, `ms` how long it took; `status` is 499 where its client went away first.

    `credential` is what it came with (`Principal.credential`). `task` or `model_asked` is what was asked for, where the
    policy knows it. `trace` is the decision's, `attempts` are the calls that were made or kept from being made.
    `raw_docs` says why the request carries raw documents, `limit` which account refused it. Tokens and cost are those
    of the ledger: `cost_nanousd` is absent where a price is not known, and all are where no upstream was called.
    `redacted` says what the provider was not sent, such as `card=1,email=2`. `prompt` is a redacted snippet,
    `prompt_fingerprint` a keyed hash of the whole.
    """

    time: datetime
    request_id: str
    method: str
    path: str
    status: int
    ms: float
    tenant: str | None = None
    credential: str | None = None
    task: str | None = None
    model_asked: str | None = None
    stream: bool = False
    code: str | None = None
    policy: str | None = None
    refusal: Refusal | None = None
    raw_docs: str | None = None
    limit: str | None = None
    trace: tuple[Considered, ...] = ()
    attempts: tuple[Struct, ...] = ()
    provider: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    cost_nanousd: int | None = None
    estimated: bool = False
    redacted: str | None = None
    prompt: str | None = None
    prompt_fingerprint: str | None = None


LateRecord = Callable[[], RequestRecord]
"""Gives a record when it is written; called once or more, in the thread, and never raises."""


class PolicyRecord(Struct, frozen=True, gc=False, tag_field="event", tag="policy", omit_defaults=True):
    """A policy that one process has in force from `time` on (`act` is `loaded` or `changed`), or that it `refused`.

    `policy` is the hash of the one in force. `changes` names what differs from the former one, `files` the files that
    were read anew, `problems` the places of a refused one that are wrong.
    """

    time: datetime
    process: str
    act: str
    policy: str
    changes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class AdminRecord(Struct, frozen=True, gc=False, tag_field="event", tag="admin", omit_defaults=True):
    """What an administrator did to a key: `act` is such as `key.create`; `key` is its visible id, never the key."""

    time: datetime
    administrator: str
    act: str
    tenant: str
    key: str


class GapRecord(Struct, frozen=True, gc=False, tag_field="event", tag="gap"):
    """Before this one `lost` records were given up, because they could not be written for too long."""

    time: datetime
    process: str
    lost: int


class TornRecord(Struct, frozen=True, gc=False, tag_field="event", tag="torn"):
    """Before this one stand `size` bytes that are no record: one that a process was killed in the middle of.

    `sha256` is theirs, without the end of their last line.
    """

    time: datetime
    size: int
    sha256: str


Record = Struct | LateRecord

_encode = msgspec.json.Encoder().encode


def encoded(record: Record) -> bytes:
    """A record as JSON."""
    made = record if isinstance(record, Struct) else record()
    try:
        return _encode(made)
    except UnicodeEncodeError:
        # The name of a file need not be text (PEP 383), and no record may stand in the way of those behind it.
        return json.dumps(msgspec.to_builtins(made), separators=(",", ":")).encode()
