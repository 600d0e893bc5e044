"""No request with a raw document reaches a provider that may not have it (policy.md, rules 4 and 5).

First for any policy, as far as the plan: a hop is the only thing that is ever called. Then for one policy over real
sockets, where every hop is tried: by fallback, by retry and by hedging.
"""

import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stratmaster_router.domain.errors import InvalidJson, InvalidRequest
from stratmaster_router.domain.routing import Principal, RequestFacts
from stratmaster_router.policy.compile import compile_policy
from stratmaster_router.policy.decide import decide
from stratmaster_router.policy.schema import PolicyDocument, PrivacySpec, TaskSpec, TenantProviderSpec, TenantSpec
from stratmaster_router.privacy.rawdocs import screen
from stratmaster_router.upstream.tls import tls_trouble
from stratmaster_router.wire.envelope import read_envelope
from support.bodies import unhurried
from support.calls import Answer, call, identified
from support.raw_requests import SNIPPET, Planted, long_texts, raw_documents, written
from support.scripted import Exchange, Scripted, chunked, running_scripted
from support.servers import RunningRouter, running_router

PROVIDERS = ["openai", "groq", "ollama", "vllm"]
planted = raw_documents() | long_texts()
uses = st.builds(
    TenantProviderSpec,
    enabled=st.booleans(),
    models=st.just({"task": TaskSpec(default="a", fallbacks=("b",)), "embedding": TaskSpec(default="a")}),
    privacy=st.builds(PrivacySpec, send_raw_docs=st.booleans(), max_snippet_chars=st.none() | st.integers(1, SNIPPET)),
)
documents = st.dictionaries(st.sampled_from(PROVIDERS), uses, min_size=1).map(
    lambda providers: PolicyDocument(tenants={"acme": TenantSpec(providers=providers)})
)


@unhurried
@given(documents, planted, st.sampled_from(["task", "a", "b"]), st.booleans(), st.randoms(use_true_random=False))
def test_no_plan_has_a_hop_that_may_not_have_the_request(
    document: PolicyDocument, request: Planted, model: str, stream: bool, chance: random.Random
) -> None:
    """Whatever the policy, the name that is asked for and the way of writing: a hop may have it, or is none."""
    body = written({"model": model, "stream": stream, **request.fields}, chance).encode()
    envelope = read_envelope(request.endpoint, body)
    reason, longest = screen(request.endpoint, envelope.fields, request.headers.get("X-Data-Class"))
    snapshot = compile_policy(document, "hash", {}, str, tls_trouble)

    decision = decide(snapshot, Principal("acme"), RequestFacts(request.endpoint, envelope.model, reason, longest))

    assert (reason is not None) == request.raw
    for hop in decision.hops:
        privacy = document.tenants["acme"].providers[hop.provider.name].privacy
        assert privacy.send_raw_docs or (not request.raw and privacy.max_snippet_chars is None)


@unhurried
@given(planted, st.randoms(use_true_random=False))
def test_no_doubled_name_hides_a_document(request: Planted, chance: random.Random) -> None:
    """Of two members with one name parsers take either: such a body is refused, however the two are written."""
    text = written({"model": "task", **request.fields}, chance)
    names = sorted({*re.findall(r'"(model|messages|type|content|text|role|prompt|input)"\s*:', text)})
    if not names:
        return
    name = chance.choice(names)
    both = f'"{_escaped(name)}": "x", "{name}":'
    doubled = re.sub(rf'"{name}"\s*:', lambda _: both, text, count=1)

    with pytest.raises(InvalidJson):
        read_envelope(request.endpoint, doubled.encode())


def _escaped(name: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in name)


@unhurried
@given(planted, st.data())
def test_no_field_in_another_case_hides_a_document(request: Planted, data: st.DataObject) -> None:
    """A second field that some upstreams take for the first is refused, whatever it holds."""
    fields = {"model": "task", **request.fields}
    name = data.draw(st.sampled_from(sorted(fields)))
    cased = "".join(data.draw(st.sampled_from([letter, letter.upper()])) for letter in name)
    if cased == name:
        return
    changed = {**_harmless(fields), cased: fields[name]}

    with pytest.raises(InvalidRequest) as raised:
        read_envelope(request.endpoint, json.dumps(changed).encode())
    assert raised.value.param == name


def _harmless(fields: dict[str, object]) -> dict[str, object]:
    kept: dict[str, object] = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
    return {name: kept.get(name, value) for name, value in fields.items()}


