"""Every fault in every phase, plain and streamed: what the client sees, what is tried, and what is booked."""

import re
from collections.abc import Iterator

import pytest
from support.matrix import CELLS, Cell
from support.matrix_run import Matrix, running_matrix
from support.servers import REPOSITORY


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """One router for all cells."""
    with running_matrix(tmp_path_factory.mktemp("matrix")) as matrix:
        yield matrix


def test_the_matrix_is_one() -> None:
    """No cell stands twice, and there are as many as were promised."""
    assert len({cell.name for cell in CELLS}) == len(CELLS) >= 60


def test_the_matrix_is_documented() -> None:
    """docs/upstreams.md has every code that a cell ends with, no other, and the number of cells."""
    text = (REPOSITORY / "docs" / "upstreams.md").read_text()
    section = text.partition("## What a fault does\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`((?:upstream|deadline|client)_[a-z_]+)`", section))
    assert named == {cell.expected.code for cell in CELLS} - {None}
    assert f"the {len(CELLS)} cells" in section


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_cell(matrix: Matrix, cell: Cell) -> None:
    """Status, code, attempts, cost and estimate, with nothing left over."""
    assert matrix.run(cell) == cell.expected
