"""Compiling: built-in providers, secrets, listings, embeddings and warnings."""

import errno
from collections.abc import Mapping
from dataclasses import replace

import pytest
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.domain.money import Price
from stratmaster_router.domain.routing import (
    BreakerRule,
    Hop,
    PemFile,
    Provider,
    Retries,
    Secret,
    Timeouts,
    TlsFiles,
)
from stratmaster_router.domain.service_accounts import Issuer, ServiceAccount, ServiceAccounts
from stratmaster_router.policy.compile import compile_policy, content_hash
from stratmaster_router.policy.parse import parse
from stratmaster_router.policy.providers import NO_BRIDGE, Bridge
from stratmaster_router.policy.snapshot import Snapshot

BRIDGE = Bridge("http://127.0.0.1:8087", Secret("token"))


def unwhole(files: TlsFiles) -> str | None:
    """Judge certificate files: each must hold `pem` and a number, and those of a pair the same."""
    texts = [file.text for file in (files.ca, files.cert, files.key) if file is not None]
    if not all(text.startswith("pem") for text in texts):
        return "no pem"
    return None if files.cert is None or files.key is None or files.cert.text == files.key.text else "no pair"


def compiled(
    text: str,
    environ: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    former: Snapshot | None = None,
    bridge: Bridge | None = None,
) -> Snapshot:
    """The snapshot of a policy's text, with secrets from `environ` and `files`, in the place of `former`."""

    def read_file(path: str) -> str:
        try:
            return (files or {})[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path) from None

    before = former.providers if former else {}
    return compile_policy(parse(text), "hash", environ or {}, read_file, unwhole, before, bridge)


def provider(
    spec: str,
    environ: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    bridge: Bridge | None = None,
) -> Provider:
    """The one provider of a policy that is used; `spec` is its name and, after a colon, its entry."""
    name, _, entry = spec.partition(":")
    declared = f"providers: {{{name}: {entry}}}\n" if entry else ""
    used = f"tenants: {{acme: {{providers: {{{name}: {{models: {{t: {{default: m}}}}}}}}}}}}"
    return compiled(declared + used, environ, files, bridge=bridge).providers[name]


def test_defaults_of_timeouts_are_cut_to_the_total() -> None:
    """Who writes only the total need not write the others too."""
    assert provider("vllm: {timeouts: {total: 20s}}").timeouts == Timeouts(2.0, 20.0, 20.0, 20.0)
    assert provider("vllm: {timeouts: {total: 1s}}").timeouts == Timeouts(1.0, 1.0, 1.0, 1.0)


def listing(text: str) -> tuple[tuple[str, str], ...]:
    """What tenant acme sees of a policy's text."""
    return compiled(text).tenants["acme"].listing


