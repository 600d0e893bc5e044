"""How each provider of a policy is reached, with its secret: directly, or through the LiteLLM bridge.

A missing secret does not make a policy invalid: its provider is `misconfigured`, so that its hops fail over, and a
warning says what to set.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from stratmaster_router.domain.routing import (
    BreakerRule,
    Provider,
    ProviderEndpoint,
    Retries,
    Secret,
    Timeouts,
    TlsFiles,
)
from stratmaster_router.policy.builtin import Reach, reach
from stratmaster_router.policy.certificates import ReadFile, TlsTrouble, certificates
from stratmaster_router.policy.fields import SecretRef, base_url
from stratmaster_router.policy.schema import EndpointSpec, PolicyDocument, ProviderSpec

NO_BRIDGE = (
    "needs the LiteLLM bridge: set ROUTER_BRIDGE_PYTHON to a Python that has LiteLLM, as docs/bridge.md says, or "
    "ROUTER_BRIDGE_URL"
)
_NO_TLS = "tls does not reach through the LiteLLM bridge"
_NO_EGRESS = "egress.allow_hosts needs base_url beside wire: litellm: the address is LiteLLM's own"


@dataclass(frozen=True, slots=True)
class Bridge:
    """Where the LiteLLM bridge is reached, and the key that it wants; an empty address says that there is none."""

    url: str
    token: Secret


def enabled_providers(document: PolicyDocument) -> Iterator[tuple[str, ProviderSpec]]:
    """The providers that some tenant may call, each once."""
    names = (name for tenant in document.tenants.values() for name, use in tenant.providers.items() if use.enabled)
    for name in dict.fromkeys(names):
        yield name, document.providers.get(name, ProviderSpec())


def compile_provider(
    name: str,
    spec: ProviderSpec,
    environ: Mapping[str, str],
    read_file: ReadFile,
    judge_tls: TlsTrouble,
    former: TlsFiles | None,
) -> Provider:
    """The provider `name` as it is called itself, with its secret; `former` are its certificates until now."""
    to = reach(name, spec)
    address, trouble = to.base_url or "", None
    if to.wire == "litellm":
        trouble = _unbridgeable(spec)
    elif to.base_url is None and to.endpoint_env is not None:
        address, trouble = _azure_address(to.endpoint_env, environ)
    allow_hosts = tuple(host.lower() for host in spec.egress.allow_hosts) if spec.egress else ()
    if allow_hosts and address and _bracketed_host(address) not in allow_hosts:
        trouble = trouble or f"{to.endpoint_env} names a host that is not in egress.allow_hosts"
    endpoints = tuple([_endpoint(each, environ, read_file) for each in spec.endpoints])
    if endpoints:
        secret, secret_trouble = endpoints[0].api_key, _none_left(endpoints)
    else:
        secret, secret_trouble = _secret(to.api_key, environ, read_file)
    tls, tls_trouble = certificates(spec.tls, read_file, judge_tls, former) if spec.tls else (None, None)
    return replace(
        _base(name, spec),
        base_url=address,
        api_key=secret,
        tls=tls,
        allow_hosts=allow_hosts,
        misconfigured=trouble or secret_trouble or tls_trouble,
        endpoints=endpoints,
        public_only=bool(address) and not _named(spec, to, _bracketed_host(address), allow_hosts),
    )


def bridged_provider(name: str, spec: ProviderSpec, bridge: Bridge) -> Provider:
    """The provider `name` as the bridge offers it. Its key is the bridge's business."""
    if not bridge.url:
        return replace(_base(name, spec), misconfigured=NO_BRIDGE)
    trouble = _unbridgeable(spec) or (None if bridge.token.value else "ROUTER_BRIDGE_TOKEN is not set")
    return replace(_base(name, spec), base_url=f"{bridge.url}/{name}/v1", api_key=bridge.token, misconfigured=trouble)


def _base(name: str, spec: ProviderSpec) -> Provider:
    """What holds however the provider is reached."""
    to, retries, backoff, limits = reach(name, spec), spec.retries, spec.retries.backoff, spec.timeouts
    total = limits.total
    return Provider(
        name=name,
        wire=to.wire,
        base_url="",
        litellm_provider=to.litellm_provider,
        timeouts=Timeouts(min(limits.connect, total), min(limits.first_byte, total), min(limits.idle, total), total),
        retries=Retries(retries.max, retries.on, backoff.initial, backoff.max),
        breaker=BreakerRule(spec.breaker.failures, spec.breaker.window, spec.breaker.open_for),
        hedge_after=spec.hedge.after if spec.hedge else None,
    )


def _unbridgeable(spec: ProviderSpec) -> str | None:
    """Why a provider cannot be called by LiteLLM: what it would not hold must not be taken for held."""
    if spec.tls is not None:
        return _NO_TLS
    return _NO_EGRESS if spec.egress is not None and spec.base_url is None else None


def _endpoint(spec: EndpointSpec, environ: Mapping[str, str], read_file: ReadFile) -> ProviderEndpoint:
    secret, trouble = _secret(spec.api_key, environ, read_file)
    return ProviderEndpoint(spec.base_url, secret, spec.weight, trouble)


def _none_left(endpoints: Sequence[ProviderEndpoint]) -> str | None:
    """What is wrong with all of `endpoints`; None where one can be called."""
    troubles = [endpoint.misconfigured for endpoint in endpoints]
    return None if None in troubles else troubles[0]


def _named(spec: ProviderSpec, to: Reach, host: str, allow_hosts: Sequence[str]) -> bool:
    """Whether the policy itself names `host`; the built-in `localhost` is named by the provider's name."""
    return bool(spec.base_url or spec.endpoints or host in allow_hosts or (to.base_url and host == "localhost"))


def _azure_address(variable: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """The address below an Azure resource's endpoint, or why there is none; the variable's value is never repeated."""
    endpoint = environ.get(variable, "").strip()
    if not endpoint:
        return "", f"{variable} is not set"
    try:
        address = base_url(endpoint)
    except ValueError:
        return "", f"{variable} is not an http:// or https:// address"
    return address.removesuffix("/openai/v1") + "/openai/v1", None


def _bracketed_host(address: str) -> str:
    host = urlsplit(address).hostname or ""
    return f"[{host}]" if ":" in host else host


def _secret(ref: SecretRef | None, environ: Mapping[str, str], read_file: ReadFile) -> tuple[Secret | None, str | None]:
    """The secret, or what is wrong with it. White space around it, such as a file's last newline, is not part of it."""
    if ref is None:
        return None, None
    if ref.env is not None:
        place, value = ref.env, environ.get(ref.env)
        if value is None:
            return None, f"{place} is not set"
    else:
        place = f"secret file {ref.file}"
        try:
            value = read_file(ref.file or "")
        except UnicodeDecodeError:
            return None, f"{place} is not text"
        except OSError as error:
            return None, f"{place} cannot be read ({error.strerror or 'error'})"
    value = value.strip()
    if not value:
        return None, f"{place} is empty"
    if not value.isascii() or not value.isprintable() or " " in value:
        return None, f"{place} holds characters that no key has"
    return Secret(value), None
