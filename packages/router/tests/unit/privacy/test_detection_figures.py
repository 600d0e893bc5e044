"""A small run of `make prove-redaction`: what the generated texts hold is found, and little else."""

import pytest
from stratmaster_router.privacy.detect import Detector
from support.corpus import KINDS, LOCALES, samples
from support.redaction import figures

SEED = 20261124


def test_figures_are_kept() -> None:
    """Recall is at least 99 %, precision at least 98 %, and no kind is found much worse than the others."""
    result = figures(Detector(), SEED, 40 * len(KINDS))

    assert result.recall >= 0.99
    assert result.precision >= 0.98
    assert {name: count for name, count in result.found.items() if count < 0.9 * result.there[name]} == {}


def test_generator_has_the_breadth_that_the_figures_claim() -> None:
    """Twenty kinds and more, ten locales, and each kind is there."""
    assert len(KINDS) > 20
    assert len(LOCALES) == 10
    assert {kind.name for sample in samples(SEED, len(KINDS)) for kind, _, _ in sample.values} == {
        kind.name for kind in KINDS
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_generator_is_a_function_of_its_seed(seed: int) -> None:
    """Figures can be had again."""
    assert [sample.text for sample in samples(seed, 100)] == [sample.text for sample in samples(seed, 100)]
