"""Self-service keys from the command line to a request, in real processes; they stay in their owner's hand only."""

from pathlib import Path

from support.keys import PEPPER
from support.processes import COMMAND, Line, Served, finished, mock_process, serving, wait_until

POLICY = """
providers:
  first: {{base_url: "{mock}/v1", retries: {{max: 0}}}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
          failing: {{default: "gpt-4.1@status=503"}}
          cut: {{default: "gpt-4.1@fault=cut,chunks=9"}}
"""


def caller(key: str) -> dict[str, str]:
    """The headers of acme with `key`."""
    return {"Authorization": f"Bearer {key}", "X-Tenant-ID": "acme", "Content-Type": "application/json"}


def asked(lines: dict[str, list[Line]], key: str) -> set[int]:
    """The statuses that the workers give a key."""
    return {line.get("/v1/models", caller(key)).status for found in lines.values() for line in found}


def run(folder: Path, *words: str) -> tuple[str, str]:
    """`stratmaster-router keys …` beside the router; what it printed."""
    environ = {"ROUTER_DATABASE_URL": f"sqlite:///{folder}/router.db", "ROUTER_KEY_PEPPER": PEPPER}
    ended = finished([COMMAND, "keys", *words], folder, environ)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def exercise(served: Served, key: str) -> list[bytes]:
    """Answers of every kind to `key`, good and mistyped."""
    line = Line(served.port)
    answers = []
    for sent in (key, key[:-1], key[:30], f"{key}x", key.replace("smr_", "smr-"), f"{key} {key}"):
        for model in ("reasoning", "failing", "cut", "nothing", key):
            for stream in (False, True):
                body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
                answer = line.post("/v1/chat/completions", body, caller(sent))
                answers += [answer.body.replace(key.encode(), b"") if model == key else answer.body]
                answers += [value.encode() for value in answer.headers.values()]
        answers.append(line.get("/admin/v1/tenants/acme/keys", {"Authorization": f"Bearer {sent}"}).body)
    line.close()
    return answers


def test_key_is_made_used_and_revoked_in_every_worker(tmp_path: Path) -> None:
    """By the command line beside a router of two workers, each time within 2 s; and its text stays nowhere."""
    (tmp_path / "pepper").write_text(f"{PEPPER}\n")
    environ = {
        "ROUTER_DATABASE_URL": f"sqlite:///{tmp_path}/router.db",
        "ROUTER_KEY_PEPPER_FILE": str(tmp_path / "pepper"),
        "ROUTER_LOG_LEVEL": "debug",
    }
    with (
        mock_process(tmp_path) as mock,
        serving(tmp_path, POLICY.format(mock=mock.url), workers=2, environ=environ) as served,
        served.lines(2) as lines,
    ):
        key = run(tmp_path, "create", "--tenant", "acme")[0].strip()
        wait_until(lambda: asked(lines, key) == {200}, "every worker knows the key", 2.0)
        told = exercise(served, key)
        scraped = served.call("GET", "/internal/metrics").body

        run(tmp_path, "revoke", key[4:16])
        wait_until(lambda: asked(lines, key) == {401}, "every worker has forgotten the key", 2.0)
        served.terminate()
        kept = {
            "answers": b"\n".join(told),
            "metrics": scraped,
            "log": served.stderr().encode(),
            "access log": served.access_log().encode(),
            "list": "".join(run(tmp_path, "list")).encode(),
            **{path.name: path.read_bytes() for path in tmp_path.glob("router.db*")},
        }
    for name, data in kept.items():
        # The secret in any part of it that could be of use, and as the driver or a traceback may write it.
        assert key[17:60].encode() not in data, name
        assert key[17:40].encode() not in data, name
        assert key[17:60].encode().hex().encode() not in data, name
        assert PEPPER.encode() not in data, name
    assert key[4:16].encode() in kept["router.db"]
    assert b"Traceback" not in kept["log"]


def test_pepper_that_cannot_be_used_ends_serve_with_one_line(tmp_path: Path) -> None:
    """With one worker and with two, before anything is served; the line does not repeat it."""
    (tmp_path / "policy.yaml").write_text(POLICY.format(mock="http://127.0.0.1:1"))
    for workers in ("1", "2"):
        ended = finished(
            [COMMAND, "serve", "--policy", "policy.yaml", "--port", "0", "--workers", workers],
            tmp_path,
            {"ROUTER_KEY_PEPPER": "too-short-a-secret"},
        )
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1] == (
            "ROUTER_KEY_PEPPER: a pepper has at least 32 bytes; `openssl rand -hex 32` makes one"
        )
        assert "too-short-a-secret" not in ended.stderr


def test_administrators_folder_that_is_missing_ends_serve(tmp_path: Path) -> None:
    """A wrong path is told, instead of locking administrators out."""
    (tmp_path / "policy.yaml").write_text(POLICY.format(mock="http://127.0.0.1:1"))
    ended = finished(
        [COMMAND, "serve", "--policy", "policy.yaml", "--port", "0"],
        tmp_path,
        {"ROUTER_ADMIN_KEYS_DIR": str(tmp_path / "missing")},
    )
    assert (ended.returncode, "cannot be used: No such file or directory" in ended.stderr) == (1, True)
