"""An issuer that others have written, with a library of its own for keys and tokens (npm's oauth2-mock-server)."""

import json
import ssl
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from support.calls import chat, eventually, identified
from support.certificates import bundle, chain, key
from support.npm import installed
from support.processes import free_port, healthy, process, wait_until
from support.servers import Mock, RunningRouter, running_router
from trustme import CA

HERE = Path(__file__).with_name("issuer")
FETCHED_WITHIN = 12.0  # seconds: the floor between two fetches, and the fetch
POLICY = """
providers:
  only: {{base_url: "{mock}/v1", retries: {{max: 0}}}}
service_accounts:
  issuers:
    - {{issuer: "{issuer}", audience: "api://router", jwks: {{url: "{issuer}/jwks"}}}}
  accounts:
    - {{subject: research, tenants: [acme]}}
tenants:
  acme: {{providers: {{only: {{models: {{reasoning: {{default: gpt-4.1}}}}}}}}}}
"""


class Issuer:
    """A running issuer; `url` is its name."""

    def __init__(self, port: int, control: int, trust: ssl.SSLContext) -> None:
        self.url = f"https://localhost:{port}"
        self._control = f"http://127.0.0.1:{control}"
        self._trust = trust

    def token(self, client: str = "research", audience: str = "api://router") -> str:
        """A token for a client, as its `/token` gives it."""
        form = urlencode({"grant_type": "client_credentials", "client_id": client, "aud": audience}).encode()
        with urlopen(Request(f"{self.url}/token", data=form), context=self._trust) as response:
            return str(json.load(response)["access_token"])

    def rotate(self, algorithm: str) -> str:
        """Publish another key; its kid."""
        with urlopen(Request(f"{self._control}/rotate?alg={algorithm}", data=b"")) as response:
            return str(response.read().decode())

    def token_of(self, kid: str) -> str:
        """A token that this key has signed."""
        return next(token for token in iter(self.token, "") if _kid(token) == kid)


def _kid(token: str) -> str:
    head = token.partition(".")[0]
    return str(json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    """The issuer, with a certificate that the system trusts."""
    package = installed(HERE, "node-issuer")
    ca = CA()
    certificate = ca.issue_cert("localhost")
    for name, text in (("ca.pem", bundle(ca)), ("tls.crt", chain(certificate)), ("tls.key", key(certificate))):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    port, control = free_port(), free_port()
    arguments = ["node", str(HERE / "server.mjs"), "tls.crt", "tls.key", str(port), str(control)]
    with process(arguments, tmp_path, {"ISSUER_INSTALLED_AT": str(package)}) as ran:
        wait_until(lambda: healthy(control, "/") or not ran.running(), "the issuer is up")
        assert ran.running(), ran.stderr()
        yield Issuer(port, control, ssl.create_default_context(cafile=str(tmp_path / "ca.pem")))


@pytest.fixture
def router(mock: Mock, tmp_path: Path, issuer: Issuer) -> Iterator[RunningRouter]:
    """A router that trusts the issuer."""
    with running_router(tmp_path, POLICY.format(mock=mock.url, issuer=issuer.url)) as router:
        yield router


def status(router: RunningRouter, token: str) -> int:
    """The status of one chat."""
    return chat(router, headers=identified(token)).status


def test_tokens_of_an_independent_issuer_are_judged(router: RunningRouter, issuer: Issuer) -> None:
    """Its tokens are taken, for the right audience and from a client that the policy names."""
    assert status(router, issuer.token()) == 200
    assert status(router, issuer.token(audience="api://other")) == 401
    assert status(router, issuer.token(client="somebody")) == 401


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
def test_key_that_an_independent_issuer_adds_is_found(router: RunningRouter, issuer: Issuer, algorithm: str) -> None:
    """A rotation over the wire: the first token of the new key makes the router look for it; the old key stays good."""
    old = issuer.token()
    assert status(router, old) == 200

    new = issuer.token_of(issuer.rotate(algorithm))

    assert eventually(lambda: status(router, new), lambda seen: seen == 200, FETCHED_WITHIN) == 200
    assert status(router, old) == 200


def test_key_that_an_independent_issuer_does_not_know_is_refused(
    router: RunningRouter, issuer: Issuer, tmp_path: Path
) -> None:
    """A token of it with another signature, or of another payload, is nobody's."""
    head, body, signature = issuer.token().split(".")
    _, other, _ = issuer.token(client="somebody").split(".")

    assert status(router, f"{head}.{body}.{signature[:-4]}AAAA") == 401
    assert status(router, f"{head}.{other}.{signature}") == 401
