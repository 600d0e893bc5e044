"""The decision: rules 1 to 5 and 11 of policy.md, on policies small enough to read."""

import pytest
from stratmaster_router.domain.money import Price
from stratmaster_router.domain.routing import Considered, Decision, Endpoint, Hop, Principal, Refusal, RequestFacts
from stratmaster_router.policy.compile import compile_policy
from stratmaster_router.policy.decide import decide
from stratmaster_router.policy.parse import parse
from stratmaster_router.policy.snapshot import Snapshot
from stratmaster_router.upstream.tls import tls_trouble

DISABLED = "the policy disables this provider for the tenant"
RAW_DOCS = "the request carries raw documents and send_raw_docs is false"
ACME = Principal("acme")

POLICY = """
providers:
  local: {base_url: "http://vllm:8000/v1"}
tenants:
  acme:
    providers:
      openai:
        models:
          reasoning: {default: gpt-4.1, fallbacks: [gpt-4o-mini]}
          summarisation: {default: gpt-4o-mini}
        privacy: {max_snippet_chars: 2000}
      groq:
        enabled: false
        models:
          reasoning: {default: llama-3.3-70b}
          drafting: {default: gpt-4.1}
      openrouter:
        models:
          reasoning: {default: meta-llama/llama-3}
          summarisation: {default: openai/gpt-4o-mini}
      local:
        models:
          reasoning: {default: llama3-8b}
          gpt-4o-mini: {default: llama3-8b}
        privacy: {send_raw_docs: true, max_snippet_chars: 10}
  embedder:
    providers:
      openai: {models: {embedding: {default: vectors-1}}}
  idle: {}
"""


GPT_41 = Price(input=2_000_000_000, cached_input=500_000_000, output=8_000_000_000)
GPT_4O_MINI = Price(input=150_000_000, cached_input=75_000_000, output=600_000_000)
PRICES = {"gpt-4.1": GPT_41, "gpt-4o-mini": GPT_4O_MINI, "openai/gpt-4o-mini": GPT_4O_MINI}


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """The policy above, compiled."""
    return compile_policy(
        parse(POLICY), "0123456789ab", {"OPENAI_API_KEY": "k", "OPENROUTER_API_KEY": "k"}, str, tls_trouble
    )


def hop(snapshot: Snapshot, provider: str, model: str) -> Hop:
    """A hop as tenant acme has it: what it may receive follows from the provider, what it costs from the model."""
    raw, limit = {"openai": (False, 2000), "openrouter": (False, None), "local": (True, 10)}[provider]
    return Hop(snapshot.providers[provider], model, raw, limit, price=PRICES.get(model))


def ask(model: str, *, raw_docs: str | None = None, longest_text: int = 0) -> RequestFacts:
    """The facts of a chat request."""
    return RequestFacts(Endpoint.CHAT, model, raw_docs, longest_text)


def test_task_resolves_to_default_then_fallbacks_of_each_enabled_provider(snapshot: Snapshot) -> None:
    """A task is its providers in file order, each with its default before its fallbacks (rule 2)."""
    assert decide(snapshot, ACME, ask("reasoning")) == Decision(
        policy="0123456789ab",
        task="reasoning",
        hops=(
            hop(snapshot, "openai", "gpt-4.1"),
            hop(snapshot, "openai", "gpt-4o-mini"),
            hop(snapshot, "openrouter", "meta-llama/llama-3"),
            hop(snapshot, "local", "llama3-8b"),
        ),
        refusal=None,
        trace=(
            Considered("openai", "gpt-4.1", True, "default of the task"),
            Considered("openai", "gpt-4o-mini", True, "fallback of the task"),
            Considered("groq", "llama-3.3-70b", False, DISABLED),
            Considered("openrouter", "meta-llama/llama-3", True, "default of the task"),
            Considered("local", "llama3-8b", True, "default of the task"),
        ),
    )


