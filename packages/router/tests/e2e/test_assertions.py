"""Assertions at the real server: several workers, and logs that hold nothing of a token."""

import time
from pathlib import Path
from typing import Any

from support.assertions import AUDIENCE, ISSUER, SUBJECT, Signer, jwks, kubernetes_claims, signer
from support.processes import Line, serving, wait_until

IN_FORCE_WITHIN = 2.0  # seconds
POLICY = """
service_accounts:
  issuers:
    - {{issuer: "{issuer}", audience: {audience}, jwks: {{file: "{folder}/jwks.json"}}}}
  accounts:
    - {{subject: "{subject}", tenants: [acme]}}
tenants:
  acme: {{providers: {{openai: {{models: {{reasoning: {{default: gpt-4.1}}}}}}}}}}
"""
KEY = signer("ES256")


def policy(folder: Path) -> str:
    """A policy with the account, whose issuer's keys are in `folder`."""
    return POLICY.format(issuer=ISSUER, audience=AUDIENCE, folder=folder, subject=SUBJECT)


def token(key: Signer = KEY, **changes: Any) -> str:
    """An assertion of the account, of now."""
    return key.token(kubernetes_claims(time.time(), **changes)).decode()


def headers(credential: str) -> dict[str, str]:
    """A caller's headers."""
    return {"Authorization": f"Bearer {credential}", "X-Tenant-ID": "acme"}


def test_removed_key_is_dead_in_every_worker_within_two_seconds(tmp_path: Path) -> None:
    """Each worker follows the file by itself, and none remembers what a removed key has signed."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(KEY.jwk()))
    mine = headers(token())
    with serving(tmp_path, policy(tmp_path), workers=2) as served, served.lines(2, each=1) as lines:
        each = [line for [line] in lines.values()]

        def statuses() -> list[int]:
            return [line.get("/v1/models", mine).status for line in each]

        assert statuses() == [200, 200]
        file.write_bytes(jwks())
        wait_until(lambda: statuses() == [401, 401], "both workers refuse the key", IN_FORCE_WITHIN)
        file.write_bytes(jwks(KEY.jwk()))
        wait_until(lambda: statuses() == [200, 200], "both workers take the key", IN_FORCE_WITHIN)


def test_no_log_holds_anything_of_a_token(tmp_path: Path) -> None:
    """Why an assertion was refused stands in the log, with the request's id; its parts and claims stand nowhere."""
    (tmp_path / "jwks.json").write_bytes(jwks(KEY.jwk()))
    good = token()
    refused = {
        "its signature is not that of the key": signer("ES256", "stranger")
        .token(kubernetes_claims(time.time(), name="canary-7f3a"), kid=KEY.kid)
        .decode(),
        "no key of its issuer has its kid and algorithm": token(signer("ES256", "canary-kid-91")),
        "its subject is no account of the policy": token(sub="canary-subject-55"),
        "its issuer is none of the policy's": token(iss="https://canary-issuer.example"),
        "its audience is not the issuer's in the policy": token(aud="canary-audience"),
        "it has expired": token(iat=int(time.time()) - 120, exp=int(time.time()) - 60),
    }
    with serving(tmp_path, policy(tmp_path), environ={"ROUTER_LOG_LEVEL": "debug"}) as served:
        line = Line(served.port)
        assert line.get("/v1/models", headers(good)).status == 200
        for credential in refused.values():
            assert line.get("/v1/models", headers(credential)).status == 401
        wait_until(lambda: len(served.access_lines()) == 7, "the access log is written")
        line.close()
        served.terminate()
        logged = served.stderr() + served.stdout() + served.access_log()

    for reason in refused:
        assert reason in logged
    for credential in (good, *refused.values()):
        assert not [part for part in credential.split(".") if part in logged]
    assert "canary" not in logged
    assert SUBJECT not in logged
