"""Turns a valid document into a Snapshot: secrets resolved, every name a client may use looked up in advance.

A missing secret does not make a policy invalid: its provider is `misconfigured`, so that its hops fail over, and a
warning says what to set.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.domain.money import nano_dollars
from stratmaster_router.domain.redaction import KINDS
from stratmaster_router.domain.routing import (
    DEFAULT_MAX_TOKENS,
    Considered,
    Hop,
    Provider,
)
from stratmaster_router.policy.builtin import reach
from stratmaster_router.policy.certificates import ReadFile, TlsTrouble, expiring
from stratmaster_router.policy.decide import DISABLED, screened
from stratmaster_router.policy.patterns import compiled
from stratmaster_router.policy.prices import find_price
from stratmaster_router.policy.problems import did_you_mean
from stratmaster_router.policy.providers import Bridge, bridged_provider, compile_provider, enabled_providers
from stratmaster_router.policy.schema import (
    LimitsSpec,
    ModelSpec,
    PolicyDocument,
    TenantProviderSpec,
    TenantSpec,
)
from stratmaster_router.policy.service_accounts import account_warnings, service_accounts
from stratmaster_router.policy.snapshot import Candidate, Route, Snapshot, TenantPolicy

ROUTER = "stratmaster-router"
"""`owned_by` of a task in the listing; a model is owned by its first provider."""

_EMBEDDING_TASKS = frozenset({"embedding", "embeddings"})
_NOTHING_BEFORE: Mapping[str, Provider] = MappingProxyType({})


def content_hash(content: bytes) -> str:
    """The short hash by which a policy is known: 12 hex characters of the file's SHA-256 (policy.md, rule 10)."""
    return hashlib.sha256(content).hexdigest()[:12]


def compile_policy(
    document: PolicyDocument,
    policy: str,
    environ: Mapping[str, str],
    read_file: ReadFile,
    judge_tls: TlsTrouble,
    former: Mapping[str, Provider] = _NOTHING_BEFORE,
    bridge: Bridge | None = None,
) -> Snapshot:
    """The snapshot of `document`, whose content hash is `policy`; secrets come from `environ` and `read_file`.

    `former` are the providers until now: their certificates stay in use while the files hold no usable ones. With
    `bridge`, providers of `wire: litellm` are reached there and their own secrets are not asked for.
    """
    providers: dict[str, Provider] = {}
    for name, spec in enabled_providers(document):
        if bridge is not None and reach(name, spec).wire == "litellm":
            providers[name] = bridged_provider(name, spec, bridge)
        else:
            before = former[name].tls if name in former else None
            providers[name] = compile_provider(name, spec, environ, read_file, judge_tls, before)
    accounts = service_accounts(document.service_accounts, read_file)
    return Snapshot(
        hash=policy,
        tenants=MappingProxyType(
            {name: _tenant(policy, name, spec, providers, document.models) for name, spec in document.tenants.items()}
        ),
        providers=MappingProxyType(providers),
        warnings=(*_warnings(document, providers), *account_warnings(document, accounts)),
        service_accounts=accounts,
        patterns=MappingProxyType({name: compiled(text) for name, text in document.redaction.patterns.items()}),
        redacts=any(
            use.enabled and use.privacy.redact
            for tenant in document.tenants.values()
            for use in tenant.providers.values()
        ),
    )


def _tenant(
    policy: str,
    name: str,
    spec: TenantSpec,
    providers: Mapping[str, Provider],
    facts: Mapping[str, ModelSpec],
) -> TenantPolicy:
    own = _accounts(name, None, spec.limits)
    theirs = {
        provider: _accounts(name, provider, use.limits) for provider, use in spec.providers.items() if use.enabled
    }
    hops = {
        (provider, hop.model): hop
        for provider, accounts in theirs.items()
        for hop in _hops(spec, spec.providers[provider], providers[provider], own + accounts, facts)
    }
    tasks: dict[str, list[Candidate]] = {}
    models: dict[str, list[Candidate]] = {}
    qualified: dict[str, list[Candidate]] = {}
    for provider, use in spec.providers.items():
        for task, entry in use.models.items():
            for position, model in enumerate((entry.default, *entry.fallbacks)):
                role = "fallback of the task" if position else "default of the task"
                tasks.setdefault(task, []).append(_candidate(provider, model, role, hops))
        for model in _models(use):
            named = _candidate(provider, model, "named by the request", hops)
            models.setdefault(model, []).append(named)
            qualified[f"{provider}/{model}"] = [named]
    # Rule 1, and what it leaves open: a task wins over a model of its name, a model over a `provider/model`.
    routes: dict[str, Route] = {}
    withdrawn: dict[str, Route] = {}
    for is_task, names in ((False, qualified), (False, models), (True, tasks)):
        for word, candidates in names.items():
            route = _route(policy, word if is_task else None, tuple(candidates))
            (routes if route.clean.hops else withdrawn)[word] = route
    live_tasks = [task for task in tasks if task in routes and routes[task].task is not None]
    owners: dict[str, str] = {}
    for provider, use in spec.providers.items():
        for model in _models(use) if use.enabled else ():
            owners.setdefault(model, provider)
    return TenantPolicy(
        name=name,
        routes=MappingProxyType(routes),
        withdrawn=MappingProxyType({word: route.clean for word, route in withdrawn.items() if word not in routes}),
        listing=(
            *((task, ROUTER) for task in live_tasks),
            *((model, owner) for model, owner in owners.items() if routes[model].task is None),
        ),
        embeddings_enabled=not _EMBEDDING_TASKS.isdisjoint(live_tasks)
        or any("embed" in model.lower() for model in owners),
        accounts=sum(theirs.values(), own),
        snippet_chars=spec.logging.snippet_chars if spec.logging.prompt_snippets == "redacted" else 0,
    )


