"""The check of the locks finds what it is for, and an opt-out of any check has its reason."""

import importlib.util
import re
import tokenize
from pathlib import Path
from types import ModuleType

import pytest
from support.servers import REPOSITORY

HASH = f"--hash=sha256:{'0' * 64}"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """The module `scripts/check_requirements.py`."""
    spec = importlib.util.spec_from_file_location("check_requirements", REPOSITORY / "scripts/check_requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("yarl>=1.25", "'yarl>=1.25' is not pinned to one version"),
        ("yarl", "'yarl' is not pinned to one version"),
        ("yarl==1.*", "'yarl==1.*' is not pinned to one version"),
        ("yarl==1.25.1,<2", "'yarl<2,==1.25.1' is not pinned to one version"),
        ("yarl @ https://example.com/yarl.whl", "'yarl @ https://example.com/yarl.whl' is not pinned to one version"),
        ("--extra-index-url https://example.com", "'--extra-index-url https://example.com' is no requirement"),
        ("-e packages/router", "'-e packages/router' is no requirement"),
    ],
)
def test_lock_holds_pinned_requirements_and_nothing_else(check: ModuleType, line: str, problem: str) -> None:
    """A range, an address, an index or a folder would install what nobody has looked at."""
    with pytest.raises(check.Unreadable) as raised:
        check.entries(f"idna==3.20 \\\n    {HASH}\n{line}\n")
    assert str(raised.value) == problem


@pytest.mark.parametrize(
    ("lock", "problems"),
    [
        (f"idna==3.20 \\\n    {HASH} \\\n    {HASH}\n", []),
        (f"colorama==0.4.6 ; sys_platform == 'win32' \\\n    {HASH}\n", []),
        ("idna==3.20\n", ["idna==3.20 has no hash"]),
        (
            f"litellm==1.82.8 {HASH}\n",
            ["litellm 1.82.8 is known to be bad: stole credentials whenever Python started (PYSEC-2026-2)"],
        ),
        (f"litellm==1.82.6 {HASH}\nlitellm==1.82.9 {HASH}\n", []),
        (
            f"H11==0.14.0 {HASH}\n",
            ["h11 0.14.0 is known to be bad: takes malformed chunks, so that requests can be smuggled"],
        ),
    ],
)
def test_bad_version_and_missing_hash_are_found(check: ModuleType, lock: str, problems: list[str]) -> None:
    """Each with its reason."""
    found = list(check.troubles_of(check.entries(lock)))

    assert len(found) == len(problems)
    for trouble, problem in zip(found, problems, strict=True):
        assert trouble.replace("malicious: ", "").startswith(problem)


def test_declared_requirement_must_be_locked_as_declared(check: ModuleType) -> None:
    """What is missing, or outside of what the project allows, is found; names are compared as installers do."""
    lock = check.entries(f"aiohttp==3.14.5 {HASH}\nruamel-yaml==0.19.1 {HASH}\n")

    assert list(check.not_locked(["aiohttp>=3.14,<3.15", "ruamel.yaml>=0.19"], lock)) == []
    assert list(check.not_locked(["aiohttp>=3.15", "yarl"], lock)) == [
        "aiohttp>=3.15 is declared, and 3.14.5 is locked",
        "yarl is declared, and nothing is locked",
    ]


def test_installed_distribution_must_be_the_locked_one(check: ModuleType) -> None:
    """Another version, or something that nobody has locked, is found."""
    lock = check.entries(f"idna==3.20 {HASH}\n")

    assert list(check.not_as_locked({"idna": "3.20", "pip": "26.0"}, lock)) == []
    assert list(check.not_as_locked({"idna": "3.19", "evil": "1"}, lock)) == [
        "evil 1 is installed, and nothing is locked",
        "idna 3.19 is installed, and 3.20 is locked",
    ]


def test_file_that_runs_when_python_starts_is_found(check: ModuleType, tmp_path: Path) -> None:
    """A `.pth` file with a path is none, one with an import is; setuptools' own is known."""
    (tmp_path / "_editable.pth").write_text("/work/packages/router/src\n")
    (tmp_path / "distutils-precedence.pth").write_text("import os; os\n")
    assert list(check.starters(tmp_path)) == []

    (tmp_path / "litellm_init.pth").write_text("# harmless\nimport subprocess; subprocess\n")
    (tmp_path / "sitecustomize.py").write_text("")
    assert list(check.starters(tmp_path)) == [
        "litellm_init.pth runs code whenever Python starts",
        "sitecustomize.py runs whenever Python starts",
    ]


SOURCES = sorted(
    path for folder in ("packages/router", "scripts", "bench") for path in (REPOSITORY / folder).rglob("*.py")
)


def comments(path: Path) -> list[str]:
    """The comments of a source file."""
    with path.open("rb") as file:
        return [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]


def test_each_opt_out_of_a_check_has_its_reason() -> None:
    """Where the linter, its security rules among it, is told to look away, the same line says why."""
    unreasoned = [
        f"{path.relative_to(REPOSITORY)}: {comment}"
        for path in SOURCES
        for comment in comments(path)
        if re.match(r"# (ruff: )?noqa", comment)
        and not re.match(r"# (ruff: )?noqa: [A-Z]+[0-9]+(, [A-Z]+[0-9]+)*( - |  # )\S+", comment)
    ]
    assert unreasoned == []