def test_named_model_resolves_to_itself_and_nothing_else(snapshot: Snapshot) -> None:
    """A named model is served by each enabled provider that lists it, and never substituted (rule 2)."""
    assert decide(snapshot, ACME, ask("gpt-4.1")) == Decision(
        policy="0123456789ab",
        task=None,
        hops=(hop(snapshot, "openai", "gpt-4.1"),),
        refusal=None,
        trace=(
            Considered("openai", "gpt-4.1", True, "named by the request"),
            Considered("groq", "gpt-4.1", False, DISABLED),
        ),
    )


def test_task_wins_over_model_of_the_same_name(snapshot: Snapshot) -> None:
    """Where a word is a task and a model, the task is meant (rule 1); the model stays reachable by its full name."""
    as_task = decide(snapshot, ACME, ask("gpt-4o-mini"))
    assert (as_task.task, as_task.hops) == ("gpt-4o-mini", (hop(snapshot, "local", "llama3-8b"),))


def test_qualified_model_resolves_at_that_provider_only(snapshot: Snapshot) -> None:
    """`provider/model` goes to that provider (rule 1), also where the model's own name has a slash."""
    assert decide(snapshot, ACME, ask("openrouter/meta-llama/llama-3")) == Decision(
        policy="0123456789ab",
        task=None,
        hops=(hop(snapshot, "openrouter", "meta-llama/llama-3"),),
        refusal=None,
        trace=(Considered("openrouter", "meta-llama/llama-3", True, "named by the request"),),
    )


def test_model_with_slash_resolves_by_its_plain_name(snapshot: Snapshot) -> None:
    """A model name that contains a slash is a model name."""
    assert decide(snapshot, ACME, ask("meta-llama/llama-3")).hops == (
        hop(snapshot, "openrouter", "meta-llama/llama-3"),
    )


def test_whole_model_name_wins_over_provider_and_model(snapshot: Snapshot) -> None:
    """Where `openai/gpt-4o-mini` is a model's whole name, it means that model, in the order of rule 1."""
    decision = decide(snapshot, ACME, ask("openai/gpt-4o-mini"))
    assert decision.hops == (hop(snapshot, "openrouter", "openai/gpt-4o-mini"),)


@pytest.mark.parametrize(
    "model", ["gpt-5", "REASONING", "openai/gpt-5", "openai/reasoning", "", "local/gpt-4.1", "a" * 256]
)
def test_unnamed_model_is_refused(snapshot: Snapshot, model: str) -> None:
    """What the policy does not name is not allowed, and the refusal repeats nothing of the request (rule 3)."""
    assert decide(snapshot, ACME, ask(model)) == Decision("0123456789ab", None, (), Refusal.MODEL_NOT_FOUND, ())


def test_unnamed_tenant_is_refused(snapshot: Snapshot) -> None:
    """A tenant that the policy does not name may use nothing (rule 3)."""
    decision = decide(snapshot, Principal("other"), ask("reasoning"))
    assert decision == Decision("0123456789ab", None, (), Refusal.MODEL_NOT_FOUND, ())


@pytest.mark.parametrize("model", ["drafting", "groq/gpt-4.1", "groq/llama-3.3-70b", "llama-3.3-70b"])
def test_name_of_a_disabled_provider_only_is_refused_with_its_trace(snapshot: Snapshot, model: str) -> None:
    """A disabled provider is as if not written, but the trace says that it was considered."""
    decision = decide(snapshot, ACME, ask(model))
    assert (decision.hops, decision.refusal) == ((), Refusal.MODEL_NOT_FOUND)
    assert {(line.provider, line.kept, line.reason) for line in decision.trace} == {("groq", False, DISABLED)}


def test_raw_documents_reach_only_providers_that_may_have_them(snapshot: Snapshot) -> None:
    """Each hop is checked by itself: a fallback never weakens privacy (rule 4)."""
    assert decide(snapshot, ACME, ask("reasoning", raw_docs="a documents field")) == Decision(
        policy="0123456789ab",
        task="reasoning",
        hops=(hop(snapshot, "local", "llama3-8b"),),
        refusal=None,
        trace=(
            Considered("openai", "gpt-4.1", False, RAW_DOCS),
            Considered("openai", "gpt-4o-mini", False, RAW_DOCS),
            Considered("groq", "llama-3.3-70b", False, DISABLED),
            Considered("openrouter", "meta-llama/llama-3", False, RAW_DOCS),
            Considered("local", "llama3-8b", True, "default of the task"),
        ),
    )


