import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.calls import HELLO, TIMEOUT, Answer, call, eventually, identified
from support.scripted import Exchange, running_scripted
from support.servers import Mock, RunningRouter, running_mock, running_router

# `near` may get nothing raw and no text over 20 characters, `far` nothing raw, `own` everything.
POLICY = """
providers:
  near: {{base_url: "{mock}/v1"}}
  far: {{base_url: "{mock}/v1"}}
  own: {{base_url: "{mock}/v1"}}
tenants:
  acme:
    providers:
      near:
        models:
          reasoning: {{default: gpt-4.1}}
          embedding: {{default: text-embedding-3-small}}
          mixed: {{default: gpt-4o}}
        privacy: {{send_raw_docs: false, max_snippet_chars: 20}}
      far:
        models:
          mixed: {{default: gpt-4o-mini}}
      own:
        models:
          documents: {{default: gpt-4o}}
          vectors: {{default: text-embedding-3-large}}
        privacy: {{send_raw_docs: true}}
"""
CHAT, LEGACY, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
LONG = "x" * 21
CANARY = "canary-6f1d"
RAW = "the request carries raw documents and send_raw_docs is false"
SNIPPET = "a text is longer than 20 characters and send_raw_docs is false"


def _said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


CASES: dict[str, tuple[str, dict[str, Any], dict[str, str], str]] = {
    "file part": (CHAT, _said([{"type": "file", "file": {"file_data": CANARY}}]), {}, RAW),
    "document part": (CHAT, _said([{"type": "document", "source": CANARY}]), {}, RAW),
    "input_file part": (CHAT, _said([{"type": "input_file", "file_id": "f"}]), {}, RAW),
    "unknown part": (CHAT, _said([{"type": "text2", "text": CANARY}]), {}, RAW),
    "part without a type": (CHAT, _said([{"text": CANARY}]), {}, RAW),
    "part after a text": (CHAT, _said([{"type": "text", "text": "see"}, {"type": "file", "file": {}}]), {}, RAW),
    "part of the assistant": (CHAT, _said([{"type": "file", "file": {}}], "assistant"), {}, RAW),
    "data that is no image": (
        CHAT,
        _said([{"type": "image_url", "image_url": {"url": f"data:application/pdf;base64,{CANARY}"}}]),
        {},
        RAW,
    ),
    "documents": (CHAT, {**_said("hi"), "documents": [{"text": CANARY}]}, {}, RAW),
    "empty documents": (CHAT, {**_said("hi"), "documents": []}, {}, RAW),
    "header": (CHAT, _said("hi"), {"X-Data-Class": "raw-docs"}, RAW),
    "header in capitals": (CHAT, _said("hi"), {"x-data-class": "RAW-DOCS"}, RAW),
    "long user text": (CHAT, _said(LONG), {}, SNIPPET),
    "part with a second type": (CHAT, _said([{"type": "text", "text": "a", "Type": "file"}]), {}, RAW),
    "content in another case": (CHAT, {"messages": [{"role": "user", "Content": CANARY}]}, {}, RAW),
    "picture that says it is none": (
        CHAT,
        _said([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{CANARY}", "format": "text/csv"}}]),
        {},
        RAW,
    ),
    "documents of a template": (CHAT, {**_said("hi"), "chat_template_kwargs": {"documents": []}}, {}, RAW),
    "file to embed": (EMBEDDINGS, {"input": [f"data:text/csv,{CANARY}"]}, {}, RAW),
    "prompt as embeddings": (LEGACY, {"prompt": "", "prompt_embeds": CANARY}, {}, RAW),
    "long prediction": (CHAT, {**_said("hi"), "prediction": {"type": "content", "content": LONG}}, {}, SNIPPET),
    "long result in the assistant's message": (
        CHAT,
        _said([{"type": "tool_result", "tool_use_id": "t", "content": LONG}], "assistant"),
        {},
        SNIPPET,
    ),
    "long suffix": (LEGACY, {"prompt": "hi", "suffix": LONG}, {}, SNIPPET),
    "long tool text": (CHAT, _said(LONG, "tool"), {}, SNIPPET),
    "long text part": (CHAT, _said([{"type": "text", "text": LONG}]), {}, SNIPPET),
    "long text of an unknown role": (CHAT, _said(LONG, "critic"), {}, SNIPPET),
    "legacy header": (LEGACY, {"prompt": "hi"}, {"X-Data-Class": "raw-docs"}, RAW),
    "legacy documents": (LEGACY, {"prompt": "hi", "documents": []}, {}, RAW),
    "long prompt": (LEGACY, {"prompt": LONG}, {}, SNIPPET),
    "long prompt of several": (LEGACY, {"prompt": ["a", LONG]}, {}, SNIPPET),
    "embedding header": (EMBEDDINGS, {"input": "hi"}, {"X-Data-Class": "raw-docs"}, RAW),
    "long embedding input": (EMBEDDINGS, {"input": LONG}, {}, SNIPPET),
    "long embedding input of several": (EMBEDDINGS, {"input": ["a", LONG, "b"]}, {}, SNIPPET),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Mock]:
    """One mocked provider for the module."""
    with running_mock() as mock:
        yield mock


@pytest.fixture(scope="module")
def private(upstream: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """One router for the module."""
    with running_router(tmp_path_factory.mktemp("router"), POLICY.format(mock=upstream.url)) as router:
        yield router


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_raw_documents_are_refused_with_the_trace(
    private: RunningRouter, upstream: Mock, case: str, stream: bool
) -> None:
    """A request that no provider may see is a 403 with the reasons, reaches no upstream, and is not repeated."""
    path, fields, headers, reason = CASES[case]
    task, model = ("embedding", "text-embedding-3-small") if path == EMBEDDINGS else ("reasoning", "gpt-4.1")
    before = len(upstream.requests())

    answer = call(private, "POST", path, {"model": task, "stream": stream, **fields}, {**identified(), **headers})

    policy = answer.headers["x-router-policy"]
    assert (answer.status, answer.headers["x-should-retry"]) == (403, "false")
    assert answer.error() == {
        "type": "permission_error",
        "param": None,
        "code": "raw_docs_forbidden",
        "retryable": False,
        "request_id": answer.headers["x-request-id"],
        "decision": {
            "policy": policy,
            "task": task,
            "trace": [{"provider": "near", "model": model, "kept": False, "reason": reason}],
        },
    }
    assert CANARY not in answer.body.decode()
    assert len(upstream.requests()) == before


@pytest.mark.parametrize("case", CASES)
def test_raw_documents_may_go_where_the_policy_says(private: RunningRouter, case: str) -> None:
    """The same request is answered by a provider with `send_raw_docs: true`."""
    path, fields, headers, _ = CASES[case]
    model = "vectors" if path == EMBEDDINGS else "documents"
    if "critic" in str(fields):
        fields = _said(LONG)  # the mocked provider knows no such role

    answer = call(private, "POST", path, {"model": model, **fields}, {**identified(), **headers})

    assert (answer.status, answer.headers["x-router-provider"]) == (200, "own")


@pytest.mark.parametrize(
    "fields",
    [
        _said("x" * 20),
        _said("é😀" * 10),
        _said(LONG * 100, "system"),
        _said(LONG * 100, "developer"),
        _said(
            [{"type": "text", "text": "short"}, {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]
        ),
        _said([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}]),
        _said([{"type": "input_audio", "input_audio": {"data": "A" * 1000, "format": "wav"}}]),
        {**HELLO, "user": LONG, "metadata": {"documents": LONG}},
    ],
)
def test_harmless_request_is_not_taken_for_a_document(private: RunningRouter, fields: dict[str, Any]) -> None:
    """Text up to the limit, the operator's own text, pictures and sound are no raw documents."""
    answer = call(private, "POST", CHAT, {**fields, "model": "reasoning"})

    assert (answer.status, answer.headers["x-router-provider"]) == (200, "near")


def test_plan_skips_the_provider_that_may_not_see_a_long_text(private: RunningRouter) -> None:
    """A text too long for the first provider goes to the second, which has no such limit; a short one to the first."""
    long = call(private, "POST", CHAT, {"model": "mixed", **_said(LONG)})
    short = call(private, "POST", CHAT, {"model": "mixed", **_said("short")})

    assert [(answer.headers["x-router-provider"], answer.headers["x-router-attempts"]) for answer in (long, short)] == [
        ("far", "1"),
        ("near", "1"),
    ]


def test_trace_of_a_refusal_has_every_provider_that_was_considered(private: RunningRouter) -> None:
    """The trace tells of each (provider, model) of the plan why it was dropped."""
    answer = call(private, "POST", CHAT, {"model": "mixed", **_said([{"type": "file", "file": {}}])})

    assert answer.error()["decision"]["trace"] == [
        {"provider": "near", "model": "gpt-4o", "kept": False, "reason": RAW},
        {"provider": "far", "model": "gpt-4o-mini", "kept": False, "reason": RAW},
    ]


def _policy(url: str, *, before: bool) -> str:
    """`leak` comes with a change that also forbids `own` what it might have before."""
    own = f"{{models: {{reasoning: {{default: a}}}}, privacy: {{send_raw_docs: {str(before).lower()}}}}}"
    leak = "" if before else "\n      leak: {models: {reasoning: {default: a}}}"
    return f"""
providers:
  gated: {{base_url: "{url}/gated/v1", retries: {{max: 0}}}}
  leak: {{base_url: "{url}/leak/v1"}}
  own: {{base_url: "{url}/own/v1"}}
tenants:
  acme:
    providers:
      gated: {{models: {{reasoning: {{default: a}}}}, privacy: {{send_raw_docs: true}}}}{leak}
      own: {own}
"""


def test_change_of_the_policy_in_mid_plan_opens_no_way(tmp_path: Path) -> None:
    """A request goes on by the plan that it began with: not to what has come since; the next one by the new policy."""
    go = threading.Event()

    def act(exchange: Exchange) -> None:
        if exchange.path.startswith("/gated/"):
            assert go.wait(TIMEOUT)
            exchange.answer(b"{}", status="503 Busy")
        else:
            exchange.answer(b'{"object":"chat.completion","choices":[]}')

    document = {"model": "reasoning", **_said([{"type": "file", "file": {"file_data": CANARY}}])}
    with (
        running_scripted(act) as upstream,
        running_router(tmp_path, _policy(upstream.url, before=True)) as router,
    ):
        answers: list[Answer] = []
        asking = threading.Thread(target=lambda: answers.append(call(router, "POST", CHAT, document)))
        asking.start()
        eventually(lambda: len(upstream.exchanges), lambda count: count == 1)
        before = call(router, "GET", "/healthz").json()["policy"]
        router.policy.write_text(_policy(upstream.url, before=False))
        eventually(lambda: call(router, "GET", "/healthz").json()["policy"], lambda policy: bool(policy != before))
        go.set()
        asking.join(TIMEOUT)
        answers.append(call(router, "POST", CHAT, document))
        asked = [exchange.path.split("/")[1] for exchange in upstream.exchanges]

    assert [answer.status for answer in answers] == [200, 503]
    assert asked == ["gated", "own", "gated"]