@pytest.mark.parametrize(
    ("name", "address", "variable"),
    [
        ("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        ("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        ("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        ("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        ("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
        ("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    ],
)
def test_built_in_provider_needs_only_its_key(name: str, address: str, variable: str) -> None:
    """A well-known provider is reached with the key of its environment variable and nothing else written."""
    keyed = Provider(name, "openai", address, Secret("k1"), public_only=True)
    assert provider(name, {variable: "k1"}) == keyed
    assert provider(name) == replace(keyed, api_key=None, misconfigured=f"{variable} is not set")


@pytest.mark.parametrize(
    ("name", "address"), [("ollama", "http://localhost:11434/v1"), ("vllm", "http://localhost:8000/v1")]
)
def test_built_in_local_provider_needs_no_key(name: str, address: str) -> None:
    """Model servers on one's own machine are called without a key."""
    assert provider(name) == Provider(name, "openai", address)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://r.openai.azure.com",
        "https://r.openai.azure.com/",
        "https://r.openai.azure.com/openai/v1/",
        " https://r.openai.azure.com\n",
    ],
)
def test_azure_is_reached_at_its_endpoint_variable(endpoint: str) -> None:
    """The address of azure is that of AZURE_OPENAI_ENDPOINT, with /openai/v1 once."""
    environ = {"AZURE_OPENAI_ENDPOINT": endpoint, "AZURE_OPENAI_API_KEY": "k"}
    assert provider("azure", environ) == Provider(
        "azure", "openai", "https://r.openai.azure.com/openai/v1", Secret("k"), public_only=True
    )


def test_azure_without_a_usable_endpoint_is_misconfigured() -> None:
    """A missing or malformed endpoint is named by its variable, never by its value."""
    key = {"AZURE_OPENAI_API_KEY": "k"}
    unset = provider("azure", key)
    assert (unset.base_url, unset.misconfigured) == ("", "AZURE_OPENAI_ENDPOINT is not set")
    bad = provider("azure", {**key, "AZURE_OPENAI_ENDPOINT": "https://user:pass@r"})
    assert (bad.base_url, bad.misconfigured) == ("", "AZURE_OPENAI_ENDPOINT is not an http:// or https:// address")


def test_azure_with_its_own_address_needs_no_endpoint_variable() -> None:
    """base_url in the policy overrides the variable."""
    found = provider("azure: {base_url: 'https://r/openai/v1'}", {"AZURE_OPENAI_API_KEY": "k"})
    assert found == Provider("azure", "openai", "https://r/openai/v1", Secret("k"))


def test_azure_endpoint_outside_allowed_hosts_is_misconfigured() -> None:
    """An address from the environment is held against egress.allow_hosts as one from the policy is."""
    environ = {"AZURE_OPENAI_ENDPOINT": "https://evil.example", "AZURE_OPENAI_API_KEY": "k"}
    found = provider("azure: {egress: {allow_hosts: [R.openai.azure.com]}}", environ)
    assert found.allow_hosts == ("r.openai.azure.com",)
    assert found.misconfigured == "AZURE_OPENAI_ENDPOINT names a host that is not in egress.allow_hosts"
    good = provider(
        "azure: {egress: {allow_hosts: [R.openai.azure.com]}}",
        {**environ, "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"},
    )
    assert good.misconfigured is None


def test_provider_entry_overrides_built_in_field_by_field() -> None:
    """What an entry leaves out stays built in: a new address keeps the key's variable, a new key the address."""
    environ = {"OPENAI_API_KEY": "k1", "OTHER": "k2"}
    moved = provider("openai: {base_url: 'https://eu.api.openai.com/v1/'}", environ)
    assert moved == Provider("openai", "openai", "https://eu.api.openai.com/v1", Secret("k1"))
    rekeyed = provider("openai: {api_key: {env: OTHER}}", environ)
    assert rekeyed == Provider("openai", "openai", "https://api.openai.com/v1", Secret("k2"), public_only=True)


def test_custom_provider_has_the_address_it_writes_and_no_key() -> None:
    """A provider of one's own is reached at base_url; without api_key none is sent."""
    assert provider("local: {base_url: 'http://vllm:8000/v1'}") == Provider("local", "openai", "http://vllm:8000/v1")


def test_every_field_of_a_provider_reaches_its_value() -> None:
    """Durations become seconds; each field lands where the upstream looks for it."""
    entry = """
      base_url: https://h/v1
      api_key: {file: /key}
      timeouts: {connect: 1s, first_byte: 2s, idle: 3s, total: 4s}
      retries: {max: 2, on: [429, 503, connect], backoff: {initial: 100ms, max: 200ms}}
      breaker: {failures: 7, window: 8s, open_for: 9s}
      tls: {ca: /ca, cert: /crt, key: /tls}
      egress: {allow_hosts: [h]}
    """
    text = f"providers:\n  own:{entry}\ntenants: {{acme: {{providers: {{own: {{models: {{t: {{default: m}}}}}}}}}}}}"
    files = {"/key": " k \n", "/ca": "pem", "/crt": "pem", "/tls": "pem"}
    assert compiled(text, files=files).providers["own"] == Provider(
        name="own",
        wire="openai",
        base_url="https://h/v1",
        api_key=Secret("k"),
        timeouts=Timeouts(1.0, 2.0, 3.0, 4.0),
        retries=Retries(2, ("429", "503", "connect"), 0.1, 0.2),
        breaker=BreakerRule(7, 8.0, 9.0),
        tls=TlsFiles(PemFile("/ca", "pem"), PemFile("/crt", "pem"), PemFile("/tls", "pem")),
        allow_hosts=("h",),
    )


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (None, "secret file /key cannot be read (No such file or directory)"),
        ("", "secret file /key is empty"),
        (" \n", "secret file /key is empty"),
        ("a\nb", "secret file /key holds characters that no key has"),
        ("a\x00b", "secret file /key holds characters that no key has"),
        ("Bearer k", "secret file /key holds characters that no key has"),
        ("clé", "secret file /key holds characters that no key has"),
    ],
)
def test_unusable_secret_file_makes_its_provider_misconfigured(content: str | None, trouble: str) -> None:
    """A secret that is missing or could not stand in a header is named by its file, never by its value."""
    files = {} if content is None else {"/key": content}
    found = provider("openai: {api_key: {file: /key}}", {}, files)
    assert (found.api_key, found.misconfigured) == (None, trouble)


def test_unusable_secret_variable_makes_its_provider_misconfigured() -> None:
    """An environment variable is judged as a file is."""
    assert provider("openai", {"OPENAI_API_KEY": " "}).misconfigured == "OPENAI_API_KEY is empty"
    held = provider("openai", {"OPENAI_API_KEY": "a\tb"}).misconfigured
    assert held == "OPENAI_API_KEY holds characters that no key has"


def test_secret_does_not_show_in_a_snapshot() -> None:
    """Printing a snapshot, as a log or a traceback might, shows no secret."""
    text = "tenants: {acme: {providers: {openai: {models: {t: {default: m}}}}}}"
    assert "sk-1234" not in repr(compiled(text, {"OPENAI_API_KEY": "sk-1234"}))


def test_missing_certificate_makes_its_provider_misconfigured() -> None:
    """An upstream that must see a client certificate is never called without it."""
    found = provider("openai: {tls: {cert: /crt, key: /tls}}", {"OPENAI_API_KEY": "k"}, {"/crt": "pem"})
    assert (found.tls, found.misconfigured) == (None, "tls.key file /tls cannot be read")


TLS = """
providers: {vllm: {base_url: "https://h/v1", tls: {cert: /crt, key: /tls}}}
tenants: {acme: {providers: {vllm: {models: {t: {default: m}}}}}}
"""
PAIR = TlsFiles(cert=PemFile("/crt", "pem 1"), key=PemFile("/tls", "pem 1"))
HALVES = [
    ({"/crt": "pem 2", "/tls": "pem 1"}, "no pair"),
    ({"/crt": "pem 2", "/tls": ""}, "no pem"),
    ({"/crt": "pem 2"}, "tls.key file /tls cannot be read"),
    ({}, "tls.cert file /crt cannot be read"),
]


@pytest.mark.parametrize(("files", "trouble"), HALVES)
def test_certificates_that_do_not_fit_leave_the_former_ones(files: Mapping[str, str], trouble: str) -> None:
    """Whoever rotates a pair writes one file first: the last good pair stays, and a warning says why."""
    good = compiled(TLS, files={"/crt": "pem 1", "/tls": "pem 1"})
    half = compiled(TLS, files=files, former=good)
    still = compiled(TLS, files=files, former=half)
    whole = compiled(TLS, files={"/crt": "pem 2", "/tls": "pem 2"}, former=still)

    for snapshot in (half, still):
        assert snapshot.providers["vllm"] == good.providers["vllm"]
        assert snapshot.providers["vllm"].tls == PAIR
        assert snapshot.warnings == (f"providers.vllm: {trouble}; what these files held before stays in use",)
    assert whole.providers["vllm"].tls == TlsFiles(cert=PemFile("/crt", "pem 2"), key=PemFile("/tls", "pem 2"))
    assert (good.warnings, whole.warnings) == ((), ())


@pytest.mark.parametrize(("files", "trouble"), HALVES)
def test_certificates_that_were_never_good_make_their_provider_misconfigured(
    files: Mapping[str, str], trouble: str
) -> None:
    """What other files held is no substitute either: the policy asks for these."""
    elsewhere = compiled(TLS.replace("/crt", "/old"), files={"/old": "pem 1", "/tls": "pem 1"})
    for former in (None, elsewhere):
        snapshot = compiled(TLS, files=files, former=former)
        assert (snapshot.providers["vllm"].tls, snapshot.providers["vllm"].misconfigured) == (None, trouble)
        assert snapshot.warnings == (f"providers.vllm: {trouble}; calls to it fail over",)


NAMED = [
    ("openai", {}, True),
    ("openai: {egress: {allow_hosts: [API.openai.com]}}", {}, False),
    ("openai: {base_url: 'https://api.openai.com/v1'}", {}, False),
    ("openai: {endpoints: [{base_url: 'https://a/v1'}, {base_url: 'https://b/v1'}]}", {}, False),
    ("own: {base_url: 'http://10.1.2.3/v1'}", {}, False),
    ("ollama", {}, False),
    ("vllm", {}, False),
    ("azure", {}, False),
    ("azure", {"AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"}, True),
    ("azure", {"AZURE_OPENAI_ENDPOINT": "http://localhost:1"}, True),
    ("azure", {"AZURE_OPENAI_ENDPOINT": "http://[::1]:1"}, True),
    (
        "azure: {egress: {allow_hosts: [r.openai.azure.com]}}",
        {"AZURE_OPENAI_ENDPOINT": "https://R.openai.azure.com"},
        False,
    ),
    ("azure: {egress: {allow_hosts: ['[::1]']}}", {"AZURE_OPENAI_ENDPOINT": "http://[::1]:1"}, False),
    ("anthropic", {}, False),
]


@pytest.mark.parametrize(("spec", "environ", "public_only"), NAMED)
def test_host_that_the_policy_does_not_name_must_be_public(
    spec: str, environ: Mapping[str, str], public_only: bool
) -> None:
    """Built-in addresses and those from a variable; what the policy writes itself may be anywhere."""
    assert provider(spec, environ).public_only is public_only


def test_litellm_provider_is_reached_at_the_bridge_without_its_own_key() -> None:
    """The router needs to know the bridge's token only; the key of the provider is the bridge's business."""
    assert provider("anthropic", {}, bridge=BRIDGE) == Provider(
        name="anthropic",
        wire="litellm",
        base_url="http://127.0.0.1:8087/anthropic/v1",
        api_key=Secret("token"),
        litellm_provider="anthropic",
    )
    entry = "claude: {wire: litellm, litellm_provider: anthropic, base_url: 'https://h', timeouts: {connect: 1s}}"
    assert provider(entry, bridge=BRIDGE) == Provider(
        name="claude",
        wire="litellm",
        base_url="http://127.0.0.1:8087/claude/v1",
        api_key=Secret("token"),
        litellm_provider="anthropic",
        timeouts=Timeouts(connect=1.0),
    )


def test_provider_on_the_openai_wire_does_not_change_for_the_bridge() -> None:
    """Native traffic never passes the bridge."""
    assert provider("openai", {"OPENAI_API_KEY": "k"}, bridge=BRIDGE) == provider("openai", {"OPENAI_API_KEY": "k"})


def test_litellm_provider_without_a_bridge_is_misconfigured() -> None:
    """Its hops fail over, and say what to install or to set."""
    assert provider("anthropic", {"ANTHROPIC_API_KEY": "k"}, bridge=Bridge("", Secret(""))) == Provider(
        name="anthropic",
        wire="litellm",
        base_url="",
        litellm_provider="anthropic",
        misconfigured=NO_BRIDGE,
    )
    tokenless = provider("anthropic", bridge=Bridge("http://h", Secret("")))
    assert tokenless.misconfigured == "ROUTER_BRIDGE_TOKEN is not set"


def test_litellm_provider_by_itself_has_its_own_key_and_address() -> None:
    """So the bridge reads the policy, and `policy check`, which reports a key that is missing."""
    assert provider("anthropic", {"ANTHROPIC_API_KEY": "k"}) == Provider(
        name="anthropic", wire="litellm", base_url="", api_key=Secret("k"), litellm_provider="anthropic"
    )
    assert provider("anthropic").misconfigured == "ANTHROPIC_API_KEY is not set"
    assert provider("claude: {wire: litellm, litellm_provider: anthropic, base_url: 'https://h'}") == Provider(
        name="claude", wire="litellm", base_url="https://h", litellm_provider="anthropic"
    )


@pytest.mark.parametrize("bridge", [None, BRIDGE], ids=["itself", "at the bridge"])
@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("base_url: 'https://h', tls: {ca: /ca}", "tls does not reach through the LiteLLM bridge"),
        (
            "egress: {allow_hosts: [h]}",
            "egress.allow_hosts needs base_url beside wire: litellm: the address is LiteLLM's own",
        ),
    ],
)
def test_what_litellm_would_not_hold_makes_its_provider_misconfigured(
    entry: str, why: str, bridge: Bridge | None
) -> None:
    """A certificate that is not shown, or hosts that are not held to, are not taken for granted."""
    found = provider(f"claude: {{wire: litellm, litellm_provider: anthropic, {entry}}}", bridge=bridge)
    assert found.misconfigured == why


