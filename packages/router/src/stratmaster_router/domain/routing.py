"""Who asks, what was asked, and where it may go: the values that every layer shares.

All of them are frozen. A `Decision` is made by `policy.decide`, walked by `upstream.execute`, recorded by the gateway.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

from stratmaster_router.domain.limits import Account
from stratmaster_router.domain.money import Price

DEFAULT_MAX_TOKENS = 4096
"""Output tokens reserved for a request that sets no bound, where the policy says nothing else."""


class Endpoint(StrEnum):
    """The OpenAI endpoints that carry a request to a provider; the value is the path below a provider's `base_url`."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"

    # An enum's own hash is a Python function, and every request looks its endpoint up.
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller acting for one tenant.

    `credential` names what it came with, for the records: `folder` (a key of the keys folder), `key:<visible id>` (a
    self-service key), `jwt:<subject>` (a service account). Never the credential itself. `expires` says when it ends
    (RFC 3339), where that is so near that its owner should know.
    """

    tenant: str
    credential: str = "folder"
    expires: str | None = None


@dataclass(frozen=True, slots=True)
class Administrator:
    """An authenticated caller of the admin API. `name` is for the records; `tenants` None means all of them."""

    name: str
    tenants: frozenset[str] | None = None


class RequestFacts(Struct, frozen=True):
    """All that a decision may know of a request; no content, only what policy asks about it.

    `raw_docs` says why the request carries raw documents (policy.md, rule 5), or is None.
    `longest_text` is the length in characters of the longest user or tool text, prompt or embedding input.
    `unsearchable` says what it has that cannot be searched for personal data; only asked where the policy redacts.
    """

    endpoint: Endpoint
    model: str
    raw_docs: str | None = None
    longest_text: int = 0
    unsearchable: str | None = None


@dataclass(frozen=True, slots=True)
class Secret:
    """A resolved secret that does not show itself in a repr, a log line or a traceback."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one attempt's phases, in seconds; `total` bounds the whole request."""

    connect: float = 2.0
    first_byte: float = 60.0
    idle: float = 30.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a hop is tried again (`max`), on what, and how long to wait between tries, in seconds."""

    max: int = 1
    on: tuple[str, ...] = ("connect", "timeout", "429", "5xx")
    backoff_initial: float = 0.25
    backoff_max: float = 4.0


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """A hop opens after `failures` in `window` seconds and stays open for `open_for` seconds."""

    failures: int = 5
    window: float = 10.0
    open_for: float = 5.0


@dataclass(frozen=True, slots=True)
class PemFile:
    """A file of certificates or with a private key, as it was read; its text does not show itself."""

    path: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files for TLS to an upstream, with their contents: a rotated certificate makes another value.

    `stale` says why what the files hold by now cannot be used; these are then their contents before that.
    """

    ca: PemFile | None = None
    cert: PemFile | None = None
    key: PemFile | None = None
    stale: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ProviderEndpoint:
    """One address of a provider, with the key that it wants; `weight` is its part of the load beside the others.

    `misconfigured` says why it cannot be called.
    """

    base_url: str
    api_key: Secret | None = None
    weight: int = 1
    misconfigured: str | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """How to reach one upstream, with its defaults filled in and its secret resolved.

    `misconfigured` says why it cannot be called (a key or an address that is missing); such a hop fails without a call.
    `endpoints` are several addresses or keys, where the policy lists them; `base_url` and `api_key` are then the first
    one's. `hedge_after` is in seconds: how long the next hop waits for this one's first byte; None for ever.
    `public_only`: the policy does not name its host, so a private address is not where it should lead.
    """

    name: str
    wire: str
    base_url: str
    api_key: Secret | None = None
    litellm_provider: str | None = None
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    breaker: BreakerRule = BreakerRule()
    tls: TlsFiles | None = None
    allow_hosts: tuple[str, ...] = ()
    misconfigured: str | None = None
    endpoints: tuple[ProviderEndpoint, ...] = ()
    hedge_after: float | None = None
    public_only: bool = False

    @property
    def reached_at(self) -> tuple[ProviderEndpoint, ...]:
        """Every address with its key, also where there is one only."""
        return self.endpoints or (ProviderEndpoint(self.base_url, self.api_key),)


@dataclass(frozen=True, slots=True)
class Hop:
    """One (provider, model) of a plan, with the rules that the tenant set for that provider.

    `accounts` are all that apply: the tenant's, then the provider's; `budgeted` says that one of them counts money.
    `default_max_tokens` are the output tokens of a request that sets no bound. `price` is None where none is known.
    `redact` names what is replaced in all that is sent to it: kinds in the order of `domain.redaction.KINDS`, then
    patterns of the policy's own.
    """

    provider: Provider
    model: str
    send_raw_docs: bool = False
    max_snippet_chars: int | None = None
    accounts: tuple[Account, ...] = ()
    price: Price | None = None
    default_max_tokens: int = DEFAULT_MAX_TOKENS
    budgeted: bool = False
    redact: tuple[str, ...] = ()


class Refusal(StrEnum):
    """Why policy says no; the value is the error code on the wire."""

    MODEL_NOT_FOUND = "model_not_found"
    ENDPOINT_DISABLED = "endpoint_disabled"
    RAW_DOCS_FORBIDDEN = "raw_docs_forbidden"


@dataclass(frozen=True, slots=True)
class Considered:
    """One line of a decision's trace: a (provider, model) and why it was kept or dropped."""

    provider: str
    model: str
    kept: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What policy says of one request: a plan of hops, or a refusal; always with its trace.

    `policy` is the content hash of the policy that decided. `task` is None when a model was named.
    `hops` is empty exactly when `refusal` is set.
    """

    policy: str
    task: str | None
    hops: tuple[Hop, ...]
    refusal: Refusal | None
    trace: tuple[Considered, ...]
