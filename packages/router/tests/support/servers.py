"""The router and the mocked provider as real servers on loopback, each on a thread with its own event loop."""

import asyncio
import contextlib
import importlib.util
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import Request, urlopen

import uvicorn
from stratmaster_router.api.protocol import RouterProtocol
from stratmaster_router.app import Router
from stratmaster_router.settings import Settings

REPOSITORY = Path(__file__).parents[4]
ACME_KEY = "sk-acme-0123456789abcdef"
GLOBEX_KEY = "sk-globex-fedcba9876543210"
START_WITHIN = 60.0  # seconds; several run side by side on a busy machine


def load_mock() -> ModuleType:
    """The module `scripts/mock_openai.py`."""
    spec = importlib.util.spec_from_file_location("mock_openai", REPOSITORY / "scripts" / "mock_openai.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Mock:
    """A running mocked provider; `url` is its address without `/v1`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def requests(self) -> list[dict[str, Any]]:
        """What it was asked, in order: `path`, `headers` (lower-cased), `body`, `state`, `model`."""
        with urlopen(f"{self.url}/mock/requests") as response:
            found: list[dict[str, Any]] = json.load(response)["requests"]
        return found

    def bodies(self) -> list[dict[str, Any]]:
        """The JSON bodies that it was sent, in order."""
        return [json.loads(request["body"]) for request in self.requests()]

    def wait_open(self, count: int) -> None:
        """Wait until exactly `count` requests are in flight."""
        with urlopen(f"{self.url}/mock/open?at_least={count}&at_most={count}&timeout=10s") as response:
            assert json.load(response)["open"] == count

    def forget(self) -> None:
        """Forget the requests so far."""
        urlopen(Request(f"{self.url}/mock/requests", method="DELETE")).close()


@contextlib.contextmanager
def running_mock() -> Iterator[Mock]:
    """A mocked provider on a free port."""
    module = load_mock()
    ready: list[str] = []
    started = threading.Event()
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        runner, address = await module.start(module.create_app())
        ready.append(address)
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(START_WITHIN)
    try:
        yield Mock(ready[0].rstrip("/").removesuffix("/v1"))
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_WITHIN)
        loop.close()


class RunningRouter:
    """A running router; `policy` and `keys` are the file and the folder that it watches."""

    def __init__(self, url: str, policy: Path, keys: Path, access_log: Path) -> None:
        self.url = url
        self.policy = policy
        self.keys = keys
        self._access_log = access_log

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def access_lines(self) -> list[dict[str, Any]]:
        """The access log, whole after the router has stopped."""
        return [json.loads(line) for line in self._access_log.read_text().splitlines()]

    def metrics(self) -> str:
        """The metrics in Prometheus's text format."""
        with urlopen(f"{self.url}/internal/metrics") as response:
            return str(response.read().decode())


@contextlib.contextmanager
def running_router(
    folder: Path, policy: str, keys: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[RunningRouter]:
    """A router on a free port, over `policy` (YAML) and `keys` (tenant to the text of its key file)."""
    (folder / "keys").mkdir()
    for tenant, text in (keys or {"acme": ACME_KEY, "globex": GLOBEX_KEY}).items():
        (folder / "keys" / tenant).write_text(text)
    (folder / "policy.yaml").write_text(policy)
    given = {
        "policy": folder / "policy.yaml",
        "keys_dir": folder / "keys",
        "access_log": str(folder / "access.log"),
        "database_url": f"sqlite:///{folder}/router.db",
        **settings,
    }
    router = Router(Settings.model_validate(given))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        router.app,
        loop="uvloop",
        http=RouterProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    urlopen(f"{url}/healthz", timeout=START_WITHIN).close()  # the socket listens already, so this waits for the start
    try:
        yield RunningRouter(url, folder / "policy.yaml", folder / "keys", folder / "access.log")
    finally:
        server.should_exit = True
        thread.join(START_WITHIN)
        listener.close()
