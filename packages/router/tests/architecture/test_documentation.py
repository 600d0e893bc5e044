"""What operators and clients meet is written down: every setting and every error code."""

import ast
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import stratmaster_router
from stratmaster_router.api import errors
from stratmaster_router.settings import Settings
from support.servers import REPOSITORY

SOURCE = Path(stratmaster_router.__file__).parent
UNSET = {"", "–", "—", "-", "none", "unset", "not set", "empty"}


def text(name: str) -> str:
    """A file of `docs/`."""
    return (REPOSITORY / "docs" / name).read_text()


def cells(line: str) -> list[str]:
    """The cells of a table's row, without code marks."""
    return [cell.strip().strip("`").strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def settings_table() -> dict[str, tuple[str, str]]:
    """The documented variables, each with its default and what it does."""
    rows = [cells(line) for line in text("settings.md").splitlines() if re.match(r"\|\s*`ROUTER_", line)]
    return {row[0]: (row[1], row[2]) for row in rows}


def written(default: Any) -> str:
    """A default as an operator would write it into the variable."""
    return (
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting_is_documented_with_its_default(name: str) -> None:
    """docs/settings.md has a row for each variable, with the default that the code has and a word on what it does."""
    variable = f"ROUTER_{name.upper()}"
    default = Settings.model_fields[name].default

    documented, purpose = settings_table()[variable]

    if default is None:
        assert documented.lower() in UNSET
    else:
        assert documented in {written(default), str(default)}
    assert len(purpose) > 10


def test_no_other_setting_is_documented() -> None:
    """A variable that no longer exists is no longer promised."""
    assert set(settings_table()) == {f"ROUTER_{name.upper()}" for name in Settings.model_fields}


def codes() -> dict[str, int | None]:
    """Every code that a client can see, with its status where it has one of its own."""
    table: dict[str, int | None] = {
        wire.code: wire.status for wire in (*errors.TABLE.values(), *errors.REFUSALS.values(), errors.INTERNAL)
    }
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = re.fullmatch(r"upstream_[a-z_]+", node.value)
                if found:
                    table.setdefault(node.value, None)
    return table


def test_codes_are_found_in_the_source() -> None:
    """The search above sees the codes of attempts and streams too, so that the next test means something."""
    assert {"upstream_rejected", "upstream_timeout", "upstream_stream_truncated", "upstream_disconnected"} <= set(
        codes()
    )


@pytest.mark.parametrize("code", sorted(codes()))
def test_error_code_is_documented(code: str) -> None:
    """docs/errors.md has a line for each code, with its status where it has one of its own."""
    status = codes()[code]
    lines = [line for line in text("errors.md").splitlines() if f"`{code}`" in line]

    assert lines
    if status is not None:
        assert any(re.search(rf"\b{status}\b", line) for line in lines)


def test_threat_model_names_tests_that_exist() -> None:
    """Each abuse is covered by a test, and not by the memory of one."""
    tests = Path(__file__).parent.parent
    rows = [line for line in text("threat-model.md").splitlines() if line.startswith("|") and line.count("|") == 4]
    cases = [line for line in rows if not line.startswith(("| ---", "| abuse"))]
    named = [re.findall(r"`([\w/]+\.py)::(\w+)`", line) for line in cases]
    assert all(named)
    missing = [
        (file, name)
        for file, name in chain.from_iterable(named)
        if not re.search(rf"^(?:(?:async )?def )?{name}\b", (tests / file).read_text(), re.MULTILINE)
    ]
    assert missing == []
