"""JSON Web Key Sets (RFC 7517): the public keys of an issuer, as far as the router accepts what they sign."""

from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct

RS256, ES256, EDDSA = "RS256", "ES256", "EdDSA"
ALGORITHMS = {RS256: RS256, ES256: ES256, EDDSA: EDDSA, "Ed25519": EDDSA}
"""What a token or a key may name as its algorithm, and which it is: RFC 9864 has given EdDSA's its own name."""

LARGEST_SET = 256 * 1024  # bytes
_MOST_KEYS = 100
_RSA_BITS = range(2048, 4096 + 1)  # shorter ones can be broken; the longer they are, the more a check costs

PublicKey = Callable[[bytes, bytes], bool]
"""Whether the second bytes are the key's signature of the first."""


class JwksInvalid(ValueError):
    """Not a key set. The message completes "the document …" and shows nothing of it."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys by `kid` and algorithm: a key is for one algorithm, whatever a token's header says.

    `problems` tells the operator what was left out and should not be there.
    """

    keys: Mapping[tuple[str, str], PublicKey] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


class _Jwk(Struct):
    """The members that matter; with its defaults a key is for signatures."""

    kty: str
    kid: str = ""
    alg: str | None = None
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""
    d: Any = UNSET


class _Jwks(Struct):
    keys: list[Raw]


class _LeftOut(Exception):
    """A key that should not be there as it is; the message says why."""


def parse_jwks(content: bytes) -> KeySet:
    """The keys of the document `content` that can check RS256, ES256 or EdDSA and have a `kid`.

    Keys for anything else are passed over. Raises `JwksInvalid`.
    """
    if len(content) > LARGEST_SET:
        raise JwksInvalid(f"is larger than {LARGEST_SET} bytes")
    try:
        written = msgspec.json.decode(content, type=_Jwks).keys
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise JwksInvalid("is no JSON Web Key Set") from None
    if len(written) > _MOST_KEYS:
        raise JwksInvalid(f"has more than {_MOST_KEYS} keys")
    keys: dict[tuple[str, str], PublicKey] = {}
    twice: set[tuple[str, str]] = set()
    problems = []
    for index, raw in enumerate(written):
        try:
            found = _read(raw)
        except _LeftOut as reason:
            problems.append(f"keys[{index}] {reason}")
            continue
        if found is None:
            continue
        name, key = found
        if name in keys:
            # Which of them has signed would be a guess.
            twice.add(name)
            problems.append(f"keys[{index}] has the kid of another key; neither is used")
        keys[name] = key
    for name in twice:
        del keys[name]
    return KeySet(keys, tuple(problems))


def _read(raw: Raw) -> tuple[tuple[str, str], PublicKey] | None:
    """The name and key in one entry of a set; None for one that is for something else."""
    try:
        jwk = msgspec.json.decode(raw, type=_Jwk)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _LeftOut("is not a JSON Web Key") from None
    match jwk.kty, jwk.crv:
        case "RSA", _:
            algorithm, members = RS256, {"n": jwk.n, "e": jwk.e}
        case "EC", "P-256":
            algorithm, members = ES256, {"crv": jwk.crv, "x": jwk.x, "y": jwk.y}
        case "OKP", "Ed25519":
            algorithm, members = EDDSA, {"crv": jwk.crv, "x": jwk.x}
        case _:
            return None
    fits = jwk.alg is None or ALGORITHMS.get(jwk.alg) == algorithm
    if not jwk.kid or jwk.use != "sig" or "verify" not in jwk.key_ops or not fits:
        return None
    if jwk.d is not UNSET:
        raise _LeftOut("is a private key: whoever can read this document can sign")
    return (jwk.kid, algorithm), _public_key(algorithm, {"kty": jwk.kty, **members})


def _public_key(algorithm: str, jwk: dict[str, str | list[str]]) -> PublicKey:
    # Not before there is a key: with cryptography it takes 40 ms and 9 MB.
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry
    from joserfc.jws import JWSRegistry

    try:
        if algorithm == RS256 and (bits := _bits(str(jwk["n"]))) not in _RSA_BITS:
            raise _LeftOut(f"has {bits} bits; an RSA key needs {_RSA_BITS.start} to {_RSA_BITS.stop - 1}")
        # joserfc's check of a signature alone; tokens are read by `assertions` (docs/decisions/0015).
        return partial(JWSRegistry.algorithms[algorithm].verify, key=JWKRegistry.import_key(jwk))
    except (JoseError, ValueError, TypeError):
        raise _LeftOut("cannot be used: its numbers are no public key") from None


def _bits(number: str) -> int:
    return int.from_bytes(urlsafe_b64decode(number + "==")).bit_length()
