"""`stratmaster-router policy …`: what it prints, where, and its exit codes."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from stratmaster_router.cli.policy import app
from stratmaster_router.policy.compile import content_hash
from typer.testing import CliRunner

SHIPPED = Path(__file__).parents[5] / "configs" / "router" / "models-policy.yaml"

POLICY = """\
providers:
  local: {base_url: "http://vllm:8000/v1"}
tenants:
  acme:
    providers:
      openai:
        models: {reasoning: {default: gpt-4.1, fallbacks: [gpt-4o-mini]}, embedding: {default: vectors-1}}
        privacy: {max_snippet_chars: 20}
      groq: {enabled: false, models: {drafting: {default: llama-3}}}
      local:
        models: {reasoning: {default: llama3-8b}}
        privacy: {send_raw_docs: true}
  idle: {}
"""
HASH = content_hash(POLICY.encode())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The policy above, as a file."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    result = CliRunner(env={"OPENAI_API_KEY": "sk-1"}).invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def explain(file: Path, model: str, request: Any = None, *options: str, tenant: str = "acme") -> tuple[int, str, str]:
    """`explain`, with the request written beside the policy."""
    arguments: list[object] = ["explain", "--policy", file, "--tenant", tenant, "--model", model, *options]
    if request is not None:
        path = file.parent / "request.json"
        path.write_text(request if isinstance(request, str) else json.dumps(request))
        arguments += ["--request", path]
    return run(*arguments)


def test_check_of_a_valid_file_prints_a_summary_and_warnings(file: Path) -> None:
    """A valid file gives one screen on stdout and exit code 0."""
    assert run("check", file) == (
        0,
        f"{file}: valid, policy {HASH}\n"
        "  tenant acme: tasks reasoning, embedding; models gpt-4.1, gpt-4o-mini, vectors-1, llama3-8b; "
        "embeddings enabled\n"
        "  tenant idle: tasks none; models none; no embeddings\n"
        "  provider openai: wire openai, https://api.openai.com/v1\n"
        "  provider local: wire openai, http://vllm:8000/v1\n"
        "warning: tenants.idle: no provider is enabled, so every request is refused\n",
        "",
    )


def test_check_of_an_invalid_file_prints_every_problem_on_stderr(file: Path) -> None:
    """An invalid file gives its problems, one a line, nothing on stdout, and exit code 1."""
    file.write_text("tenants:\n  acme: {quota: 3}\nversion: 2\n")
    assert run("check", file) == (
        1,
        "",
        f"{file}: line 2: tenants.acme.quota: unknown field, known here: limits, logging, providers\n"
        f"{file}: line 3: version: expected 1, the only version, got the number 2\n",
    )


def test_check_of_a_missing_file_says_so(tmp_path: Path) -> None:
    """A file that is not there is named, with exit code 1."""
    path = tmp_path / "none.yaml"
    expected = f"{path}: line 1: the policy file cannot be read: No such file or directory\n"
    assert run("check", path) == (1, "", expected)


def test_check_of_the_shipped_configuration_passes() -> None:
    """The example that ships is valid, and with its one key nothing is left to warn of."""
    code, out, err = run("check", SHIPPED)
    assert (code, err) == (0, "")
    assert "warning" not in out


def test_schema_prints_a_json_schema() -> None:
    """`schema` prints a valid schema and nothing else."""
    code, out, err = run("schema")
    assert (code, err) == (0, "")
    assert jsonschema_rs.meta.is_valid(json.loads(out))


def test_explain_of_a_permitted_task_lists_the_plan(file: Path) -> None:
    """Without a request the facts are clean; every hop stands in its order, with its reason."""
    assert explain(file, "reasoning") == (
        0,
        f"policy   {HASH}\n"
        "request  tenant 'acme', chat/completions, model 'reasoning'\n"
        "data     no raw documents, longest text 0 characters\n"
        "answer   permitted, task 'reasoning'; tried in this order:\n"
        "  1.  openai/gpt-4.1      default of the task\n"
        "  2.  openai/gpt-4o-mini  fallback of the task\n"
        "  3.  local/llama3-8b     default of the task\n",
        "",
    )


def test_explain_shows_what_fails_over(file: Path) -> None:
    """A hop that cannot be called says what its operator must mend."""
    file.write_text("tenants: {acme: {providers: {groq: {models: {t: {default: m}}}}}}")
    code, out, _ = explain(file, "m")
    assert code == 0
    assert out.splitlines()[3:] == [
        "answer   permitted, a named model; tried in this order:",
        "  1.  groq/m  named by the request; fails over: GROQ_API_KEY is not set",
    ]


def test_explain_of_a_request_with_raw_documents_shows_what_was_dropped(file: Path) -> None:
    """With a request its own facts count: a file part leaves only the provider that may have it."""
    request = {"model": "x", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}
    code, out, err = explain(file, "reasoning", request)
    assert (code, err) == (0, "")
    assert out.splitlines()[3:] == [
        "answer   permitted, task 'reasoning'; tried in this order:",
        "  -   openai/gpt-4.1      the request carries raw documents and send_raw_docs is false",
        "  -   openai/gpt-4o-mini  the request carries raw documents and send_raw_docs is false",
        "  1.  local/llama3-8b     default of the task",
    ]


def test_explain_shows_what_is_redacted_and_what_cannot_be(file: Path) -> None:
    """A hop that redacts says what; a picture keeps it out, with the reason."""
    file.write_text(POLICY.replace("max_snippet_chars: 20", "redact: [email, iban]"))
    request = {
        "model": "x",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://x"}]}],
    }

    plain, picture = explain(file, "reasoning"), explain(file, "reasoning", request)
    plan = json.loads(explain(file, "gpt-4.1", None, "--json")[1])["plan"]

    assert plain[1].splitlines()[4] == "  1.  openai/gpt-4.1      default of the task; redacts email, iban"
    assert picture[1].splitlines()[4:] == [
        "  -   openai/gpt-4.1      the request has a picture, sound, a file or a part of an unknown type, which redact "
        "cannot search",
        "  -   openai/gpt-4o-mini  the request has a picture, sound, a file or a part of an unknown type, which redact "
        "cannot search",
        "  1.  local/llama3-8b     default of the task",
    ]
    assert [hop["redact"] for hop in plan] == [["email", "iban"]]


def test_explain_of_a_request_with_a_long_text_is_refused_with_exit_code_1(file: Path) -> None:
    """A refusal says why, and is an exit code that a script can act on."""
    request = {"model": "x", "messages": [{"role": "user", "content": "a" * 21}]}
    assert explain(file, "gpt-4.1", request) == (
        1,
        f"policy   {HASH}\n"
        "request  tenant 'acme', chat/completions, model 'gpt-4.1'\n"
        "data     no raw documents, longest text 21 characters\n"
        "answer   refused, raw_docs_forbidden: privacy leaves no provider for this data\n"
        "  -   openai/gpt-4.1  a text is longer than 20 characters and send_raw_docs is false\n",
        "",
    )


@pytest.mark.parametrize(
    ("tenant", "model", "answer"),
    [
        ("acm", "reasoning", "model_not_found: the policy names no such tenant, did you mean 'acme'?"),
        ("zzz", "reasoning", "model_not_found: the policy names no such tenant; known: acme, idle"),
        (
            "acme",
            "gpt-4",
            "model_not_found: neither a task nor an allowed model of this tenant, did you mean 'gpt-4.1'?",
        ),
        ("acme", "drafting", "model_not_found: only disabled providers have this model"),
        ("idle", "m", "model_not_found: neither a task nor an allowed model of this tenant; known: none"),
    ],
)
def test_explain_of_an_unknown_name_helps_to_find_it(file: Path, tenant: str, model: str, answer: str) -> None:
    """What is refused for its name says what is near."""
    code, out, _ = explain(file, model, tenant=tenant)
    assert (code, out.splitlines()[3]) == (1, f"answer   refused, {answer}")


@pytest.mark.parametrize(
    ("request_body", "endpoint"),
    [
        ({"model": "m", "input": "x"}, "embeddings"),
        ({"model": "m", "prompt": "x"}, "completions"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}], "input": "x"}, "chat/completions"),
    ],
)
def test_explain_takes_the_endpoint_from_the_request(file: Path, request_body: dict[str, Any], endpoint: str) -> None:
    """A request's fields say to which endpoint it goes."""
    _, out, _ = explain(file, "embedding", request_body, "--json")
    assert json.loads(out)["endpoint"] == endpoint


