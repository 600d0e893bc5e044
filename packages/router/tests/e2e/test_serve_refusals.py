import json
import socket
import sys
from pathlib import Path

import pytest
from e2e.conftest import POLICY
from support.certificates import chain, key
from support.processes import COMMAND, Line, finished, free_port, healthy, process, serving, wait_until
from trustme import CA

VALID = POLICY.format(mock="http://127.0.0.1:9")
INVALID = """\
providers:
  openai: {base_urll: http://127.0.0.1:9}
tenants:
  acme:
    providers:
      openai: {models: {reasoning: {defualt: gpt-4.1}}}
"""


def refused(folder: Path, arguments: list[str], environ: dict[str, str], workers: int) -> list[str]:
    """The lines that `serve` prints when it cannot start; it must end with 1, in words and not in a traceback."""
    (folder / "policy.yaml").write_text(VALID)
    ended = finished([COMMAND, "serve", *arguments, "--workers", str(workers)], folder, environ, seconds=60)
    assert (ended.returncode, ended.stdout, ended.stderr.count("Traceback")) == (1, "", 0)
    return ended.stderr.splitlines()


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_refuses_an_invalid_policy_with_every_problem(workers: int, tmp_path: Path) -> None:
    """Each problem of the policy stands on a line of its own, with its place and what would be right."""
    (tmp_path / "invalid.yaml").write_text(INVALID)
    assert refused(tmp_path, ["--policy", "invalid.yaml", "--port", str(free_port())], {}, workers) == [
        "line 2: providers.openai.base_urll: unknown field, did you mean 'base_url'?",
        "line 6: tenants.acme.providers.openai.models.reasoning.defualt: unknown field, did you mean 'default'?",
    ]


AUTHORITY = CA()
CERT = AUTHORITY.issue_cert("localhost")
FILES = {"tls.crt": chain(CERT), "tls.key": key(CERT), "other.key": key(AUTHORITY.issue_cert("localhost"))}


def tls(cert: str, private_key: str, client_ca: str = "") -> dict[str, str]:
    """The variables for these files."""
    return {"ROUTER_TLS_CERT": cert, "ROUTER_TLS_KEY": private_key, "ROUTER_TLS_CLIENT_CA": client_ca}


Case = tuple[list[str], dict[str, str], list[str]]
POLICY_FILE = ["--policy", "policy.yaml"]

# Judged before there are any workers, so one is enough.
EARLY: list[Case] = [
    (["--policy", "."], {}, ["not a regular file"]),
    ([], {"ROUTER_POLICY": "missing.yaml"}, ["missing.yaml", "No such file"]),
    (POLICY_FILE, {"ROUTER_PORT": "x"}, ["ROUTER_PORT", "integer"]),
    ([*POLICY_FILE, "--port", "65536"], {}, ["ROUTER_PORT", "65535"]),
    (POLICY_FILE, {"ROUTER_LOG_LEVEL": "loud"}, ["ROUTER_LOG_LEVEL", "debug", "error"]),
    ([*POLICY_FILE, "--host", "no-such-host.invalid"], {}, ["no-such-host.invalid"]),
    (POLICY_FILE, {"ROUTER_TLS_CERT": "tls.crt"}, ["ROUTER_TLS_CERT and ROUTER_TLS_KEY"]),
    (POLICY_FILE, {"ROUTER_TLS_CLIENT_CA": "ca.pem"}, ["ROUTER_TLS_CLIENT_CA needs"]),
]
LATE: list[Case] = [
    (["--policy", "missing.yaml"], {}, ["missing.yaml", "No such file"]),
    (POLICY_FILE, {"ROUTER_KEYS_DIR": "missing-keys"}, ["missing-keys", "No such file"]),
    (POLICY_FILE, {"ROUTER_KEYS_DIR": "policy.yaml"}, ["policy.yaml", "Not a directory"]),
    (POLICY_FILE, {"ROUTER_ACCESS_LOG": "missing/access.log"}, ["missing/access.log", "No such file"]),
    (POLICY_FILE, {"ROUTER_ACCESS_LOG": "."}, [".", "Is a directory"]),
    ([*POLICY_FILE, "--host", "203.0.113.1"], {}, ["203.0.113.1", "assign requested address"]),
    (POLICY_FILE, tls("missing.crt", "tls.key"), ["TLS cannot be served", "missing.crt is not there"]),
    (POLICY_FILE, tls("tls.crt", "missing.key"), ["TLS cannot be served", "missing.key is not there"]),
    (POLICY_FILE, tls("tls.crt", "other.key"), ["tls.crt", "other.key", "do not belong together"]),
    (POLICY_FILE, tls("tls.key", "tls.key"), ["tls.key", "no certificate in PEM"]),
    (POLICY_FILE, tls("tls.crt", "tls.key", "tls.key"), ["client CA tls.key holds no certificates"]),
    (POLICY_FILE, tls("tls.crt", "tls.key", "."), [". is not there, or is no file"]),
]


