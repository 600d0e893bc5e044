"""What the audit log has of each request, of the policy and of what administrators do; and what it must never have."""

import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from stratmaster_router.settings import Settings
from support.audits import records
from support.calls import HELLO, Answer, call, chat, connected, eventually, identified, request_bytes, samples
from support.policies import UPSTREAM_KEY
from support.servers import ACME_KEY, GLOBEX_KEY, Mock, RunningRouter, running_router

CUT = "gpt-4.1@chunks=4,gap=40ms,fault=cut,at=3"
POLICY = """
providers:
  first:
    base_url: {mock}/v1
    api_key: {{file: {folder}/upstream.key}}
    timeouts: {{first_byte: 5s, idle: 5s, total: 10s}}
    retries: {{max: 0}}
    breaker: {{failures: 1000}}
  second:
    base_url: {mock}/v1
    retries: {{max: 0}}
models:
  gpt-4.1: {{input_usd_per_mtok: 2, output_usd_per_mtok: 8}}
  gpt-4o-mini: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
  "{cut}": {{input_usd_per_mtok: 2, output_usd_per_mtok: 8}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
          failover: {{default: "gpt-4.1@status=503"}}
          lost: {{default: "gpt-4.1@status=401"}}
          hanging: {{default: "gpt-4.1@fault=stall-before-headers"}}
          cut: {{default: "{cut}"}}
      second:
        models:
          failover: {{default: gpt-4o-mini}}
          documents: {{default: gpt-4o-mini}}
        privacy: {{send_raw_docs: true}}
        limits: {{rpm: 1000}}
  globex:
    limits: {{rpm: 2}}
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
"""
THREE_WORDS = [{"role": "user", "content": "one two three"}]  # 3 tokens; the answer `echo: one two three` has 4
CUT_INPUT = 27  # tokens of the whole body, which is what the router counts where nobody else does
PEPPER = "0123456789abcdef0123456789abcdef"
ADMIN_KEY = "sk-admin-0123456789abcdef"


def policy(mock: Mock, folder: Path) -> str:
    """The policy above."""
    (folder / "upstream.key").write_text(UPSTREAM_KEY)
    return POLICY.format(mock=mock.url, folder=folder, cut=CUT)


def written(folder: Path, key: bytes = b"") -> list[dict[str, Any]]:
    """The records of a router that has stopped, without their times, which are looked at here."""
    found = records(folder / "audit.log", key=key)
    for record in found:
        age = datetime.now(UTC) - datetime.fromisoformat(record.pop("time"))
        assert 0 <= age.total_seconds() < 60
        if record["event"] == "request":
            assert 0 <= record.pop("ms") < 60_000
            for attempt in record.get("attempts", ()):
                assert 0 <= attempt.pop("ms") < 60_000
    return found


def requests(folder: Path) -> list[dict[str, Any]]:
    """The records of requests alone."""
    return [record for record in written(folder) if record.pop("event") == "request"]


def kept(provider: str, model: str, reason: str) -> dict[str, Any]:
    """A line of a trace."""
    return {"provider": provider, "model": model, "kept": True, "reason": reason}


def attempt(provider: str, model: str, status: int | None, code: str | None = None, **more: Any) -> dict[str, Any]:
    """An attempt as a record has it, without its time."""
    return {"provider": provider, "model": model, "status": status, "code": code, **more}


def used(input_: int, output: int, cost: int | None) -> dict[str, Any]:
    """Tokens and cost; the latter is absent where a price is not known."""
    found = {"input_tokens": input_, "cached_input_tokens": 0, "output_tokens": output}
    return found if cost is None else {**found, "cost_nanousd": cost}


