"""Assertions: what is taken, and that everything else is refused, with one message (RFC 7515, 7519, 8725)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from stratmaster_router.auth.assertions import Assertions, Judged, is_assertion
from stratmaster_router.auth.jwks import KeySet, parse_jwks
from stratmaster_router.domain.errors import InvalidAssertion
from stratmaster_router.domain.routing import Principal
from stratmaster_router.domain.service_accounts import Issuer, ServiceAccount, ServiceAccounts
from support.assertions import (
    AUDIENCE,
    ISSUER,
    NOW,
    SUBJECT,
    assembled,
    b64,
    hmac_with,
    jwks,
    kubernetes_claims,
    signer,
)

INVALID = "The assertion is not valid. Check its issuer, audience, subject and key with the team that runs the router."
EXPIRED = "The assertion has expired. Send the request again with a fresh one."
OTHER = "https://login.example.com"
ACCOUNT = ServiceAccount(SUBJECT, frozenset({"acme", "default"}), frozenset({"key_admin"}))
BOUND = ServiceAccount("reports", frozenset({"acme"}), issuer=OTHER)
POLICY = ServiceAccounts(
    {ISSUER: Issuer(ISSUER, AUDIENCE), OTHER: Issuer(OTHER, "router.example.com")},
    {SUBJECT: ACCOUNT, "reports": BOUND},
)
ES, RS, ED = signer("ES256", "ec"), signer("RS256", "rsa"), signer("EdDSA", "ed")
STRANGER = signer("ES256", "stranger")
FOREIGN = signer("ES256", "foreign")
KEYS = {
    ISSUER: parse_jwks(jwks(ES.jwk(), RS.jwk(), ED.jwk())),
    OTHER: parse_jwks(jwks(FOREIGN.jwk())),
}


def assertions(now: float = NOW, keys: dict[str, KeySet] | None = None, policy: ServiceAccounts = POLICY) -> Assertions:
    """Judges at the moment `now`."""
    return Assertions(policy, KEYS if keys is None else keys, lambda: now)


def refusal(token: bytes, now: float = NOW) -> tuple[str, str, str | None]:
    """Message, reason and `keys_of` with which a token is refused."""
    with pytest.raises(InvalidAssertion) as raised:
        assertions(now).judge(token)
    # Nothing of a token may hang on the error: a traceback in a log would show it.
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return raised.value.message, raised.value.reason, raised.value.keys_of


@pytest.mark.parametrize("key", [ES, RS, ED], ids=lambda key: key.algorithm)
def test_token_of_kubernetes_speaks_for_its_account(key: Any) -> None:
    """A projected token (no typ, a list of audiences, nested claims) is its account's until it dies."""
    assert assertions().judge(key.token(kubernetes_claims())) == Judged(
        ServiceAccount(SUBJECT, frozenset({"acme", "default"}), frozenset({"key_admin"}), ISSUER),
        {b"acme": Principal("acme", f"jwt:{SUBJECT}"), b"default": Principal("default", f"jwt:{SUBJECT}")},
        NOW + 3600 + 10,
    )


TAKEN: dict[str, Callable[[], bytes]] = {
    "typ JWT": lambda: ES.token(kubernetes_claims(), typ="JWT"),
    "typ in small letters": lambda: ES.token(kubernetes_claims(), typ="jwt"),
    "an access token": lambda: ES.token(kubernetes_claims(), typ="at+jwt"),
    "a whole media type": lambda: ES.token(kubernetes_claims(), typ="application/at+jwt"),
    "the newer name of EdDSA": lambda: ED.token(kubernetes_claims(), alg="Ed25519"),
    "an audience that is no list": lambda: ES.token(kubernetes_claims(aud=AUDIENCE)),
    "further audiences": lambda: ES.token(kubernetes_claims(aud=["https://kubernetes.default.svc", AUDIENCE])),
    "no nbf": lambda: ES.token(kubernetes_claims(nbf=None)),
    "times with a fraction": lambda: ES.token(kubernetes_claims(iat=NOW - 0.5, exp=NOW + 60.25, nbf=NOW - 0.25)),
    "a clock that is ahead": lambda: ES.token(kubernetes_claims(iat=NOW + 10, nbf=NOW + 10)),
    "just expired": lambda: ES.token(kubernetes_claims(iat=NOW - 100, exp=NOW - 9)),
    "the longest life": lambda: ES.token(kubernetes_claims(exp=NOW + 24 * 3600)),
    "unknown claims": lambda: ES.token(kubernetes_claims(scope="all", azp=None, roles=["admin"])),
    "fields that are not used": lambda: ES.token(
        kubernetes_claims(), jku="https://attacker.example/keys", jwk=STRANGER.jwk(), x5c=["MIIB"], cty="x", nonce="1"
    ),
    "white space in its JSON": lambda: assembled(
        json.dumps({"kid": ES.kid, "alg": "ES256"}, indent=2).encode(),
        json.dumps(kubernetes_claims(), indent=4).encode(),
        ES.sign,
    ),
}


