"""A decision in words, for the platform engineer who asks why (policy.md, rule 11).

Unlike the decision's own trace, which clients may see, this shows what was asked for and what an operator must mend.
"""

from collections.abc import Mapping
from typing import Any

from stratmaster_router.domain.routing import Decision, Principal, Refusal, RequestFacts
from stratmaster_router.policy.problems import did_you_mean, shown
from stratmaster_router.policy.snapshot import Snapshot


def as_dict(snapshot: Snapshot, principal: Principal, facts: RequestFacts, decision: Decision) -> dict[str, Any]:
    """The decision with its question, ready for JSON."""
    return {
        "policy": decision.policy,
        "tenant": principal.tenant,
        "endpoint": facts.endpoint.value,
        "model": facts.model,
        "raw_docs": facts.raw_docs,
        "longest_text": facts.longest_text,
        "unsearchable": facts.unsearchable,
        "permitted": decision.refusal is None,
        "refusal": decision.refusal.value if decision.refusal else None,
        "why": _why(snapshot, principal, facts, decision),
        "task": decision.task,
        "plan": [
            {
                "provider": hop.provider.name,
                "model": hop.model,
                "send_raw_docs": hop.send_raw_docs,
                "max_snippet_chars": hop.max_snippet_chars,
                "redact": list(hop.redact),
                "misconfigured": hop.provider.misconfigured,
            }
            for hop in decision.hops
        ],
        "trace": [
            {"provider": line.provider, "model": line.model, "kept": line.kept, "reason": line.reason}
            for line in decision.trace
        ],
    }


def as_text(snapshot: Snapshot, principal: Principal, facts: RequestFacts, decision: Decision) -> str:
    """The decision as a short report: the question, the answer, and each (provider, model) considered, in order."""
    lines = [
        f"policy   {decision.policy}",
        f"request  tenant {shown(principal.tenant)}, {facts.endpoint.value}, model {shown(facts.model)}",
        f"data     {_data(facts)}",
        f"answer   {_answer(snapshot, principal, facts, decision)}",
    ]
    trouble = {hop.provider.name: hop.provider.misconfigured for hop in decision.hops if hop.provider.misconfigured}
    width = max((len(f"{line.provider}/{line.model}") for line in decision.trace), default=0)
    place = 0
    for line in decision.trace:
        place += line.kept
        mark = f"{place}." if line.kept else "-"
        note = f"; fails over: {trouble[line.provider]}" if line.kept and line.provider in trouble else ""
        lines.append(f"  {mark:3} {f'{line.provider}/{line.model}':{width}}  {line.reason}{note}")
    return "\n".join(lines)


def _data(facts: RequestFacts) -> str:
    carries = f"raw documents ({facts.raw_docs})" if facts.raw_docs else "no raw documents"
    return f"{carries}, longest text {facts.longest_text} characters"


def _answer(snapshot: Snapshot, principal: Principal, facts: RequestFacts, decision: Decision) -> str:
    if decision.refusal is not None:
        return f"refused, {decision.refusal.value}: {_why(snapshot, principal, facts, decision)}"
    what = f"task {decision.task!r}" if decision.task is not None else "a named model"
    return f"permitted, {what}; tried in this order:"


def _why(snapshot: Snapshot, principal: Principal, facts: RequestFacts, decision: Decision) -> str | None:
    """What to change so that a refused request would pass; None when nothing was refused."""
    if decision.refusal is None:
        return None
    tenant = snapshot.tenants.get(principal.tenant)
    if tenant is None:
        return f"the policy names no such tenant{_hint(principal.tenant, snapshot.tenants)}"
    if decision.refusal is Refusal.ENDPOINT_DISABLED:
        return "the tenant has no task named embedding or embeddings, and no model whose name contains 'embed'"
    if decision.refusal is Refusal.RAW_DOCS_FORBIDDEN:
        return "privacy leaves no provider for this data"
    if decision.trace:
        return "only disabled providers have this model"
    return f"neither a task nor an allowed model of this tenant{_hint(facts.model, tenant.routes)}"


def _hint(word: str, known: Mapping[str, object]) -> str:
    return did_you_mean(word, known) or f"; known: {', '.join(known) or 'none'}"
