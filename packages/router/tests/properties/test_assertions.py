"""For any change of a token, for any bytes at all, and for anything that an issuer may claim."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.auth.assertions import Assertions
from stratmaster_router.auth.jwks import JwksInvalid, parse_jwks
from stratmaster_router.domain.errors import InvalidAssertion
from stratmaster_router.domain.service_accounts import Issuer, ServiceAccount, ServiceAccounts
from support.assertions import AUDIENCE, ISSUER, NOW, SUBJECT, assembled, jwks, kubernetes_claims, signer
from support.bodies import unhurried

SIGNERS = {algorithm: signer(algorithm) for algorithm in ("ES256", "RS256", "EdDSA")}
TOKENS = {algorithm: key.token(kubernetes_claims()) for algorithm, key in SIGNERS.items()}
ED = SIGNERS["EdDSA"]
ASSERTIONS = Assertions(
    ServiceAccounts({ISSUER: Issuer(ISSUER, AUDIENCE)}, {SUBJECT: ServiceAccount(SUBJECT, frozenset({"acme"}))}),
    {ISSUER: parse_jwks(jwks(*(key.jwk() for key in SIGNERS.values())))},
    lambda: NOW,
)
for _token in TOKENS.values():
    ASSERTIONS.judge(_token)  # remembered, so that a cache that looks at a part of them would be found out

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def refused(token: bytes) -> bool:
    """Whether a token is refused; any other error is a defect."""
    try:
        ASSERTIONS.judge(token)
    except InvalidAssertion:
        return True
    return False


@pytest.mark.parametrize("algorithm", TOKENS)
@unhurried
@given(data=st.data())
def test_token_with_any_changed_byte_is_refused(algorithm: str, data: st.DataObject) -> None:
    """Wherever one byte is another one, nothing is left of what it proves."""
    token = TOKENS[algorithm]
    at = data.draw(st.integers(0, len(token) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != token[at]))

    assert refused(token[:at] + bytes([byte]) + token[at + 1 :])


@pytest.mark.parametrize("algorithm", TOKENS)
@unhurried
@given(data=st.data())
def test_token_that_is_cut_or_longer_is_refused(algorithm: str, data: st.DataObject) -> None:
    """A part taken out, or bytes put in, anywhere."""
    token = TOKENS[algorithm]
    begin, end = sorted((data.draw(st.integers(0, len(token))), data.draw(st.integers(0, len(token)))))
    put = data.draw(st.binary(max_size=4))
    changed = token[:begin] + put + token[end:]

    assert (changed == token) is not refused(changed)


@unhurried
@given(
    st.binary(max_size=64)
    | st.lists(st.binary(max_size=16), max_size=4).map(b".".join)
    | st.tuples(json_values, json_values).map(
        lambda pair: assembled(json.dumps(pair[0]).encode(), json.dumps(pair[1]).encode(), ED.sign)
    )
)
def test_any_bytes_are_refused_and_nothing_else_happens(token: bytes) -> None:
    """No header, no claims and no bytes make the judge fail in another way than by refusing."""
    assert refused(token)


@unhurried
@given(
    name=st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "kubernetes.io"]),
    value=json_values,
)
def test_well_signed_claim_of_any_value_is_judged(name: str, value: Any) -> None:
    """A claim that matters has its one right kind of value, or the token is refused; other claims may say anything."""
    token = ED.token(kubernetes_claims() | {name: value})

    if name in ("jti", "kubernetes.io"):
        assert not refused(token)
    elif name in ("iss", "sub"):
        assert refused(token) is (value != kubernetes_claims()[name])
    else:
        refused(token)


@unhurried
@given(name=st.sampled_from(["alg", "kid", "typ", "crit", "b64", "cty", "x5t", "jku", "jwk"]), value=json_values)
def test_header_field_of_any_value_is_judged(name: str, value: Any) -> None:
    """Neither does a field of the header, signed or not, make the judge fail otherwise."""
    head = {"alg": "EdDSA", "kid": ED.kid} | {name: value}
    token = assembled(json.dumps(head).encode(), json.dumps(kubernetes_claims()).encode(), ED.sign)

    assert refused(token) or name in ("cty", "x5t", "jku", "jwk")


@unhurried
@given(st.binary(max_size=64) | json_values.map(lambda value: json.dumps({"keys": value}).encode()))
def test_any_document_is_a_key_set_or_is_refused(content: bytes) -> None:
    """An issuer may serve anything; it is read or refused."""
    try:
        found = parse_jwks(content)
    except JwksInvalid:
        return
    assert dict(found.keys) == {}


@unhurried
@given(
    st.sampled_from(sorted(SIGNERS)),
    st.sampled_from(["kty", "crv", "kid", "use", "alg", "key_ops", "n", "e", "x", "y", "d"]),
    json_values,
)
def test_any_member_of_a_key_is_read_or_left_out(algorithm: str, member: str, value: Any) -> None:
    """One odd key does no harm to its neighbour."""
    other = signer("EdDSA", "neighbour")
    found = parse_jwks(jwks(SIGNERS[algorithm].jwk(**{member: value}), other.jwk()))

    assert ("neighbour", "EdDSA") in found.keys