@pytest.mark.parametrize("token", TAKEN.values(), ids=TAKEN)
def test_token_is_taken(token: Callable[[], bytes]) -> None:
    """What the standards leave to an issuer does not matter."""
    assert assertions().judge(token()).account.subject == SUBJECT


SIGNATURE = "its signature is not that of the key"
UNKNOWN_KEY = "no key of its issuer has its kid and algorithm"
PARTS = "it is not three parts of base64url"
WRITTEN = "it is not three parts of base64url, each written in the one way"
ALGORITHM = "its algorithm is none of RS256, ES256, EdDSA, Ed25519"
CRITICAL = "it has critical extensions, and none is understood"
TYPE = "its typ is that of a token for another purpose"
OBJECT = "its header or claims are no JSON object, or have a key twice"
AUDIENCE_REASON = "its audience is not the issuer's in the policy"
TIMES = "one of its times is none"
LIFE = "it lives longer than 86400 s, or ends before it begins"
EARLY = "it is not valid yet"


def header(**fields: Any) -> bytes:
    """A token whose header has these fields beside its own."""
    return ES.token(kubernetes_claims(), **fields)


def claims(**changes: Any) -> bytes:
    """A well-signed token with these claims instead of its own."""
    return ES.token(kubernetes_claims(**changes))


def written(head: str, body: str | None = None, sign: Callable[[bytes], bytes] = ES.sign) -> bytes:
    """A token of exactly this text."""
    return assembled(head.encode(), (json.dumps(kubernetes_claims()) if body is None else body).encode(), sign)