def _models(use: TenantProviderSpec) -> tuple[str, ...]:
    """Every model that a tenant's provider lists, once, in file order."""
    return tuple(dict.fromkeys(model for entry in use.models.values() for model in (entry.default, *entry.fallbacks)))


def _accounts(tenant: str, provider: str | None, limits: LimitsSpec) -> tuple[Account, ...]:
    local = limits.on_store_outage == "local"
    rates = (
        (Metric.REQUESTS, Window.MINUTE, limits.rpm),
        (Metric.TOKENS, Window.MINUTE, limits.tpm),
        (Metric.PARALLEL, Window.NOW, limits.max_parallel),
    )
    budgets = ((Window.DAY, limits.budget_usd_day), (Window.MONTH, limits.budget_usd_month))
    return (
        *(Account(tenant, provider, metric, window, cap, local) for metric, window, cap in rates if cap is not None),
        *(
            Account(tenant, provider, Metric.USD, window, nano_dollars(usd))
            for window, usd in budgets
            if usd is not None
        ),
    )


def _hops(
    tenant: TenantSpec,
    use: TenantProviderSpec,
    provider: Provider,
    accounts: tuple[Account, ...],
    facts: Mapping[str, ModelSpec],
) -> Iterator[Hop]:
    """A hop for each model that a tenant lists at a provider; all of them share the tuple `accounts`."""
    default_max_tokens = use.limits.default_max_tokens or tenant.limits.default_max_tokens or DEFAULT_MAX_TOKENS
    budgeted = any(account.metric is Metric.USD for account in accounts)
    for model in _models(use):
        yield Hop(
            provider=provider,
            model=model,
            send_raw_docs=use.privacy.send_raw_docs,
            max_snippet_chars=use.privacy.max_snippet_chars,
            accounts=accounts,
            price=find_price(provider.name, provider.litellm_provider, model, facts.get(model)),
            default_max_tokens=default_max_tokens,
            budgeted=budgeted,
            redact=(
                *(kind for kind in KINDS if kind in use.privacy.redact),
                *sorted(set(use.privacy.redact).difference(KINDS)),
            ),
        )


def _candidate(provider: str, model: str, role: str, hops: Mapping[tuple[str, str], Hop]) -> Candidate:
    hop = hops.get((provider, model))
    if hop is None:
        return Candidate(Considered(provider, model, False, DISABLED), None)
    reason = f"{role}; redacts {', '.join(hop.redact)}" if hop.redact else role
    return Candidate(Considered(provider, model, True, reason), hop)


def _route(policy: str, task: str | None, candidates: tuple[Candidate, ...]) -> Route:
    limits = [
        candidate.hop.max_snippet_chars
        for candidate in candidates
        if candidate.hop and not candidate.hop.send_raw_docs and candidate.hop.max_snippet_chars is not None
    ]
    return Route(
        task=task,
        candidates=candidates,
        snippet_limit=min(limits, default=sys.maxsize),
        clean=screened(policy, task, candidates, 0, raw_docs=False),
        raw=screened(policy, task, candidates, 0, raw_docs=True),
        redacts=any(candidate.hop is not None and candidate.hop.redact for candidate in candidates),
    )


def _warnings(document: PolicyDocument, providers: Mapping[str, Provider]) -> Iterator[str]:
    for provider in providers.values():
        yield from _provider_warnings(provider)
    named = {name for tenant in document.tenants.values() for name in tenant.providers}
    for name in document.providers:
        if name not in named:
            yield f"providers.{name}: no tenant uses this provider"
    used = {
        model for tenant in document.tenants.values() for use in tenant.providers.values() for model in _models(use)
    }
    for model in document.models:
        if model not in used:
            yield f"models.{model}: no tenant uses this model{did_you_mean(model, used)}"
    if not document.tenants:
        yield "tenants: empty, so every request is refused"
    for name, tenant in document.tenants.items():
        yield from _tenant_warnings(name, tenant)


def _provider_warnings(provider: Provider) -> Iterator[str]:
    place = f"providers.{provider.name}"
    if provider.misconfigured:
        yield f"{place}: {provider.misconfigured}; calls to it fail over"
        return
    if provider.tls and provider.tls.stale:
        yield f"{place}: {provider.tls.stale}; what these files held before stays in use"
    for warning in expiring(provider.tls) if provider.tls else ():
        yield f"{place}: {warning}"
    for index, endpoint in enumerate(provider.endpoints):
        if endpoint.misconfigured:
            yield f"{place}.endpoints[{index}]: {endpoint.misconfigured}; it is left out"


def _tenant_warnings(name: str, tenant: TenantSpec) -> Iterator[str]:
    if not any(use.enabled for use in tenant.providers.values()):
        yield f"tenants.{name}: no provider is enabled, so every request is refused"
    models = {model for use in tenant.providers.values() if use.enabled for model in _models(use)}
    tasks = {task for use in tenant.providers.values() if use.enabled for task in use.models}
    for task in sorted(tasks & models):
        yield f"tenants.{name}: {task!r} names a task and a model; the task wins"
    for provider, use in tenant.providers.items():
        for model in _models(use) if use.enabled else ():
            if f"{provider}/{model}" in models:
                yield (
                    f"tenants.{name}: '{provider}/{model}' is also the whole name of a model, which wins over "
                    f"{model!r} at {provider}"
                )