def test_explain_of_a_closed_endpoint_says_what_opens_it(file: Path) -> None:
    """Embeddings without an embedding task or model are refused with the rule."""
    code, out, _ = explain(file, "m", {"model": "m", "input": "x"}, tenant="idle")
    assert (code, out.splitlines()[3]) == (
        1,
        "answer   refused, endpoint_disabled: the tenant has no task named embedding or embeddings, and no model "
        "whose name contains 'embed'",
    )


def test_explain_as_json_is_the_whole_decision(file: Path) -> None:
    """`--json` gives the question, the plan and the trace to a program."""
    request = {"model": "x", "documents": [], "messages": [{"role": "user", "content": "abc"}]}
    code, out, err = explain(file, "local/llama3-8b", request, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "policy": HASH,
        "tenant": "acme",
        "endpoint": "chat/completions",
        "model": "local/llama3-8b",
        "raw_docs": "the request has a documents field",
        "longest_text": 3,
        "unsearchable": None,
        "permitted": True,
        "refusal": None,
        "why": None,
        "task": None,
        "plan": [
            {
                "provider": "local",
                "model": "llama3-8b",
                "send_raw_docs": True,
                "max_snippet_chars": None,
                "redact": [],
                "misconfigured": None,
            }
        ],
        "trace": [{"provider": "local", "model": "llama3-8b", "kept": True, "reason": "named by the request"}],
    }


@pytest.mark.parametrize("request_text", ["{", "[]", '{"model": "m"}', "\xff"])
def test_explain_of_an_unreadable_request_says_why(file: Path, request_text: str) -> None:
    """A request that the router would refuse as malformed is named on stderr, with exit code 1."""
    code, out, err = explain(file, "reasoning", request_text)
    assert (code, out) == (1, "")
    assert err.startswith(f"{file.parent / 'request.json'}: ")


def test_explain_of_an_invalid_policy_is_as_check(file: Path) -> None:
    """An invalid policy explains nothing."""
    file.write_text("tenants: 1")
    assert explain(file, "m") == (1, "", f"{file}: line 1: tenants: expected a mapping, got the number 1\n")