def with_parts(change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """A good token, its parts changed."""
    return b".".join(change(ES.token(kubernetes_claims()).split(b".")))


HEAD = '{"alg":"ES256","kid":"ec"}'
BODY = json.dumps(kubernetes_claims())[:-1]
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    # What it is signed with
    "alg none": (lambda: written('{"alg":"none","kid":"ec"}', sign=lambda _: b"x"), ALGORITHM),
    "alg none without a signature": (lambda: written('{"alg":"none","kid":"ec"}', sign=lambda _: b""), PARTS),
    "alg nOnE": (lambda: written('{"alg":"nOnE","kid":"ec"}', sign=lambda _: b"x"), ALGORITHM),
    "HS256 with the public key": (
        lambda: written('{"alg":"HS256","kid":"rsa"}', sign=hmac_with(RS.pem())),
        ALGORITHM,
    ),
    "HS256 with the public key's numbers": (
        lambda: written('{"alg":"HS256","kid":"ec"}', sign=hmac_with(json.dumps(ES.jwk()).encode())),
        ALGORITHM,
    ),
    "RS512": (lambda: header(alg="RS512", kid="rsa"), ALGORITHM),
    "PS256": (lambda: header(alg="PS256", kid="rsa"), ALGORITHM),
    "alg in small letters": (lambda: header(alg="es256"), ALGORITHM),
    "alg that is no text": (lambda: header(alg=256), "its header or claims: Expected `str`, got `int` - at `$.alg`"),
    "no alg": (lambda: header(alg=None), "its header or claims: Object missing required field `alg`"),
    "another algorithm than its key's": (lambda: header(alg="RS256"), UNKNOWN_KEY),
    "another key's signature": (lambda: STRANGER.token(kubernetes_claims(), kid="ec"), SIGNATURE),
    "another issuer's key": (lambda: FOREIGN.token(kubernetes_claims()), UNKNOWN_KEY),
    "another issuer's key under this one's name": (lambda: FOREIGN.token(kubernetes_claims(), kid="ec"), SIGNATURE),
    "a key that it brings itself": (
        lambda: STRANGER.token(kubernetes_claims(), kid="ec", jwk=STRANGER.jwk(kid="ec")),
        SIGNATURE,
    ),
    "a signature of zeros": (lambda: written(HEAD, sign=lambda _: bytes(64)), SIGNATURE),
    "a signature that is too short": (lambda: written(HEAD, sign=lambda data: ES.sign(data)[:-1]), SIGNATURE),
    "a signature that is too long": (lambda: written(HEAD, sign=lambda data: ES.sign(data) + b"\0"), SIGNATURE),
    "a signature of the claims alone": (
        lambda: written(HEAD, sign=lambda data: ES.sign(data.partition(b".")[2])),
        SIGNATURE,
    ),
    # Its header
    "no kid": (lambda: header(kid=None), "its header or claims: Object missing required field `kid`"),
    "an empty kid": (lambda: header(kid=""), UNKNOWN_KEY),
    "an unknown kid": (lambda: header(kid="key-2"), UNKNOWN_KEY),
    "a kid that is a list": (
        lambda: header(kid=["ec"]),
        "its header or claims: Expected `str`, got `array` - at `$.kid`",
    ),
    "a kid that is a path": (lambda: header(kid="../../dev/null"), UNKNOWN_KEY),
    "crit": (lambda: header(crit=["exp"]), CRITICAL),
    "foreign crit": (lambda: header(crit=["https://example.com/x"], **{"https://example.com/x": True}), CRITICAL),
    "empty crit": (lambda: header(crit=[]), CRITICAL),
    "crit that is null": (lambda: written('{"alg":"ES256","kid":"ec","crit":null}'), CRITICAL),
    "unencoded claims": (lambda: header(crit=["b64"], b64=False), CRITICAL),
    "b64 alone": (lambda: header(b64=False), CRITICAL),
    "typ of a proof": (lambda: header(typ="dpop+jwt"), TYPE),
    "typ of a logout": (lambda: header(typ="logout+jwt"), TYPE),
    "typ JWE": (lambda: header(typ="JWE"), TYPE),
    "an empty typ": (lambda: header(typ=""), TYPE),
    "typ that is null": (
        lambda: written('{"alg":"ES256","kid":"ec","typ":null}'),
        "its header or claims: Expected `str`, got `null` - at `$.typ`",
    ),
    # Who it is for and of
    "another audience": (lambda: claims(aud=["other-router"]), AUDIENCE_REASON),
    "an audience that contains ours": (lambda: claims(aud="litellm-router-2"), AUDIENCE_REASON),
    "a part of our audience": (lambda: claims(aud="litellm"), AUDIENCE_REASON),
    "our audience in other letters": (lambda: claims(aud="LiteLLM-Router"), AUDIENCE_REASON),
    "audiences in one text": (lambda: claims(aud="other, litellm-router"), AUDIENCE_REASON),
    "the audience of another issuer": (lambda: claims(aud=["router.example.com"]), AUDIENCE_REASON),
    "no audience in the list": (lambda: claims(aud=[]), AUDIENCE_REASON),
    "no audience": (lambda: claims(aud=None), "its header or claims: Object missing required field `aud`"),
    "an audience that is no text": (
        lambda: claims(aud=[AUDIENCE, 1]),
        "its header or claims: Expected `str`, got `int` - at `$.aud[1]`",
    ),
    "an unknown issuer": (lambda: claims(iss="https://evil.example"), "its issuer is none of the policy's"),
    "an issuer with a slash": (lambda: claims(iss=ISSUER + "/"), "its issuer is none of the policy's"),
    "no issuer": (lambda: claims(iss=None), "its header or claims: Object missing required field `iss`"),
    "an unknown subject": (lambda: claims(sub=SUBJECT + "-2"), "its subject is no account of the policy"),
    "no subject": (lambda: claims(sub=None), "its header or claims: Object missing required field `sub`"),
    "a subject that is a list": (
        lambda: claims(sub=[SUBJECT]),
        "its header or claims: Expected `str`, got `array` - at `$.sub`",
    ),
    "an account of another issuer": (lambda: claims(sub="reports"), "its issuer is not the one of the account"),
    # When
    "no exp": (lambda: claims(exp=None), "its header or claims: Object missing required field `exp`"),
    "no iat": (lambda: claims(iat=None), "its header or claims: Object missing required field `iat`"),
    "exp in quotes": (
        lambda: claims(exp=str(NOW + 60)),
        "its header or claims: Expected `int | float`, got `str` - at `$.exp`",
    ),
    "exp that is true": (
        lambda: claims(exp=True),
        "its header or claims: Expected `int | float`, got `bool` - at `$.exp`",
    ),
    "nbf that is null": (
        lambda: written(HEAD, BODY.replace(f'"nbf": {NOW}', '"nbf": null') + "}"),
        "its header or claims: Expected `int | float`, got `null` - at `$.nbf`",
    ),
    "times in milliseconds": (lambda: claims(exp=(NOW + 60) * 1000, iat=NOW * 1000), TIMES),
    "a negative iat": (lambda: claims(iat=-1), TIMES),
    "exp without end": (lambda: written(HEAD, BODY.replace(f'"exp": {NOW + 3600}', '"exp": 1e400') + "}"), TIMES),
    "exp with very many digits": (
        lambda: written(HEAD, BODY.replace(f'"exp": {NOW + 3600}', f'"exp": {"9" * 400}') + "}"),
        TIMES,
    ),
    "exp that is no number": (lambda: written(HEAD, BODY.replace(f'"exp": {NOW + 3600}', '"exp": NaN') + "}"), OBJECT),
    "a life too long": (lambda: claims(exp=NOW + 24 * 3600 + 1), LIFE),
    "a year": (lambda: claims(exp=NOW + 365 * 86400), LIFE),
    "an end before its beginning": (lambda: claims(iat=NOW, exp=NOW - 1), LIFE),
    "an end at its beginning": (lambda: claims(iat=NOW, exp=NOW), LIFE),
    "nbf to come": (lambda: claims(nbf=NOW + 11), EARLY),
    "iat to come": (lambda: claims(iat=NOW + 11), EARLY),
    # How it is written
    "a claim twice": (lambda: written(HEAD, BODY + f', "sub": "{SUBJECT}"}}'), OBJECT),
    "a nested claim twice": (lambda: written(HEAD, BODY + ', "x": {"y": [{"a": 1, "a": 2}]}}'), OBJECT),
    "alg twice": (lambda: written('{"alg":"none","kid":"ec","alg":"ES256"}'), OBJECT),
    "kid twice": (lambda: written('{"alg":"ES256","kid":"ec","\\u006bid":"ec"}'), OBJECT),
    "claims that are a list": (lambda: written(HEAD, "[]"), OBJECT),
    "claims that are a text": (lambda: written(HEAD, '"x"'), OBJECT),
    "claims that are no JSON": (lambda: written(HEAD, "{"), OBJECT),
    "more after the claims": (lambda: written(HEAD, BODY + "} {}"), OBJECT),
    "claims in Latin-1": (
        lambda: assembled(HEAD.encode(), BODY.encode() + b', "name": "caf\xe9"}', ES.sign),
        WRITTEN,
    ),
    "nesting without end": (lambda: written(HEAD, BODY + ', "x": ' + "[" * 1500 + "]" * 1500 + "}"), OBJECT),
    "too long": (lambda: claims(x="y" * 8192), "it is longer than 8192 bytes"),
    "two parts": (lambda: with_parts(lambda parts: parts[:2]), PARTS),
    "four parts": (lambda: with_parts(lambda parts: [*parts, b"x"]), PARTS),
    "an empty part": (lambda: with_parts(lambda parts: [parts[0], b"", parts[2]]), PARTS),
    "padding": (lambda: with_parts(lambda parts: [*parts[:2], parts[2] + b"=="]), PARTS),
    "letters of plain base64": (lambda: with_parts(lambda parts: [*parts[:2], b"+/" + parts[2][2:]]), PARTS),
    "a line end": (lambda: with_parts(lambda parts: [*parts[:2], parts[2] + b"\n"]), PARTS),
    "a space in the middle": (
        lambda: with_parts(lambda parts: [parts[0], parts[1][:9] + b" " + parts[1][9:], parts[2]]),
        PARTS,
    ),
    "a length that base64 cannot have": (lambda: with_parts(lambda parts: [*parts[:2], parts[2][:85]]), WRITTEN),
    "JSON instead of the compact form": (
        lambda: json.dumps({"payload": b64(b"{}"), "signatures": []}).encode(),
        PARTS,
    ),
    "letters of other alphabets": ("ey٣.ey٣.٣".encode, PARTS),
    "nothing": (lambda: b"..", PARTS),
}


