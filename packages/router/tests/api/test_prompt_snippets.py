"""Prompts in the access log: only where a tenant's policy says so, redacted, and told apart without being read."""

from pathlib import Path
from typing import Any

import pytest
from support.calls import call, chat, eventually, identified
from support.servers import GLOBEX_KEY, Mock, running_router

POLICY = """
redaction: {{patterns: {{employee_id: "{pattern}"}}}}
providers:
  first: {{base_url: "{mock}/v1"}}
tenants:
  acme:
    logging: {{prompt_snippets: redacted, snippet_chars: 40}}
    providers: &all
      first:
        models: {{reasoning: {{default: gpt-4.1}}, embedding: {{default: text-embedding-3-small}}}}
        privacy: {{max_snippet_chars: 3000}}
  globex: {{providers: *all}}
"""
SECRETS = "jane@example.com 4111111111111111 E123456"


def policy(mock: Mock, pattern: str = "E[0-9]{6}") -> str:
    """One tenant, acme, has snippets; globex has none."""
    return POLICY.format(mock=mock.url, pattern=pattern)


def said(*contents: str) -> list[dict[str, Any]]:
    """Messages of a user."""
    return [{"role": "user", "content": content} for content in contents]


def test_prompt_is_in_the_access_log_only_where_the_policy_says_so(mock: Mock, tmp_path: Path) -> None:
    """A line of a tenant with snippets has the redacted beginning of its last message; no line has what is secret."""
    with running_router(tmp_path, policy(mock)) as router:
        assert chat(router, messages=said("first", f"I am {SECRETS} and much more is to be said")).status == 200
        assert chat(router, messages=said("first", f"I am {SECRETS}"), stream=True).status == 200
        assert call(router, "POST", "/v1/embeddings", {"model": "embedding", "input": [SECRETS]}).status == 200
        assert call(router, "POST", "/v1/completions", {"model": "reasoning", "prompt": SECRETS}).status == 200
        assert chat(router, messages=said(SECRETS), headers=identified(GLOBEX_KEY, "globex")).status == 200
        assert chat(router, b"{").status == 400

    lines = router.access_lines()
    assert [line.get("prompt") for line in lines] == [
        "I am [email] [card] [employee_id] and m…",
        "I am [email] [card] [employee_id]",
        "[email] [card] [employee_id]",
        "[email] [card] [employee_id]",
        None,
        None,
    ]
    assert [len(line.get("prompt_fingerprint", "")) for line in lines] == [32, 32, 32, 32, 0, 0]
    logged = (tmp_path / "access.log").read_text()
    assert not any(secret in logged for secret in SECRETS.split())


def test_refused_prompt_is_logged_too(mock: Mock, tmp_path: Path) -> None:
    """Why a request was refused is best seen with what it asked; what is long is not read to its end."""
    with running_router(tmp_path, policy(mock)) as router:
        assert chat(router, messages=said("raw " + "x" * 5000)).status == 403
        assert chat(router, model="invented", messages=said("hi")).status == 404

    assert [line["prompt"] for line in router.access_lines()] == ["raw " + "x" * 35 + "…", "hi"]


def test_equal_prompts_have_equal_fingerprints(mock: Mock, tmp_path: Path) -> None:
    """All messages count, and the model that is asked does not."""
    with running_router(tmp_path, policy(mock)) as router:
        for messages in (said("a", "b"), said("a", "b"), said("c", "b")):
            assert chat(router, messages=messages).status == 200
        assert chat(router, model="gpt-4.1", messages=said("a", "b")).status == 200

    prints = [line["prompt_fingerprint"] for line in router.access_lines()]
    assert prints[0] == prints[1] == prints[3]
    assert prints[0] != prints[2]


@pytest.mark.parametrize(
    "content", ["\ud800 \udfff", [], [{"type": "text", "text": ""}], [{"type": "image_url"}], None]
)
def test_prompt_that_has_no_text_is_a_line_all_the_same(content: Any, mock: Mock, tmp_path: Path) -> None:
    """Whatever a client sends, its line is written."""
    with running_router(tmp_path, policy(mock)) as router:
        chat(router, messages=[{"role": "user", "content": content}])

    (line,) = router.access_lines()
    assert "prompt" in line
    assert set(line["prompt"]) <= {"?", " "}


def test_pattern_of_a_changed_policy_is_in_force(mock: Mock, tmp_path: Path) -> None:
    """A pattern that is added later redacts what comes later."""
    with running_router(tmp_path, policy(mock)) as router:
        chat(router, messages=said("E123456 F123456"))
        before = call(router, "GET", "/healthz", headers={}).json()
        router.policy.write_text(policy(mock, "F[0-9]{6}"))
        eventually(lambda: call(router, "GET", "/healthz", headers={}).json(), lambda now: now != before)
        chat(router, messages=said("E123456 F123456"))

    assert [line["prompt"] for line in router.access_lines()] == ["[employee_id] F123456", "E123456 [employee_id]"]
