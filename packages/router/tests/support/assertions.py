"""Issuers of assertions: keys and tokens made with `cryptography` alone, so that nothing tested is its own judge."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "litellm-router"
SUBJECT = "system:serviceaccount:stratmaster:research-mcp"
NOW = 1_795_500_000

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, length: int | None = None) -> str:
    """An unsigned integer as a JSON Web Key has it."""
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


class Signer:
    """A private key that signs tokens with `algorithm`; `kid` names it."""

    def __init__(self, algorithm: str, kid: str, key: _PrivateKey) -> None:
        self.algorithm = algorithm
        self.kid = kid
        self._key = key

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public key as an issuer publishes it; a change to None takes the member out."""
        public = self._key.public_key()
        numbers: dict[str, Any]
        if isinstance(public, rsa.RSAPublicKey):
            of = public.public_numbers()
            numbers = {"kty": "RSA", "n": number(of.n), "e": number(of.e)}
        elif isinstance(public, ec.EllipticCurvePublicKey):
            at = public.public_numbers()
            size = (public.key_size + 7) // 8
            curve = {"secp256r1": "P-256", "secp384r1": "P-384"}[public.curve.name]
            numbers = {"kty": "EC", "crv": curve, "x": number(at.x, size), "y": number(at.y, size)}
        else:
            raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
            numbers = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
        jwk = {"use": "sig", "kid": self.kid, "alg": self.algorithm, **numbers, **changes}
        return {name: value for name, value in jwk.items() if value is not None}

    def pem(self) -> bytes:
        """The public key in PEM: what an attacker takes for an HMAC secret."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, as JWS has it."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self._key.sign(data)

    def token(self, claims: Mapping[str, Any], **header: Any) -> bytes:
        """A signed token; a header field that is None is left out."""
        fields = {"alg": self.algorithm, "kid": self.kid, **header}
        kept = {name: value for name, value in fields.items() if value is not None}
        return assembled(json.dumps(kept).encode(), json.dumps(claims).encode(), self.sign)


@cache
def signer(algorithm: str = "ES256", kid: str = "key-1") -> Signer:
    """A key of this test process; the same arguments give the same one."""
    if algorithm == "RS256":
        return Signer(algorithm, kid, rsa.generate_private_key(65537, 2048))
    if algorithm == "ES256":
        return Signer(algorithm, kid, ec.generate_private_key(ec.SECP256R1()))
    return Signer(algorithm, kid, ed25519.Ed25519PrivateKey.generate())


def assembled(header: bytes, claims: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """A token of exactly these bytes."""
    signed = f"{b64(header)}.{b64(claims)}".encode()
    return signed + b"." + b64(sign(signed)).encode()


def hmac_with(secret: bytes) -> Callable[[bytes], bytes]:
    """Signs as HS256 does."""
    return lambda data: hmac.digest(secret, data, hashlib.sha256)


def jwks(*keys: Mapping[str, Any]) -> bytes:
    """A key set of these keys."""
    return json.dumps({"keys": keys}).encode()


def kubernetes_claims(now: float = NOW, **changes: Any) -> dict[str, Any]:
    """What a projected service-account token of Kubernetes 1.30 claims; a change to None takes the claim out."""
    began = int(now)
    claims = {
        "aud": [AUDIENCE],
        "exp": began + 3600,
        "iat": began,
        "iss": ISSUER,
        "jti": "0f7b2a4e-6a0e-4c37-9d3f-3b1c7a9e5d21",
        "kubernetes.io": {
            "namespace": "stratmaster",
            "node": {"name": "node-a", "uid": "7d1f2c3b-8a54-4a7e-b0c1-0f9e8d7c6b5a"},
            "pod": {"name": "research-mcp-7c9d8f6b5-x2x4z", "uid": "c4d5e6f7-1234-4abc-9def-0123456789ab"},
            "serviceaccount": {"name": "research-mcp", "uid": "a1b2c3d4-5678-4ef0-8123-456789abcdef"},
        },
        "nbf": began,
        "sub": SUBJECT,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}
