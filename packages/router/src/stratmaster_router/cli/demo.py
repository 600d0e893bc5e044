"""`stratmaster-router demo`: the main job on a mocked provider, call by call, then left running."""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.table import Table

_TENANT = "default"
_KEY = "sk-demo-key-for-the-default-tenant"
_START_WITHIN = 20.0  # seconds

_POLICY = """\
# The demo's policy. It is read again when it changes: edit it and repeat a call.
providers:
  primary:
    base_url: {mock}/v1
  backup:
    base_url: {mock}/v1
tenants:
  default:
    providers:
      primary:
        models:
          reasoning: {{default: gpt-4.1, fallbacks: [gpt-4o-mini]}}
          resilient: {{default: "gpt-4.1@status=503"}}   # this model of the mock always fails
          embedding: {{default: text-embedding-3-small}}
        privacy: {{send_raw_docs: false}}
      backup:
        models:
          resilient: {{default: gpt-4o-mini}}
"""


@dataclass(frozen=True)
class _Call:
    """A call, and what must come of it: status, provider, and a word that the answer must contain."""

    name: str
    path: str
    body: dict[str, Any] | None
    status: int
    provider: str | None
    contains: str


_HELLO = [{"role": "user", "content": "Say hello."}]
_FILE = [{"role": "user", "content": [{"type": "file", "file": {"file_id": "contract.pdf"}}]}]

_CALLS = (
    _Call("chat", "/v1/chat/completions", {"model": "reasoning", "messages": _HELLO}, 200, "primary", "hello."),
    _Call(
        "stream",
        "/v1/chat/completions",
        {"model": "reasoning", "messages": _HELLO, "stream": True},
        200,
        "primary",
        "data: [DONE]",
    ),
    _Call("embedding", "/v1/embeddings", {"model": "embedding", "input": "hello"}, 200, "primary", '"embedding"'),
    _Call("models", "/v1/models", None, 200, None, '"reasoning"'),
    _Call(
        "refused: a raw document",
        "/v1/chat/completions",
        {"model": "reasoning", "messages": _FILE},
        403,
        None,
        "raw_docs_forbidden",
    ),
    _Call("failover", "/v1/chat/completions", {"model": "resilient", "messages": _HELLO}, 200, "backup", "hello."),
)


def demo(
    once: Annotated[bool, typer.Option(help="Exit after the calls: 0 only if each did what it should.")] = False,
    port: Annotated[int, typer.Option(help="The router's port.")] = 8086,
    mock_port: Annotated[int, typer.Option(help="The mocked provider's port.")] = 9001,
    mock: Annotated[Path, typer.Option(help="The mocked provider.")] = Path("scripts/mock_openai.py"),
) -> None:
    """Start a mocked provider and the router, make six calls and show what came of them, then keep serving."""
    if not mock.is_file():
        print(f"{mock} is not here: run the demo from the repository, with `make demo`.", file=sys.stderr)
        raise typer.Exit(1)
    with contextlib.suppress(KeyboardInterrupt):
        raise typer.Exit(asyncio.run(_demo(once, port, mock_port, mock)))


async def _demo(once: bool, port: int, mock_port: int, mock: Path) -> int:
    console = Console()
    with tempfile.TemporaryDirectory(prefix="stratmaster-demo-") as name:
        folder = Path(name)
        (folder / "keys").mkdir()
        (folder / "keys" / _TENANT).write_text(_KEY + "\n")
        policy = folder / "policy.yaml"
        policy.write_text(_POLICY.format(mock=f"http://127.0.0.1:{mock_port}"))
        environ = {
            **os.environ,
            "ROUTER_KEYS_DIR": str(folder / "keys"),
            "ROUTER_ACCESS_LOG": str(folder / "access.log"),
            "ROUTER_DATABASE_URL": f"sqlite:///{folder}/router.db",
        }
        # One of the calls shows a fallback: its warning would stand among the answers.
        environ["ROUTER_LOG_LEVEL"] = "error"
        serve = [
            "-m",
            "stratmaster_router",
            "serve",
            "--policy",
            str(policy),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        async with (
            aiohttp.ClientSession() as session,
            _running(session, [str(mock), "--port", str(mock_port)], f"http://127.0.0.1:{mock_port}/healthz", None),
            _running(session, serve, f"http://127.0.0.1:{port}/healthz", environ),
        ):
            good = await _show(console, session, f"http://127.0.0.1:{port}")
            if once:
                return 0 if good else 1
            console.print(
                f"\nServing on http://127.0.0.1:{port} until Ctrl-C. The policy is {policy}: edit it and call again."
            )
            await asyncio.Event().wait()
    return 0


@contextlib.asynccontextmanager
async def _running(
    session: aiohttp.ClientSession, arguments: list[str], health: str, environ: dict[str, str] | None
) -> AsyncIterator[None]:
    """A Python process that answers at `health`. Raises `typer.Exit` where it does not come up."""
    if await _answers(session, health):
        print(f"{health} is answered by another program; choose another port.", file=sys.stderr)
        raise typer.Exit(1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environ, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        deadline = perf_counter() + _START_WITHIN
        while not await _answers(session, health):
            if process.returncode is not None or perf_counter() > deadline:
                print(f"{shlex.join(arguments)} did not come up; is its port taken?", file=sys.stderr)
                raise typer.Exit(1)
            await asyncio.sleep(0.05)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _show(console: Console, session: aiohttp.ClientSession, base: str) -> bool:
    table = Table("call", "status", "provider", "model", "attempts", "ms", "ok", title="StratMaster Router")
    good = True
    for call in _CALLS:
        began = perf_counter()
        headers = {"Authorization": f"Bearer {_KEY}", "X-Tenant-ID": _TENANT}
        method = "GET" if call.body is None else "POST"
        async with session.request(method, base + call.path, json=call.body, headers=headers) as response:
            text = await response.text()
        milliseconds = (perf_counter() - began) * 1000
        provider = response.headers.get("x-router-provider")
        fits = (response.status, provider) == (call.status, call.provider) and call.contains in text
        good = good and fits
        table.add_row(
            call.name,
            str(response.status),
            provider or "–",
            response.headers.get("x-router-model", "–"),
            response.headers.get("x-router-attempts", "–"),
            f"{milliseconds:.1f}",
            "yes" if fits else "NO",
        )
    console.print(table)
    console.print("To repeat them:", style="bold")
    for call in _CALLS:
        console.print(_curl(base, call), soft_wrap=True, highlight=False, markup=False)
    return good


def _curl(base: str, call: _Call) -> str:
    words = ["curl", "-sN", base + call.path, "-H", f"Authorization: Bearer {_KEY}", "-H", f"X-Tenant-ID: {_TENANT}"]
    if call.body is not None:
        words += ["-H", "Content-Type: application/json", "-d", msgspec.json.encode(call.body).decode()]
    return shlex.join(words)