def test_built_in_provider_on_the_litellm_wire_keeps_its_litellm_name() -> None:
    """`wire: litellm` alone is enough for a well-known provider."""
    found = provider("together: {wire: litellm}", {"TOGETHER_API_KEY": "k"})
    assert (found.litellm_provider, found.base_url) == ("together_ai", "")


def test_snapshot_holds_only_providers_that_a_tenant_may_call() -> None:
    """Nothing is opened, and no secret read, for a provider that no tenant has enabled."""
    snapshot = compiled(
        "providers: {spare: {base_url: 'http://h', api_key: {env: SPARE}}}\n"
        "tenants: {acme: {providers: {groq: {enabled: false}, openai: {models: {t: {default: m}}}}}}"
    )
    assert list(snapshot.providers) == ["openai"]


def test_listing_is_tasks_then_models_each_once() -> None:
    """GET /v1/models shows what a client may ask for: tasks, then models with their first provider."""
    assert listing(
        """
        tenants:
          acme:
            providers:
              openai:
                models: {reasoning: {default: gpt-4.1, fallbacks: [gpt-4o-mini]}, fast: {default: gpt-4o-mini}}
              groq:
                enabled: false
                models: {hidden: {default: gone}, reasoning: {default: gpt-4.1}}
              openrouter:
                models: {reasoning: {default: gpt-4.1}, fast: {default: fast}, extra: {default: meta-llama/llama-3}}
        """
    ) == (
        ("reasoning", "stratmaster-router"),
        ("fast", "stratmaster-router"),
        ("extra", "stratmaster-router"),
        ("gpt-4.1", "openai"),
        ("gpt-4o-mini", "openai"),
        ("meta-llama/llama-3", "openrouter"),
    )


