"""Laws of the decision, for any policy and any request (policy.md, rules 1 to 5 and 11).

The expected answers are computed from the document by the words of the rules, without the compiled routes.
"""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from stratmaster_router.domain.routing import Decision, Endpoint, Principal, Refusal, RequestFacts
from stratmaster_router.policy.compile import compile_policy
from stratmaster_router.policy.decide import decide
from stratmaster_router.policy.schema import (
    PolicyDocument,
    PrivacySpec,
    TaskSpec,
    TenantProviderSpec,
    TenantSpec,
)
from stratmaster_router.policy.snapshot import Snapshot
from stratmaster_router.upstream.tls import tls_trouble

# Few words, so that tasks, models and `provider/model` collide often.
PROVIDERS = ["openai", "groq", "ollama"]
WORDS = ["a", "b", "embedding"]
MODELS = [*WORDS, "openai/a", "groq/b", "groq/openai/a", "x/y"]
NAMES = sorted({*MODELS, *(f"{provider}/{model}" for provider in PROVIDERS for model in MODELS), "none"})

tasks = st.lists(st.sampled_from(MODELS), min_size=1, max_size=3, unique=True).map(
    lambda models: TaskSpec(default=models[0], fallbacks=tuple(models[1:]))
)
privacy = st.builds(
    PrivacySpec,
    send_raw_docs=st.booleans(),
    max_snippet_chars=st.none() | st.integers(1, 5),
    redact=st.sampled_from([(), (), ("email",), ("card", "ip")]),
)
uses = st.builds(
    TenantProviderSpec,
    enabled=st.booleans(),
    models=st.dictionaries(st.sampled_from(WORDS), tasks, min_size=1, max_size=3),
    privacy=privacy,
)
tenants = st.lists(st.tuples(st.sampled_from(PROVIDERS), uses), max_size=3, unique_by=lambda use: use[0]).map(
    lambda providers: TenantSpec(providers=dict(providers))
)
documents = st.dictionaries(st.sampled_from(["acme", "beta"]), tenants, min_size=1).map(
    lambda found: PolicyDocument(tenants=found)
)
requests = st.builds(
    RequestFacts,
    st.sampled_from(Endpoint),
    st.sampled_from(NAMES),
    st.none() | st.just("a reason"),
    st.integers(0, 7),
    st.none() | st.just("a picture"),
)


@dataclass(frozen=True)
class Asked:
    """A policy, a request of tenant acme, and the decision."""

    document: PolicyDocument
    snapshot: Snapshot
    facts: RequestFacts
    decision: Decision

    @property
    def uses(self) -> dict[str, TenantProviderSpec]:
        """What the tenant writes of each provider."""
        tenant = self.document.tenants.get("acme")
        return tenant.providers if tenant else {}

    @property
    def enabled(self) -> dict[str, TenantProviderSpec]:
        """The same without disabled providers."""
        return {name: use for name, use in self.uses.items() if use.enabled}

    @property
    def plan(self) -> list[tuple[str, str]]:
        """The decision's (provider, model), in order."""
        return [(hop.provider.name, hop.model) for hop in self.decision.hops]


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Any policy with any request."""
    document, facts = draw(documents), draw(requests)
    snapshot = compile_policy(document, "hash", {}, str, tls_trouble)
    return Asked(document, snapshot, facts, decide(snapshot, Principal("acme"), facts))


def listed(use: TenantProviderSpec) -> list[str]:
    """Every model that a tenant's provider lists."""
    return [model for task in use.models.values() for model in (task.default, *task.fallbacks)]


def candidates(uses: dict[str, TenantProviderSpec], word: str) -> tuple[str | None, list[tuple[str, str]]]:
    """What `word` means to `uses` by rules 1 and 2: its task, and (provider, model) in order."""
    by_task = [
        (name, model)
        for name, use in uses.items()
        if word in use.models
        for model in (use.models[word].default, *use.models[word].fallbacks)
    ]
    if by_task:
        return word, by_task
    by_model = [(name, word) for name, use in uses.items() if word in listed(use)]
    if by_model:
        return None, by_model
    provider, _, model = word.partition("/")
    return None, [(provider, model)] if provider in uses and model in listed(uses[provider]) else []


