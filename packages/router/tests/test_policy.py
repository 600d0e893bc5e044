# ruff: noqa: E501 - what a file's author reads stands whole, a message on a line
"""The policy file's parsing matches its schema (policy.md, Shape and rules 7 to 9).

The mission's snippet, the specification's example and the shipped configuration are valid as they stand; invalid files
give exactly the problems listed here, all at once.
"""

import json
import textwrap
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stratmaster_router.policy import yamltree
from stratmaster_router.policy.parse import MAX_PROBLEMS, decode, parse
from stratmaster_router.policy.problems import PolicyInvalid, Problem
from stratmaster_router.policy.schema import json_schema

SHIPPED = Path(__file__).parents[3] / "configs" / "router" / "models-policy.yaml"

MISSION = """\
tenants:
  acme:
    providers:
      openai:
        enabled: true
        models:
          reasoning:
            default: gpt-4.1
            fallbacks: [gpt-4o-mini]
          summarisation:
            default: gpt-4o-mini
          embedding:
            default: text-embedding-3-large
        privacy:
          send_raw_docs: false
"""

SHAPE = """\
version: 1                       # optional; 1 is the only version

providers:                       # how to reach each upstream (optional for built-in names)
  openai:
    wire: openai                 # openai | litellm   (default openai)
    base_url: https://api.openai.com/v1
    api_key: {env: OPENAI_API_KEY}          # or {file: /var/run/secrets/upstream/openai}
    timeouts: {connect: 2s, first_byte: 60s, idle: 30s, total: 600s}
    retries: {max: 1, on: [connect, timeout, 429, 5xx], backoff: {initial: 250ms, max: 4s}}
    breaker: {failures: 5, window: 10s, open_for: 5s}
    tls: {ca: …/ca.pem, cert: …/tls.crt, key: …/tls.key}   # mTLS to the upstream
    egress: {allow_hosts: [api.openai.com]}
  local:
    base_url: http://vllm:8000/v1           # no key: none is sent
  claude:
    wire: litellm
    litellm_provider: anthropic
    api_key: {env: ANTHROPIC_API_KEY}

models:                          # facts about a model that the price data lacks or has wrong
  gpt-4.1: {input_usd_per_mtok: 2.00, output_usd_per_mtok: 8.00, cached_input_usd_per_mtok: 0.50}
  llama3-8b-instruct: {input_usd_per_mtok: 0, output_usd_per_mtok: 0, context_window: 8192}

service_accounts:                # who may present a signed JWT instead of an API key
  issuers:
    - issuer: https://kubernetes.default.svc
      jwks: {file: /var/run/secrets/jwks.json}   # or {url: https://…}
      audience: litellm-router
  accounts:
    - subject: system:serviceaccount:stratmaster:research-mcp
      tenants: [acme, default]

tenants:
  acme:
    limits: {rpm: 600, tpm: 100000, max_parallel: 64, budget_usd_day: 20, budget_usd_month: 300}
    logging: {prompt_snippets: redacted, snippet_chars: 200}    # off (default) | redacted
    providers:                   # order matters: earlier is preferred
      openai:
        enabled: true
        models:
          reasoning:
            default: gpt-4.1
            fallbacks: [gpt-4o-mini]
          summarisation:
            default: gpt-4o-mini
          embedding:
            default: text-embedding-3-large
        privacy:
          send_raw_docs: false
          max_snippet_chars: 2000
        limits: {tpm: 60000, budget_usd_month: 100}
      local:
        models:
          reasoning: {default: llama3-8b-instruct}
        privacy: {send_raw_docs: true}
"""


def plain(text: str) -> Any:
    """The YAML of `text` as JSON-like values, numbers as floats where they have a point."""
    root, problems = yamltree.read(text)
    assert problems == []
    return json.loads(json.dumps(root.plain(), default=float))


def problems_of(text: str) -> list[str]:
    """What `parse` says of an invalid text, a line for each problem."""
    with pytest.raises(PolicyInvalid) as caught:
        parse(text)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def problems_in(text: str) -> tuple[Problem, ...]:
    """What `parse` says of a text, which may be valid."""
    try:
        parse(text)
    except PolicyInvalid as invalid:
        assert invalid.problems  # noqa: PT017 - either outcome is right
        return invalid.problems
    return ()


def lines(block: str) -> str:
    """A block of the table below without its margin."""
    return textwrap.dedent(block).lstrip("\n")


def test_mission_snippet_parses_to_exactly_what_it_says() -> None:
    """The mission's snippet, a tenants block alone, is a whole policy."""
    assert parse(MISSION).model_dump(exclude_unset=True) == {
        "tenants": {
            "acme": {
                "providers": {
                    "openai": {
                        "enabled": True,
                        "models": {
                            "reasoning": {"default": "gpt-4.1", "fallbacks": ("gpt-4o-mini",)},
                            "summarisation": {"default": "gpt-4o-mini"},
                            "embedding": {"default": "text-embedding-3-large"},
                        },
                        "privacy": {"send_raw_docs": False},
                    }
                }
            }
        }
    }


def test_specification_example_parses_to_exactly_what_it_says() -> None:
    """Every field of policy.md's Shape is understood: durations in seconds, money and prices as exact decimals."""
    # Pydantic warns of any dataclass behind a plain validator, here the references to secrets.
    written = parse(SHAPE).model_dump(exclude_unset=True, warnings=False)
    openai = written["providers"].pop("openai")
    assert openai == {
        "wire": "openai",
        "base_url": "https://api.openai.com/v1",
        "api_key": {"env": "OPENAI_API_KEY", "file": None},
        "timeouts": {"connect": 2.0, "first_byte": 60.0, "idle": 30.0, "total": 600.0},
        "retries": {
            "max": 1,
            "on": ("connect", "timeout", "429", "5xx"),
            "backoff": {"initial": 0.25, "max": 4.0},
        },
        "breaker": {"failures": 5, "window": 10.0, "open_for": 5.0},
        "tls": {"ca": "…/ca.pem", "cert": "…/tls.crt", "key": "…/tls.key"},
        "egress": {"allow_hosts": ("api.openai.com",)},
    }
    assert written == {
        "version": 1,
        "providers": {
            "local": {"base_url": "http://vllm:8000/v1"},
            "claude": {
                "wire": "litellm",
                "litellm_provider": "anthropic",
                "api_key": {"env": "ANTHROPIC_API_KEY", "file": None},
            },
        },
        "models": {
            "gpt-4.1": {
                "input_usd_per_mtok": Decimal("2.00"),
                "output_usd_per_mtok": Decimal("8.00"),
                "cached_input_usd_per_mtok": Decimal("0.50"),
            },
            "llama3-8b-instruct": {
                "input_usd_per_mtok": Decimal(0),
                "output_usd_per_mtok": Decimal(0),
                "context_window": 8192,
            },
        },
        "service_accounts": {
            "issuers": (
                {
                    "issuer": "https://kubernetes.default.svc",
                    "jwks": {"file": "/var/run/secrets/jwks.json"},
                    "audience": "litellm-router",
                },
            ),
            "accounts": (
                {"subject": "system:serviceaccount:stratmaster:research-mcp", "tenants": ("acme", "default")},
            ),
        },
        "tenants": {
            "acme": {
                "limits": {
                    "rpm": 600,
                    "tpm": 100000,
                    "max_parallel": 64,
                    "budget_usd_day": Decimal(20),
                    "budget_usd_month": Decimal(300),
                },
                "logging": {"prompt_snippets": "redacted", "snippet_chars": 200},
                "providers": {
                    "openai": {
                        "enabled": True,
                        "models": {
                            "reasoning": {"default": "gpt-4.1", "fallbacks": ("gpt-4o-mini",)},
                            "summarisation": {"default": "gpt-4o-mini"},
                            "embedding": {"default": "text-embedding-3-large"},
                        },
                        "privacy": {"send_raw_docs": False, "max_snippet_chars": 2000},
                        "limits": {"tpm": 60000, "budget_usd_month": Decimal(100)},
                    },
                    "local": {
                        "models": {"reasoning": {"default": "llama3-8b-instruct"}},
                        "privacy": {"send_raw_docs": True},
                    },
                },
            }
        },
    }


