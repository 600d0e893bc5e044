"""What a model costs at a provider: the policy's `models:` entry over genai-prices' data (policy.md, rule 7).

The data is that of the installed package: nothing is fetched. It knows providers by its own ids. A provider that it
does not know is taken to ask what the model's maker asks, and for a model whose maker does not sell it by the token,
what the dearest known provider asks.

Only text is priced. Audio, images, cache writes, searches and the variants of a service tier count as the usage has
them, as text: who uses such models under a budget writes the dearer price under `models:`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from stratmaster_router.domain.money import NANO_DOLLARS, Price, Tier
from stratmaster_router.policy.schema import ModelSpec

if TYPE_CHECKING:
    from genai_prices import types

# Those of our names that are not the data's own. `litellm_provider` needs none: the data knows LiteLLM's.
_IDS = {"gemini": "google"}

# In this order. Google comes late, because it sells Anthropic's models too.
_MAKERS = (
    "openai",
    "anthropic",
    "deepseek",
    "mistral",
    "x-ai",
    "meta",
    "cohere",
    "moonshotai",
    "minimax",
    "zai",
    "zhipuai",
    "voyageai",
    "arcee",
    "google",
    "perplexity",
)

_BASE = -1  # above which a request without input is too


class _Row(NamedTuple):
    """US dollars for a million tokens of a request with more than `above` input tokens; None where not known."""

    above: int
    input: Decimal | None
    cached_input: Decimal | None
    output: Decimal | None


class _Known(NamedTuple):
    """What the data knows of a model: the base row, then the tiers; US dollars for a request."""

    rows: tuple[_Row, ...]
    per_request: Decimal


_NOTHING = _Known((_Row(_BASE, None, None, None),), Decimal(0))


def find_price(
    provider_name: str, litellm_provider: str | None, model: str, override: ModelSpec | None, day: date | None = None
) -> Price | None:
    """The price of `model` at a provider on `day` (UTC, by default today); None where input or output has none.

    `override` is the policy's entry for the model; each price that it has stands instead of the data's. A price that
    varies by the hour is the highest of the day: it is asked for when the policy is compiled, and must hold at noon.
    """
    return _price(provider_name, litellm_provider, model, override, day or datetime.now(UTC).date())


# A policy of a thousand tenants asks a thousand times for the same. A miss reads the whole data (some 3 ms).
@lru_cache(maxsize=65_536)
def _price(
    provider_name: str, litellm_provider: str | None, model: str, override: ModelSpec | None, day: date
) -> Price | None:
    known = _find(provider_name, litellm_provider, model, day) or _NOTHING
    tiers = [tier for row in known.rows if (tier := _tier(row, override or ModelSpec())) is not None]
    if not tiers:
        return None
    base, *above = tiers
    return Price(
        input=base.input,
        cached_input=base.cached_input,
        output=base.output,
        # An entry of the policy can make all tiers alike, and a price without tiers is cheaper to use.
        tiers=tuple(above) if any(_rates(tier) != _rates(base) for tier in above) else (),
        per_request=int((known.per_request * NANO_DOLLARS).to_integral_value(ROUND_CEILING)),
    )


def _tier(row: _Row, override: ModelSpec) -> Tier | None:
    of_input = _first(override.input_usd_per_mtok, row.input)
    of_output = _first(override.output_usd_per_mtok, row.output)
    if of_input is None or of_output is None:
        return None
    of_cached = _first(override.cached_input_usd_per_mtok, row.cached_input)
    cached = of_input if of_cached is None else of_cached
    return Tier(row.above, _per_mtok(of_input), _per_mtok(cached), _per_mtok(of_output))


def _first(ours: Decimal | None, theirs: Decimal | None) -> Decimal | None:
    return theirs if ours is None else ours


def _per_mtok(usd: Decimal) -> int:
    # Nine places are exact; a few prices of the data have more, from having once been floats.
    return int((usd * NANO_DOLLARS).to_integral_value(ROUND_HALF_UP))


def _rates(tier: Tier) -> tuple[int, int, int]:
    return tier.input, tier.cached_input, tier.output


def _find(provider_name: str, litellm_provider: str | None, model: str, day: date) -> _Known | None:
    # Imported here because it takes 45 ms and 7 MB, and six times the time where modules are not compiled in advance.
    from genai_prices.data import providers
    from genai_prices.data_snapshot import find_provider_by_id

    if litellm_provider is not None:
        at = find_provider_by_id(providers, litellm_provider)
    else:
        # Only by the whole id: the data's looser rules would take a `my-openai-like-server` for OpenAI.
        name = _IDS.get(provider_name, provider_name)
        at = next((provider for provider in providers if provider.id == name), None)
    if at is not None:
        info = at.find_model(model, all_providers=providers)
        return _known(info, day) if info is not None else None
    found = {}
    for provider in providers:
        info = provider.find_model(model)
        known = _known(info, day) if info is not None else None
        if known is not None:
            found[provider.id] = known
    maker = next((maker for maker in _MAKERS if maker in found), None)
    return found[maker] if maker is not None else max(found.values(), key=_dearness, default=None)


def _dearness(known: _Known) -> Decimal:
    base = known.rows[0]
    return (base.input or Decimal(0)) + (base.output or Decimal(0))


def _known(info: "types.ModelInfo", day: date) -> _Known | None:
    """What the data says of a model; None where it has no price for text, which is not to say that it is free."""
    prices = [info.get_prices(moment) for moment in _moments(info, day)]
    if any(price.input_mtok is None for price in prices):
        return None
    starts = {
        tier.start
        for price in prices
        for value in (price.input_mtok, price.cache_read_mtok, price.output_mtok)
        for tier in _tiers(value)
    }
    return _Known(
        tuple(_row(prices, above) for above in (_BASE, *sorted(starts))),
        max(_at(price.requests_kcount, _BASE) or Decimal(0) for price in prices) / 1000,
    )


def _moments(info: "types.ModelInfo", day: date) -> Iterator[datetime]:
    """The moments of a day at which the price may change."""
    from genai_prices.types import ModelPrice, TimeOfDateConstraint

    yield datetime.combine(day, time(), UTC)
    for conditional in () if isinstance(info.prices, ModelPrice) else info.prices:
        constraint = conditional.constraint
        if isinstance(constraint, TimeOfDateConstraint):
            for change in (constraint.start_time, constraint.end_time):
                yield datetime.combine(day, change, change.tzinfo or UTC)


def _row(prices: Sequence["types.ModelPrice"], above: int) -> _Row:
    return _Row(
        above,
        _highest(_at(price.input_mtok, above) for price in prices),
        _highest(_at(price.cache_read_mtok, above) for price in prices),
        # What has a price for input only puts out nothing that is billed: embeddings.
        _highest(_at(price.output_mtok, above) for price in prices) or Decimal(0),
    )


def _highest(rates: Iterable[Decimal | None]) -> Decimal | None:
    return max((rate for rate in rates if rate is not None), default=None)


def _at(value: "Decimal | types.TieredPrices | None", above: int) -> Decimal | None:
    """A rate for a request with just more than `above` input tokens."""
    if value is None or isinstance(value, Decimal):
        return value
    rate = value.base
    for tier in value.tiers:
        if tier.start <= above:
            rate = tier.price
    return rate


def _tiers(value: "Decimal | types.TieredPrices | None") -> Sequence["types.Tier"]:
    return () if value is None or isinstance(value, Decimal) else value.tiers
