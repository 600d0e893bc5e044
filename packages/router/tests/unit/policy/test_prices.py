"""What a model costs at a provider, from the policy's entry and the installed price data.

The prices are the lists of one day: a new version of genai-prices that changes one is to be seen.
"""

import socket
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from genai_prices import data
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Tier as DataTier
from stratmaster_router.domain.money import Price, Tier
from stratmaster_router.policy import prices
from stratmaster_router.policy.builtin import BUILTIN
from stratmaster_router.policy.schema import ModelSpec

DAY = date(2026, 11, 24)
GPT_41 = Price(input=2_000_000_000, cached_input=500_000_000, output=8_000_000_000)


def usd(input_: str, output: str, cached: str | None = None) -> ModelSpec:
    """An entry under `models:`."""
    return ModelSpec(
        input_usd_per_mtok=Decimal(input_),
        output_usd_per_mtok=Decimal(output),
        cached_input_usd_per_mtok=None if cached is None else Decimal(cached),
    )


def find_price(
    provider: str, litellm_provider: str | None, model: str, override: ModelSpec | None, day: date = DAY
) -> Price | None:
    """The price on a day that stands still."""
    return prices.find_price(provider, litellm_provider, model, override, day)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Provider]]:
    """Price data of the test's own, in place of the installed one."""
    providers: list[Provider] = []
    monkeypatch.setattr(data, "providers", providers)
    prices._price.cache_clear()
    yield providers
    prices._price.cache_clear()


def seller(name: str, model: str, sold: ModelPrice | list[ConditionalPrice]) -> Provider:
    """A provider of one model."""
    return Provider(id=name, name=name, api_pattern="", models=[ModelInfo(model, ClauseEquals(model), prices=sold)])


@pytest.mark.parametrize("name", ["openai", "azure", "first"])
def test_model_costs_what_its_maker_asks_wherever_it_is_served(name: str) -> None:
    """At its maker, at a reseller that asks the same, and at a provider of which nobody knows a price."""
    assert find_price(name, None, "gpt-4.1", None) == GPT_41
    assert find_price(name, None, "gpt-4.1-2025-04-14", None) == GPT_41


def test_each_built_in_provider_is_one_the_data_knows() -> None:
    """All but the model servers on one's own machine are found in the data by their id."""
    known = {provider.id for provider in data.providers}
    assert [name for name in BUILTIN if prices._IDS.get(name, name) not in known] == ["ollama", "vllm"]


def test_model_that_a_known_provider_does_not_sell_has_no_price() -> None:
    """Another's price is not taken for that of a provider whose list is known."""
    assert find_price("groq", None, "gpt-4.1", None) is None


def test_provider_of_ones_own_on_the_litellm_wire_is_the_one_that_litellm_names() -> None:
    """`litellm_provider` says whose prices hold, in LiteLLM's names."""
    claude = Price(
        input=3_000_000_000,
        cached_input=300_000_000,
        output=15_000_000_000,
        tiers=(Tier(200_000, 6_000_000_000, 600_000_000, 22_500_000_000),),
    )
    assert find_price("claude", "anthropic", "claude-sonnet-4-5", None) == claude
    assert find_price("claude", "groq", "claude-sonnet-4-5", None) is None
    llama = Price(input=880_000_000, cached_input=880_000_000, output=880_000_000)
    model = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    assert find_price("together", None, model, None) == llama
    assert find_price("together", "together_ai", model, None) == llama
    assert find_price("mine", "together_ai", model, None) == llama


def test_embeddings_have_no_output_to_pay_for() -> None:
    """A model that has a price for input only costs nothing for output; cached input costs as other input."""
    price = Price(input=130_000_000, cached_input=130_000_000, output=0)
    assert find_price("openai", None, "text-embedding-3-large", None) == price
    assert find_price("second", None, "text-embedding-3-large", None) == price