def test_disabled_provider_leaves_no_shadow_over_a_full_name() -> None:
    """`enabled: false` is as if not written: a disabled model's whole name does not take `provider/model` away."""
    snapshot = compiled(
        """
        tenants:
          acme:
            providers:
              openai: {models: {t: {default: gpt-4o}}}
              openrouter: {enabled: false, models: {t: {default: openai/gpt-4o}, gpt-4o: {default: x}}}
        """
    )
    routes = snapshot.tenants["acme"].routes
    assert [(name, route.task, route.clean.hops[0].provider.name) for name, route in routes.items()] == [
        ("openai/gpt-4o", None, "openai"),
        ("gpt-4o", None, "openai"),
        ("t", "t", "openai"),
    ]
    assert sorted(snapshot.tenants["acme"].withdrawn) == ["openrouter/openai/gpt-4o", "openrouter/x", "x"]
    assert snapshot.tenants["acme"].listing == (("t", "stratmaster-router"), ("gpt-4o", "openai"))


@pytest.mark.parametrize(
    ("use", "enabled"),
    [
        ("{models: {embedding: {default: m}}}", True),
        ("{models: {embeddings: {default: m}}}", True),
        ("{models: {search: {default: text-embedding-3-small}}}", True),
        ("{models: {search: {default: m, fallbacks: [nomic-Embed-text]}}}", True),
        ("{models: {my-embedding: {default: m}}}", False),
        ("{models: {reasoning: {default: m}}}", False),
        ("{enabled: false, models: {embedding: {default: text-embedding-3-small}}}", False),
    ],
)
def test_embeddings_are_enabled_by_an_enabled_embedding_task_or_model(use: str, enabled: bool) -> None:
    """The endpoint opens with a task named embedding or embeddings, or a model whose name contains embed."""
    snapshot = compiled(f"tenants: {{acme: {{providers: {{openai: {use}}}}}}}")
    assert snapshot.tenants["acme"].embeddings_enabled is enabled


