"""Mocked providers that others have written: npm's aimock, and llm-katan with its echo, as processes of their own."""

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.npm import installed
from support.processes import Process, free_port, healthy, part_missing, process, wait_until

LOCK = Path(__file__).parents[1] / "faults" / "aimock"


@contextlib.contextmanager
def running_aimock(folder: Path, fixtures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """An aimock over `fixtures`, each a model's; its address without `/v1`."""
    package = installed(LOCK, "node-aimock") / "node_modules" / "@copilotkit" / "aimock"
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": fixtures}))
    port = free_port()
    arguments = ["-p", str(port), "-h", "127.0.0.1", "-f", "fixtures.json", "--validate-on-load"]
    with process(["node", str(package / "dist" / "cli.js"), *arguments], folder) as ran:
        _wait(ran, port)
        yield f"http://127.0.0.1:{port}"


class Katan:
    """A running llm-katan; `url` is its address without `/v1`."""

    def __init__(self, ran: Process, port: int) -> None:
        self._ran = ran
        self.url = f"http://127.0.0.1:{port}"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._ran.signal(number)


@contextlib.contextmanager
def running_katan(folder: Path, *options: str) -> Iterator[Katan]:
    """An llm-katan, which takes no key but `katan-key`; `options` say how it fails."""
    if importlib.util.find_spec("llm_katan") is None:
        part_missing("llm-katan is not installed")
    port = free_port()
    arguments = ["--model", "echo", "--backend", "echo", "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--stats-file", "", "--disable-dashboard", "--validate-keys", "--api-keys", "openai=katan-key"]
    arguments += ["--max-concurrent", "64"]
    with process([sys.executable, "-m", "llm_katan.cli", *arguments, *options], folder) as ran:
        _wait(ran, port)
        yield Katan(ran, port)


def _wait(ran: Process, port: int) -> None:
    wait_until(lambda: healthy(port, "/health") or not ran.running(), "the mock answers at /health")
    assert ran.running(), ran.stderr()