def test_shipped_configuration_has_the_tenants_it_documents() -> None:
    """configs/router/models-policy.yaml is valid and serves the tenants default and acme."""
    document = parse(decode(SHIPPED.read_bytes()))
    assert {name: list(tenant.providers) for name, tenant in document.tenants.items()} == {
        "default": ["openai"],
        "acme": ["openai", "local"],
    }


def test_defaults_are_those_of_the_specification() -> None:
    """What a policy leaves out is what policy.md and the mission say: raw documents off, one retry, snippets off."""
    document = parse("providers: {openai: {}}\ntenants: {acme: {providers: {openai: {models: {t: {default: m}}}}}}")
    provider, tenant = document.providers["openai"], document.tenants["acme"]
    use = tenant.providers["openai"]
    assert (use.enabled, use.privacy.send_raw_docs, use.privacy.max_snippet_chars) == (True, False, None)
    assert (tenant.logging.prompt_snippets, tenant.limits.on_store_outage) == ("off", "refuse")
    assert (provider.retries.max, provider.retries.on) == (1, ("connect", "timeout", "429", "5xx"))
    assert document.version == 1


@pytest.mark.parametrize("text", [MISSION, SHAPE, SHIPPED.read_text()], ids=["mission", "specification", "shipped"])
def test_published_schema_accepts_valid_policies(text: str) -> None:
    """An editor that uses the published JSON Schema shows no error in a valid policy."""
    validator = jsonschema_rs.Draft202012Validator(json_schema())
    assert [error.message for error in validator.iter_errors(plain(text))] == []