def test_warnings_name_what_an_operator_should_mend() -> None:
    """Everything that is valid but will not work as one may think is said once, in file order."""
    snapshot = compiled(
        """
        providers:
          claude: {wire: litellm, litellm_provider: anthropic}
          spare: {base_url: "http://h"}
        models:
          gpt-41: {input_usd_per_mtok: 1}
          m: {}
        service_accounts:
          issuers: [{issuer: i, audience: a, jwks: {file: /j}}, {issuer: k, audience: a, jwks: {url: "https://h/k"}}]
          accounts: [{subject: s, tenants: [acme, acmee]}, {subject: t, issuer: k, tenants: [acme]}]
        tenants:
          acme:
            limits: {rpm: 1}
            providers:
              openai:
                models: {t: {default: gpt-4.1, fallbacks: [t]}, u: {default: m}}
                limits: {tpm: 1}
              openrouter: {models: {t: {default: openai/m}}}
              claude: {models: {t: {default: c}}}
          idle:
            limits: {}
            providers: {groq: {enabled: false}}
        """,
        {"OPENROUTER_API_KEY": "k"},
        bridge=Bridge("", Secret("")),
    )
    assert snapshot.warnings == (
        "providers.openai: OPENAI_API_KEY is not set; calls to it fail over",
        f"providers.claude: {NO_BRIDGE}; calls to it fail over",
        "providers.spare: no tenant uses this provider",
        "models.gpt-41: no tenant uses this model, did you mean 'gpt-4.1'?",
        "tenants.acme: 't' names a task and a model; the task wins",
        "tenants.acme: 'openai/m' is also the whole name of a model, which wins over 'm' at openai",
        "tenants.idle: no provider is enabled, so every request is refused",
        "service_accounts.issuers[0].jwks: file /j cannot be read; keys that it held before stay in use",
        "service_accounts.accounts[0]: each of the 2 issuers may sign for this subject; name the one that does as its "
        "issuer",
        "service_accounts.accounts[0].tenants: no tenant is named 'acmee', did you mean 'acme'?",
    )


