"""Signed assertions of service accounts: JSON Web Tokens (RFC 7519), judged as RFC 8725 advises.

A token is taken apart here, strictly, and its signature is checked by the one algorithm that its key is for, whatever
its header says. What was verified is remembered under the digest of the whole token: a cache keyed on a part gives one
account's rights to whoever shares that part (CVE-2026-35030).
"""

import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Struct

from stratmaster_router.auth.jwks import ALGORITHMS, KeySet
from stratmaster_router.domain.errors import InvalidAssertion, InvalidJson
from stratmaster_router.domain.routing import Principal
from stratmaster_router.domain.service_accounts import Issuer, ServiceAccount, ServiceAccounts
from stratmaster_router.wire.json_text import members

LONGEST_TOKEN = 8192  # bytes
LEEWAY = 10  # seconds that an issuer's clock may be off
LONGEST_LIFE = 24 * 3600  # seconds from `iat` to `exp`; a stolen token should not be of use for long
_MOST_HELD = 4096
_LATEST = 2**40  # seconds since 1970; a time beyond is a mistake, such as milliseconds

_TYPES = ("jwt", "at+jwt")  # RFC 7519, section 5.1; RFC 9068. Others are for other readers: dpop+jwt, logout+jwt.
_compact = re.compile(rb"([\w-]+)\.([\w-]+)\.([\w-]+)").fullmatch

_INVALID = "The assertion is not valid. Check its issuer, audience, subject and key with the team that runs the router."
_EXPIRED = "The assertion has expired. Send the request again with a fresh one."


class Judged(NamedTuple):
    """A verified assertion: who it speaks for, as a principal for each of the account's tenants, until `dies`."""

    account: ServiceAccount
    principals: Mapping[bytes, Principal]
    dies: float


class _Header(Struct):
    alg: str
    kid: str
    typ: str = "JWT"  # Kubernetes writes none
    crit: Any = UNSET
    b64: Any = UNSET


class _Claims(Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: int | float
    iat: int | float
    nbf: int | float = 0


def is_assertion(credential: bytes) -> bool:
    """Whether a bearer credential has the shape of a signed token: three parts, and the first is a JSON object's."""
    return credential.startswith((b"ey", b"ew")) and credential.count(b".") == 2


class Assertions:
    """Judges under one policy and one state of the issuers' keys.

    Made anew when either changes, so that nothing that was verified before outlives a key, an account or a tenant.
    """

    def __init__(
        self, policy: ServiceAccounts, keys: Mapping[str, KeySet], now: Callable[[], float] = time.time
    ) -> None:
        """`keys` are the issuers', by their names; `now` is in seconds since 1970."""
        self._issuers = policy.issuers
        self._accounts = {subject: (account, _principals(account)) for subject, account in policy.accounts.items()}
        self._keys = keys
        self._now = now
        self._held: dict[bytes, Judged] = {}

    def judge(self, token: bytes) -> Judged:
        """Whose assertion this is. Raises `InvalidAssertion`."""
        if len(token) > LONGEST_TOKEN:
            raise _refused(f"it is longer than {LONGEST_TOKEN} bytes")
        digest = sha256(token).digest()
        now = self._now()
        held = self._held.get(digest)
        if held is not None and now < held.dies:
            return held
        judged = self._verify(token, now)
        if len(self._held) >= _MOST_HELD:
            self._held.clear()
        self._held[digest] = judged
        return judged

    def _verify(self, token: bytes, now: float) -> Judged:
        header, claims, signature = _read(token)
        algorithm = ALGORITHMS.get(header.alg)
        if algorithm is None:
            raise _refused(f"its algorithm is none of {', '.join(ALGORITHMS)}")
        if header.crit is not UNSET or header.b64 is not UNSET:
            raise _refused("it has critical extensions, and none is understood")
        if header.typ.lower().removeprefix("application/") not in _TYPES:
            raise _refused("its typ is that of a token for another purpose")
        issuer = self._issuers.get(claims.iss)
        if issuer is None:
            raise _refused("its issuer is none of the policy's")
        key = self._keys[issuer.name].keys.get((header.kid, algorithm))
        if key is None:
            raise _refused("no key of its issuer has its kid and algorithm", issuer.name)
        if not key(token[: token.rindex(b".")], signature):
            raise _refused("its signature is not that of the key")
        account, principals = self._account(claims)
        _check(claims, issuer, now)
        return Judged(replace(account, issuer=issuer.name), principals, claims.exp + LEEWAY)

    def _account(self, claims: _Claims) -> tuple[ServiceAccount, Mapping[bytes, Principal]]:
        found = self._accounts.get(claims.sub)
        if found is None:
            raise _refused("its subject is no account of the policy")
        if found[0].issuer not in (None, claims.iss):
            raise _refused("its issuer is not the one of the account")
        return found


def _refused(reason: str, keys_of: str | None = None) -> InvalidAssertion:
    return InvalidAssertion(_INVALID, reason, keys_of)


def _principals(account: ServiceAccount) -> dict[bytes, Principal]:
    credential = f"jwt:{account.subject}"
    return {tenant.encode(): Principal(tenant, credential) for tenant in account.tenants}


def _read(token: bytes) -> tuple[_Header, _Claims, bytes]:
    """Header, claims and signature of a token, before anything of it is believed. Raises `InvalidAssertion`."""
    parts = _compact(token)
    if parts is None:
        raise _refused("it is not three parts of base64url")
    try:
        return (
            msgspec.convert(_object(parts[1]), _Header),
            msgspec.convert(_object(parts[2]), _Claims),
            _decoded(parts[3]),
        )
    except msgspec.ValidationError as error:
        raise _refused(f"its header or claims: {error}") from None  # names fields and types, and shows no value
    except InvalidJson:
        raise _refused("its header or claims are no JSON object, or have a key twice") from None
    except ValueError:
        raise _refused("it is not three parts of base64url, each written in the one way") from None


def _object(part: bytes) -> dict[str, Any]:
    return members(_decoded(part).decode())[0]


def _decoded(part: bytes) -> bytes:
    """The bytes in `part`. Raises ValueError, also where other letters stand for the same bytes (RFC 4648, 3.5)."""
    decoded = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if urlsafe_b64encode(decoded).rstrip(b"=") != part:
        raise ValueError
    return decoded


def _check(claims: _Claims, issuer: Issuer, now: float) -> None:
    """Judge what a verified token says of its audience and time. Raises `InvalidAssertion`."""
    if issuer.audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise _refused("its audience is not the issuer's in the policy")
    if not all(0 <= moment <= _LATEST for moment in (claims.exp, claims.iat, claims.nbf)):
        raise _refused("one of its times is none")
    if not 0 < claims.exp - claims.iat <= LONGEST_LIFE:
        raise _refused(f"it lives longer than {LONGEST_LIFE} s, or ends before it begins")
    if max(claims.iat, claims.nbf) > now + LEEWAY:
        raise _refused("it is not valid yet")
    if claims.exp + LEEWAY <= now:
        raise InvalidAssertion(_EXPIRED, "it has expired")
