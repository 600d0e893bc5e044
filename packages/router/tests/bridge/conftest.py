from collections.abc import Iterator

import pytest
from support.bridge import Bridge, bridged
from support.emulated.anthropic import Anthropic
from support.emulated.base import Emulator, Fault
from support.emulated.bedrock import Bedrock
from support.emulated.cohere import Cohere
from support.emulated.gemini import Gemini
from support.emulated.mistral import Mistral

ANTHROPIC, BEDROCK = Anthropic(), Bedrock()
EMULATORS: list[Emulator] = [ANTHROPIC, Gemini(), BEDROCK, Cohere(), Mistral()]


@pytest.fixture(scope="session")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """One bridge to all emulated providers, for all tests: to start it takes long."""
    with bridged(tmp_path_factory.mktemp("bridge"), EMULATORS) as running:
        yield running


@pytest.fixture(params=EMULATORS, ids=lambda emulator: emulator.litellm_provider)
def emulator(request: pytest.FixtureRequest, bridge: Bridge) -> Iterator[Emulator]:
    """Each emulated provider in turn, without a fault at first."""
    one: Emulator = request.param
    one.fault = Fault()
    yield one
    one.fault = Fault()


@pytest.fixture
def anthropic(bridge: Bridge) -> Iterator[Anthropic]:
    """The emulated Anthropic."""
    yield ANTHROPIC
    ANTHROPIC.fault = Fault()


@pytest.fixture
def bedrock(bridge: Bridge) -> Bedrock:
    """The emulated Bedrock."""
    return BEDROCK
