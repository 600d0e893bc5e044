"""The policy document as typed, frozen models, and the JSON Schema published from them (policy.md, Shape and rule 9).

These models check each value by itself. What two places must agree on is checked in `semantics`; `parse.parse` does
both. Durations are held as seconds, money as US dollars in Decimal.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.config import JsonDict

from stratmaster_router.domain.redaction import KINDS
from stratmaster_router.domain.service_accounts import KEY_ADMIN
from stratmaster_router.policy.fields import (
    BaseUrl,
    Boolean,
    Budget,
    Count,
    Duration,
    FilePath,
    Host,
    HttpsUrl,
    ModelName,
    Name,
    Price,
    RetryCount,
    RetryOn,
    Secret,
    Version,
    Weight,
    Word,
    choice,
    matching,
)
from stratmaster_router.policy.patterns import LONGEST_PATTERN, PATTERN_NAME, pattern, pattern_name

SCHEMA_ID = "https://stratmaster.dev/schemas/models-policy.json"


_CLOSED: JsonDict = {"additionalProperties": False}
"""For a mapping by name, whose schema otherwise lets through each key that is no name."""


class Spec(BaseModel):
    """A mapping of the file: immutable, and nothing stands in it that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _written(default: object, text: object) -> Any:
    """A default that is written differently in the file (a duration, a status) than it is held."""
    return Field(default, json_schema_extra={"default": text})  # type: ignore[dict-item]


class TimeoutsSpec(Spec):
    """Limits of one attempt's phases."""

    connect: Duration = _written(2.0, "2s")
    """Opening the connection, TLS included."""
    first_byte: Duration = _written(60.0, "60s")
    """From the request sent to the first byte of the answer."""
    idle: Duration = _written(30.0, "30s")
    """Silence between two parts of an answer."""
    total: Duration = _written(600.0, "600s")
    """The whole request, with every try and fallback."""


class BackoffSpec(Spec):
    """Exponential waiting between tries."""

    initial: Duration = _written(0.25, "250ms")
    """Before the first retry; doubled for each further one."""
    max: Duration = _written(4.0, "4s")
    """The longest wait."""


class RetriesSpec(Spec):
    """When a hop is tried again before the next one is."""

    max: RetryCount = 1
    """Further tries after the first; 0 for none."""
    on: tuple[RetryOn, ...] = _written(("connect", "timeout", "429", "5xx"), ["connect", "timeout", 429, "5xx"])
    """Failures worth another try."""
    backoff: BackoffSpec = BackoffSpec()


class BreakerSpec(Spec):
    """A provider that keeps failing is left alone for a while."""

    failures: Count = 5
    """Failures within the window that open the breaker."""
    window: Duration = _written(10.0, "10s")
    open_for: Duration = _written(5.0, "5s")


class TlsSpec(Spec):
    """PEM files for mTLS to the upstream."""

    ca: FilePath | None = None
    """Certificates that sign the upstream's, instead of the system's."""
    cert: FilePath | None = None
    """The router's own certificate, shown to the upstream; needs `key`."""
    key: FilePath | None = None
    """The private key of `cert`."""


class EgressSpec(Spec):
    """Where calls to this provider may go."""

    allow_hosts: Annotated[tuple[Host, ...], Field(json_schema_extra={"minItems": 1})]
    """Host names; the host of `base_url` must be one of them."""


class EndpointSpec(Spec):
    """One of several addresses or keys of a provider."""

    base_url: BaseUrl
    """Address to which `/chat/completions` and the like are appended."""
    api_key: Secret | None = None
    """Where its key is found; without it none is sent."""
    weight: Weight = 1
    """Its part of the load beside the others."""


class HedgeSpec(Spec):
    """A slow answer is not waited for alone."""

    after: Duration
    """Without a first byte for so long, the next hop is asked too; the first to answer wins, the other is cancelled.
    Both are billed as far as they were used."""


