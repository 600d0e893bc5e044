"""What a provider that redacts gets to see, and what its client gets back, over real sockets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from support.books import rows
from support.calls import Answer, call, events, eventually, stream_error
from support.policies import one_hop
from support.scripted import Exchange, Script, Scripted, chunked, running_scripted, stream_head
from support.servers import ACME_KEY, RunningRouter, running_router

CHAT = "/v1/chat/completions"
ANN, CARD = "ann@example.com", "4111111111111111"
ASKED = f"Write to {ANN}, card {CARD}, again {ANN}."
SENT = "Write to [EMAIL_1], card [CARD_1], again [EMAIL_1]."
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def redacting(policy: str, provider: str = "only", kinds: str = "[email, card]") -> str:
    """`policy`, whose tenant's `provider` redacts."""
    begin, tenants, end = policy.partition("\ntenants:")
    return (
        begin
        + tenants
        + end.replace(f"\n      {provider}:\n", f"\n      {provider}:\n        privacy: {{redact: {kinds}}}\n")
    )


def echo(exchange: Exchange) -> None:
    """A provider whose model repeats the last message: as content, as reasoning and as a tool's argument.

    In a stream every character is an event, of content and arguments in turn.
    """
    body = json.loads(exchange.body)
    text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    if not body.get("stream"):
        exchange.answer(json.dumps(_whole(text)).encode() if "messages" in body else _legacy(text))
        return
    exchange.send(stream_head())
    if "messages" not in body:
        for letter in text:
            exchange.chunk(_event({"index": 0, "text": letter, "finish_reason": None}))
        exchange.chunk(_event({"index": 0, "text": "", "finish_reason": "stop"}))
    else:
        arguments = json.dumps({"to": text})
        exchange.chunk(_event(_delta(role="assistant", content="")))
        for place in range(max(len(text), len(arguments))):
            if place < len(text):
                exchange.chunk(_event(_delta(content=text[place])))
            if place < len(arguments):
                function = {"arguments": arguments[place]} | ({} if place else {"name": "mail"})
                item = {"index": 0, "function": function} | ({} if place else {"id": "call_1", "type": "function"})
                exchange.chunk(_event(_delta(tool_calls=[item])))
        exchange.chunk(_event({"index": 0, "delta": {}, "finish_reason": "stop"}))
    exchange.chunk(b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n")
    exchange.chunk(b"data: [DONE]\n\n")
    exchange.chunk(b"")


def _whole(text: str) -> dict[str, Any]:
    function = {"name": "mail", "arguments": json.dumps({"to": text})}
    message = {
        "role": "assistant",
        "content": text,
        "reasoning_content": text,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}


def _legacy(text: str) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
    return json.dumps(
        {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()


def _delta(**members: Any) -> dict[str, Any]:
    return {"index": 0, "delta": members, "finish_reason": None}


def _event(choice: dict[str, Any]) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def ask(router: RunningRouter, content: Any = ASKED, path: str = CHAT, **fields: Any) -> Answer:
    """A request of acme."""
    text = {"prompt": content} if path == "/v1/completions" else {"messages": [{"role": "user", "content": content}]}
    return call(router, "POST", path, {"model": "reasoning", **text, **fields})


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """A provider that repeats."""
    with running_scripted(echo) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def router(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router whose one provider redacts e-mail addresses and cards."""
    with running_router(tmp_path_factory.mktemp("router"), redacting(one_hop(upstream.url))) as running:
        yield running


def test_provider_sees_placeholders_and_the_client_its_data(router: RunningRouter, upstream: Scripted) -> None:
    """A whole answer comes back with the originals, in its texts and in its tools' arguments; a header says so."""
    answer = ask(router)

    assert json.loads(upstream.exchanges[-1].body) == {
        "model": "gpt-4.1",
        "messages": [{"role": "user", "content": SENT}],
    }
    assert (answer.status, answer.headers["x-router-redacted"]) == (200, "card=1,email=1")
    assert answer.json() == _whole(ASKED)
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_stream_is_restored_however_it_is_cut(router: RunningRouter, upstream: Scripted) -> None:
    """Placeholders that come letter by letter, in two texts at once, are put together again; the end is as it was."""
    answer = ask(router, stream=True, stream_options={"include_usage": True})

    assert ANN.encode() not in upstream.exchanges[-1].body
    assert (answer.status, answer.headers["x-router-redacted"]) == (200, "card=1,email=1")
    *chunks, finish, usage, done = [event.removeprefix(b"data: ") for event in events(answer.body)]
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == ASKED
    calls = [item["function"]["arguments"] for delta in deltas for item in delta.get("tool_calls", ())]
    assert json.loads("".join(calls)) == {"to": ASKED}
    assert json.loads(finish)["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert json.loads(usage)["usage"] == USAGE
    assert done == b"[DONE]\n\n"


@pytest.mark.parametrize("stream", [False, True])
def test_legacy_completion_is_restored(router: RunningRouter, upstream: Scripted, stream: bool) -> None:
    """The prompt of a completion is redacted, its text restored."""
    answer = ask(router, path="/v1/completions", stream=stream)

    assert json.loads(upstream.exchanges[-1].body)["prompt"] == SENT
    if stream:
        chunks = [json.loads(event.removeprefix(b"data: ")) for event in events(answer.body)[:-1]]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == ASKED
    else:
        assert answer.json()["choices"][0]["text"] == ASKED


def test_official_client_gets_its_data(router: RunningRouter) -> None:
    """The openai client puts a restored answer together, streamed or not."""
    with OpenAI(
        base_url=f"{router.url}/v1", api_key=ACME_KEY, default_headers={"X-Tenant-ID": "acme"}, max_retries=0
    ) as client:
        answer = client.chat.completions.create(model="reasoning", messages=[{"role": "user", "content": ASKED}])
        with client.chat.completions.stream(model="reasoning", messages=[{"role": "user", "content": ASKED}]) as stream:
            streamed = stream.get_final_completion()

    for choice in (answer.choices[0], streamed.choices[0]):
        assert choice.message.content == ASKED
        (tool,) = choice.message.tool_calls or []
        assert tool.type == "function"
        assert json.loads(tool.function.arguments) == {"to": ASKED}


def test_words_that_look_like_placeholders_stay_the_callers(router: RunningRouter, upstream: Scripted) -> None:
    """A prompt that asks for `[EMAIL_1]` gets these letters and nobody's address."""
    text = f"Print [EMAIL_1] for {ANN}"

    answer = ask(router, text)

    assert json.loads(upstream.exchanges[-1].body)["messages"][0]["content"] == "Print [EMAIL_1] for [EMAIL_A1]"
    assert answer.json()["choices"][0]["message"]["content"] == text


def test_long_request_is_redacted_too(router: RunningRouter, upstream: Scripted) -> None:
    """What is long is done in a thread, to the same end."""
    text = f"{ASKED} {'word ' * 20_000}{ANN}"

    answer = ask(router, text)

    sent = json.loads(upstream.exchanges[-1].body)["messages"][0]["content"]
    assert sent == f"{SENT} {'word ' * 20_000}[EMAIL_1]"
    assert answer.json()["choices"][0]["message"]["content"] == text


def test_request_without_anything_to_find_keeps_its_bytes(router: RunningRouter, upstream: Scripted) -> None:
    """Where nothing is found the body is the client's but for the model, the answer the provider's; no header."""
    body = b'{ "model":"reasoning","messages": [{"role":"user","content":"caf\\u00e9 [EMAIL_1]"}], "x": 1.50 }'

    answer = call(router, "POST", CHAT, body)

    assert upstream.exchanges[-1].body == body.replace(b"reasoning", b"gpt-4.1")
    assert answer.body == json.dumps(_whole("café [EMAIL_1]")).encode()
    assert "x-router-redacted" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
def test_provider_that_does_not_redact_gets_every_byte(tmp_path: Path, stream: bool) -> None:
    """Without `redact` nothing is looked at: request and answer pass byte for byte."""
    body = b'{"model":"reasoning","messages":[{"role":"user","content":"%s [EMAIL_1]"}]%s}' % (
        ANN.encode(),
        b',"stream":true,"stream_options":{"include_usage":true}' if stream else b"",
    )
    events_sent = (
        b'data: {"choices": [{"delta": {"content": "[EMAIL_1]"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    )
    whole = b'{"choices": [{"message": {"content": "[EMAIL_1]"}}], "x": 1.50}'
    script: Script = chunked(events_sent) if stream else lambda exchange: exchange.answer(whole)

    with running_scripted(script) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answer = call(router, "POST", CHAT, body)

        assert upstream.exchanges[0].body == body.replace(b"reasoning", b"gpt-4.1")
    assert answer.body == (events_sent if stream else whole)
    assert "x-router-redacted" not in answer.headers


def two(first: str, second: str) -> str:
    """A policy of two hops."""
    return f"""
providers:
  first: {{base_url: "{first}/v1", retries: {{max: 0}}}}
  second: {{base_url: "{second}/v1", retries: {{max: 0}}}}
tenants:
  acme:
    providers:
      first:
        models:
          reasoning: {{default: gpt-4.1}}
      second:
        models:
          reasoning: {{default: gpt-4o-mini}}
"""


def failing(exchange: Exchange) -> None:
    """A provider that is ill."""
    exchange.answer(b"{}", status="503 Service Unavailable")


@pytest.mark.parametrize(("provider", "seen"), [("first", [SENT, ASKED]), ("second", [ASKED, SENT])])
def test_each_hop_has_its_own_privacy(tmp_path: Path, provider: str, seen: list[str]) -> None:
    """A fallback from a provider that redacts to one that does not, and the other way round."""
    with (
        running_scripted(failing) as ill,
        running_scripted(echo) as well,
        running_router(tmp_path, redacting(two(ill.url, well.url), provider)) as router,
    ):
        answer = ask(router)

        bodies = [json.loads(each.exchanges[0].body) for each in (ill, well)]
    assert [body["messages"][0]["content"] for body in bodies] == seen
    assert [body["model"] for body in bodies] == ["gpt-4.1", "gpt-4o-mini"]
    assert answer.json()["choices"][0]["message"]["content"] == ASKED
    assert ("x-router-redacted" in answer.headers) is (provider == "second")


def test_hedged_hops_see_the_same_placeholders(tmp_path: Path) -> None:
    """Where two hops that redact are asked side by side, either answer is restored."""

    def slow(exchange: Exchange) -> None:
        exchange.wait_closed()

    with running_scripted(slow) as first, running_scripted(echo) as second:
        policy = redacting(redacting(two(first.url, second.url), "first"), "second")
        hedged = policy.replace("retries: {max: 0}", "retries: {max: 0}, hedge: {after: 50ms}", 1)
        with running_router(tmp_path, hedged) as router:
            answer = ask(router)

        assert [json.loads(each.exchanges[0].body)["messages"][0]["content"] for each in (first, second)] == [SENT] * 2
    assert (answer.headers["x-router-provider"], answer.json()["choices"][0]["message"]["content"]) == ("second", ASKED)


IMAGE = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]
PARTS = "the request has a picture, sound, a file or a part of an unknown type, which redact cannot search"
TOKENS = "the request has token ids instead of text, which redact cannot search"


@pytest.mark.parametrize(("path", "content", "reason"), [(CHAT, IMAGE, PARTS), ("/v1/completions", [1, 2, 3], TOKENS)])
def test_what_cannot_be_searched_is_refused_with_the_trace(
    router: RunningRouter, upstream: Scripted, path: str, content: Any, reason: str
) -> None:
    """Privacy leaves no hop, so the request is refused and reaches nobody."""
    before = len(upstream.exchanges)

    answer = ask(router, content, path)

    error = answer.error()
    assert (answer.status, error["code"]) == (403, "raw_docs_forbidden")
    assert error["decision"]["trace"] == [{"provider": "only", "model": "gpt-4.1", "kept": False, "reason": reason}]
    assert len(upstream.exchanges) == before


def test_what_cannot_be_searched_goes_where_nothing_is_redacted(tmp_path: Path) -> None:
    """A picture skips the provider that redacts."""

    def answer_plainly(exchange: Exchange) -> None:
        exchange.answer(json.dumps(_whole("a picture")).encode())

    with (
        running_scripted(answer_plainly) as first,
        running_scripted(answer_plainly) as second,
        running_router(tmp_path, redacting(two(first.url, second.url), "first")) as router,
    ):
        answer = ask(router, IMAGE)

        assert (len(first.exchanges), len(second.exchanges)) == (0, 1)
    assert (answer.status, answer.headers["x-router-attempts"]) == (200, "1")


def test_number_that_may_be_data_is_refused(router: RunningRouter, upstream: Scripted) -> None:
    """What cannot be replaced makes the request invalid for this plan; the message has none of it."""
    before = len(upstream.exchanges)

    answer = ask(router, "x", metadata={"card": int(CARD)})

    assert (answer.status, answer.error()["code"]) == (400, "invalid_request")
    assert CARD.encode() not in answer.body
    assert len(upstream.exchanges) == before


def test_redaction_that_fails_keeps_the_request_from_the_provider(tmp_path: Path) -> None:
    """Where a request cannot be written anew (here a number that no JSON library writes), the next hop is asked."""
    body = b'{"model":"reasoning","messages":[{"role":"user","content":"x"}],"metadata":[1e400,"%s"]}' % ANN.encode()
    with (
        running_scripted(echo) as first,
        running_scripted(echo) as second,
        running_router(tmp_path, redacting(two(first.url, second.url), "first")) as router,
    ):
        answer = call(router, "POST", CHAT, body)

        assert (len(first.exchanges), len(second.exchanges)) == (0, 1)
    assert (answer.status, answer.headers["x-router-provider"], answer.headers["x-router-attempts"]) == (
        200,
        "second",
        "1",
    )


def test_redaction_that_fails_everywhere_is_an_exhausted_plan(router: RunningRouter, upstream: Scripted) -> None:
    """The attempts say why; nothing was sent."""
    body = b'{"model":"reasoning","messages":[{"role":"user","content":"x"}],"metadata":[1e400,"%s"]}' % ANN.encode()
    before = len(upstream.exchanges)

    answer = call(router, "POST", CHAT, body)

    assert (answer.status, answer.error()["attempts"]) == (
        503,
        [{"provider": "only", "model": "gpt-4.1", "status": None, "code": "redaction_failed", "ms": 0.0}],
    )
    assert len(upstream.exchanges) == before


def test_stream_that_breaks_off_shows_what_was_held_back(tmp_path: Path) -> None:
    """The beginning of a placeholder comes before the error event, and the stream does not look complete."""
    pieces = [_event(_delta(content=piece)) for piece in ("to [EMAIL_1]", ", [EMA")]

    with (
        running_scripted(chunked(*pieces)) as upstream,
        running_router(tmp_path, redacting(one_hop(upstream.url))) as router,
    ):
        answer = ask(router, stream=True)

    *said, error = events(answer.body)
    deltas = [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]["content"] for event in said]
    assert deltas == [f"to {ANN}", ", ", "[EMA"]
    assert stream_error(error)["code"] == "upstream_stream_truncated"


def test_embedding_input_is_redacted(tmp_path: Path) -> None:
    """There is nothing to restore in an embedding."""
    vector = b'{"object":"list","data":[{"index":0,"embedding":[0.50]}],"model":"m","usage":{"prompt_tokens":2}}'
    with running_scripted(lambda exchange: exchange.answer(vector)) as upstream:
        policy = redacting(one_hop(upstream.url).replace("reasoning:", "embedding:"))
        with running_router(tmp_path, policy) as router:
            answer = call(router, "POST", "/v1/embeddings", {"model": "embedding", "input": [ANN, "x"]})

        assert json.loads(upstream.exchanges[0].body)["input"] == ["[EMAIL_1]", "x"]
    assert (answer.body, answer.headers["x-router-redacted"]) == (vector, "email=1")


def test_bridge_to_litellm_is_sent_what_is_redacted(tmp_path: Path) -> None:
    """A provider of `wire: litellm` is a hop as any other: its bridge sees placeholders."""
    policy = """
providers:
  claude: {wire: litellm, litellm_provider: anthropic, retries: {max: 0}}
tenants:
  acme:
    providers:
      claude:
        models:
          reasoning: {default: claude-sonnet-4-5}
"""
    with (
        running_scripted(echo) as bridge,
        running_router(tmp_path, redacting(policy, "claude"), bridge_url=bridge.url, bridge_token="t0ken") as router,
    ):
        answer = ask(router)

        assert json.loads(bridge.exchanges[-1].body)["messages"][0]["content"] == SENT
    assert answer.json()["choices"][0]["message"]["content"] == ASKED


def test_records_say_what_was_redacted_and_never_what_it_was(tmp_path: Path) -> None:
    """The access line has how many of each kind; what the provider counted is what is billed."""
    with (
        running_scripted(echo) as upstream,
        running_router(tmp_path, redacting(one_hop(upstream.url))) as router,
    ):
        ask(router)
        ask(router, "hello")
    lines = router.access_lines()

    assert [line.get("redacted") for line in lines if line["path"] == CHAT] == ["card=1,email=1", None]
    assert [(line["input_tokens"], line["output_tokens"]) for line in lines if line["path"] == CHAT] == [(11, 7)] * 2
    assert ANN not in json.dumps(lines)
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows(tmp_path, 2)] == [(11, 7)] * 2


def test_pattern_of_the_policys_own_is_redacted_and_changes_with_it(tmp_path: Path) -> None:
    """`redact` may name a pattern; after a reload the new one counts."""
    pattern = '\nredaction: {{patterns: {{staff: "{}[0-9]{{4}}"}}}}\n'
    text = "Ask E1234 or F5678."
    with running_scripted(echo) as upstream:
        policy = redacting(one_hop(upstream.url), kinds="[staff, email]")
        with running_router(tmp_path, policy + pattern.format("E")) as router:
            first = ask(router, text)
            router.policy.write_text(policy + pattern.format("F"))
            hash_now = first.headers["x-router-policy"]
            second = eventually(lambda: ask(router, text), lambda a: a.headers["x-router-policy"] != hash_now)

        sent = [json.loads(exchange.body)["messages"][0]["content"] for exchange in upstream.exchanges]
    assert (sent[0], sent[-1]) == ("Ask [STAFF_1] or F5678.", "Ask E1234 or [STAFF_1].")
    for answer in (first, second):
        assert answer.headers["x-router-redacted"] == "staff=1"
        assert answer.json()["choices"][0]["message"]["content"] == text


def test_refusal_of_the_provider_shows_no_data(tmp_path: Path) -> None:
    """A message of the provider's that repeats the request has placeholders in it."""

    def refuse(exchange: Exchange) -> None:
        text = json.loads(exchange.body)["messages"][0]["content"]
        exchange.answer(json.dumps({"error": {"message": f"bad: {text}"}}).encode(), status="400 Bad Request")

    with (
        running_scripted(refuse) as upstream,
        running_router(tmp_path, redacting(one_hop(upstream.url))) as router,
    ):
        answer = ask(router)

    assert (answer.status, answer.json()["error"]["message"]) == (400, f"bad: {SENT}")
