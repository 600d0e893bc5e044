import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.processes import Answer, Line, Scrape, free_port, healthy, part_missing, process, wait_until
from support.servers import REPOSITORY, RunningRouter, running_router

TESTS = REPOSITORY / "packages" / "router" / "tests"
POLICY = """
providers:
  local:
    base_url: http://127.0.0.1:{port}/v1
tenants:
  acme:
    providers:
      local:
        models:
          reasoning: {{default: tiny}}
"""
# `cache_prompt` and `ignore_eos` are llama.cpp's own fields, which the router does not know: they must travel.
EXACT = {"temperature": 0, "seed": 7, "cache_prompt": False, "ignore_eos": True}
MESSAGES = [{"role": "system", "content": "w1 w2"}, {"role": "user", "content": "w3 w44 w155 stop?"}]
PATHS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 24}),
    ("/v1/completions", {"prompt": "w3 w44 w155", "max_tokens": 17}),
]


class Llama:
    """A running llama.cpp server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What it answers when it is asked directly."""
        line = Line(self.port)
        try:
            answer = line.post(path, body, {"Content-Type": "application/json"})
        finally:
            line.close()
        assert answer.status == 200, answer.body
        return answer.json()

    def prompt_tokens(self, path: str, body: dict[str, Any]) -> int:
        """The tokens of a request's prompt, as its tokenizer counts them."""
        prompt = body["prompt"] if "prompt" in body else self.post("/apply-template", body)["prompt"]
        return len(self.post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"])

    def get(self, path: str) -> bytes:
        """A page of its own."""
        line = Line(self.port)
        try:
            return line.get(path, {}).body
        finally:
            line.close()

    def busy(self) -> bool:
        """Whether it generates for anyone."""
        return any(slot["is_processing"] for slot in msgspec.json.decode(self.get("/slots")))

    def predicted(self) -> float:
        """The tokens that it has generated since it began."""
        return Scrape(self.get("/metrics").decode()).total("llamacpp:tokens_predicted_total")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """The real llama.cpp server over a tiny random model, in a process of its own."""
    for module in ("xllamacpp", "gguf", "numpy"):
        if importlib.util.find_spec(module) is None:
            part_missing(f"{module} is not installed, so there is no llama.cpp to test with")
    from support.llama import write_model

    folder = tmp_path_factory.mktemp("llama")
    write_model(folder / "tiny.gguf")
    port = free_port()
    arguments = [sys.executable, "-m", "support.llama", str(folder / "tiny.gguf"), str(port)]
    with process(arguments, TESTS) as ran:
        wait_until(lambda: healthy(port, "/health") or not ran.running(), "llama.cpp is up")
        assert ran.running(), ran.stderr()
        yield Llama(port)


def call(router: RunningRouter, path: str, body: dict[str, Any]) -> Answer:
    """One POST of acme's."""
    line = Line(router.port)
    try:
        return line.post(path, body)
    finally:
        line.close()


@pytest.mark.parametrize(("path", "request_body"), PATHS)
def test_llama_answer_and_its_token_counts_pass_exactly(
    path: str, request_body: dict[str, Any], llama: Llama, tmp_path: Path
) -> None:
    """An answer of llama.cpp is the one that it gives directly; log and metrics count what its tokenizer counts."""
    body = {"model": "tiny", **request_body, **EXACT}
    prompt_tokens = llama.prompt_tokens(path, request_body)
    direct = llama.post(path, body)

    with running_router(tmp_path, POLICY.format(port=llama.port)) as router:
        answer = call(router, path, {**body, "model": "reasoning"})
        assert answer.status == 200
        assert _lasting(answer.json()) == _lasting(direct)
        made = request_body["max_tokens"]
        assert answer.json()["usage"] == {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": made,
            "total_tokens": prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        lane = ("acme", "local", "tiny")
        wait_until(lambda: Scrape(router.metrics()).total("litellm_requests_total") == 1, "the request is counted")
        assert Scrape(router.metrics()).by_labels("litellm_input_tokens_total") == {lane: prompt_tokens}
        assert Scrape(router.metrics()).by_labels("litellm_output_tokens_total") == {lane: made}
    logged = [(line["status"], line["input_tokens"], line["output_tokens"]) for line in router.access_lines()]
    assert logged == [(200, prompt_tokens, made)]


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(("path", "request_body"), PATHS)
def test_llama_stream_and_its_token_counts_pass_exactly(
    path: str, request_body: dict[str, Any], asked: bool, llama: Llama, tmp_path: Path
) -> None:
    """A stream of llama.cpp adds up to its plain answer, and is metered whether or not the client asked for usage."""
    body = {"model": "tiny", **request_body, **EXACT}
    prompt_tokens, made = llama.prompt_tokens(path, request_body), request_body["max_tokens"]
    direct = llama.post(path, body)

    with running_router(tmp_path, POLICY.format(port=llama.port)) as router:
        options = {"stream_options": {"include_usage": True}} if asked else {}
        answer = call(router, path, {**body, "model": "reasoning", "stream": True, **options})
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        *events, done, end = answer.body.split(b"\n\n")
        assert (done, end) == (b"data: [DONE]", b"")
        chunks = [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        assert "".join(_text(choice) for choice in choices) == _text(direct["choices"][0])
        assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [direct["choices"][0]["finish_reason"]]
        if asked:
            assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [direct["usage"]]
        else:
            assert [chunk for chunk in chunks if not chunk["choices"]] == []
    logged = [(line["status"], line["input_tokens"], line["output_tokens"]) for line in router.access_lines()]
    assert logged == [(200, prompt_tokens, made)]


def test_llama_stops_generating_when_the_client_goes_away(llama: Llama, tmp_path: Path) -> None:
    """A client that leaves in the middle of a stream stops the generation, not only the connection."""
    body = {"model": "reasoning", "messages": MESSAGES, "max_tokens": 12_000, "stream": True, **EXACT}
    with running_router(tmp_path, POLICY.format(port=llama.port)) as router:
        before = llama.predicted()
        line = Line(router.port)
        line.send("POST", "/v1/chat/completions", body)
        response = line.response()
        for _ in range(20):
            assert response.readline().startswith((b"data: {", b"\n"))
        assert llama.busy()
        response.close()
        line.close()
        wait_until(lambda: not llama.busy(), "llama.cpp has stopped")

        assert llama.predicted() - before < 12_000
    assert [(line["status"], line["code"]) for line in router.access_lines()] == [(200, "client_disconnected")]


def test_llama_rejection_of_a_long_prompt_passes_with_its_message(llama: Llama, tmp_path: Path) -> None:
    """What llama.cpp says of a prompt that does not fit reaches the client, as the upstream's rejection."""
    with running_router(tmp_path, POLICY.format(port=llama.port)) as router:
        answer = call(router, "/v1/completions", {"model": "reasoning", "prompt": "w1 " * 20_000})
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["retryable"]) == (400, "upstream_rejected", False)
        assert answer.headers["x-should-retry"] == "false"
        assert "context size" in error["message"]


def test_llama_answers_both_at_once(llama: Llama, tmp_path: Path) -> None:
    """Requests that llama.cpp serves in parallel do not mix."""
    bodies = [
        {"model": "tiny", "prompt": f"w{number} w{number + 1}", "max_tokens": 30, **EXACT} for number in (10, 20, 30)
    ]
    direct = [_text(llama.post("/v1/completions", body)["choices"][0]) for body in bodies]
    with running_router(tmp_path, POLICY.format(port=llama.port)) as router:
        lines = [Line(router.port) for _ in bodies]
        for line, body in zip(lines, bodies, strict=True):
            line.send("POST", "/v1/completions", {**body, "model": "local/tiny"})
        assert [_text(line.receive().json()["choices"][0]) for line in lines] == direct
        for line in lines:
            line.close()


def _text(choice: dict[str, Any]) -> str:
    """The text of a choice of either endpoint, whole or streamed."""
    text = choice["text"] if "text" in choice else choice.get("message", choice.get("delta", {})).get("content")
    return text or ""


def _lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from run to run."""
    return {name: value for name, value in answer.items() if name not in ("id", "created", "timings")}