@pytest.mark.parametrize(
    ("arguments", "environ", "words", "workers"),
    [*((*case, 1) for case in EARLY), *((*case, workers) for case in LATE for workers in (1, 2))],
)
def test_serve_refuses_what_it_cannot_use_in_one_line(
    arguments: list[str], environ: dict[str, str], words: list[str], workers: int, tmp_path: Path
) -> None:
    """What cannot be used ends `serve` at once, with one line that names it, however many workers were asked for."""
    port = {} if "--port" in arguments or "ROUTER_PORT" in environ else {"ROUTER_PORT": str(free_port())}
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    lines = refused(tmp_path, arguments, {**port, **environ}, workers)
    assert len(lines) == 1, lines
    assert [text for text in FILES.values() if text.splitlines()[1] in lines[0]] == []
    assert [word for word in words if word not in lines[0]] == []


def test_serve_names_every_wrong_setting(tmp_path: Path) -> None:
    """Two wrong settings are two lines."""
    lines = refused(tmp_path, [], {"ROUTER_PORT": "x", "ROUTER_BODY_LIMIT": "0"}, 1)
    assert [line.partition(":")[0] for line in lines] == ["ROUTER_PORT", "ROUTER_BODY_LIMIT"]


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_refuses_a_port_that_is_taken(workers: int, tmp_path: Path) -> None:
    """Where another program listens already `serve` says so, with the address, and ends with 1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        lines = refused(tmp_path, ["--policy", "policy.yaml", "--port", str(port)], {}, workers)
    assert len(lines) == 1, lines
    assert f"127.0.0.1:{port}" in lines[0]
    assert "ddress already in use" in lines[0]


def test_serve_takes_its_options_before_the_environment(tmp_path: Path) -> None:
    """An option wins over the variable of the same setting."""
    with serving(
        tmp_path, VALID, environ={"ROUTER_PORT": "1", "ROUTER_POLICY": "missing", "ROUTER_WORKERS": "0"}
    ) as on:
        assert on.call("GET", "/healthz").status == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_says_where_it_listens(workers: int, tmp_path: Path) -> None:
    """Where the port is any that is free nobody would know it otherwise."""
    (tmp_path / "policy.yaml").write_text(VALID)
    arguments = [COMMAND, "serve", *POLICY_FILE, "--port", "0", "--workers", str(workers)]
    with process(arguments, tmp_path) as served:
        wait_until(lambda: '"listening"' in served.stderr() or not served.running(), "the log has the address")
        (line,) = [json.loads(line) for line in served.stderr().splitlines() if '"listening"' in line]
        assert (line["host"], line["tls"], line["workers"]) == ("127.0.0.1", False, workers)
        wait_until(lambda: healthy(line["port"]), "it answers there")


def test_serve_without_keys_refuses_every_request_and_says_so(tmp_path: Path) -> None:
    """A router without keys starts, warns the operator and lets nobody in."""
    with serving(tmp_path, VALID, environ={"ROUTER_KEYS_DIR": ""}) as served:
        assert served.call("GET", "/v1/models").status == 401
        assert "no API key is known" in served.stderr()


def test_module_is_the_same_command(tmp_path: Path) -> None:
    """`python -m stratmaster_router` prints the help of `stratmaster-router` to the letter, and serves as it does."""
    module = [sys.executable, "-m", "stratmaster_router"]
    for arguments in (["--help"], ["serve", "--help"]):
        by_name = finished([COMMAND, *arguments], tmp_path)
        by_module = finished([*module, *arguments], tmp_path)
        assert (by_module.returncode, by_module.stdout, by_module.stderr) == (0, by_name.stdout, by_name.stderr)
        assert "stratmaster-router" in by_name.stdout

    (tmp_path / "policy.yaml").write_text(VALID)
    port = free_port()
    with process([*module, "serve", "--policy", "policy.yaml", "--port", str(port)], tmp_path) as ran:
        wait_until(lambda: healthy(port) or not ran.running(), "the router is up")
        line = Line(port)
        assert line.get("/readyz").status == 200
        line.close()