def test_each_request_has_its_record_whole(mock: Mock, tmp_path: Path) -> None:
    """Who, what, decision and trace, attempts, tokens, cost and verdicts, however the request ends."""
    with running_router(tmp_path, policy(mock, tmp_path), audit_log=str(tmp_path / "audit.log")) as router:
        hash_ = call(router, "GET", "/healthz", headers={}).json()["policy"]

        def ask(number: int, body: Any, path: str = "chat/completions", method: str = "POST", **headers: str) -> None:
            call(router, method, f"/v1/{path}", body, {**identified(), "x-request-id": f"r{number}", **headers})

        ask(1, {"model": "reasoning", "messages": THREE_WORDS})
        ask(2, {"model": "first/gpt-4.1", "messages": THREE_WORDS, "stream": True})
        ask(3, {**HELLO, "model": "failover"})
        ask(4, HELLO, **{"X-Data-Class": "raw-docs"})
        ask(5, {"model": "documents", "messages": THREE_WORDS}, **{"X-Data-Class": "raw-docs"})
        ask(6, {**HELLO, "model": "invented"})
        ask(7, HELLO, Authorization="Bearer sk-wrong")
        ask(8, HELLO, **{"X-Tenant-ID": "globex"})
        ask(9, b"{")
        ask(10, {"model": "lost", "prompt": "a"}, "completions")
        ask(11, {**HELLO, "model": "cut", "stream": True})
        ask(12, None, "models", "GET")
        ask(13, {"model": "reasoning", "input": "a b"}, "embeddings")
        globex = {"Authorization": f"Bearer {GLOBEX_KEY}", "X-Tenant-ID": "globex"}
        for number in (14, 15, 16):
            ask(number, {"model": "reasoning", "messages": THREE_WORDS}, **globex)

    chats = {"method": "POST", "path": "/v1/chat/completions"}
    acme = {**chats, "tenant": "acme", "credential": "folder"}
    judged = {**acme, "policy": hash_}
    globex_ = {**judged, "tenant": "globex", "task": "reasoning"}
    gpt = kept("first", "gpt-4.1", "default of the task")
    answered = {
        "task": "reasoning",
        "trace": [gpt],
        "attempts": [attempt("first", "gpt-4.1", 200)],
        "provider": "first",
        "model": "gpt-4.1",
        **used(3, 4, 3 * 2_000 + 4 * 8_000),
    }
    assert requests(tmp_path) == [
        {**judged, "request_id": "r1", "status": 200, **answered},
        {
            **judged,
            "request_id": "r2",
            "status": 200,
            "model_asked": "gpt-4.1",
            "stream": True,
            **{name: value for name, value in answered.items() if name != "task"},
            "trace": [kept("first", "gpt-4.1", "named by the request")],
        },
        {
            **judged,
            "request_id": "r3",
            "status": 200,
            "task": "failover",
            "trace": [
                kept("first", "gpt-4.1@status=503", "default of the task"),
                kept("second", "gpt-4o-mini", "default of the task"),
            ],
            "attempts": [
                attempt("first", "gpt-4.1@status=503", 503, "upstream_error"),
                attempt("second", "gpt-4o-mini", 200, hop=1),
            ],
            "provider": "second",
            "model": "gpt-4o-mini",
            **used(1, 2, 1 * 1_000 + 2 * 2_000),
        },
        {
            **judged,
            "request_id": "r4",
            "status": 403,
            "code": "raw_docs_forbidden",
            "task": "reasoning",
            "refusal": "raw_docs_forbidden",
            "raw_docs": "the header X-Data-Class says raw-docs",
            "trace": [
                {
                    "provider": "first",
                    "model": "gpt-4.1",
                    "kept": False,
                    "reason": "the request carries raw documents and send_raw_docs is false",
                }
            ],
        },
        {
            **judged,
            "request_id": "r5",
            "status": 200,
            "task": "documents",
            "raw_docs": "the header X-Data-Class says raw-docs",
            "trace": [kept("second", "gpt-4o-mini", "default of the task")],
            "attempts": [attempt("second", "gpt-4o-mini", 200)],
            "provider": "second",
            "model": "gpt-4o-mini",
            **used(3, 4, 3 * 1_000 + 4 * 2_000),
        },
        {**judged, "request_id": "r6", "status": 404, "code": "model_not_found", "refusal": "model_not_found"},
        {**chats, "request_id": "r7", "status": 401, "code": "invalid_api_key"},
        {**chats, "request_id": "r8", "status": 403, "code": "tenant_mismatch"},
        {**acme, "request_id": "r9", "status": 400, "code": "invalid_json"},
        {
            **judged,
            "path": "/v1/completions",
            "request_id": "r10",
            "status": 503,
            "code": "all_providers_unavailable",
            "task": "lost",
            "trace": [kept("first", "gpt-4.1@status=401", "default of the task")],
            "attempts": [attempt("first", "gpt-4.1@status=401", 401, "upstream_auth_failed")],
            **used(0, 0, 0),
        },
        {
            **judged,
            "request_id": "r11",
            "status": 200,
            "code": "upstream_stream_truncated",
            "stream": True,
            "task": "cut",
            "trace": [kept("first", CUT, "default of the task")],
            "attempts": [attempt("first", CUT, 200)],
            "provider": "first",
            "model": CUT,
            **used(CUT_INPUT, 4, CUT_INPUT * 2_000 + 4 * 8_000),
            "estimated": True,
        },
        {**acme, "request_id": "r12", "status": 200, "method": "GET", "path": "/v1/models"},
        {
            **judged,
            "path": "/v1/embeddings",
            "request_id": "r13",
            "status": 403,
            "code": "endpoint_disabled",
            "refusal": "endpoint_disabled",
        },
        {**globex_, "request_id": "r14", "status": 200, **answered},
        {**globex_, "request_id": "r15", "status": 200, **answered},
        {
            **globex_,
            "request_id": "r16",
            "status": 429,
            "code": "requests_per_minute_exceeded",
            "limit": "tenant:globex requests minute",
            "trace": [gpt],
        },
    ]


