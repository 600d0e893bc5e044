"""The providers that need no `providers:` entry: their address, wire and the variable of their key (policy.md, Shape).

Addresses are those under which each serves OpenAI's protocol: https://api.openai.com/v1/chat/completions and so on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stratmaster_router.policy.fields import SecretRef
from stratmaster_router.policy.schema import ProviderSpec


@dataclass(frozen=True, slots=True)
class Reach:
    """How to reach a provider once the policy's words are laid over the built-in ones.

    `base_url` is None when nothing names an address; `endpoint_env` then may name a variable that does.
    """

    wire: str
    litellm_provider: str | None
    base_url: str | None
    endpoint_env: str | None
    api_key: SecretRef | None


def _openai(base_url: str | None, key: str | None, litellm_provider: str, endpoint_env: str | None = None) -> Reach:
    return Reach("openai", litellm_provider, base_url, endpoint_env, SecretRef(env=key) if key else None)


BUILTIN: Mapping[str, Reach] = MappingProxyType(
    {
        "openai": _openai("https://api.openai.com/v1", "OPENAI_API_KEY", "openai"),
        # Every Azure resource has an address of its own; `/openai/v1` below it needs no api-version.
        "azure": _openai(None, "AZURE_OPENAI_API_KEY", "azure", "AZURE_OPENAI_ENDPOINT"),
        "anthropic": Reach("litellm", "anthropic", None, None, SecretRef(env="ANTHROPIC_API_KEY")),
        "gemini": _openai("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "gemini"),
        "mistral": _openai("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral"),
        "groq": _openai("https://api.groq.com/openai/v1", "GROQ_API_KEY", "groq"),
        "together": _openai("https://api.together.xyz/v1", "TOGETHER_API_KEY", "together_ai"),
        "deepseek": _openai("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek"),
        "openrouter": _openai("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter"),
        "ollama": _openai("http://localhost:11434/v1", None, "ollama"),
        "vllm": _openai("http://localhost:8000/v1", None, "hosted_vllm"),
    }
)

_UNKNOWN = Reach("openai", None, None, None, None)


def reach(name: str, spec: ProviderSpec) -> Reach:
    """What the policy writes for provider `name` over what is built in, field by field."""
    known = BUILTIN.get(name, _UNKNOWN)
    wire = spec.wire or known.wire
    # A built-in address speaks the built-in wire; for another wire the policy names the address.
    same_wire = wire == known.wire
    if spec.endpoints:
        # Each has its own key, or none; what is said here of the first holds for all of them.
        first = spec.endpoints[0]
        return Reach(wire, spec.litellm_provider, first.base_url, None, first.api_key)
    return Reach(
        wire=wire,
        litellm_provider=spec.litellm_provider or (known.litellm_provider if wire == "litellm" else None),
        base_url=spec.base_url or (known.base_url if same_wire else None),
        endpoint_env=known.endpoint_env if same_wire else None,
        api_key=spec.api_key or known.api_key,
    )
