"""Key sets: which of an issuer's keys are used, and for what."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from stratmaster_router.auth.jwks import LARGEST_SET, JwksInvalid, KeySet, parse_jwks
from support.assertions import Signer, jwks, number, signer

ES, RS, ED = signer("ES256", "ec"), signer("RS256", "rsa"), signer("EdDSA", "ed")


def names(content: bytes) -> set[tuple[str, str]]:
    """The keys of a set that has no problems."""
    found = parse_jwks(content)
    assert found.problems == ()
    return set(found.keys)


def test_keys_are_found_by_kid_and_algorithm() -> None:
    """Each key is for the one algorithm of its kind, also where it names none itself."""
    every = {("ec", "ES256"), ("rsa", "RS256"), ("ed", "EdDSA")}

    assert names(jwks(ES.jwk(), RS.jwk(), ED.jwk())) == every
    assert names(jwks(ED.jwk(alg="Ed25519"))) == {("ed", "EdDSA")}
    assert names(jwks(*(key.jwk(alg=None, use=None) for key in (ES, RS, ED)))) == every
    assert names(jwks(*(key.jwk(key_ops=["verify"], x5c=["MIIB"], x5t="x") for key in (ES, RS, ED)))) == every


PASSED_OVER: dict[str, dict[str, Any]] = {
    "without a kid": ES.jwk(kid=None),
    "with an empty kid": ES.jwk(kid=""),
    "for encryption": RS.jwk(use="enc"),
    "for other operations": RS.jwk(key_ops=["encrypt", "wrapKey"]),
    "for another algorithm": RS.jwk(alg="RS512"),
    "for encryption with RSA": RS.jwk(alg="RSA-OAEP"),
    "for PSS": RS.jwk(alg="PS256"),
    "symmetric": {"kty": "oct", "kid": "s", "k": "AAAA", "alg": "HS256"},
    "on another curve": Signer("ES384", "p384", ec.generate_private_key(ec.SECP384R1())).jwk(),
    "for X25519": ED.jwk(crv="X25519"),
    "for Ed448": ED.jwk(crv="Ed448"),
    "of a kind to come": {"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44", "pub": "AAAA"},
}


@pytest.mark.parametrize("key", PASSED_OVER.values(), ids=PASSED_OVER)
def test_key_for_something_else_is_passed_over(key: dict[str, Any]) -> None:
    """An issuer may publish what the router has no use for; its other keys are used."""
    assert names(jwks(key, ED.jwk())) == {("ed", "EdDSA")}


BITS = "has {} bits; an RSA key needs 2048 to 4096"
NUMBERS = "cannot be used: its numbers are no public key"
LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "a private key": (ES.jwk(d="AAAA"), "is a private key: whoever can read this document can sign"),
    "a short RSA key": (
        Signer("RS256", "short", rsa.generate_private_key(65537, 1024)).jwk(),  # noqa: S505  # that is the point
        BITS.format(1024),
    ),
    "a point that is on no curve": (ES.jwk(x=number(1, 32), y=number(1, 32)), NUMBERS),
    "a point without y": (ES.jwk(y=None), NUMBERS),
    "an RSA key without n": (RS.jwk(n=None), BITS.format(0)),
    "an RSA key whose e is even": (RS.jwk(e=number(65536)), NUMBERS),
    "an Ed25519 key that is too short": (ED.jwk(x="AAAA"), NUMBERS),
    "a long RSA key": (RS.jwk(n=number(2**4096 + 1)), BITS.format(4097)),
    "letters that are no base64": (ED.jwk(x="é" * 43), NUMBERS),
    "a kid that is a number": (ES.jwk(kid=1), "is not a JSON Web Key"),
    "without a kind": (ES.jwk(kty=None), "is not a JSON Web Key"),
}


@pytest.mark.parametrize(("key", "problem"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_key_that_should_not_be_there_is_told(key: dict[str, Any], problem: str) -> None:
    """It is not used, the operator learns which it is and why, and the other keys are used."""
    found = parse_jwks(jwks(ED.jwk(), key))

    assert (set(found.keys), found.problems) == ({("ed", "EdDSA")}, (f"keys[1] {problem}",))


def test_kid_that_two_keys_have_is_neither_ones() -> None:
    """Which of them has signed would be a guess; keys of different kinds may share a kid."""
    twice = parse_jwks(jwks(signer("ES256", "a").jwk(kid="k"), signer("ES256", "b").jwk(kid="k"), ED.jwk(kid="k")))

    assert set(twice.keys) == {("k", "EdDSA")}
    assert twice.problems == ("keys[1] has the kid of another key; neither is used",)


def test_empty_set_withdraws_every_key() -> None:
    """An issuer may stop to sign."""
    assert parse_jwks(jwks()) == KeySet()


INVALID: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is no JSON Web Key Set"),
    "a page": (b"<html>not found</html>", "is no JSON Web Key Set"),
    "a list": (b"[]", "is no JSON Web Key Set"),
    "no keys": (b"{}", "is no JSON Web Key Set"),
    "keys by name": (b'{"keys":{}}', "is no JSON Web Key Set"),
    "keys that are null": (b'{"keys":null}', "is no JSON Web Key Set"),
    "a single key": (json.dumps(ES.jwk()).encode(), "is no JSON Web Key Set"),
    "bytes that are no text": (b'\xff{"keys":[]}', "is no JSON Web Key Set"),
    "nesting without end": (b'{"keys":' + b"[" * 100_000, "is no JSON Web Key Set"),
    "too many keys": (jwks(*[{}] * 101), "has more than 100 keys"),
    "too large": (jwks() + b" " * LARGEST_SET, f"is larger than {LARGEST_SET} bytes"),
}


@pytest.mark.parametrize(("content", "message"), INVALID.values(), ids=INVALID)
def test_document_that_is_no_key_set_is_refused_whole(content: bytes, message: str) -> None:
    """So that the last good set can stay in its place."""
    with pytest.raises(JwksInvalid) as raised:
        parse_jwks(content)

    assert str(raised.value) == message