class ProviderSpec(Spec):
    """How to reach one upstream. For a built-in name every field overrides the built-in one by itself."""

    wire: (
        Annotated[str, PlainValidator(choice("openai", "litellm")), WithJsonSchema({"enum": ["openai", "litellm"]})]
        | None
    ) = None
    """The protocol it speaks: OpenAI's, or that of LiteLLM's bridge. Default openai, except for anthropic."""
    litellm_provider: Name | None = None
    """LiteLLM's name for the provider; for `wire: litellm` only."""
    base_url: BaseUrl | None = None
    """Address to which `/chat/completions` and the like are appended."""
    api_key: Secret | None = None
    """Where the key is found; without it the built-in one is used, and else none is sent."""
    endpoints: Annotated[tuple[EndpointSpec, ...], Field(json_schema_extra={"minItems": 1})] = ()
    """Several addresses or keys instead of `base_url` and `api_key`. Each request takes the less busy of two chosen at
    random; one whose key is refused, or that cannot be reached, is left alone for a while."""
    timeouts: TimeoutsSpec = TimeoutsSpec()
    retries: RetriesSpec = RetriesSpec()
    breaker: BreakerSpec = BreakerSpec()
    hedge: HedgeSpec | None = None
    tls: TlsSpec | None = None
    egress: EgressSpec | None = None


class ModelSpec(Spec):
    """Facts about a model that the price data lacks or has wrong; prices are US dollars for a million tokens."""

    input_usd_per_mtok: Price | None = None
    output_usd_per_mtok: Price | None = None
    cached_input_usd_per_mtok: Price | None = None
    context_window: Count | None = None
    """Tokens of prompt and answer together."""


class JwksSpec(Spec):
    """Public keys of an issuer: a file or an address, not both."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["file"]}, {"required": ["url"]}]})

    file: FilePath | None = None
    url: HttpsUrl | None = None


class IssuerSpec(Spec):
    """Who may sign assertions."""

    issuer: Word
    """The `iss` claim."""
    jwks: JwksSpec
    audience: Word
    """The `aud` claim that an assertion must carry."""


class AccountSpec(Spec):
    """Who may act for which tenants."""

    subject: Word
    """The `sub` claim."""
    issuer: Word | None = None
    """Who must have signed, where several issuers are listed; else any of them may."""
    tenants: Annotated[tuple[Name, ...], Field(json_schema_extra={"minItems": 1})]
    roles: tuple[
        Annotated[str, PlainValidator(choice(KEY_ADMIN)), WithJsonSchema({"enum": [KEY_ADMIN]})],
        ...,
    ] = ()
    """What it may do beside asking models: `key_admin` administers the keys of its tenants."""


class ServiceAccountsSpec(Spec):
    """Who may present a signed JWT instead of an API key."""

    issuers: tuple[IssuerSpec, ...] = ()
    accounts: tuple[AccountSpec, ...] = ()


class LimitsSpec(Spec):
    """Caps of a tenant, or of a tenant at one provider; all that apply must hold (policy.md, rule 6)."""

    rpm: Count | None = None
    """Requests a minute."""
    tpm: Count | None = None
    """Tokens a minute."""
    max_parallel: Count | None = None
    """Requests in flight."""
    budget_usd_day: Budget | None = None
    """US dollars in a calendar day (UTC)."""
    budget_usd_month: Budget | None = None
    """US dollars in a calendar month (UTC)."""
    on_store_outage: Annotated[
        str, PlainValidator(choice("refuse", "local")), WithJsonSchema({"enum": ["refuse", "local"]})
    ] = "refuse"
    """What rate limits do while the store cannot be reached; budgets always refuse then."""
    default_max_tokens: Count | None = None
    """Output tokens reserved for a request that sets no bound itself; sent upstream where a USD budget applies.
    Default 4096; of a provider, the tenant's."""