def test_a_client_that_goes_away_has_its_record(mock: Mock, tmp_path: Path) -> None:
    """With what was tried until then, and what it may have cost."""
    with running_router(tmp_path, policy(mock, tmp_path), audit_log=str(tmp_path / "audit.log")) as router:
        with connected(router) as client:
            client.sendall(request_bytes({**HELLO, "model": "hanging"}, b"x-request-id: gone"))
            mock.wait_open(1)
        mock.wait_open(0)

    (record,) = requests(tmp_path)
    spent = {name: record.pop(name) for name in ("input_tokens", "output_tokens")}
    assert min(spent.values()) > 0
    assert record == {
        "method": "POST",
        "path": "/v1/chat/completions",
        "tenant": "acme",
        "credential": "folder",
        "policy": record["policy"],
        "request_id": "gone",
        "status": 499,
        "code": "client_disconnected",
        "task": "hanging",
        "trace": [kept("first", "gpt-4.1@fault=stall-before-headers", "default of the task")],
        "attempts": [attempt("first", "gpt-4.1@fault=stall-before-headers", None, "client_disconnected")],
        "cached_input_tokens": 0,
        "estimated": True,
    }


def test_changes_of_the_policy_are_recorded(mock: Mock, tmp_path: Path) -> None:
    """What is in force from the start, what a change changes by name, and a change that is refused by its places."""
    text = policy(mock, tmp_path)
    with running_router(tmp_path, text, audit_log=str(tmp_path / "audit.log")) as router:

        def hash_() -> str:
            return str(call(router, "GET", "/healthz", headers={}).json()["policy"])

        first = hash_()
        changed = text.replace("rpm: 2", "rpm: 3").replace("  globex:", "  initech: {}\n  globex:")
        router.policy.write_text(changed)
        second = eventually(hash_, lambda seen: seen != first)
        router.policy.write_text(changed.replace("rpm: 3", "rpm: {secret-limit}"))
        failures = "litellm_policy_reload_failures_total"
        eventually(lambda: samples(router, failures), lambda seen: seen == {failures: 1.0})
        line = 1 + changed[: changed.index("rpm: 3")].count("\n")
        (tmp_path / "upstream.key").write_text("sk-rotated")
        router.policy.write_text(changed)
        eventually(lambda: (tmp_path / "audit.log").read_text().count('"act":'), lambda seen: seen == 4)

    found = written(tmp_path)
    process = found[0]["process"]
    common = {"event": "policy", "process": process}
    assert found == [
        {**common, "act": "loaded", "policy": first},
        {
            **common,
            "act": "changed",
            "policy": second,
            "changes": ["tenant globex changed", "tenant initech added"],
            "files": [str(router.policy)],
        },
        {**common, "act": "refused", "policy": second, "problems": [f"line {line}: tenants.globex.limits.rpm"]},
        {**common, "act": "changed", "policy": second, "files": [str(router.policy), f"{tmp_path}/upstream.key"]},
    ]