def test_service_accounts_are_compiled_with_what_their_key_files_hold() -> None:
    """Issuers by name, accounts by subject; a file's text is the snapshot's, an address is for others to fetch."""
    snapshot = compiled(
        """
        service_accounts:
          issuers:
            - {issuer: "https://kubernetes.default.svc", audience: router, jwks: {file: /jwks.json}}
            - {issuer: "https://login.example.com", audience: "api://router", jwks: {url: "https://login.example.com/k"}}
          accounts:
            - {subject: "system:serviceaccount:a:b", issuer: "https://kubernetes.default.svc", tenants: [acme, globex]}
            - {subject: ops, issuer: "https://login.example.com", tenants: [acme], roles: [key_admin]}
        tenants: {acme: {}, globex: {}}
        """,
        files={"/jwks.json": '{"keys":[]}'},
    )

    assert snapshot.service_accounts == ServiceAccounts(
        {
            "https://kubernetes.default.svc": Issuer(
                "https://kubernetes.default.svc", "router", file="/jwks.json", text='{"keys":[]}'
            ),
            "https://login.example.com": Issuer(
                "https://login.example.com", "api://router", url="https://login.example.com/k"
            ),
        },
        {
            "system:serviceaccount:a:b": ServiceAccount(
                "system:serviceaccount:a:b", frozenset({"acme", "globex"}), issuer="https://kubernetes.default.svc"
            ),
            "ops": ServiceAccount(
                "ops", frozenset({"acme"}), frozenset({"key_admin"}), issuer="https://login.example.com"
            ),
        },
    )
    assert [warning for warning in snapshot.warnings if "service_accounts" in warning] == []


def test_issuers_without_accounts_are_warned_of() -> None:
    """Nobody can get in by them, which is hardly meant."""
    snapshot = compiled(
        """
        service_accounts: {issuers: [{issuer: i, audience: a, jwks: {url: "https://h"}}]}
        tenants: {}
        """
    )

    assert "service_accounts.accounts: empty, so every assertion is refused" in snapshot.warnings


LIMITED = """
providers:
  local: {base_url: "http://h"}
models:
  own: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.000000001}
tenants:
  acme:
    limits: {rpm: 600, max_parallel: 64, budget_usd_month: 300, on_store_outage: local, default_max_tokens: 1000}
    providers:
      openai:
        models: {t: {default: gpt-4.1, fallbacks: [own]}, u: {default: own}}
        limits: {tpm: 60000, budget_usd_day: 0.5, budget_usd_month: 100.000000001, default_max_tokens: 50}
      local: {models: {t: {default: own}}}
      groq: {enabled: false, models: {t: {default: own}}, limits: {rpm: 1}}
"""