def test_raw_documents_with_no_provider_left_are_refused(snapshot: Snapshot) -> None:
    """When privacy leaves nothing the request is refused, not rewritten (rule 4)."""
    assert decide(snapshot, ACME, ask("gpt-4.1", raw_docs="a file part")) == Decision(
        policy="0123456789ab",
        task=None,
        hops=(),
        refusal=Refusal.RAW_DOCS_FORBIDDEN,
        trace=(
            Considered("openai", "gpt-4.1", False, RAW_DOCS),
            Considered("groq", "gpt-4.1", False, DISABLED),
        ),
    )


def test_long_text_counts_as_raw_document_where_a_limit_is_set(snapshot: Snapshot) -> None:
    """A text over a hop's max_snippet_chars stays away from that hop and from no other (rule 5)."""
    decision = decide(snapshot, ACME, ask("reasoning", longest_text=2001))
    too_long = "a text is longer than 2000 characters and send_raw_docs is false"
    assert decision == Decision(
        policy="0123456789ab",
        task="reasoning",
        hops=(hop(snapshot, "openrouter", "meta-llama/llama-3"), hop(snapshot, "local", "llama3-8b")),
        refusal=None,
        trace=(
            Considered("openai", "gpt-4.1", False, too_long),
            Considered("openai", "gpt-4o-mini", False, too_long),
            Considered("groq", "llama-3.3-70b", False, DISABLED),
            Considered("openrouter", "meta-llama/llama-3", True, "default of the task"),
            Considered("local", "llama3-8b", True, "default of the task"),
        ),
    )


def test_text_of_exactly_the_limit_passes(snapshot: Snapshot) -> None:
    """max_snippet_chars is the longest text that may pass."""
    assert len(decide(snapshot, ACME, ask("reasoning", longest_text=2000)).hops) == 4
    assert decide(snapshot, ACME, ask("gpt-4.1", longest_text=2000)).refusal is None
    assert decide(snapshot, ACME, ask("gpt-4.1", longest_text=2001)).refusal is Refusal.RAW_DOCS_FORBIDDEN


def test_each_provider_has_its_own_limit() -> None:
    """A text passes where it fits, whatever the limit of another provider says."""
    text = """
    tenants:
      acme:
        providers:
          openai: {models: {t: {default: m}}, privacy: {max_snippet_chars: 5}}
          groq: {models: {t: {default: m}}, privacy: {max_snippet_chars: 7}}
    """
    snapshot = compile_policy(parse(text), "hash", {}, str, tls_trouble)

    def reached(longest_text: int) -> list[str]:
        return [hop.provider.name for hop in decide(snapshot, ACME, ask("t", longest_text=longest_text)).hops]

    assert [reached(length) for length in (5, 6, 7, 8)] == [["openai", "groq"], ["groq"], ["groq"], []]


def test_limit_of_a_provider_that_may_have_raw_documents_has_no_effect(snapshot: Snapshot) -> None:
    """send_raw_docs: true stands above max_snippet_chars."""
    assert decide(snapshot, ACME, ask("llama3-8b", longest_text=10**9)).hops == (hop(snapshot, "local", "llama3-8b"),)


def test_embeddings_are_refused_without_an_embedding_task_or_model(snapshot: Snapshot) -> None:
    """The endpoint is closed unless the tenant has something for it, whatever model is asked for."""
    for model in ("reasoning", "nothing"):
        decision = decide(snapshot, ACME, RequestFacts(Endpoint.EMBEDDINGS, model))
        assert decision == Decision("0123456789ab", None, (), Refusal.ENDPOINT_DISABLED, ())


def test_embeddings_are_permitted_with_an_embedding_task(snapshot: Snapshot) -> None:
    """A task named embedding opens the endpoint."""
    decision = decide(snapshot, Principal("embedder"), RequestFacts(Endpoint.EMBEDDINGS, "embedding"))
    assert [(hop.provider.name, hop.model) for hop in decision.hops] == [("openai", "vectors-1")]


