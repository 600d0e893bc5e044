"""What the bridge needs to know of the policy: the providers of `wire: litellm`, and no other's secret."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from stratmaster_router.domain.routing import Provider
from stratmaster_router.policy.builtin import reach
from stratmaster_router.policy.certificates import ReadFile, TlsTrouble
from stratmaster_router.policy.providers import compile_provider, enabled_providers
from stratmaster_router.policy.schema import PolicyDocument, ProviderSpec
from stratmaster_router.policy.snapshot import Snapshot


def bridged(document: PolicyDocument) -> Iterator[tuple[str, ProviderSpec]]:
    """The providers that LiteLLM is to serve."""
    return ((name, spec) for name, spec in enabled_providers(document) if reach(name, spec).wire == "litellm")


def compile_bridge(
    document: PolicyDocument,
    policy: str,
    environ: Mapping[str, str],
    read_file: ReadFile,
    judge_tls: TlsTrouble,
    former: Mapping[str, Provider],
) -> Snapshot:
    """The policy as the bridge sees it: without tenants. It decides nothing; whoever has its token may call."""
    providers: dict[str, Provider] = {
        name: compile_provider(name, spec, environ, read_file, judge_tls, former[name].tls if name in former else None)
        for name, spec in bridged(document)
    }
    return Snapshot(
        hash=policy,
        tenants=MappingProxyType({}),
        providers=MappingProxyType(providers),
        warnings=tuple(
            f"providers.{name}: {provider.misconfigured}; calls to it fail"
            for name, provider in providers.items()
            if provider.misconfigured
        ),
    )
