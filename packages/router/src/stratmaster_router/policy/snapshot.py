"""The policy in force, compiled for lookups: immutable, swapped as one reference, made by `compile.compile_policy`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import re2

from stratmaster_router.domain.limits import Account
from stratmaster_router.domain.routing import Considered, Decision, Hop, Provider
from stratmaster_router.domain.service_accounts import ServiceAccounts


@dataclass(frozen=True, slots=True)
class Candidate:
    """A (provider, model) that a name stands for; `hop` is None where the tenant has the provider disabled."""

    line: Considered
    hop: Hop | None


@dataclass(frozen=True, slots=True)
class Route:
    """All that one name of a tenant resolves to, with the decisions that do not depend on a request's lengths.

    `clean` is for a request without raw documents whose longest text is at most `snippet_limit` characters,
    `raw` for one with raw documents. `task` is None when the name is a model's. `redacts` says that a hop does: what
    cannot be searched then needs a decision of its own.
    """

    task: str | None
    candidates: tuple[Candidate, ...]
    snippet_limit: int
    clean: Decision
    raw: Decision
    redacts: bool


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What one tenant may do.

    `routes` holds every name a client may use: tasks, models and `provider/model`. `withdrawn` holds the refusals for
    names that only disabled providers have. `listing` is what `GET /v1/models` shows, as (id, owned_by): tasks, then
    models, each once. `accounts` are all of the tenant and of its enabled providers, in file order. `snippet_chars` is
    how much of a prompt its logs may have, redacted; 0 for none.
    """

    name: str
    routes: Mapping[str, Route]
    withdrawn: Mapping[str, Decision]
    listing: tuple[tuple[str, str], ...]
    embeddings_enabled: bool
    accounts: tuple[Account, ...]
    snippet_chars: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One policy, whole. `hash` is its short content hash (policy.md, rule 10).

    `providers` holds those that some tenant may call. `patterns` are the policy's own, of what is personal or secret.
    `warnings` is for operators: each a full sentence, no secrets. `redacts` says that some hop does.
    """

    hash: str
    tenants: Mapping[str, TenantPolicy]
    providers: Mapping[str, Provider]
    warnings: tuple[str, ...]
    service_accounts: ServiceAccounts = field(default_factory=ServiceAccounts)
    patterns: Mapping[str, "re2._Regexp"] = field(default_factory=dict)
    redacts: bool = False
