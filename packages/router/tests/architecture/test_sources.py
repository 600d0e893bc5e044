"""What no source file may do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import stratmaster_router

SOURCE = Path(stratmaster_router.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
UPSTREAM_SDKS = {
    "openai",
    "litellm",
    "anthropic",
    "google",
    "mistralai",
    "groq",
    "together",
    "cohere",
    "httpx",
    "requests",
}


def imports(file: Path) -> Iterator[str]:
    """The top-level names of all modules that a file imports, anywhere in it, by statement or by function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.args[0].value.partition(".")[0]


def relative(file: Path) -> str:
    """A file's name below the package."""
    return str(file.relative_to(SOURCE))


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_no_source_file_imports_an_upstream_sdk(file: Path) -> None:
    """Upstreams are spoken to on the wire: no provider's SDK and no second HTTP client; litellm in its bridge only."""
    allowed = {"litellm"} if relative(file).startswith("litellm_bridge/") else set()
    assert set(imports(file)) & UPSTREAM_SDKS <= allowed


def test_imports_are_seen(tmp_path: Path) -> None:
    """The search sees every way to import, so that finding nothing means something."""
    (tmp_path / "file.py").write_text(
        "import openai.types\n"
        "def f():\n    from litellm import completion\n"
        "import importlib\nimportlib.import_module('httpx.x')\n__import__('requests')\n"
        "from . import openai_lookalike\n"
    )

    assert sorted(imports(tmp_path / "file.py")) == ["httpx", "importlib", "litellm", "openai", "requests"]


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_only_the_composition_root_and_the_command_line_know_the_environment(file: Path) -> None:
    """Settings come from one place; only `serve`'s hand-over to its workers is read by the metrics too."""
    knows = any(
        isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
        for node in ast.walk(ast.parse(file.read_text()))
    )

    assert (
        not knows
        or relative(file) == "app.py"
        or relative(file) == "telemetry/metrics.py"
        or relative(file).startswith("cli/")
    )


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_nothing_is_printed_but_by_the_command_line(file: Path) -> None:
    """Standard output is the access log's, standard error the log's."""
    calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    prints = any(isinstance(function, ast.Name) and function.id in {"print", "breakpoint"} for function in calls)

    assert not prints or relative(file).startswith("cli/")