@pytest.mark.parametrize(("token", "reason"), REFUSED.values(), ids=REFUSED)
def test_token_is_refused_with_the_one_message(token: Callable[[], bytes], reason: str) -> None:
    """Whatever is wrong, the caller learns that it is invalid and no more; the reason is for the log."""
    keys_of = ISSUER if reason == UNKNOWN_KEY else None

    assert refusal(token()) == (INVALID, reason, keys_of)


def test_same_signature_in_other_letters_is_refused() -> None:
    """The unused bits of the last letter are zero: otherwise a token would have many spellings."""
    token = ES.token(kubernetes_claims())
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = letters.index(token[-1:])
    assert last % 16 == 0  # 86 letters hold 64 bytes and four bits more

    for spare in range(1, 16):
        assert refusal(token[:-1] + letters[last + spare : last + spare + 1])[:2] == (INVALID, WRITTEN)


@pytest.mark.parametrize("ago", [10, 10.5, 3600, 10**9])
def test_expired_token_of_a_known_key_is_told_so(ago: float) -> None:
    """Who has the key may know: its clock or its cache is at fault, and nothing else."""
    token = ES.token(kubernetes_claims(iat=NOW - 60, exp=NOW))

    assert refusal(token, NOW + ago) == (EXPIRED, "it has expired", None)


