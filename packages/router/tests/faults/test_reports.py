"""What the operator is told of upstreams that fail: the log and the status, in words without address or key."""

from pathlib import Path
from typing import Any

import msgspec
from support.acts import answers, refuses
from support.calls import HELLO
from support.certificates import bundle, server_context
from support.processes import Answer, Served, free_port, serving, wait_until
from support.scripted import Exchange, running_scripted
from trustme import CA


def lines(served: Served, event: str) -> list[dict[str, Any]]:
    """The lines of the log for `event`, without what every line has."""
    found = [msgspec.json.decode(line) for line in served.stderr().splitlines() if f'"{event}"' in line]
    return [{k: v for k, v in line.items() if k not in ("event", "level", "logger", "timestamp")} for line in found]


def failed(provider: str, code: str, status: int | None, why: str | None) -> dict[str, Any]:
    """The line for the one endpoint of `provider`."""
    words = {"endpoint": f"providers.{provider}", "code": code, "status": status, "why": why, "parked_seconds": None}
    return {"provider": provider, "model": "m", **words}


def policy(providers: dict[str, str]) -> str:
    """A policy with these providers, none of which is asked twice, in the order of a plan."""
    specs = "".join(f"  {name}: {{retries: {{max: 0}}, {spec}}}\n" for name, spec in providers.items())
    uses = "".join(f"      {name}: {{models: {{reasoning: {{default: m}}}}}}\n" for name in providers)
    return f"providers:\n{specs}tenants:\n  acme:\n    providers:\n{uses}"


def ask(served: Served) -> Answer:
    """One request."""
    return served.call("POST", "/v1/chat/completions", {**HELLO, "model": "reasoning"})


def test_why_a_hop_fails_is_in_the_log_once(tmp_path: Path) -> None:
    """A certificate, a name, a port, a status: one line for each, however many requests meet it, without an address."""
    authority, port = CA(), free_port()
    (tmp_path / "ca.pem").write_text(bundle(authority))
    with (
        running_scripted(answers, server_context(CA().issue_cert("localhost"))) as unknown,
        running_scripted(answers, server_context(authority.issue_cert("elsewhere.example"))) as misnamed,
        running_scripted(refuses("500 Internal Server Error")) as ill,
        serving(
            tmp_path,
            policy(
                {
                    "unknown": f"base_url: {unknown.url}/v1",
                    "misnamed": f"base_url: {misnamed.url}/v1, tls: {{ca: {tmp_path}/ca.pem}}",
                    "nobody": "base_url: http://nobody.invalid/v1",
                    "shut": f"base_url: http://127.0.0.1:{port}/v1",
                    "keyless": f"base_url: {ill.url}/v1, api_key: {{env: NO_SUCH_KEY}}",
                    "ill": f"base_url: {ill.url}/v1",
                }
            ),
        ) as served,
    ):
        assert {ask(served).status for _ in range(3)} == {503}
        wait_until(lambda: len(lines(served, "upstream failed")) >= 6, "the failures are in the log")
        told = lines(served, "upstream failed")

    verify, tls, connect = "certificate verify failed: ", "upstream_tls_failed", "upstream_connect_failed"
    assert told == [
        failed("unknown", tls, None, verify + "unable to get local issuer certificate"),
        failed("misnamed", tls, None, verify + "it is for another name"),
        failed("nobody", connect, None, "name not resolved"),
        failed("shut", connect, None, "connection refused"),
        failed("keyless", "upstream_misconfigured", None, "NO_SUCH_KEY is not set"),
        failed("ill", "upstream_error", 500, None),
    ]


def test_breaker_says_when_it_opens_and_when_it_closes(tmp_path: Path) -> None:
    """Each change is one line; what happens between them is none."""
    ill = [True]

    def script(exchange: Exchange) -> None:
        (refuses("500 Internal Server Error") if ill[0] else answers)(exchange)

    with running_scripted(script) as upstream:
        spec = f"base_url: {upstream.url}/v1, breaker: {{failures: 2, open_for: 200ms}}"
        with serving(tmp_path, policy({"a": spec})) as served:
            assert {ask(served).status for _ in range(5)} == {503}
            ill[0] = False
            wait_until(lambda: ask(served).status == 200, "the provider is back")
            wait_until(lambda: bool(lines(served, "breaker closed")), "the log says so")
            hop = {"provider": "a", "model": "m"}
            words = {"code": "upstream_error", "status": 500, "why": None}
            assert lines(served, "breaker opened") == [{**hop, **words, "seconds": 0.2}]
            assert lines(served, "breaker closed") == [hop]


def test_parked_endpoint_is_in_the_log_and_in_the_status(tmp_path: Path) -> None:
    """By its place in the policy, with the code and the seconds; its key and its address are nowhere."""
    with running_scripted(refuses("401 Unauthorized")) as bad, running_scripted(answers) as good:
        listed = []
        for name, upstream in (("good", good), ("bad", bad)):
            (tmp_path / name).write_text(f"sk-{name}-0123456789")
            listed.append(f"{{base_url: {upstream.url}/v1, api_key: {{file: {tmp_path}/{name}}}}}")
        with serving(tmp_path, policy({"a": f"endpoints: [{', '.join(listed)}]"})) as served:

            def parked() -> list[dict[str, Any]]:
                assert ask(served).status == 200
                found: list[dict[str, Any]] = served.call("GET", "/internal/status").json()["parked"]
                return found

            wait_until(lambda: bool(parked()), "the bad key is found")
            (endpoint,) = parked()
            wait_until(lambda: bool(lines(served, "upstream failed")), "the log says so")
            (line,) = lines(served, "upstream failed")
            everything = served.stderr() + str(endpoint)

    assert 0 < endpoint.pop("retry_after") <= 60
    assert endpoint == {"endpoint": "providers.a.endpoints[1]", "code": "upstream_auth_failed"}
    assert (line["endpoint"], line["code"], line["status"]) == (endpoint["endpoint"], endpoint["code"], 401)
    assert line["parked_seconds"] == 60.0
    assert "sk-bad" not in everything
    assert f":{bad.port}" not in everything