def test_tiers_and_the_price_of_a_request_come_from_the_data() -> None:
    """Gemini is dearer above 200,000 tokens; Perplexity asks 14 dollars for a thousand requests."""
    assert find_price("gemini", None, "gemini-2.5-pro", None) == Price(
        input=1_250_000_000,
        cached_input=125_000_000,
        output=10_000_000_000,
        tiers=(Tier(200_000, 2_500_000_000, 250_000_000, 15_000_000_000),),
    )
    assert find_price("perplexity", None, "sonar-pro", None) == Price(
        input=3_000_000_000, cached_input=3_000_000_000, output=15_000_000_000, per_request=14_000_000
    )


@pytest.mark.parametrize("model", ["gpt-4.1@status=503", "gpt-4.1@chunks=200,gap=5ms", "llama3", "m"])
def test_unknown_model_has_no_price(model: str) -> None:
    """A name that nobody sells, such as one with a directive for the mock, has no price unless the policy says one."""
    assert find_price("openai", None, model, None) is None
    assert find_price("first", None, model, None) is None
    assert find_price("first", None, model, usd("1", "2")) == Price(1_000_000_000, 1_000_000_000, 2_000_000_000)


@pytest.mark.parametrize(
    ("override", "price"),
    [
        (ModelSpec(context_window=8192), GPT_41),
        (usd("1", "2"), Price(1_000_000_000, 500_000_000, 2_000_000_000)),
        (usd("1", "2", "0.1"), Price(1_000_000_000, 100_000_000, 2_000_000_000)),
        (usd("0", "0", "0"), Price(0, 0, 0)),
        (ModelSpec(output_usd_per_mtok=Decimal("0.000000001")), Price(2_000_000_000, 500_000_000, 1)),
    ],
)
def test_entry_of_the_policy_overrides_field_by_field(override: ModelSpec, price: Price) -> None:
    """What an entry leaves out is the data's."""
    assert find_price("openai", None, "gpt-4.1", override) == price


def test_cached_input_follows_an_overridden_input_where_the_data_has_no_price_for_it() -> None:
    """Without a price for cached input anywhere it costs as other input does."""
    override = ModelSpec(input_usd_per_mtok=Decimal(1))
    assert find_price("openai", None, "text-embedding-3-large", override) == Price(1_000_000_000, 1_000_000_000, 0)


def test_entry_that_names_every_price_has_no_tiers() -> None:
    """What the policy writes holds for a request of any length; a price left out keeps its tiers."""
    flat = Price(1_000_000_000, 100_000_000, 2_000_000_000)
    assert find_price("gemini", None, "gemini-2.5-pro", usd("1", "2", "0.1")) == flat
    assert find_price("gemini", None, "gemini-2.5-pro", ModelSpec(output_usd_per_mtok=Decimal(2))) == Price(
        input=1_250_000_000,
        cached_input=125_000_000,
        output=2_000_000_000,
        tiers=(Tier(200_000, 2_500_000_000, 250_000_000, 2_000_000_000),),
    )


@pytest.mark.parametrize(
    "override",
    [ModelSpec(), ModelSpec(input_usd_per_mtok=Decimal(1)), ModelSpec(output_usd_per_mtok=Decimal(1))],
)
def test_half_a_price_is_none(override: ModelSpec) -> None:
    """Input and output both need a price."""
    assert find_price("local", None, "llama3", override) is None


def test_price_that_varies_by_the_hour_is_the_highest_of_the_day() -> None:
    """DeepSeek asks 0.27 and 1.10 dollars by day, half of it by night: a budget must hold at any hour."""
    price = Price(input=270_000_000, cached_input=70_000_000, output=1_100_000_000)
    assert find_price("deepseek", None, "deepseek-chat", None) == price


def test_price_is_that_of_the_day(listed: list[Provider]) -> None:
    """A price that begins on a date holds from that date on, and the hours are those of the price in force."""
    night = TimeOfDateConstraint(datetime(2000, 1, 1, 20, tzinfo=UTC).timetz(), datetime(2000, 1, 1, 4).time())
    listed += [
        seller(
            "own",
            "m",
            [
                ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2))),
                ConditionalPrice(
                    StartDateConstraint(date(2026, 11, 25)),
                    prices=ModelPrice(input_mtok=Decimal(3), output_mtok=Decimal(4)),
                ),
                ConditionalPrice(night, prices=ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(3))),
            ],
        )
    ]
    assert find_price("own", None, "m", None) == Price(2_000_000_000, 2_000_000_000, 3_000_000_000)
    assert find_price("own", None, "m", None, date(2026, 11, 25)) == Price(3_000_000_000, 3_000_000_000, 4_000_000_000)


