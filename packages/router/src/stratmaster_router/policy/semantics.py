"""What two places of a policy must agree on; a value by itself is the schema's business (policy.md, rules 2 to 9).

Runs on a document from which the invalid parts were taken out (`removed`), so that all problems are reported at once;
a check stays silent where its subject is among them.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from stratmaster_router.domain.redaction import KINDS
from stratmaster_router.policy.builtin import BUILTIN, reach
from stratmaster_router.policy.prices import find_price
from stratmaster_router.policy.problems import Loc, did_you_mean, path_of, shown
from stratmaster_router.policy.removed import Removed
from stratmaster_router.policy.schema import (
    BackoffSpec,
    LimitsSpec,
    ModelSpec,
    PolicyDocument,
    ProviderSpec,
    ServiceAccountsSpec,
    TaskSpec,
    TenantProviderSpec,
    TenantSpec,
    TimeoutsSpec,
)

Found = tuple[Loc, str]
"""Where a problem stands, and its message."""


def check(document: PolicyDocument, removed: Removed) -> Iterator[Found]:
    """Every disagreement in the valid part of a document."""
    for name, provider in document.providers.items():
        yield from _provider(("providers", name), name, provider, removed)
    yield from _service_accounts(document.service_accounts, removed)
    for tenant, spec in document.tenants.items():
        for name, use in spec.providers.items():
            loc = ("tenants", tenant, "providers", name)
            if not removed.section("providers"):
                yield from _known(loc, name, {*document.providers, *removed.names("providers")})
            yield from _tenant_provider(loc, use, removed)
            yield from _redact((*loc, "privacy", "redact"), use, document, removed)
            yield from _prices(loc, document, spec, use, removed)


def _provider(loc: Loc, name: str, spec: ProviderSpec, removed: Removed) -> Iterator[Found]:
    if not removed.within(*loc, "wire"):
        yield from _wire(loc, name, spec, removed)
    if spec.endpoints and not removed.within(*loc, "endpoints"):
        yield from _endpoints((*loc, "endpoints"), name, spec)
    tls = spec.tls
    if tls is not None and (tls.cert is None) != (tls.key is None) and not removed.within(*loc, "tls"):
        have, lack = ("cert", "key") if tls.cert else ("key", "cert")
        yield (*loc, "tls"), f"{have} needs {lack} beside it"
    if not removed.within(*loc, "timeouts", "total"):
        yield from _timeouts((*loc, "timeouts"), spec.timeouts)
    if not removed.within(*loc, "retries", "backoff"):
        yield from _backoff((*loc, "retries", "backoff"), spec.retries.backoff)


def _endpoints(loc: Loc, name: str, spec: ProviderSpec) -> Iterator[Found]:
    for field in ("base_url", "api_key"):
        if getattr(spec, field) is not None:
            yield (*loc[:-1], field), f"write it in each of endpoints, or leave endpoints out and keep one {field}"
    if reach(name, spec).wire == "litellm":
        yield loc, "several endpoints are for wire: openai; for LiteLLM declare a provider for each key"
    for index, endpoint in enumerate(spec.endpoints):
        if endpoint in spec.endpoints[:index]:
            yield (*loc, index), "the same address and key are listed before"


def _wire(loc: Loc, name: str, spec: ProviderSpec, removed: Removed) -> Iterator[Found]:
    to = reach(name, spec)
    if to.wire == "litellm":
        if to.litellm_provider is None and not removed.within(*loc, "litellm_provider"):
            yield (loc, "wire: litellm needs litellm_provider, LiteLLM's name for this provider (such as anthropic)")
    elif spec.litellm_provider is not None:
        yield ((*loc, "litellm_provider"), "stands only beside wire: litellm; this provider's wire is openai")
    if removed.within(*loc, "base_url"):
        return
    if to.base_url is None:
        if to.wire == "openai" and to.endpoint_env is None:
            why = "has no built-in address for this wire" if name in BUILTIN else "is not a built-in provider"
            yield (
                loc,
                f"base_url is required: {name!r} {why}{did_you_mean(name, BUILTIN) if name not in BUILTIN else ''}",
            )
        return
    if spec.endpoints:
        if removed.within(*loc, "endpoints"):
            return
        places = [((*loc, "endpoints", i, "base_url"), each.base_url) for i, each in enumerate(spec.endpoints)]
    else:
        places = [((*loc, "base_url") if spec.base_url else (*loc, "egress", "allow_hosts"), to.base_url)]
    for place, address in places:
        yield from _address(loc, place, address, spec, removed)


def _address(loc: Loc, place: Loc, address: str, spec: ProviderSpec, removed: Removed) -> Iterator[Found]:
    parts = urlsplit(address)
    if spec.tls is not None and parts.scheme == "http":
        yield ((*loc, "tls"), "a certificate is of no use at an http:// address; write base_url with https://")
    if spec.egress is not None and not removed.within(*loc, "egress"):
        hosts = [host.lower().strip("[]") for host in spec.egress.allow_hosts]
        if parts.hostname not in hosts:
            yield (place, f"host {shown(parts.hostname)} is not in egress.allow_hosts ({', '.join(hosts) or 'empty'})")


def _timeouts(loc: Loc, spec: TimeoutsSpec) -> Iterator[Found]:
    for phase, seconds in (("connect", spec.connect), ("first_byte", spec.first_byte), ("idle", spec.idle)):
        # A default that is longer is cut to the total when the policy is compiled.
        if seconds > spec.total and phase in spec.model_fields_set:
            yield ((*loc, phase), f"{phase} ({seconds:g}s) is longer than total ({spec.total:g}s)")


def _backoff(loc: Loc, spec: BackoffSpec) -> Iterator[Found]:
    if spec.initial > spec.max:
        place = "initial" if "initial" in spec.model_fields_set else "max"
        yield ((*loc, place), f"initial ({spec.initial:g}s) is longer than max ({spec.max:g}s)")


def _service_accounts(spec: ServiceAccountsSpec, removed: Removed) -> Iterator[Found]:
    root: Loc = ("service_accounts",)
    for index, issuer in enumerate(spec.issuers):
        loc = (*root, "issuers", index)
        if not removed.within(*loc, "jwks") and (issuer.jwks.file is None) == (issuer.jwks.url is None):
            yield (*loc, "jwks"), "write exactly one of file and url"
    yield from _repeated((*root, "issuers"), "issuer", [issuer.issuer for issuer in spec.issuers])
    yield from _repeated((*root, "accounts"), "subject", [account.subject for account in spec.accounts])
    if spec.accounts and not spec.issuers and not removed.within(*root, "issuers"):
        yield ((*root, "accounts"), "no issuer stands under service_accounts.issuers, so nobody could sign for these")
    issuers = [issuer.issuer for issuer in spec.issuers]
    for index, account in enumerate(spec.accounts):
        loc = (*root, "accounts", index, "tenants")
        if not account.tenants and not removed.within(*loc):
            yield loc, "name at least one tenant"
        if issuers and account.issuer not in (None, *issuers) and not removed.within(*root, "issuers"):
            near = did_you_mean(account.issuer or "", issuers)
            yield (*root, "accounts", index, "issuer"), f"no issuer {shown(account.issuer)} is listed{near}"


def _repeated(loc: Loc, field: str, values: list[str]) -> Iterator[Found]:
    for index, value in enumerate(values):
        if value in values[:index]:
            yield (*loc, index, field), f"{shown(value)} is listed twice"


def _known(loc: Loc, name: str, declared: set[str]) -> Iterator[Found]:
    if name not in declared and name not in BUILTIN:
        near = did_you_mean(name, {*declared, *BUILTIN})
        yield (loc, f"unknown provider {name!r}{near or ';'} declare it under providers: or use a built-in name")


def _tenant_provider(loc: Loc, use: TenantProviderSpec, removed: Removed) -> Iterator[Found]:
    if use.enabled and not use.models and not removed.within(*loc, "models") and not removed.within(*loc, "enabled"):
        yield (loc, "an enabled provider needs at least one task under models (or write enabled: false)")
    for task, spec in use.models.items():
        yield from _task((*loc, "models", task), spec)


def _redact(loc: Loc, use: TenantProviderSpec, document: PolicyDocument, removed: Removed) -> Iterator[Found]:
    known = {*KINDS, *document.redaction.patterns}
    if removed.section("redaction") or removed.within("redaction", "patterns"):
        return
    for index, name in enumerate(use.privacy.redact):
        if name not in known:
            near = did_you_mean(name, known) or f"; known: {', '.join(KINDS)} and the names of redaction.patterns"
            yield (*loc, index), f"unknown kind {name!r}{near}"


def _task(loc: Loc, spec: TaskSpec) -> Iterator[Found]:
    for index, model in enumerate(spec.fallbacks):
        if model == spec.default or model in spec.fallbacks[:index]:
            yield (*loc, "fallbacks", index), f"{shown(model)} is listed twice in this task"


def _prices(
    loc: Loc, document: PolicyDocument, tenant: TenantSpec, use: TenantProviderSpec, removed: Removed
) -> Iterator[Found]:
    """Rule 7: where a budget applies, every model has a price."""
    name = str(loc[-1])
    needed_by = _budget(loc[:2], tenant.limits) or _budget(loc, use.limits)
    if needed_by is None or not use.enabled or removed.within(*loc, "enabled") or removed.section("models"):
        return
    # The price depends on who the provider is, and that may be in doubt or a problem of its own.
    if removed.section("providers") or removed.within("providers", name):
        return
    if name not in document.providers and name not in BUILTIN:
        return
    litellm_provider = reach(name, document.providers.get(name, ProviderSpec())).litellm_provider
    seen = set()
    for place, model in _models_at((*loc, "models"), use):
        if model not in seen and not removed.within("models", model):
            seen.add(model)
            facts = document.models.get(model)
            if find_price(name, litellm_provider, model, facts) is None:
                what, advice = _unpriced(model, facts)
                lack = f"no {what} is known for {shown(model)} at {shown(name)}"
                yield place, f"{lack}, and {needed_by} needs one: {advice}"


def _budget(loc: Loc, limits: LimitsSpec) -> str | None:
    """A USD budget that stands at a tenant or provider, in words."""
    for field in ("budget_usd_month", "budget_usd_day"):
        if getattr(limits, field) is not None:
            return f"{field} of {path_of(loc)}"
    return None


def _models_at(loc: Loc, use: TenantProviderSpec) -> Iterator[tuple[Loc, str]]:
    for task, spec in use.models.items():
        yield (*loc, task, "default"), spec.default
        for index, model in enumerate(spec.fallbacks):
            yield (*loc, task, "fallbacks", index), model


def _unpriced(model: str, facts: ModelSpec | None) -> tuple[str, str]:
    """Which price a model lacks, and what to write."""
    if facts is None:
        return "price", f"write models: {{{shown(model)}: {{input_usd_per_mtok: …, output_usd_per_mtok: …}}}}"
    entry = path_of(("models", model))
    if facts.input_usd_per_mtok is not None:
        return "output price", f"write output_usd_per_mtok under {entry} (0 for embeddings)"
    if facts.output_usd_per_mtok is not None:
        return "input price", f"write input_usd_per_mtok under {entry}"
    return "price", f"write input_usd_per_mtok and output_usd_per_mtok under {entry}"
