"""`python -m bench.auth`: what it costs to judge a caller, in µs of CPU."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from stratmaster_router.auth.assertions import Assertions
from stratmaster_router.auth.authenticate import authenticate
from stratmaster_router.auth.credentials import Pepper, whole_key
from stratmaster_router.auth.issued import IssuedRing
from stratmaster_router.auth.jwks import parse_jwks
from stratmaster_router.auth.keys import KeyRing
from stratmaster_router.auth.store import DAY, StoredKey
from stratmaster_router.domain.errors import InvalidAssertion
from stratmaster_router.domain.service_accounts import Issuer, ServiceAccount, ServiceAccounts
from support.assertions import AUDIENCE, ISSUER, NOW, SUBJECT, jwks, kubernetes_claims, signer

SIGNERS = {algorithm: signer(algorithm, algorithm) for algorithm in ("ES256", "RS256", "EdDSA")}
STRANGER = signer("ES256", "stranger")
POLICY = ServiceAccounts({ISSUER: Issuer(ISSUER, AUDIENCE)}, {SUBJECT: ServiceAccount(SUBJECT, frozenset({"acme"}))})
KEYS = {ISSUER: parse_jwks(jwks(*(key.jwk() for key in SIGNERS.values())))}
PEPPER = Pepper(b"pepper" * 6)
ISSUED_KEYS = [whole_key(f"{n:012d}", n) for n in range(1000)]
ISSUED = IssuedRing(
    [StoredKey(f"{n:012d}", "acme", PEPPER.digest(key.encode()), 0, 90 * DAY) for n, key in enumerate(ISSUED_KEYS)],
    PEPPER,
    lambda: DAY,
    {},
)
RING = KeyRing({"acme": [b"sk-acme-0123456789abcdef"]} | {f"t{n}": [b"sk-%048d" % n] for n in range(1000)})

_LOOP = 1000
_ROUNDS = 31


class Row(NamedTuple):
    """A line of the table; times are µs of CPU for one call. `most` is what it must not exceed."""

    what: str
    median: float
    least: float
    most: float | None = None


def measured(what: str, loop: Callable[[], None], most: float | None = None) -> Row:
    """A row for `loop`, which does one thing `_LOOP` times."""
    times = []
    for _ in range(_ROUNDS):
        begun = time.process_time_ns()
        loop()
        times.append((time.process_time_ns() - begun) / 1000 / _LOOP)
    return Row(what, statistics.median(times), min(times), most)


def repeated(what: str, work: Callable[[], object], most: float | None = None) -> Row:
    """A row for `work`, which may be done again and again."""

    def loop() -> None:
        for _ in range(_LOOP):
            work()

    return measured(what, loop, most)


def judged_once(what: str, tokens: list[bytes], most: float | None = None) -> Row:
    """A row for tokens of which none is remembered, whether they are taken or refused."""

    def loop() -> None:
        judge = Assertions(POLICY, KEYS, lambda: NOW).judge
        for token in tokens:
            with contextlib.suppress(InvalidAssertion):
                judge(token)

    return measured(what, loop, most)


def _tokens(algorithm: str) -> list[bytes]:
    return [SIGNERS[algorithm].token(kubernetes_claims(jti=str(count))) for count in range(_LOOP)]


def _bare_es256() -> Callable[[], object]:
    """OpenSSL's part, without any token around it."""
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm = ec.ECDSA(hashes.SHA256())
    data = b"x" * 900
    signature = key.sign(data, algorithm)
    public = key.public_key()
    return lambda: public.verify(signature, data, algorithm)


def rows() -> list[Row]:
    """All that is measured."""
    assertions = Assertions(POLICY, KEYS, lambda: NOW)
    token = SIGNERS["ES256"].token(kubernetes_claims())
    with_key = {b"authorization": b"Bearer sk-acme-0123456789abcdef", b"x-tenant-id": b"acme"}
    with_issued = {b"authorization": b"Bearer " + ISSUED_KEYS[500].encode(), b"x-tenant-id": b"acme"}
    with_token = {b"authorization": b"Bearer " + token, b"x-tenant-id": b"acme"}
    forged = [STRANGER.token(kubernetes_claims(jti=str(count)), kid="ES256") for count in range(_LOOP)]
    unknown = [STRANGER.token(kubernetes_claims(jti=str(count))) for count in range(_LOOP)]

    def authenticated(headers: dict[bytes, bytes]) -> Callable[[], object]:
        return lambda: authenticate(
            RING, ISSUED, assertions, headers.get(b"authorization"), headers.get(b"x-tenant-id")
        )

    return [
        repeated("API key: the whole of authenticate", authenticated(with_key), 6.0),
        repeated("self-service key: the whole of authenticate", authenticated(with_issued), 6.0),
        repeated(f"assertion, remembered ({len(token)} bytes)", lambda: assertions.judge(token), 5.0),
        repeated("assertion, remembered: the whole of authenticate", authenticated(with_token)),
        judged_once("assertion, new, ES256", _tokens("ES256"), 250.0),
        judged_once("assertion, new, RS256", _tokens("RS256")),
        judged_once("assertion, new, EdDSA", _tokens("EdDSA")),
        judged_once("assertion refused: forged", forged),
        judged_once("assertion refused: unknown key", unknown),
        repeated("ES256 by OpenSSL alone", _bare_es256()),
    ]


def main() -> None:
    """Print the table; exit with 1 where `--check` is given and a figure is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.auth", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a 'must' is missed")
    arguments = parser.parse_args()
    table = rows()
    print("| what | median µs | least µs | must | verdict |")
    print("| --- | ---: | ---: | ---: | --- |")
    missed = False
    for row in table:
        late = row.most is not None and row.median > row.most
        missed |= late
        must, verdict = ("", "") if row.most is None else (f"≤ {row.most:g}", "MISSED" if late else "reached")
        print(f"| {row.what} | {row.median:.2f} | {row.least:.2f} | {must} | {verdict} |")
    if missed and arguments.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