def may_have(use: TenantProviderSpec, facts: RequestFacts) -> bool:
    """Rule 5, and what redaction cannot search: whether a provider used like this may be sent such a request."""
    limit = use.privacy.max_snippet_chars
    carries = facts.raw_docs is not None or (limit is not None and facts.longest_text > limit)
    redactable = facts.unsearchable is None or not use.privacy.redact
    return (use.privacy.send_raw_docs or not carries) and redactable


@given(asked())
def test_raw_documents_never_reach_a_hop_that_may_not_have_them(case: Asked) -> None:
    """No hop without send_raw_docs is ever given a request with raw documents, by type or by length."""
    for provider, _ in case.plan:
        assert may_have(case.uses[provider], case.facts)


@given(asked())
def test_plan_is_what_the_rules_say(case: Asked) -> None:
    """The plan is exactly the enabled candidates of the name, in file order, less those that privacy drops."""
    task, expected = candidates(case.enabled, case.facts.model)
    if case.decision.refusal is Refusal.ENDPOINT_DISABLED:
        return
    assert case.plan == [hop for hop in expected if may_have(case.uses[hop[0]], case.facts)]
    if expected:
        assert case.decision.task == task


@given(asked())
def test_named_model_never_resolves_to_another_model(case: Asked) -> None:
    """Where no task is meant, every hop has the model that was named, alone or behind its provider."""
    if case.decision.task is None:
        for provider, model in case.plan:
            assert case.facts.model in (model, f"{provider}/{model}")


@given(asked())
def test_disabled_or_unnamed_never_appears_in_a_plan(case: Asked) -> None:
    """Every hop is one that the tenant's own policy writes and enables."""
    for provider, model in case.plan:
        assert provider in case.enabled
        assert model in listed(case.enabled[provider])


@given(asked())
def test_decision_is_deterministic(case: Asked) -> None:
    """The same question has the same answer, from the same snapshot and from one compiled anew."""
    assert decide(case.snapshot, Principal("acme"), case.facts) == case.decision
    again = compile_policy(case.document, "hash", {}, str, tls_trouble)
    assert decide(again, Principal("acme"), case.facts) == case.decision


@given(asked())
def test_trace_covers_every_hop_and_every_drop(case: Asked) -> None:
    """The kept lines are the plan, in order; each dropped one is disabled or may not have this request."""
    trace = case.decision.trace
    assert [(line.provider, line.model) for line in trace if line.kept] == case.plan
    for line in trace:
        if not line.kept:
            use = case.uses[line.provider]
            assert not use.enabled or not may_have(use, case.facts)
    assert len({(line.provider, line.model) for line in trace}) == len(trace)


@given(asked())
def test_hops_are_empty_exactly_when_refused(case: Asked) -> None:
    """A refusal has no hops and a permission has some; which refusal follows from what is left without privacy."""
    assert (case.decision.refusal is None) == bool(case.decision.hops)
    _, expected = candidates(case.enabled, case.facts.model)
    if case.decision.refusal is Refusal.MODEL_NOT_FOUND:
        assert not expected
    if case.decision.refusal is Refusal.RAW_DOCS_FORBIDDEN:
        assert expected
        assert not any(may_have(case.uses[provider], case.facts) for provider, _ in expected)


@given(asked())
def test_embeddings_are_refused_exactly_when_the_tenant_has_none(case: Asked) -> None:
    """ENDPOINT_DISABLED comes for embeddings alone, and only to a tenant without embedding task or model."""
    words = {
        *(task for use in case.enabled.values() for task in use.models),
        *(model for use in case.enabled.values() for model in listed(use)),
    }
    closed = case.facts.endpoint is Endpoint.EMBEDDINGS and "acme" in case.document.tenants and "embedding" not in words
    assert (case.decision.refusal is Refusal.ENDPOINT_DISABLED) == closed


@given(asked())
def test_listing_holds_only_names_that_resolve(case: Asked) -> None:
    """Everything that GET /v1/models shows can be asked for, and nothing is shown twice."""
    tenant = case.snapshot.tenants.get("acme")
    names = [name for name, _ in tenant.listing] if tenant else []
    assert len(set(names)) == len(names)
    assert {name for name in names if not candidates(case.enabled, name)[1]} == set()