def test_what_administrators_do_is_recorded(mock: Mock, tmp_path: Path) -> None:
    """By whom, to which key; never the key. With a pepper the chain has a key, which is made from it."""
    (tmp_path / "admins").mkdir()
    (tmp_path / "admins" / "root").write_text(ADMIN_KEY)
    settings: dict[str, Any] = {
        "admin_keys_dir": tmp_path / "admins",
        "key_pepper": PEPPER,
        "audit_log": str(tmp_path / "audit.log"),
    }
    with running_router(tmp_path, policy(mock, tmp_path), **settings) as router:
        keys = "/admin/v1/tenants/acme/keys"

        def act(method: str, path: str) -> Answer:
            return call(router, method, path, headers={"Authorization": f"Bearer {ADMIN_KEY}"})

        made = act("POST", keys).json()
        eventually(lambda: chat(router, headers=identified(made["key"])).status, lambda seen: seen == 200)
        rotated = act("POST", f"{keys}/{made['id']}/rotate").json()
        revoked = act("DELETE", f"{keys}/{made['id']}")
        refused = call(router, "DELETE", f"{keys}/{made['id']}", headers=identified())

    assert (revoked.status, refused.status) == (200, 403)
    text = (tmp_path / "audit.log").read_text()
    assert [key for key in (made["key"], rotated["key"], ADMIN_KEY, PEPPER) if key in text] == []
    found = written(tmp_path, Settings.model_validate(settings).audit_key())
    assert Settings.model_validate(settings).audit_key() == hmac.digest(
        PEPPER.encode(), b"stratmaster-router audit log", "sha256"
    )
    admin = {"event": "admin", "administrator": "root", "tenant": "acme", "key": made["id"]}
    assert [record for record in found if record["event"] == "admin"] == [
        {**admin, "act": "key.create"},
        {**admin, "act": "key.rotate"},
        {**admin, "act": "key.revoke"},
    ]
    shown = [
        (record["method"], record["status"], record.get("tenant"), record.get("credential"))
        for record in found
        if record["event"] == "request" and record["status"] != 401  # until the key is known
    ]
    assert shown == [
        ("POST", 201, "acme", "administrator:root"),
        ("POST", 200, "acme", f"key:{made['id']}"),
        ("POST", 201, "acme", "administrator:root"),
        ("DELETE", 200, "acme", "administrator:root"),
        ("DELETE", 403, None, None),
    ]


