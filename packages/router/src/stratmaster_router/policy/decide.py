"""The decision: a pure function of the policy, the caller and the request's facts (policy.md, rules 1 to 5 and 11).

It does no I/O and knows no clock. A request without raw documents whose texts are short enough gets a decision that was
made when the policy was compiled: the same object every time, with nothing allocated.

The laws:

- a hop comes from an enabled provider of the caller's tenant, and from nowhere else;
- a named model resolves to that model and to nothing else;
- each hop is checked by itself, and data that must stay reaches only hops with `send_raw_docs: true`;
- what cannot be searched reaches no hop that redacts, whatever else it may have;
- the trace has a line for every (provider, model) considered, and no word of what the client typed.
"""

from stratmaster_router.domain.routing import Considered, Decision, Endpoint, Principal, Refusal, RequestFacts
from stratmaster_router.policy.snapshot import Candidate, Snapshot

DISABLED = "the policy disables this provider for the tenant"
RAW_DOCS = "the request carries raw documents and send_raw_docs is false"

# Looking a member up on its enum would cost as much as the rest of the common path.
_EMBEDDINGS = Endpoint.EMBEDDINGS


def decide(snapshot: Snapshot, principal: Principal, facts: RequestFacts) -> Decision:
    """Where this request may go, in order, or why it may not; always with its trace.

    Refusals: MODEL_NOT_FOUND for an unknown tenant or model, ENDPOINT_DISABLED for embeddings that the tenant has none
    of, RAW_DOCS_FORBIDDEN when privacy leaves no hop.
    """
    tenant = snapshot.tenants.get(principal.tenant)
    if tenant is None:
        return _refused(snapshot, Refusal.MODEL_NOT_FOUND)
    if facts.endpoint is _EMBEDDINGS and not tenant.embeddings_enabled:
        return _refused(snapshot, Refusal.ENDPOINT_DISABLED)
    route = tenant.routes.get(facts.model)
    if route is None:
        return tenant.withdrawn.get(facts.model) or _refused(snapshot, Refusal.MODEL_NOT_FOUND)
    unsearchable = facts.unsearchable if route.redacts else None
    if unsearchable is None:
        if facts.raw_docs is not None:
            return route.raw
        if facts.longest_text <= route.snippet_limit:
            return route.clean
    raw_docs = facts.raw_docs is not None
    longest_text = 0 if raw_docs else facts.longest_text
    return screened(
        snapshot.hash, route.task, route.candidates, longest_text, raw_docs=raw_docs, unsearchable=unsearchable
    )


def screened(
    policy: str,
    task: str | None,
    candidates: tuple[Candidate, ...],
    longest_text: int,
    *,
    raw_docs: bool,
    unsearchable: str | None = None,
) -> Decision:
    """The decision over `candidates` for texts of up to `longest_text` characters, with or without raw documents.

    `unsearchable` says what of the request cannot be searched.
    """
    hops = []
    trace = []
    for candidate in candidates:
        line, hop = candidate.line, candidate.hop
        if hop is not None:
            limit = hop.max_snippet_chars
            long = limit is not None and longest_text > limit
            why = None
            if not hop.send_raw_docs and (raw_docs or long):
                why = RAW_DOCS if raw_docs else f"a text is longer than {limit} characters and send_raw_docs is false"
            elif hop.redact and unsearchable is not None:
                why = f"{unsearchable}, which redact cannot search"
            if why is None:
                hops.append(hop)
            else:
                line = Considered(line.provider, line.model, False, why)
        trace.append(line)
    enabled = any(candidate.hop for candidate in candidates)
    refusal = None if hops else Refusal.RAW_DOCS_FORBIDDEN if enabled else Refusal.MODEL_NOT_FOUND
    return Decision(policy, task, tuple(hops), refusal, tuple(trace))


def _refused(snapshot: Snapshot, refusal: Refusal) -> Decision:
    return Decision(snapshot.hash, None, (), refusal, ())