def test_hop_carries_every_account_that_applies_its_price_and_its_bound() -> None:
    """Limits become accounts, money nano-dollars; a hop has the tenant's accounts, then those of its provider."""
    snapshot = compiled(LIMITED, {"OPENAI_API_KEY": "k"})
    acme, openai, local = snapshot.tenants["acme"], snapshot.providers["openai"], snapshot.providers["local"]
    own = (
        Account("acme", None, Metric.REQUESTS, Window.MINUTE, 600, local=True),
        Account("acme", None, Metric.PARALLEL, Window.NOW, 64, local=True),
        Account("acme", None, Metric.USD, Window.MONTH, 300_000_000_000),
    )
    theirs = (
        Account("acme", "openai", Metric.TOKENS, Window.MINUTE, 60_000),
        Account("acme", "openai", Metric.USD, Window.DAY, 500_000_000),
        Account("acme", "openai", Metric.USD, Window.MONTH, 100_000_000_001),
    )
    price = Price(input=100_000_000, cached_input=100_000_000, output=1)
    gpt = Price(input=2_000_000_000, cached_input=500_000_000, output=8_000_000_000)
    assert acme.routes["t"].clean.hops == (
        Hop(openai, "gpt-4.1", accounts=own + theirs, price=gpt, default_max_tokens=50, budgeted=True),
        Hop(openai, "own", accounts=own + theirs, price=price, default_max_tokens=50, budgeted=True),
        Hop(local, "own", accounts=own, price=price, default_max_tokens=1000, budgeted=True),
    )
    assert acme.accounts == own + theirs


def test_accounts_are_in_one_order_whatever_the_order_of_the_file() -> None:
    """Requests, tokens, slots, then the money of the day and of the month."""
    text = """
    tenants:
      acme:
        limits: {budget_usd_month: 2, budget_usd_day: 1, max_parallel: 3, tpm: 4, rpm: 5}
        providers: {openai: {models: {t: {default: gpt-4.1}}}}
    """
    assert compiled(text).tenants["acme"].accounts == (
        Account("acme", None, Metric.REQUESTS, Window.MINUTE, 5),
        Account("acme", None, Metric.TOKENS, Window.MINUTE, 4),
        Account("acme", None, Metric.PARALLEL, Window.NOW, 3),
        Account("acme", None, Metric.USD, Window.DAY, 1_000_000_000),
        Account("acme", None, Metric.USD, Window.MONTH, 2_000_000_000),
    )


def test_hops_of_a_provider_share_one_tuple_of_accounts_and_one_hop_a_model() -> None:
    """A thousand tenants with many tasks hold each account once."""
    routes = compiled(LIMITED).tenants["acme"].routes
    first, second, _ = routes["t"].clean.hops
    assert first.accounts is second.accounts
    assert routes["u"].clean.hops[0] is second


def test_provider_alone_can_have_a_budget() -> None:
    """A hop is budgeted where a USD account applies to it, and only there; rates alone need no price."""
    text = """
    providers: {local: {base_url: "http://h"}}
    tenants:
      acme:
        limits: {rpm: 1}
        providers:
          openai: {models: {t: {default: gpt-4.1}}, limits: {budget_usd_day: 1}}
          local: {models: {t: {default: nobody-knows}}}
    """
    assert [
        (hop.model, hop.budgeted, hop.price is None, hop.default_max_tokens)
        for hop in compiled(text).tenants["acme"].routes["t"].clean.hops
    ] == [("gpt-4.1", True, False, 4096), ("nobody-knows", False, True, 4096)]


def test_policy_without_tenants_is_valid_and_warns() -> None:
    """A policy that names no tenant permits nothing, and says so."""
    assert compiled("tenants: {}").warnings == ("tenants: empty, so every request is refused",)


def test_content_hash_is_the_start_of_the_sha256_of_the_bytes() -> None:
    """A policy is known by 12 hex characters that `sha256sum` shows too."""
    assert content_hash(b"abc") == "ba7816bf8f01"


def test_snapshot_cannot_be_changed() -> None:
    """A request keeps the policy it began with: no part of a snapshot can be replaced."""
    snapshot = compiled("tenants: {acme: {}}")
    with pytest.raises(TypeError):
        snapshot.tenants["acme"] = snapshot.tenants["acme"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        snapshot.hash = "other"  # type: ignore[misc]