# Every hop but the last fails, so that each of a plan is tried; `slow` is so slow that the next one is asked beside it.
POLICY = """
providers:
  strict:
    base_url: "{url}/strict/v1"
    retries: &often {{max: 1, backoff: {{initial: 1ms, max: 2ms}}}}
    breaker: &never {{failures: 1000}}
  failing: {{base_url: "{url}/failing/v1", retries: *often, breaker: *never}}
  brief: {{base_url: "{url}/brief/v1", retries: *often, breaker: *never}}
  slow: {{base_url: "{url}/slow/v1", retries: {{max: 0}}, breaker: *never, hedge: {{after: 5ms}}}}
  spare: {{base_url: "{url}/spare/v1", retries: *often, breaker: *never}}
  own: {{base_url: "{url}/own/v1", retries: *often, breaker: *never}}
tenants:
  acme:
    providers:
      strict: {{models: &models {{task: {{default: a, fallbacks: [b]}}, embedding: {{default: e}}}}}}
      failing: {{models: *models, privacy: {{send_raw_docs: true}}}}
      brief: {{models: *models, privacy: {{max_snippet_chars: 20}}}}
      slow: {{models: *models, privacy: {{send_raw_docs: true, max_snippet_chars: 5}}}}
      spare: {{models: *models, privacy: {{send_raw_docs: false}}}}
      own: {{models: *models, privacy: {{send_raw_docs: true}}}}
"""
MAY_HAVE_RAW = {"failing", "slow", "own"}
WHOLE = b'{"object":"list","data":[],"choices":[{"index":0,"text":"hi","message":{"role":"assistant","content":"hi"}}]}'
EVENTS = (b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n")


def act(exchange: Exchange) -> None:
    """Do what the first part of the path says."""
    provider = exchange.path.split("/")[1]
    if provider == "slow":
        time.sleep(0.03)
    if provider != "own":
        exchange.answer(b'{"error":{"message":"busy"}}', status="503 Busy")
    elif json.loads(exchange.body).get("stream") and "/embeddings" not in exchange.path:
        chunked(*EVENTS)(exchange)
    else:
        exchange.answer(WHOLE)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """All providers of the policy."""
    with running_scripted(act) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def router(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """One router for the module."""
    with running_router(tmp_path_factory.mktemp("router"), POLICY.format(url=upstream.url)) as running:
        yield running


def ask(router: RunningRouter, request: Planted, body: str) -> Answer:
    """Send a request as it is written."""
    path = f"/v1/{request.endpoint.value}"
    return call(router, "POST", path, body.encode(), {**identified(), **request.headers})


on_sockets = settings(unhurried, max_examples=60)


@on_sockets
@given(planted, st.booleans(), st.randoms(use_true_random=False))
def test_no_upstream_is_asked_that_may_not_have_the_request(
    router: RunningRouter, upstream: Scripted, request: Planted, stream: bool, chance: random.Random
) -> None:
    """On every route, streaming or not, by fallback, retry and hedging; and who may have it is asked."""
    model = "embedding" if request.endpoint.value == "embeddings" else "task"
    body = written({"model": model, "stream": stream, **request.fields}, chance)
    before = len(upstream.exchanges)

    answer = ask(router, request, body)

    asked = {exchange.path.split("/")[1] for exchange in upstream.exchanges[before:]}
    assert answer.status == 200
    assert answer.headers["x-router-provider"] == "own"
    allowed = MAY_HAVE_RAW if request.raw else {*MAY_HAVE_RAW, "strict", "spare"}
    assert asked <= allowed
    assert asked >= allowed - {"slow"}  # which may be overtaken before it has read anything


def test_every_provider_is_asked_where_there_is_no_document(upstream: Scripted, tmp_path: Path) -> None:
    """What the property above does not see is not for want of trying: all are asked, some twice."""
    before = len(upstream.exchanges)
    with running_router(tmp_path, POLICY.format(url=upstream.url)) as fresh:
        answer = call(fresh, "POST", "/v1/completions", {"model": "task", "prompt": "hi"})

    asked = [exchange.path.split("/")[1] for exchange in upstream.exchanges[before:]]
    assert answer.status == 200
    assert {*asked} == {"strict", "failing", "brief", "slow", "spare", "own"}
    assert asked.count("failing") == 4  # two models, each of them twice