class LoggingSpec(Spec):
    """What of a tenant's prompts the audit log may hold."""

    prompt_snippets: Annotated[
        str, PlainValidator(choice("off", "redacted")), WithJsonSchema({"enum": ["off", "redacted"]})
    ] = "off"
    """Whether access and audit log have the beginning of a prompt, without what redaction finds in it."""
    snippet_chars: Count = 200
    """The longest snippet, in characters."""


PatternName = Annotated[str, PlainValidator(pattern_name), WithJsonSchema({"type": "string", "pattern": PATTERN_NAME})]
Pattern = Annotated[
    str,
    PlainValidator(pattern),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "maxLength": LONGEST_PATTERN, "format": "regex", "examples": ["E[0-9]{6}"]}
    ),
]


class RedactionSpec(Spec):
    """What is personal or secret beside what the router knows."""

    patterns: dict[PatternName, Pattern] = Field(default={}, json_schema_extra=_CLOSED)
    """Regular expressions by the name that stands in a text's place of their matches, as in `[employee_id]`."""


class TaskSpec(Spec):
    """The models of one task at one provider, in order of preference."""

    default: ModelName
    fallbacks: tuple[ModelName, ...] = ()


DataKind = Annotated[
    str,
    PlainValidator(matching(PATTERN_NAME, f"{', '.join(KINDS)} or a name of redaction.patterns")),
    WithJsonSchema({"anyOf": [{"enum": list(KINDS)}, {"type": "string", "pattern": PATTERN_NAME}]}),
]


class PrivacySpec(Spec):
    """What may be sent to this provider (policy.md, rules 4 and 5)."""

    send_raw_docs: Boolean = False
    max_snippet_chars: Count | None = None
    """A longer text counts as a raw document."""
    redact: tuple[DataKind, ...] = ()
    """What is replaced by placeholders before anything is sent, and restored in the answer: kinds, and names of
    `redaction.patterns`."""


class TenantProviderSpec(Spec):
    """What a tenant may use of one provider."""

    enabled: Boolean = True
    models: dict[Name, TaskSpec] = Field(default={}, json_schema_extra=_CLOSED)
    """Tasks, each with its models."""
    privacy: PrivacySpec = PrivacySpec()
    limits: LimitsSpec = LimitsSpec()


class TenantSpec(Spec):
    """What one tenant may do."""

    limits: LimitsSpec = LimitsSpec()
    logging: LoggingSpec = LoggingSpec()
    providers: dict[Name, TenantProviderSpec] = Field(default={}, json_schema_extra=_CLOSED)
    """By preference: earlier is tried first."""


class PolicyDocument(Spec):
    """Who may use which model, at what price, with what data."""

    version: Version = 1
    providers: dict[Name, ProviderSpec] = Field(default={}, json_schema_extra=_CLOSED)
    """How to reach each upstream; optional for built-in names."""
    models: dict[ModelName, ModelSpec] = Field(default={}, json_schema_extra=_CLOSED)
    service_accounts: ServiceAccountsSpec = ServiceAccountsSpec()
    redaction: RedactionSpec = RedactionSpec()
    tenants: dict[Name, TenantSpec] = Field(json_schema_extra=_CLOSED)
    """Tenants by name. What is not named here is not allowed."""


def json_schema() -> dict[str, Any]:
    """The file's JSON Schema (draft 2020-12), for editors. Necessary, not sufficient: `policy check` sees more."""
    schema = PolicyDocument.model_json_schema()
    _tidy(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def _tidy(node: Any) -> None:
    """Takes out what describes the models rather than the file: `null` for "not written", and generated titles."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        if node.get("default", ...) is None or ("$ref" in node and "default" in node):
            del node["default"]  # of a mapping: each of its fields says its own
        options = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
        if len(options) == 1:
            del node["anyOf"]
            for key, value in options[0].items():
                node.setdefault(key, value)
        for value in node.values():
            _tidy(value)
    elif isinstance(node, list):
        for value in node:
            _tidy(value)