def test_tenant_without_providers_may_use_nothing(snapshot: Snapshot) -> None:
    """A tenant with no provider is refused every model."""
    decision = decide(snapshot, Principal("idle"), ask("reasoning"))
    assert decision == Decision("0123456789ab", None, (), Refusal.MODEL_NOT_FOUND, ())


def test_clean_request_gets_the_decision_made_at_compile_time(snapshot: Snapshot) -> None:
    """On the common path nothing is computed or allocated: it is the same object every time."""
    first = decide(snapshot, ACME, ask("reasoning", longest_text=5))
    assert decide(snapshot, ACME, ask("reasoning", longest_text=2000)) is first
    raw = decide(snapshot, ACME, ask("reasoning", raw_docs="x"))
    assert decide(snapshot, ACME, ask("reasoning", raw_docs="y", longest_text=10**6)) is raw


REDACTING = """
tenants:
  acme:
    providers:
      openai: {models: {t: {default: m}}, privacy: {redact: [card, email, email]}}
      groq: {models: {t: {default: m}, u: {default: n}}, privacy: {send_raw_docs: true}}
      openrouter: {models: {t: {default: m}}, privacy: {send_raw_docs: true, redact: [ip]}}
"""
PICTURE = "the request has a picture"


def test_hop_that_redacts_says_so_in_the_trace() -> None:
    """Its kinds stand once each, in one order, at the hop and in the reason why it was kept."""
    snapshot = compile_policy(parse(REDACTING), "hash", {}, str, tls_trouble)

    decision = decide(snapshot, ACME, ask("t"))

    assert snapshot.redacts
    assert [hop.redact for hop in decision.hops] == [("email", "card"), (), ("ip",)]
    assert decision.trace == (
        Considered("openai", "m", True, "default of the task; redacts email, card"),
        Considered("groq", "m", True, "default of the task"),
        Considered("openrouter", "m", True, "default of the task; redacts ip"),
    )


@pytest.mark.parametrize(
    ("raw_docs", "first"),
    [(None, f"{PICTURE}, which redact cannot search"), ("a file part", RAW_DOCS)],
)
def test_what_cannot_be_searched_reaches_no_hop_that_redacts(raw_docs: str | None, first: str) -> None:
    """Also where raw documents may go; a hop that does not redact is as it was."""
    snapshot = compile_policy(parse(REDACTING), "hash", {}, str, tls_trouble)

    decision = decide(snapshot, ACME, RequestFacts(Endpoint.CHAT, "t", raw_docs, 0, PICTURE))

    assert [hop.provider.name for hop in decision.hops] == ["groq"]
    assert decision.trace == (
        Considered("openai", "m", False, first),
        Considered("groq", "m", True, "default of the task"),
        Considered("openrouter", "m", False, f"{PICTURE}, which redact cannot search"),
    )
    alone = decide(snapshot, ACME, RequestFacts(Endpoint.CHAT, "openai/m", raw_docs, 0, PICTURE))
    assert (alone.hops, alone.refusal) == ((), Refusal.RAW_DOCS_FORBIDDEN)


def test_what_cannot_be_searched_is_nothing_to_a_route_that_does_not_redact(snapshot: Snapshot) -> None:
    """The decision is then the one made at compile time, whether another route of the policy redacts or none does."""
    for policy, model in ((snapshot, "reasoning"), (compile_policy(parse(REDACTING), "h", {}, str, tls_trouble), "u")):
        picture = RequestFacts(Endpoint.CHAT, model, None, 0, PICTURE)
        assert decide(policy, ACME, picture) is decide(policy, ACME, ask(model))
    assert not snapshot.redacts


def test_trace_never_repeats_the_request(snapshot: Snapshot) -> None:
    """No word that a client typed is in a trace, nor why its request carries raw documents."""
    decision = decide(snapshot, ACME, ask("reasoning", raw_docs="client wrote this", longest_text=123456789))
    assert not [line for line in decision.trace if "client" in line.reason or "123456789" in line.reason]