def test_tiers_of_input_and_output_are_laid_over_each_other(listed: list[Provider]) -> None:
    """Each threshold of any price begins a tier that has all prices in force above it."""
    listed.append(
        seller(
            "own",
            "m",
            ModelPrice(
                input_mtok=TieredPrices(base=Decimal(1), tiers=[DataTier(100, Decimal(2)), DataTier(300, Decimal(3))]),
                output_mtok=TieredPrices(base=Decimal(4), tiers=[DataTier(200, Decimal(5))]),
                cache_read_mtok=Decimal("0.5"),
            ),
        )
    )
    assert find_price("own", None, "m", None) == Price(
        input=1_000_000_000,
        cached_input=500_000_000,
        output=4_000_000_000,
        tiers=(
            Tier(100, 2_000_000_000, 500_000_000, 4_000_000_000),
            Tier(200, 2_000_000_000, 500_000_000, 5_000_000_000),
            Tier(300, 3_000_000_000, 500_000_000, 5_000_000_000),
        ),
    )


def test_maker_goes_before_resellers_and_the_dearest_reseller_before_others(listed: list[Provider]) -> None:
    """By name alone a model costs what its maker asks, or what it costs at the most."""
    cheap = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1))
    dear = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(9))
    listed += [seller("reseller", "m", cheap), seller("other", "m", dear), seller("third", "m", cheap)]
    assert find_price("local", None, "m", None) == Price(1_000_000_000, 1_000_000_000, 9_000_000_000)
    listed.append(seller("openai", "m", ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(3))))
    prices._price.cache_clear()
    assert find_price("local", None, "m", None) == Price(2_000_000_000, 2_000_000_000, 3_000_000_000)
    assert find_price("third", None, "m", None) == Price(1_000_000_000, 1_000_000_000, 1_000_000_000)


def test_model_without_a_price_for_text_is_not_free(listed: list[Provider]) -> None:
    """Empty prices and prices of other things than tokens say nothing of what a token costs."""
    listed += [seller("own", "m", ModelPrice()), seller("openai", "hours", ModelPrice(audio_hours=Decimal(1)))]
    assert find_price("own", None, "m", None) is None
    assert find_price("openai", None, "hours", None) is None
    assert find_price("local", None, "hours", None) is None


def test_price_with_more_than_nine_places_is_rounded_to_the_nearest(listed: list[Provider]) -> None:
    """Some prices of the data have been floats; what a request costs is at least a whole nano-dollar."""
    sold = ModelPrice(
        input_mtok=Decimal("0.18000000000000002"),
        output_mtok=Decimal("0.27999999999999997"),
        requests_kcount=Decimal("0.0000015"),
    )
    listed.append(seller("own", "m", sold))
    assert find_price("own", None, "m", None) == Price(180_000_000, 180_000_000, 280_000_000, per_request=2)


def test_every_price_of_the_data_can_be_read() -> None:
    """No entry of the installed data makes a policy fail to compile; nearly all are sold by the token."""
    models = [(provider.id, info.id) for provider in data.providers for info in provider.models]
    found = [find_price(provider, None, model, None) for provider, model in models]
    assert len([price for price in found if price is not None]) > 0.85 * len(models)


def test_same_question_is_answered_once() -> None:
    """A policy of a thousand tenants looks a model up once."""
    assert find_price("openai", None, "gpt-4.1", None) is find_price("openai", None, "gpt-4.1", None)


def test_looking_a_price_up_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data is the installed one: nothing is fetched."""
    monkeypatch.setattr(socket, "socket", None)
    prices._price.cache_clear()
    assert prices.find_price("openai", None, "gpt-4.1", None) == GPT_41