@pytest.mark.parametrize(
    "token",
    [
        lambda: STRANGER.token(kubernetes_claims(exp=NOW - 60, iat=NOW - 120), kid="ec"),
        lambda: claims(exp=NOW - 60, iat=NOW - 120, aud="other"),
        lambda: claims(exp=NOW - 60, iat=NOW - 120, sub="nobody"),
        lambda: header(kid="key-2"),
    ],
    ids=["another key", "another audience", "an unknown subject", "an unknown key"],
)
def test_expired_token_that_is_not_ours_is_only_invalid(token: Callable[[], bytes]) -> None:
    """That it has expired is said to nobody whose token would not have been taken before."""
    assert refusal(token())[0] == INVALID


def test_account_of_one_issuer_is_that_ones_only() -> None:
    """Where an account names its issuer, no other can speak for it; where it names none, each of them can."""
    mine = FOREIGN.token(kubernetes_claims(iss=OTHER, sub="reports", aud="router.example.com"))
    anyones = FOREIGN.token(kubernetes_claims(iss=OTHER, aud="router.example.com"))

    assert assertions().judge(mine).account == BOUND
    assert assertions().judge(anyones).account.issuer == OTHER


def test_token_is_verified_once_while_it_lives() -> None:
    """The second time the very same verdict is given, and it dies with the token."""
    now = [float(NOW)]
    judges = Assertions(POLICY, KEYS, lambda: now[0])
    token = ES.token(kubernetes_claims())

    first = judges.judge(token)
    now[0] = NOW + 3600 + 9.9
    assert judges.judge(token) is first

    now[0] = NOW + 3600 + 10
    with pytest.raises(InvalidAssertion, match="expired"):
        judges.judge(token)


def test_verdict_is_kept_for_the_whole_token() -> None:
    """Two tokens that differ in their last byte only are two tokens (CVE-2026-35030)."""
    judges = assertions()
    token = ED.token(kubernetes_claims())
    judges.judge(token)

    for other in (token[:-2] + b"AA", token[:-1], token + b"A", token[:700]):
        with pytest.raises(InvalidAssertion):
            judges.judge(other)


def test_verdicts_kept_are_bounded() -> None:
    """4096 live tokens are remembered at the most; then all are verified anew, none is refused."""
    judges = assertions()
    token = ED.token(kubernetes_claims())
    first = judges.judge(token)

    for count in range(4096):
        judges.judge(ED.token(kubernetes_claims(**{"kubernetes.io": count})))

    again = judges.judge(token)
    assert again == first
    assert again is not first


def test_nothing_is_taken_without_keys_or_accounts() -> None:
    """A router without service accounts refuses every assertion."""
    token = ES.token(kubernetes_claims())
    nobody = ServiceAccounts(POLICY.issuers, {})

    for judges in (
        Assertions(ServiceAccounts(), {}),
        assertions(keys={ISSUER: KeySet(), OTHER: KeySet()}),
        assertions(policy=nobody),
    ):
        with pytest.raises(InvalidAssertion) as raised:
            judges.judge(token)
        assert raised.value.message == INVALID


@pytest.mark.parametrize(
    ("credential", "shape"),
    [
        (ES.token(kubernetes_claims()), True),
        (b"eyJ.x.y", True),
        (b"ewo.x.y", True),
        (b"eyJ..", True),
        (b"eyJ.x", False),
        (b"eyJ.x.y.z.w", False),
        (b"sk-acme-0123456789abcdef", False),
        (b"sk.acme.key", False),
        (b"", False),
    ],
)
def test_assertion_is_told_from_a_key_by_its_shape(credential: bytes, shape: bool) -> None:
    """Three parts, the first of which is a JSON object in base64url, are an assertion."""
    assert is_assertion(credential) is shape