def test_published_schema_is_a_draft_2020_12_schema() -> None:
    """The published schema is itself valid, and names its draft and address."""
    schema = json_schema()
    assert jsonschema_rs.meta.is_valid(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == "https://stratmaster.dev/schemas/models-policy.json"


def test_published_schema_describes_secrets_and_durations_as_they_are_written() -> None:
    """A duration is a text with a unit, a secret is exactly one of env and file; neither may be a literal."""
    definitions = json_schema()["$defs"]
    assert definitions["TimeoutsSpec"]["properties"]["connect"] == {
        "type": "string",
        "pattern": "^[0-9]{1,9}(\\.[0-9]{1,9})?(ms|s|m|h)$",
        "examples": ["250ms", "2s", "5m", "1h"],
        "default": "2s",
        "description": "Opening the connection, TLS included.",
    }
    secret = jsonschema_rs.Draft202012Validator(definitions["ProviderSpec"]["properties"]["api_key"])
    values = [
        {"env": "A"},
        {"file": "/a"},
        {"env": "A", "file": "/a"},
        {},
        "sk-live",
        {"env": "sk-live"},
        {"file": "a"},
    ]
    assert [secret.is_valid(value) for value in values] == [True, True, False, False, False, False, False]


def test_published_schema_defaults_are_the_ones_that_apply() -> None:
    """Each default in the published schema, once written into a policy, changes nothing."""
    for definition, wrap in (
        ("TimeoutsSpec", lambda value: {"providers": {"openai": {"timeouts": value}}}),
        ("RetriesSpec", lambda value: {"providers": {"openai": {"retries": value}}}),
        ("BackoffSpec", lambda value: {"providers": {"openai": {"retries": {"backoff": value}}}}),
        ("BreakerSpec", lambda value: {"providers": {"openai": {"breaker": value}}}),
        ("LimitsSpec", lambda value: {"tenants": {"acme": {"limits": value}}}),
        ("LoggingSpec", lambda value: {"tenants": {"acme": {"logging": value}}}),
    ):
        properties = json_schema()["$defs"][definition]["properties"]
        written = {name: field["default"] for name, field in properties.items() if "default" in field}
        assert written, definition
        frame: dict[str, Any] = {"providers": {"openai": {}}, "tenants": {"acme": {}}}
        # JSON is YAML, so a policy can be written as JSON.
        assert parse(json.dumps(frame | wrap(written))) == parse(json.dumps(frame)), definition


@pytest.mark.parametrize(
    "text",
    [
        "tenants: {acme: {quota: 3}}",
        "{}",
        "version: 2\ntenants: {}",
        "tenants: {a b: {}}",
        "tenants: {acme: {limits: {rpm: 0}}}",
        "tenants: {acme: {limits: {budget_usd_day: 0}}}",
        "tenants: {acme: {logging: {prompt_snippets: on}}}",
        "tenants: {acme: {providers: {openai: {enabled: yes}}}}",
        "tenants: {acme: {providers: {openai: {models: {a/b: {default: m}}}}}}",
        "tenants: {acme: {providers: {openai: {models: {t: {fallbacks: [m]}}}}}}",
        "tenants: {}\nproviders: {openai: {timeouts: {connect: 2}}}",
        "tenants: {}\nproviders: {openai: {api_key: sk-live}}",
        "tenants: {}\nproviders: {openai: {wire: other}}",
        "tenants: {}\nproviders: {openai: {base_url: 'ftp://h'}}",
        "tenants: {}\nproviders: {openai: {retries: {on: [404]}}}",
        "tenants: {}\nproviders: {openai: {egress: {allow_hosts: []}}}",
        "tenants: {}\nmodels: {m: {input_usd_per_mtok: -1}}",
        "tenants: {}\nservice_accounts: {issuers: [{issuer: i, audience: a, jwks: {}}]}",
    ],
)
def test_published_schema_and_parser_refuse_the_same(text: str) -> None:
    """What an editor marks as wrong, the router refuses too."""
    assert not jsonschema_rs.Draft202012Validator(json_schema()).is_valid(plain(text))
    assert problems_of(text)


INVALID = {
    "unknown_field_near": (
        """
        tenants:
          acme:
            providers:
              openai:
                models:
                  reasoning: {defualt: gpt-4.1}
        """,
        """
        line 6: tenants.acme.providers.openai.models.reasoning.defualt: unknown field, did you mean 'default'?
        """,
    ),
    "unknown_field_far": (
        """
        tenants:
          acme:
            quota: 3
        """,
        """
        line 3: tenants.acme.quota: unknown field, known here: limits, logging, providers
        """,
    ),
    "unknown_top_level": (
        """
        tenants: {}
        provders: {}
        """,
        """
        line 2: provders: unknown field, did you mean 'providers'?
        """,
    ),
    "empty": (
        "",
        """
        line 1: the file is empty; a policy has at least `tenants:`
        """,
    ),
    "comments_only": (
        """
        # nothing
        """,
        """
        line 1: the file is empty; a policy has at least `tenants:`
        """,
    ),
    "null_document": (
        """
        ---
        ...
        """,
        """
        line 1: the file is empty; a policy has at least `tenants:`
        """,
    ),
    "list_document": (
        """
        - tenants
        """,
        """
        line 1: expected a mapping, got a list
        """,
    ),
    "scalar_document": (
        """
        tenants
        """,
        """
        line 1: expected a mapping, got 'tenants'
        """,
    ),
    "two_documents": (
        """
        tenants: {}
        ---
        tenants: {}
        """,
        """
        line 2: a second document starts here; a policy is one document
        """,
    ),
    "no_tenants": (
        """
        version: 1
        """,
        """
        line 1: tenants: is required
        """,
    ),
    "tenants_null": (
        """
        tenants:
        """,
        """
        line 1: tenants: expected a mapping, got nothing
        """,
    ),
    "tenant_null": (
        """
        tenants:
          acme:
        """,
        """
        line 2: tenants.acme: expected a mapping, got nothing
        """,
    ),
    "tenants_list": (
        """
        tenants: [acme]
        """,
        """
        line 1: tenants: expected a mapping, got a list
        """,
    ),
    "version": (
        """
        version: 2
        tenants: {}
        """,
        """
        line 1: version: expected 1, the only version, got the number 2
        """,
    ),
    "version_text": (
        """
        version: "1"
        tenants: {}
        """,
        """
        line 1: version: expected 1, the only version, got '1'
        """,
    ),
    "version_true": (
        """
        version: true
        tenants: {}
        """,
        """
        line 1: version: expected 1, the only version, got true
        """,
    ),
    "duplicate_keys": (
        """
        tenants:
          acme: {}
          beta: {}
          acme: {}
        version: 1
        version: 1
        tenants: {}
        """,
        """
        line 4: tenants.acme: duplicate key, first written on line 2
        line 6: version: duplicate key, first written on line 5
        line 7: tenants: duplicate key, first written on line 1
        """,
    ),
    "duplicate_quoted": (
        """
        tenants:
          acme: {}
          "acme": {}
        """,
        """
        line 3: tenants.acme: duplicate key, first written on line 2
        """,
    ),
    "number_key": (
        """
        tenants:
          42: {}
          true: {}
          ~: {}
          1.5: {}
        """,
        """
        line 2: tenants.42: a key must be a text, got the number 42; write it in quotes
        line 3: tenants.true: a key must be a text, got true; write it in quotes
        line 4: tenants.nothing: a key must be a text, got nothing
        line 5: tenants.1.5: a key must be a text, got the number 1.5; write it in quotes
        """,
    ),
    "complex_key": (
        """
        tenants:
          ? [a, b]
          : {}
        """,
        """
        line 2: tenants.'?': a key must be a text, got a list
        """,
    ),
    "merge_key": (
        """
        tenants:
          acme: &a {}
          beta:
            <<: *a
        """,
        """
        line 4: tenants.beta.'<<': merge keys are not supported; repeat the fields, or alias a whole value
        """,
    ),
    "tag": (
        """
        tenants:
          acme: !!python/object {}
          beta: !x
            providers: {}
        version: !!int 1
        """,
        """
        line 2: tenants.acme: tags are not supported; write the plain value
        line 3: tenants.beta: tags are not supported; write the plain value
        line 5: version: expected 1, the only version, got '1'
        line 5: version: tags are not supported; write the plain value
        """,
    ),
    "undefined_alias": (
        """
        tenants:
          acme: *missing
        """,
        """
        line 2: tenants.acme: alias to an anchor that is not written above: 'missing'
        """,
    ),
    "recursive_alias": (
        """
        tenants: &a
          acme: *a
        """,
        """
        line 2: tenants.acme: alias inside its own anchor: 'a'
        """,
    ),
    "syntax_indent": (
        """
        tenants:
          acme: {}
         bad: 1
        """,
        """
        line 3: not YAML: expected <block end>, but found '<block mapping start>'; check the indentation (while parsing a block mapping that starts on line 1)
        """,
    ),
    "syntax_unclosed": (
        """
        tenants: {acme: {}
        """,
        """
        line 2: not YAML: expected ',' or '}', but got '<stream end>' (while parsing a flow mapping that starts on line 1)
        """,
    ),
    "syntax_quote": (
        """
        tenants:
          acme: 'x
        """,
        """
        line 3: not YAML: found unexpected end of stream (while scanning a quoted scalar that starts on line 2)
        """,
    ),
    "syntax_tab": (
        "tenants:\n\tacme: {}\n",
        """
        line 2: not YAML: found character '\\t' that cannot start any token
        """,
    ),
    "control_char": (
        'tenants:\n  acme: "\a"\n',
        """
        line 2: not YAML: character U+0007 is not allowed
        """,
    ),
    "deep": (
        "tenants: " + "[" * 40 + "]" * 40,
        """
        line 1: nested more than 32 levels deep
        """,
    ),
    "tenant_name": (
        f"tenants:\n  a b: {{}}\n  -x: {{}}\n  {'n' * 65}: {{}}\n",
        """
        line 2: tenants.'a b': expected a name of letters, digits, '.', '_' and '-' (at most 64, beginning with a letter or digit), got 'a b'
        line 3: tenants.-x: expected a name of letters, digits, '.', '_' and '-' (at most 64, beginning with a letter or digit), got '-x'
        line 4: tenants.nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn: expected a name of letters, digits, '.', '_' and '-' (at most 64, beginning with a letter or digit), got 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…'
        """,
    ),
    "tenant_name_slash": (
        """
        tenants:
          a/b: {}
        """,
        """
        line 2: tenants.a/b: a name may not contain '/', which separates a provider from a model
        """,
    ),
    "task_name_slash": (
        """
        tenants:
          acme:
            providers:
              openai:
                models:
                  a/b: {default: gpt-4.1}
        """,
        """
        line 6: tenants.acme.providers.openai.models.a/b: a name may not contain '/', which separates a provider from a model
        """,
    ),
    "model_name_space": (
        """
        tenants:
          acme:
            providers:
              openai:
                models:
                  reasoning: {default: gpt 4, fallbacks: ["", "café", 4, x]}
        """,
        """
        line 6: tenants.acme.providers.openai.models.reasoning.default: expected a model name of printable ASCII without spaces (at most 256 characters), got 'gpt 4'
        line 6: tenants.acme.providers.openai.models.reasoning.fallbacks[0]: expected a model name of printable ASCII without spaces (at most 256 characters), got ''
        line 6: tenants.acme.providers.openai.models.reasoning.fallbacks[1]: expected a model name of printable ASCII without spaces (at most 256 characters), got 'café'
        line 6: tenants.acme.providers.openai.models.reasoning.fallbacks[2]: expected a model name of printable ASCII without spaces (at most 256 characters), got the number 4; write it in quotes
        """,
    ),
    "enabled_text": (
        """
        tenants:
          acme:
            providers:
              openai:
                enabled: yes
                models: {t: {default: m}}
                privacy: {send_raw_docs: "true", max_snippet_chars: 0}
        """,
        """
        line 5: tenants.acme.providers.openai.enabled: expected true or false, got 'yes'
        line 7: tenants.acme.providers.openai.privacy.max_snippet_chars: expected a whole number from 1 to 1000000000000, got the number 0
        line 7: tenants.acme.providers.openai.privacy.send_raw_docs: expected true or false, got 'true'
        """,
    ),
    "unknown_data": (
        """
        tenants:
          acme:
            providers:
              openai:
                models: {t: {default: m}}
                privacy: {redact: [emial, card, 4, zzz]}
              groq:
                models: {t: {default: m}}
                privacy: {redact: email}
        """,
        """
        line 6: tenants.acme.providers.openai.privacy.redact[0]: unknown kind 'emial', did you mean 'email'?
        line 6: tenants.acme.providers.openai.privacy.redact[2]: expected email, phone, card, iban, ssn, national_id, ip, secret or a name of redaction.patterns, got the number 4; write it in quotes
        line 6: tenants.acme.providers.openai.privacy.redact[3]: unknown kind 'zzz'; known: email, phone, card, iban, ssn, national_id, ip, secret and the names of redaction.patterns
        line 9: tenants.acme.providers.groq.privacy.redact: expected a list, got 'email'
        """,
    ),
    "unknown_provider": (
        """
        providers:
          openay: {base_url: "http://h"}
        tenants:
          acme:
            providers:
              opnai:
                models: {t: {default: m}}
              zzz:
                enabled: false
        """,
        """
        line 6: tenants.acme.providers.opnai: unknown provider 'opnai', did you mean 'openai'? declare it under providers: or use a built-in name
        line 8: tenants.acme.providers.zzz: unknown provider 'zzz'; declare it under providers: or use a built-in name
        """,
    ),
    "hop_twice": (
        """
        tenants:
          acme:
            providers:
              openai:
                models:
                  t:
                    default: m
                    fallbacks: [n, m, n]
        """,
        """
        line 8: tenants.acme.providers.openai.models.t.fallbacks[1]: 'm' is listed twice in this task
        line 8: tenants.acme.providers.openai.models.t.fallbacks[2]: 'n' is listed twice in this task
        """,
    ),
    "no_models": (
        """
        tenants:
          acme:
            providers:
              openai: {}
              groq: {enabled: true, models: {}}
              vllm: {enabled: false}
        """,
        """
        line 4: tenants.acme.providers.openai: an enabled provider needs at least one task under models (or write enabled: false)
        line 5: tenants.acme.providers.groq: an enabled provider needs at least one task under models (or write enabled: false)
        """,
    ),
    "default_missing": (
        """
        tenants:
          acme:
            providers:
              openai:
                models:
                  t: {fallbacks: [m]}
        """,
        """
        line 6: tenants.acme.providers.openai.models.t.default: is required
        """,
    ),
    "fallbacks_text": (
        """
        tenants:
          acme:
            providers:
              openai:
                models:
                  t: {default: m, fallbacks: n}
        """,
        """
        line 6: tenants.acme.providers.openai.models.t.fallbacks: expected a list, got 'n'
        """,
    ),
    "literal_key": (
        """
        providers:
          openai:
            api_key: sk-live-1234567890
          groq:
            api_key: {value: sk-live-1234567890}
          mistral:
            api_key: {sk-live-1234567890: }
          together:
            api_key: {env: sk-live-1234567890}
          deepseek:
            api_key: {file: sk-live-1234567890}
          gemini:
            api_key: {env: A, file: /b}
          azure:
            api_key: {}
          vllm:
            api_key: [sk-live-1234567890]
          openrouter:
            api_key:
        tenants: {}
        """,
        """
        line 3: providers.openai.api_key: write {env: NAME} or {file: /path}; a secret itself is never written in the policy
        line 5: providers.groq.api_key: write {env: NAME} or {file: /path}; a secret itself is never written in the policy
        line 7: providers.mistral.api_key: write {env: NAME} or {file: /path}; a secret itself is never written in the policy
        line 9: providers.together.api_key: env must be the name of an environment variable in upper case, such as OPENAI_API_KEY
        line 11: providers.deepseek.api_key: file must be an absolute path, such as /var/run/secrets/upstream/openai
        line 13: providers.gemini.api_key: write exactly one of env and file
        line 15: providers.azure.api_key: write exactly one of env and file
        line 17: providers.vllm.api_key: write {env: NAME} or {file: /path}; a secret itself is never written in the policy
        line 19: providers.openrouter.api_key: write {env: NAME} or {file: /path}; a secret itself is never written in the policy
        """,
    ),
    "literal_key_duplicate": (
        """
        providers:
          openai:
            api_key: {sk-live-1: 1, sk-live-1: 2}
        tenants: {}
        """,
        """
        line 3: providers.openai.api_key: duplicate key, first written on line 3
        line 3: providers.openai.api_key: write {env: NAME} or {file: /path}; a secret itself is never written in the policy
        """,
    ),
    "key_in_address": (
        """
        providers:
          a: {base_url: "https://user:pass@h/v1"}
          b: {base_url: "https://h/v1?key=abc"}
          c: {base_url: "https://h/v1#abc"}
        tenants: {}
        """,
        """
        line 2: providers.a.base_url: an address may not carry a user, a query or a fragment; a key belongs in api_key
        line 3: providers.b.base_url: an address may not carry a user, a query or a fragment; a key belongs in api_key
        line 4: providers.c.base_url: an address may not carry a user, a query or a fragment; a key belongs in api_key
        """,
    ),
    "address": (
        """
        providers:
          a: {base_url: api.example.com/v1}
          b: {base_url: "ftp://h/"}
          c: {base_url: "http://"}
          d: {base_url: "http://h:99999/"}
          e: {base_url: "http://a b/"}
          f: {base_url: 5}
          g: {base_url: "http://[::1/"}
          h: {base_url: sk-live-1234567890abcdef}
        tenants: {}
        """,
        """
        line 2: providers.a.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got 'api.example.com/v1'
        line 3: providers.b.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got 'ftp://h/'
        line 4: providers.c.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got 'http://'
        line 5: providers.d.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got 'http://h:99999/'
        line 6: providers.e.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got 'http://a b/'
        line 7: providers.f.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got the number 5
        line 8: providers.g.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got 'http://[::1/'
        line 9: providers.h.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got a text that looks like a secret
        """,
    ),
    "durations": (
        """
        providers:
          openai:
            timeouts:
              connect: 2
              first_byte: "60"
              idle: 1.5
              total: 0s
            breaker:
              window: 10 s
              open_for: 25h
            retries:
              backoff: {initial: true, max: -1s}
        tenants: {}
        """,
        """
        line 4: providers.openai.timeouts.connect: the number 2 has no unit; write 2s for seconds (units: ms, s, m, h)
        line 5: providers.openai.timeouts.first_byte: expected a duration such as 250ms, 2s, 5m or 1h, got '60'
        line 6: providers.openai.timeouts.idle: the number 1.5 has no unit; write 1.5s for seconds (units: ms, s, m, h)
        line 7: providers.openai.timeouts.total: expected a duration above 0 and at most 24h, got '0s'
        line 9: providers.openai.breaker.window: expected a duration such as 250ms, 2s, 5m or 1h, got '10 s'
        line 10: providers.openai.breaker.open_for: expected a duration above 0 and at most 24h, got '25h'
        line 12: providers.openai.retries.backoff.initial: expected a duration such as 250ms, 2s, 5m or 1h, got true
        line 12: providers.openai.retries.backoff.max: expected a duration such as 250ms, 2s, 5m or 1h, got '-1s'
        """,
    ),
    "timeouts_order": (
        """
        providers:
          openai:
            timeouts: {first_byte: 11m}
          groq:
            timeouts: {total: 10s}
        tenants: {}
        """,
        """
        line 3: providers.openai.timeouts.first_byte: first_byte (660s) is longer than total (600s)
        """,
    ),
    "order_unknown_where_a_bound_is_invalid": (
        """
        providers:
          openai:
            timeouts: {first_byte: 20m, total: 30}
            retries: {backoff: {initial: 5s, max: 10}}
        tenants: {}
        """,
        """
        line 3: providers.openai.timeouts.total: the number 30 has no unit; write 30s for seconds (units: ms, s, m, h)
        line 4: providers.openai.retries.backoff.max: the number 10 has no unit; write 10s for seconds (units: ms, s, m, h)
        """,
    ),
    "cross_checks_beside_invalid_parts": (
        """
        providers:
          a: {wire: 1, litellm_provider: x}
          b: {wire: litellm, litellm_provider: "x y"}
          c: {base_url: 1, egress: {allow_hosts: [h]}, tls: {ca: /a}}
          d: {base_url: "http://h", egress: {allow_hosts: ["*"]}, tls: {cert: 1, key: /k}}
          e: 1
        tenants:
          acme:
            providers:
              e: {models: {t: {default: m}}}
              f: {models: {t: {default: m}}}
              openai: {models: {t: 1}}
              groq: {enabled: 1}
        """,
        """
        line 2: providers.a.wire: expected openai or litellm, got the number 1
        line 3: providers.b.litellm_provider: expected a name of letters, digits, '.', '_' and '-' (at most 64, beginning with a letter or digit), got 'x y'
        line 4: providers.c.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got the number 1
        line 5: providers.d.egress.allow_hosts[0]: expected a host name without scheme, port or path, got '*'
        line 5: providers.d.tls: a certificate is of no use at an http:// address; write base_url with https://
        line 5: providers.d.tls.cert: expected the path of a file, got the number 1; write it in quotes
        line 6: providers.e: expected a mapping, got the number 1
        line 11: tenants.acme.providers.f: unknown provider 'f'; declare it under providers: or use a built-in name
        line 12: tenants.acme.providers.openai.models.t: expected a mapping, got the number 1
        line 13: tenants.acme.providers.groq.enabled: expected true or false, got the number 1
        """,
    ),
    "providers_section_invalid": (
        """
        providers: [mine]
        tenants: {acme: {providers: {mine: {models: {t: {default: m}}}}}}
        """,
        """
        line 1: providers: expected a mapping, got a list
        """,
    ),
    "backoff_order": (
        """
        providers:
          openai:
            retries: {backoff: {initial: 5s}}
          groq:
            retries: {backoff: {max: 100ms}}
          gemini:
            retries: {backoff: {initial: 2s, max: 1s}}
        tenants: {}
        """,
        """
        line 3: providers.openai.retries.backoff.initial: initial (5s) is longer than max (4s)
        line 5: providers.groq.retries.backoff.max: initial (0.25s) is longer than max (0.1s)
        line 7: providers.gemini.retries.backoff.initial: initial (2s) is longer than max (1s)
        """,
    ),
    "retries": (
        """
        providers:
          openai:
            retries:
              max: 11
              on: [conect, 404, "429", 5xx, 600, true]
          groq:
            retries: {max: 1.0, on: 429}
        tenants: {}
        """,
        """
        line 4: providers.openai.retries.max: expected a whole number from 0 to 10, got the number 11
        line 5: providers.openai.retries.on[0]: expected connect, timeout, 5xx, 408, 409, 425, 429 or a status from 500 to 599, got 'conect', did you mean 'connect'?
        line 5: providers.openai.retries.on[1]: expected connect, timeout, 5xx, 408, 409, 425, 429 or a status from 500 to 599, got the number 404
        line 5: providers.openai.retries.on[2]: expected connect, timeout, 5xx, 408, 409, 425, 429 or a status from 500 to 599, got '429'
        line 5: providers.openai.retries.on[4]: expected connect, timeout, 5xx, 408, 409, 425, 429 or a status from 500 to 599, got the number 600
        line 5: providers.openai.retries.on[5]: expected connect, timeout, 5xx, 408, 409, 425, 429 or a status from 500 to 599, got true
        line 7: providers.groq.retries.max: expected a whole number from 0 to 10, got the number 1.0
        line 7: providers.groq.retries.on: expected a list, got the number 429
        """,
    ),
    "breaker": (
        """
        providers:
          openai:
            breaker: {failures: 0, windw: 1s}
        tenants: {}
        """,
        """
        line 3: providers.openai.breaker.failures: expected a whole number from 1 to 1000000000000, got the number 0
        line 3: providers.openai.breaker.windw: unknown field, did you mean 'window'?
        """,
    ),
    "wire": (
        """
        providers:
          a: {wire: opnai, base_url: "http://h"}
          b: {wire: litellm}
          c: {litellm_provider: x, base_url: "http://h"}
          d: {}
          open-ai: {}
          anthropic: {wire: openai}
        tenants: {}
        """,
        """
        line 2: providers.a.wire: expected openai or litellm, got 'opnai', did you mean 'openai'?
        line 3: providers.b: wire: litellm needs litellm_provider, LiteLLM's name for this provider (such as anthropic)
        line 4: providers.c.litellm_provider: stands only beside wire: litellm; this provider's wire is openai
        line 5: providers.d: base_url is required: 'd' is not a built-in provider
        line 6: providers.open-ai: base_url is required: 'open-ai' is not a built-in provider, did you mean 'openai'?
        line 7: providers.anthropic: base_url is required: 'anthropic' has no built-in address for this wire
        """,
    ),
    "tls": (
        """
        providers:
          openai: {tls: {cert: /a}}
          groq: {tls: {key: /a}}
          vllm: {tls: {ca: /a}}
          gemini: {tls: {cert: "", key: 5}}
        tenants: {}
        """,
        """
        line 2: providers.openai.tls: cert needs key beside it
        line 3: providers.groq.tls: key needs cert beside it
        line 4: providers.vllm.tls: a certificate is of no use at an http:// address; write base_url with https://
        line 5: providers.gemini.tls.cert: expected the path of a file, got ''
        line 5: providers.gemini.tls.key: expected the path of a file, got the number 5; write it in quotes
        """,
    ),
    "egress": (
        """
        providers:
          openai:
            base_url: https://eu.api.openai.com/v1
            egress: {allow_hosts: [api.openai.com]}
          groq:
            egress: {allow_hosts: []}
          gemini:
            egress: {}
          mistral:
            egress: {allow_hosts: ["https://api.mistral.ai", "*.mistral.ai"]}
        tenants: {}
        """,
        """
        line 3: providers.openai.base_url: host 'eu.api.openai.com' is not in egress.allow_hosts (api.openai.com)
        line 6: providers.groq.egress.allow_hosts: host 'api.groq.com' is not in egress.allow_hosts (empty)
        line 8: providers.gemini.egress.allow_hosts: is required
        line 10: providers.mistral.egress.allow_hosts[0]: expected a host name without scheme, port or path, got 'https://api.mistral.ai'
        line 10: providers.mistral.egress.allow_hosts[1]: expected a host name without scheme, port or path, got '*.mistral.ai'
        """,
    ),
    "limits": (
        """
        tenants:
          acme:
            limits: {rpm: 0, tpm: -1, max_parallel: 1.5, budget_usd_day: 0, budget_usd_month: "300", on_store_outage: lokal}
        """,
        """
        line 3: tenants.acme.limits.budget_usd_day: expected a number of US dollars above 0 and at most 1000000000, with at most 9 decimal places, got the number 0
        line 3: tenants.acme.limits.budget_usd_month: expected a number of US dollars above 0 and at most 1000000000, with at most 9 decimal places, got '300'
        line 3: tenants.acme.limits.max_parallel: expected a whole number from 1 to 1000000000000, got the number 1.5
        line 3: tenants.acme.limits.on_store_outage: expected refuse or local, got 'lokal', did you mean 'local'?
        line 3: tenants.acme.limits.rpm: expected a whole number from 1 to 1000000000000, got the number 0
        line 3: tenants.acme.limits.tpm: expected a whole number from 1 to 1000000000000, got the number -1
        """,
    ),
    "limits_values": (
        """
        tenants:
          acme:
            limits: {rpm: true, tpm: 1_000, max_parallel: 9999999999999, budget_usd_day: 0.0000000001, budget_usd_month: .inf}
        """,
        """
        line 3: tenants.acme.limits.budget_usd_day: expected a number of US dollars above 0 and at most 1000000000, with at most 9 decimal places, got the number 1E-10
        line 3: tenants.acme.limits.budget_usd_month: expected a number of US dollars above 0 and at most 1000000000, with at most 9 decimal places, got '.inf'
        line 3: tenants.acme.limits.max_parallel: expected a whole number from 1 to 1000000000000, got the number 9999999999999
        line 3: tenants.acme.limits.rpm: expected a whole number from 1 to 1000000000000, got true
        line 3: tenants.acme.limits.tpm: expected a whole number from 1 to 1000000000000, got '1_000'
        """,
    ),
    "logging": (
        """
        tenants:
          acme:
            logging: {prompt_snippets: on, snippet_chars: "200"}
        """,
        """
        line 3: tenants.acme.logging.prompt_snippets: expected off or redacted, got 'on'
        line 3: tenants.acme.logging.snippet_chars: expected a whole number from 1 to 1000000000000, got '200'
        """,
    ),
    "prices": (
        """
        models:
          m: {input_usd_per_mtok: -1, output_usd_per_mtok: free, cached_input_usd_per_mtok: 1e400, context_window: 0}
          "a b": {}
        tenants: {}
        """,
        """
        line 2: models.m.cached_input_usd_per_mtok: expected a number of US dollars of at least 0 and at most 1000000000, with at most 9 decimal places, got the number 1E+400
        line 2: models.m.context_window: expected a whole number from 1 to 1000000000000, got the number 0
        line 2: models.m.input_usd_per_mtok: expected a number of US dollars of at least 0 and at most 1000000000, with at most 9 decimal places, got the number -1
        line 2: models.m.output_usd_per_mtok: expected a number of US dollars of at least 0 and at most 1000000000, with at most 9 decimal places, got 'free'
        line 3: models.'a b': expected a model name of printable ASCII without spaces (at most 256 characters), got 'a b'
        """,
    ),
    "service_accounts": (
        """
        service_accounts:
          issuers:
            - {issuer: i, audience: a, jwks: {}}
            - {issuer: i, audience: a, jwks: {file: /a, url: "https://h"}}
            - {issuer: "a b", jwks: {url: "http://h"}}
          accounts:
            - {subject: s, tenants: []}
            - {subject: s, tenants: [acme]}
            - {subjct: s}
            - {subject: r, tenants: [acme], roles: [key_admn]}
        tenants: {}
        """,
        """
        line 3: service_accounts.issuers[0].jwks: write exactly one of file and url
        line 4: service_accounts.issuers[1].issuer: 'i' is listed twice
        line 4: service_accounts.issuers[1].jwks: write exactly one of file and url
        line 5: service_accounts.issuers[2].audience: is required
        line 5: service_accounts.issuers[2].issuer: expected a text of printable ASCII without spaces (at most 256 characters), got 'a b'
        line 5: service_accounts.issuers[2].jwks.url: expected an https:// address, got 'http://h'
        line 7: service_accounts.accounts[0].tenants: name at least one tenant
        line 8: service_accounts.accounts[1].subject: 's' is listed twice
        line 9: service_accounts.accounts[2].subjct: unknown field, did you mean 'subject'?
        line 9: service_accounts.accounts[2].tenants: is required
        line 10: service_accounts.accounts[3].roles[0]: expected key_admin, got 'key_admn', did you mean 'key_admin'?
        """,
    ),
    "account_of_an_unknown_issuer": (
        """
        service_accounts:
          issuers:
            - {issuer: "https://login.example.com", audience: a, jwks: {url: "https://h"}}
          accounts:
            - {subject: s, issuer: "https://login.exmaple.com", tenants: [acme]}
        tenants: {acme: {}}
        """,
        """
        line 5: service_accounts.accounts[0].issuer: no issuer 'https://login.exmaple.com' is listed, did you mean 'https://login.example.com'?
        """,
    ),
    "accounts_without_issuers": (
        """
        service_accounts:
          accounts:
            - {subject: s, tenants: [acme]}
        tenants: {acme: {}}
        """,
        """
        line 2: service_accounts.accounts: no issuer stands under service_accounts.issuers, so nobody could sign for these
        """,
    ),
    "unpriced": (
        """
        providers:
          local: {base_url: "http://h"}
        models:
          half: {input_usd_per_mtok: 1}
          other-half: {output_usd_per_mtok: 1}
          neither: {context_window: 8192}
          free: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}
        tenants:
          acme:
            limits: {budget_usd_month: 300}
            providers:
              local:
                models:
                  reasoning: {default: llama3, fallbacks: [gpt-4.1, half, "@cf/x"]}
                  other: {default: llama3, fallbacks: [other-half, neither, free]}
              openai: {models: {t: {default: gpt-4.1, fallbacks: [text-embedding-3-large, llama3]}}}
              groq: {enabled: false, models: {t: {default: llama3}}}
          beta:
            providers:
              openai: {models: {t: {default: llama3}}}
              local:
                models: {t: {default: llama3}}
                limits: {budget_usd_day: 1}
        """,
        """
        line 14: tenants.acme.providers.local.models.reasoning.default: no price is known for 'llama3' at 'local', and budget_usd_month of tenants.acme needs one: write models: {'llama3': {input_usd_per_mtok: …, output_usd_per_mtok: …}}
        line 14: tenants.acme.providers.local.models.reasoning.fallbacks[1]: no output price is known for 'half' at 'local', and budget_usd_month of tenants.acme needs one: write output_usd_per_mtok under models.half (0 for embeddings)
        line 14: tenants.acme.providers.local.models.reasoning.fallbacks[2]: no price is known for '@cf/x' at 'local', and budget_usd_month of tenants.acme needs one: write models: {'@cf/x': {input_usd_per_mtok: …, output_usd_per_mtok: …}}
        line 15: tenants.acme.providers.local.models.other.fallbacks[0]: no input price is known for 'other-half' at 'local', and budget_usd_month of tenants.acme needs one: write input_usd_per_mtok under models.other-half
        line 15: tenants.acme.providers.local.models.other.fallbacks[1]: no price is known for 'neither' at 'local', and budget_usd_month of tenants.acme needs one: write input_usd_per_mtok and output_usd_per_mtok under models.neither
        line 16: tenants.acme.providers.openai.models.t.fallbacks[1]: no price is known for 'llama3' at 'openai', and budget_usd_month of tenants.acme needs one: write models: {'llama3': {input_usd_per_mtok: …, output_usd_per_mtok: …}}
        line 22: tenants.beta.providers.local.models.t.default: no price is known for 'llama3' at 'local', and budget_usd_day of tenants.beta.providers.local needs one: write models: {'llama3': {input_usd_per_mtok: …, output_usd_per_mtok: …}}
        """,
    ),
    "unpriced_in_doubt": (
        """
        providers:
          local: {base_url: "http://h"}
          broken: {base_url: 5}
        models:
          misspelt: {input_usd_mtok: 1, output_usd_per_mtok: 1}
          wrong: {input_usd_per_mtok: free, output_usd_per_mtok: 1}
        tenants:
          acme:
            limits: {budget_usd_month: 300}
            providers:
              local: {models: {t: {default: misspelt, fallbacks: [5, wrong, unknown]}}}
              broken: {models: {t: {default: unknown}}}
              locl: {models: {t: {default: unknown}}}
              openai: {enabled: maybe, models: {t: {default: unknown}}}
          beta:
            limits: {budget_usd_month: much}
            providers: {local: {models: {t: {default: unknown}}}}
        """,
        """
        line 3: providers.broken.base_url: expected an http:// or https:// address such as https://api.example.com/v1, got the number 5
        line 5: models.misspelt.input_usd_mtok: unknown field, did you mean 'input_usd_per_mtok'?
        line 6: models.wrong.input_usd_per_mtok: expected a number of US dollars of at least 0 and at most 1000000000, with at most 9 decimal places, got 'free'
        line 11: tenants.acme.providers.local.models.t.fallbacks[0]: expected a model name of printable ASCII without spaces (at most 256 characters), got the number 5; write it in quotes
        line 11: tenants.acme.providers.local.models.t.fallbacks[2]: no price is known for 'unknown' at 'local', and budget_usd_month of tenants.acme needs one: write models: {'unknown': {input_usd_per_mtok: …, output_usd_per_mtok: …}}
        line 13: tenants.acme.providers.locl: unknown provider 'locl', did you mean 'local'? declare it under providers: or use a built-in name
        line 14: tenants.acme.providers.openai.enabled: expected true or false, got 'maybe'
        line 16: tenants.beta.limits.budget_usd_month: expected a number of US dollars above 0 and at most 1000000000, with at most 9 decimal places, got 'much'
        """,
    ),
    "default_max_tokens": (
        """
        tenants:
          acme:
            limits: {default_max_tokens: 0}
            providers:
              openai: {models: {t: {default: gpt-4.1}}, limits: {default_max_tokens: 4k}}
        """,
        """
        line 3: tenants.acme.limits.default_max_tokens: expected a whole number from 1 to 1000000000000, got the number 0
        line 5: tenants.acme.providers.openai.limits.default_max_tokens: expected a whole number from 1 to 1000000000000, got '4k'
        """,
    ),
    "unpriced_models_in_doubt": (
        """
        models: 5
        tenants:
          acme:
            limits: {budget_usd_month: 300}
            providers: {openai: {models: {t: {default: unknown}}}}
        """,
        """
        line 1: models: expected a mapping, got the number 5
        """,
    ),
    "several_at_once": (
        """
        providers:
          local: {base_url: "http://h", timeouts: {idle: 5, first_byte: 20m}}
        tenants:
          acme:
            limits: {rpm: none}
            providers:
              locl: {models: {t: {default: m, fallbacks: [m]}}}
              local: {enabled: maybe}
        """,
        """
        line 2: providers.local.timeouts.first_byte: first_byte (1200s) is longer than total (600s)
        line 2: providers.local.timeouts.idle: the number 5 has no unit; write 5s for seconds (units: ms, s, m, h)
        line 5: tenants.acme.limits.rpm: expected a whole number from 1 to 1000000000000, got 'none'
        line 7: tenants.acme.providers.locl: unknown provider 'locl', did you mean 'local'? declare it under providers: or use a built-in name
        line 7: tenants.acme.providers.locl.models.t.fallbacks[0]: 'm' is listed twice in this task
        line 8: tenants.acme.providers.local.enabled: expected true or false, got 'maybe'
        """,
    ),
    "secret_elsewhere": (
        """
        tenants:
          acme:
            logging: {prompt_snippets: sk-live-1234567890}
            sk-live-1234567890: 1
            limits: {rpm: AKIAABCDEFGHIJKLMNOP1234567}
        """,
        """
        line 3: tenants.acme.logging.prompt_snippets: expected off or redacted, got a text that looks like a secret
        line 4: tenants.acme.<hidden>: unknown field, known here: limits, logging, providers
        line 5: tenants.acme.limits.rpm: expected a whole number from 1 to 1000000000000, got a text that looks like a secret
        """,
    ),
    "long_value": (
        f"tenants:\n  acme:\n    logging: {{prompt_snippets: '{'so ' * 40}'}}\n",
        """
        line 3: tenants.acme.logging.prompt_snippets: expected off or redacted, got 'so so so so so so so so so so so so so so so so so so so so …'
        """,
    ),
    "required_misspelt_and_missing": (
        """
        service_accounts:
          accounts:
            - {subjct: s}
          issuers:
            - {issuer: 1}
            - 5
            - {issuer: a, audience: b, jwks: {}}
            - {issuer: a, audience: b, jwks: 1}
        tenants: {}
        """,
        """
        line 3: service_accounts.accounts[0].subjct: unknown field, did you mean 'subject'?
        line 3: service_accounts.accounts[0].tenants: is required
        line 5: service_accounts.issuers[0].audience: is required
        line 5: service_accounts.issuers[0].issuer: expected a text of printable ASCII without spaces (at most 256 characters), got the number 1; write it in quotes
        line 5: service_accounts.issuers[0].jwks: is required
        line 6: service_accounts.issuers[1]: expected a mapping, got the number 5
        line 7: service_accounts.issuers[2].jwks: write exactly one of file and url
        line 8: service_accounts.issuers[3].jwks: expected a mapping, got the number 1
        """,
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_policy_reports_every_problem_at_once(case: str) -> None:
    """An invalid file gives exactly these problems, by line, each with its path, the value and what would be right."""
    text, expected = INVALID[case]
    assert problems_of(lines(text)) == lines(expected).splitlines()


def test_problem_has_path_line_and_message_as_values() -> None:
    """A problem can be read by a program as well as by a person."""
    with pytest.raises(PolicyInvalid) as caught:
        parse("tenants:\n  acme: 3\n")
    assert caught.value.problems == (Problem("tenants.acme", 2, "expected a mapping, got the number 3"),)


def test_bytes_that_are_not_utf8_are_a_problem_with_their_line() -> None:
    """A file in another encoding is refused with the line of the first byte that cannot be read."""
    with pytest.raises(PolicyInvalid) as caught:
        decode(b"tenants:\n  acme: {}\n# \xff\n")
    assert caught.value.problems == (Problem("", 3, "not UTF-8: byte 0xff"),)


def test_byte_order_mark_is_no_part_of_the_policy() -> None:
    """A file saved with a byte order mark means the same."""
    assert parse(decode(b"\xef\xbb\xbf" + MISSION.encode())) == parse(MISSION)


def test_alias_stands_for_the_value_it_names() -> None:
    """Anchors and aliases of whole values are understood."""
    text = "tenants:\n  a: &same\n    providers: {openai: {models: {t: {default: m}}}}\n  b: *same\n"
    document = parse(text)
    assert document.tenants["a"] == document.tenants["b"]


def test_alias_bomb_is_refused_before_it_is_expanded() -> None:
    """A few lines that stand for 10^9 nodes are refused by a count, at once."""
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    assert problems_of(text) == ["line 6: more than 200000 nodes, with aliases expanded"]


def test_file_beyond_the_bound_is_refused_unread() -> None:
    """A file of more than 4 Mi characters is not looked into."""
    assert problems_of("#" * (4 * 1024 * 1024 + 1)) == ["line 1: the file is larger than 4194304 characters"]


def test_problems_beyond_a_thousand_are_counted() -> None:
    """A file that is wrong everywhere gives a thousand problems and the number of the others."""
    text = "tenants:\n" + "".join(f"  t{n}: 1\n" for n in range(MAX_PROBLEMS + 5))
    problems = problems_of(text)
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[0] == "line 1: 5 more problems are not listed"
    assert problems[-1] == f"line {MAX_PROBLEMS + 1}: tenants.t{MAX_PROBLEMS - 1}: expected a mapping, got the number 1"


@pytest.mark.parametrize(
    ("written", "exact"),
    [
        ("0.15", Decimal("0.15")),
        ("0.1", Decimal("0.1")),
        ("1e-9", Decimal("0.000000001")),
        ("2.00", Decimal("2.00")),
        (".5", Decimal("0.5")),
        ("3", Decimal(3)),
        ("+7", Decimal(7)),
    ],
)
def test_price_is_the_decimal_that_is_written(written: str, exact: Decimal) -> None:
    """Money never passes through a float (rule 7)."""
    price = parse(f"tenants: {{}}\nmodels: {{m: {{input_usd_per_mtok: {written}}}}}").models["m"].input_usd_per_mtok
    assert (type(price), str(price)) == (Decimal, str(exact)) or price == exact


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("2s", 2.0), ("5m", 300.0), ("1h", 3600.0), ("1.5s", 1.5), ("24h", 86400.0), ("0.1ms", 0.0001)],
)
def test_duration_is_held_in_seconds(written: str, seconds: float) -> None:
    """Each unit of a duration is understood."""
    text = f"tenants: {{}}\nproviders: {{openai: {{breaker: {{window: {written}}}}}}}"
    assert parse(text).providers["openai"].breaker.window == seconds


def test_yaml_1_1_spellings_stay_texts() -> None:
    """`on`, `yes`, `1_000` and dates are texts, as YAML 1.2 says, even where a file asks for YAML 1.1."""
    root, problems = yamltree.read("%YAML 1.1\n---\n{on: yes, off: 1_000, d: 2024-01-01, s: 1:30, o: 010, q: '1'}")
    assert problems == []
    assert root.plain() == {"on": "yes", "off": "1_000", "d": "2024-01-01", "s": "1:30", "o": 10, "q": "1"}


def test_number_with_endless_digits_is_not_computed() -> None:
    """A number of thousands of digits is refused by its kind, without being read as a number."""
    text = "tenants: {acme: {limits: {rpm: " + "9" * 5000 + "}}}"
    expected = "line 1: tenants.acme.limits.rpm: expected a whole number from 1 to 1000000000000, got "
    assert problems_of(text) == [expected + "a text that looks like a secret"]


SECRET = "sk-live-4f9A0c1D2e3F4a5B"


@pytest.mark.parametrize(
    "api_key",
    [
        SECRET,
        f"[{SECRET}]",
        f"{{{SECRET}: {SECRET}}}",
        f"{{value: {SECRET}}}",
        f"{{env: {SECRET}}}",
        f"{{file: {SECRET}}}",
        f"{{env: [{SECRET}]}}",
        f"{{env: {{{SECRET}: 1, {SECRET}: 2}}}}",
        f"{{env: A, file: {SECRET}}}",
        f"!{SECRET} x",
        f"&x {{? [{SECRET}] : 1}}",
    ],
)
def test_literal_key_is_refused_and_never_repeated(api_key: str) -> None:
    """Wherever a key is written under api_key, it is an error whose words do not hold it (rule 8)."""
    problems = problems_of(f"tenants: {{}}\nproviders: {{openai: {{api_key: {api_key}}}}}")
    assert not [problem for problem in problems if "4f9A0c1D" in problem]


@given(st.text(st.characters(codec="utf-8"), max_size=200))
@example("a: b: c")
@example("&a [*a]")
@example("? ? ?")
@example("!<")
@example("%TAG ! x\n--- !y")
@example("\ufeff\ufeff")
@example("{a: 1e9999999999999999999}")
def test_any_text_is_a_policy_or_invalid(text: str) -> None:
    """No text at all makes the parser fail otherwise than by saying what is wrong."""
    breaks = sum(map(text.count, "\n\r\x85\u2028\u2029"))
    assert all(0 < problem.line <= breaks + 2 for problem in problems_in(text))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_invalid(content: bytes) -> None:
    """No file at all makes the parser fail otherwise than by saying what is wrong."""
    try:
        text = decode(content)
    except PolicyInvalid as invalid:
        assert len(invalid.problems) == 1  # noqa: PT017 - either outcome is right
    else:
        problems_in(text)


@given(st.data())
def test_damaged_policy_is_a_policy_or_invalid(data: st.DataObject) -> None:
    """A valid file with lines cut, swapped or overwritten is valid or refused, never a crash."""
    rows = SHAPE.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at, other = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, len(rows) - 1))
        damage = data.draw(st.sampled_from(["cut", "swap", "copy", "indent", "null", "list", "chop"]))
        if damage == "cut":
            rows[at] = ""
        elif damage == "swap":
            rows[at], rows[other] = rows[other], rows[at]
        elif damage == "copy":
            rows.insert(at, rows[other])
        elif damage == "indent":
            rows[at] = rows[at][data.draw(st.integers(0, 4)) :]
        elif damage == "null":
            rows[at] = rows[at].partition(":")[0] + ":"
        elif damage == "list":
            rows[at] = rows[at].partition(":")[0] + ": [1, {a: b}]"
        else:
            rows[at] = rows[at][: data.draw(st.integers(0, len(rows[at])))]
    problems_in("\n".join(rows))