def test_a_snippet_is_there_where_policy_allows_it_and_redacted(mock: Mock, tmp_path: Path) -> None:
    """For its tenant only; with a fingerprint that tells equal prompts."""
    text = policy(mock, tmp_path).replace(
        "    limits: {rpm: 2}\n", "    logging: {prompt_snippets: redacted, snippet_chars: 30}\n"
    )
    globex = identified(GLOBEX_KEY, "globex")
    mails = [f"mail {name}@example.com and tell them to come" for name in ("jo", "jo", "ann")]
    with running_router(tmp_path, text, audit_log=str(tmp_path / "audit.log")) as router:
        for headers, said in ((globex, mails[0]), (globex, mails[1]), (globex, mails[2]), (identified(), mails[0])):
            chat(router, headers=headers, messages=[{"role": "user", "content": said}])
    log = (tmp_path / "audit.log").read_text()
    found = requests(tmp_path)

    assert [record.get("prompt") for record in found] == ["mail [email] and tell them to…"] * 3 + [None]
    fingerprints = [record.get("prompt_fingerprint") for record in found]
    assert fingerprints[0] == fingerprints[1]
    assert len({*fingerprints}) == 3
    assert fingerprints[3] is None
    assert "example.com" not in log


CANARY = "canary7c1e"


def test_nothing_that_a_client_typed_is_in_the_audit_log(mock: Mock, tmp_path: Path) -> None:
    """No prompt, key, made-up name or address, however the request goes."""
    with running_router(tmp_path, policy(mock, tmp_path), audit_log=str(tmp_path / "audit.log")) as router:
        said = [{"role": "user", "content": CANARY}]
        answers = [
            chat(router, {"model": model, "messages": said, "stream": stream, "user": CANARY, CANARY: CANARY}, headers)
            for model in ("reasoning", "failover", "lost", "cut", CANARY, f"first/{CANARY}")
            for stream in (False, True)
            for headers in (
                identified(),
                {**identified(), "X-Data-Class": f"raw-docs {CANARY}", "x-request-id": f"<{CANARY}>"},
                identified(f"sk-{CANARY}"),
                identified(tenant=CANARY),
                {**identified(), "Content-Type": f"text/{CANARY}"},
            )
        ]
        answers += [chat(router, f'{{"{CANARY}'.encode())]
        answers += [chat(router, {"model": "reasoning", "messages": [{"role": "user", "content": {CANARY: 1}}]})]
        answers += [call(router, "GET", f"/{prefix}{CANARY}?q={CANARY}") for prefix in ("", "v1/", "v1/models/")]
    log = (tmp_path / "audit.log").read_text()

    assert len(requests(tmp_path)) == len(answers)
    assert CANARY not in log
    assert [secret for secret in (ACME_KEY, UPSTREAM_KEY, mock.url.removeprefix("http://")) if secret in log] == []


def test_the_last_record_is_told_where_the_log_is_not(mock: Mock, tmp_path: Path) -> None:
    """`/internal/status` has its hash and the metrics its number; a router without an audit log has neither."""
    log = tmp_path / "audit.log"
    with running_router(tmp_path, policy(mock, tmp_path), audit_log=str(log)) as router:
        chat(router)
        eventually(lambda: log.read_bytes().count(b"\n"), lambda seen: seen == 2)
        audit = eventually(lambda: status(router)["audit"], lambda seen: bool(seen["seq"] == 2))
        gauges = samples(router, "litellm_audit_")
    last = json.loads(log.read_text().splitlines()[-1])

    assert audit == {"chain": last["chain"], "seq": 2, "hash": last["hash"], "lost": 0}
    assert gauges == {"litellm_audit_last_seq": 2.0, "litellm_audit_lost_total": 0.0}
    (tmp_path / "without").mkdir()
    with running_router(tmp_path / "without", policy(mock, tmp_path)) as router:
        assert "audit" not in status(router)
        assert samples(router, "litellm_audit_") == {"litellm_audit_lost_total": 0.0}


def status(router: RunningRouter) -> dict[str, Any]:
    """What `/internal/status` says."""
    answer: dict[str, Any] = call(router, "GET", "/internal/status", headers={}).json()
    return answer


@pytest.mark.parametrize("pepper", [None, PEPPER])
def test_key_of_the_chain_is_of_the_pepper(pepper: str | None) -> None:
    """Without a pepper there is none."""
    key = Settings.model_validate({"key_pepper": pepper}).audit_key()

    assert len(key) == (32 if pepper else 0)
