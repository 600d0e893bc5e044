import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stratmaster_router.settings import Settings
from support.audits import findings, records
from support.processes import ACME, COMMAND, Answer, Line, finished, serving, wait_until

PEPPER = "0123456789abcdef0123456789abcdef"
KEY = Settings.model_validate({"key_pepper": PEPPER}).audit_key()
CHAT: dict[str, Any] = {"model": "reasoning", "messages": [{"role": "user", "content": "one two three"}]}
WITHOUT_KEY = {"X-Tenant-ID": "acme", "Content-Type": "application/json"}


def environ(log: Path | str) -> dict[str, str]:
    """The settings of a router with an audit log."""
    return {"ROUTER_AUDIT_LOG": str(log), "ROUTER_KEY_PEPPER": PEPPER}


def asked(lines: list[Line]) -> list[Answer]:
    """The same six requests over each line: answers, a stream, a hop that fails, refusals."""
    answers = []
    for line in lines:
        answers += [
            line.post("/v1/chat/completions", CHAT),
            line.post("/v1/chat/completions", {**CHAT, "stream": True}),
            line.post("/v1/chat/completions", {**CHAT, "model": "failing"}),
            line.post("/v1/chat/completions", CHAT, {**ACME, "X-Data-Class": "raw-docs"}),
            line.post("/v1/chat/completions", CHAT, WITHOUT_KEY),
            line.get("/v1/models"),
        ]
    return answers


def test_every_request_of_two_workers_is_in_one_chain(policy: str, tmp_path: Path) -> None:
    """As many records as requests, each of its own; the chain is whole, and the command says so."""
    log = tmp_path / "audit.log"
    with serving(tmp_path, policy, workers=2, environ=environ(log)) as served, served.lines(2, each=5) as found:
        answers = [answer for lines in found.values() for answer in asked(lines)]
        assert len({answer.worker for answer in answers}) == 2
        assert served.terminate() == 0

    by_id = {record["request_id"]: record for record in records(log, key=KEY) if record["event"] == "request"}
    assert sorted(by_id) == sorted(answer.headers["x-request-id"] for answer in answers)
    for answer in answers:
        record = by_id[answer.headers["x-request-id"]]
        assert record["status"] == answer.status
        if answer.status == 200 and "x-router-model" in answer.headers:
            assert (record["provider"], record["model"], record["policy"], record["task"]) == tuple(
                answer.headers[f"x-router-{name}"] for name in ("provider", "model", "policy", "task")
            )
            assert (record["input_tokens"], record["output_tokens"]) == (3, 4)
        elif answer.status >= 400:
            assert record["code"] == answer.json()["error"]["code"]
    assert Counter((record["status"], record.get("code")) for record in by_id.values()) == {
        (200, None): 30,
        (503, "all_providers_unavailable"): 10,
        (403, "raw_docs_forbidden"): 10,
        (401, "missing_api_key"): 10,
    }
    loaded = [record for record in records(log, key=KEY) if record["event"] == "policy"]
    assert [record["act"] for record in loaded] == ["loaded", "loaded"]
    assert len({record["process"] for record in loaded}) == 2

    verified = finished([COMMAND, "logs", "verify", str(log)], tmp_path, environ(log))
    assert verified.returncode == 0, verified.stderr
    assert "records 1 to 62" in verified.stdout
    log.write_text(log.read_text().replace('"status":403', '"status":200', 1))
    verified = finished([COMMAND, "logs", "verify", str(log)], tmp_path, environ(log))
    assert verified.returncode == 1
    assert "was altered" in verified.stderr


def test_killed_workers_and_rotation_leave_a_chain(policy: str, tmp_path: Path) -> None:
    """Workers die without warning, the log is renamed, the router starts again: one chain over all files."""
    log = tmp_path / "audit.log"

    def loaded() -> int:
        return sum(file.read_text().count('"act":"loaded"') for file in tmp_path.glob("audit.log*"))

    with serving(tmp_path, policy, workers=2, environ=environ(log)) as served:
        for number in range(3):
            wait_until(lambda number=number: loaded() >= number + 2, "both workers run", 60)  # type: ignore[misc]  # a default binds the loop's value
            line = Line(served.port)
            asked([line])
            line.close()
            log.rename(tmp_path / f"audit.log.{number}")
            os.kill(served.children()[0], signal.SIGKILL)
        wait_until(lambda: loaded() >= 5, "the last one is replaced", 60)
        assert served.terminate() == 0
    with serving(tmp_path, policy, environ=environ(log)) as served:
        assert served.call("POST", "/v1/chat/completions", CHAT).status == 200
        assert served.terminate() == 0

    files = [*(tmp_path / f"audit.log.{number}" for number in range(3)), log]
    assert [finding for finding in findings(*files, key=KEY) if finding.broken] == []


def test_an_audit_log_that_cannot_be_written_stops_no_request(policy: str, tmp_path: Path) -> None:
    """The operator is told, by the log and by a metric at the end of what can wait."""
    with serving(tmp_path, policy, environ=environ("/dev/full")) as served:
        assert served.call("POST", "/v1/chat/completions", CHAT).status == 200
        wait_until(lambda: "audit log not written" in served.stderr(), "the operator is told", 5)
        assert served.call("GET", "/readyz").status == 200
        assert served.call("POST", "/v1/chat/completions", CHAT).status == 200
        assert served.terminate() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_wrong_audit_log_is_told_at_the_start(workers: int, policy: str, tmp_path: Path) -> None:
    """Once, with its name and the reason."""
    (tmp_path / "policy.yaml").write_text(policy)
    words = [COMMAND, "serve", "--policy", "policy.yaml", "--port", "0", "--workers", str(workers)]
    ended = finished(words, tmp_path, environ("nowhere/audit.log"))

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "nowhere/audit.log cannot be used: No such file or directory"


def test_standard_output_has_both_logs(policy: str, tmp_path: Path) -> None:
    """Each line whole; the check passes over the access log's."""
    with (
        serving(tmp_path, policy, workers=2, environ={**environ("stdout"), "ROUTER_ACCESS_LOG": "stdout"}) as served,
        served.lines(2) as found,
    ):
        answers = [answer for lines in found.values() for answer in asked(lines)]
        assert served.terminate() == 0
        (tmp_path / "both.log").write_text(served.stdout())

    events = Counter(json.loads(line)["event"] for line in (tmp_path / "both.log").read_text().splitlines())
    assert events == {"access": len(answers), "request": len(answers), "policy": 2}
    verified = finished([COMMAND, "logs", "verify", "both.log"], tmp_path, environ("stdout"))
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count("chain ") == 2
