"""The LiteLLM bridge as a child of `serve`: started when the policy needs it, and again whenever it ends."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from secrets import token_urlsafe

import structlog
from pydantic import SecretStr

from stratmaster_router.litellm_bridge.providers import bridged
from stratmaster_router.policy.builtin import reach
from stratmaster_router.policy.schema import PolicyDocument
from stratmaster_router.policy.snapshot import Snapshot
from stratmaster_router.policy.source import PolicySource
from stratmaster_router.settings import Settings
from stratmaster_router.upstream.tls import tls_trouble

_TICK = 0.5  # seconds; as often as the policy is read
_BACKOFF = (0.5, 30.0)  # seconds before it is started again: at first, at most
_STEADY = 60.0  # seconds; who has run for so long does not fail again and again
_GRACE = 5.0  # seconds to end in; its requests have ended before, with the router's

_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

# Clouds whose credentials, regions and projects are variables of their own names, beside or instead of one key.
_CLOUDS: Mapping[str, tuple[str, ...]] = {
    "azure": ("AZURE_",),
    "azure_ai": ("AZURE_",),
    "bedrock": ("AWS_",),
    "oci": ("OCI_",),
    "sagemaker": ("AWS_",),
    "sagemaker_chat": ("AWS_",),
    "vertex_ai": ("GOOGLE_", "VERTEXAI_", "VERTEX_"),
    "watsonx": ("WATSONX_",),
}

log = structlog.stdlib.get_logger("stratmaster_router")


@contextlib.contextmanager
def supervised_bridge(settings: Settings) -> Iterator[Settings]:
    """The settings with which a router finds the bridge that is kept running meanwhile.

    Where a bridge is addressed already, or LiteLLM is not installed, none is started and the settings stay as they are.
    Raises `PolicyInvalid`.
    """
    python = settings.bridge_python or sys.executable
    if settings.bridge_url is not None:
        yield settings
        return
    found = _installed(python)
    if not found and settings.bridge_python is not None:
        why = "LiteLLM is not installed there" if shutil.which(python) else "there is no such program"
        log.error("no LiteLLM bridge: ROUTER_BRIDGE_PYTHON cannot be used (docs/bridge.md)", python=python, why=why)
    if not found:
        yield settings
        return
    with _reserved_port() as port:
        # Workers are processes of their own, and have their settings from here too.
        os.environ["ROUTER_BRIDGE_URL"] = url = f"http://127.0.0.1:{port}"
        os.environ["ROUTER_BRIDGE_TOKEN"] = token = token_urlsafe(32)
        addressed = settings.model_copy(update={"bridge_url": url, "bridge_token": SecretStr(token)})
        supervisor = Supervisor(addressed, python, port)
        supervisor.start()
        try:
            yield addressed
        finally:
            supervisor.stop()


def _installed(python: str) -> bool:
    """Whether LiteLLM is in the environment of `python`. It is not imported: its environment may be hostile."""
    if python == sys.executable:
        return importlib.util.find_spec("litellm") is not None
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('litellm') is None)"
    try:
        looked = subprocess.run([python, "-P", "-c", look], env={}, timeout=30, check=False)  # noqa: S603  # a setting
        return looked.returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """A port of loopback that stays the bridge's through its restarts.

    A socket that is bound and does not listen keeps it: while there is no bridge, connections are refused at once, and
    hops fail over.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def bridge_environ(document: PolicyDocument, environ: Mapping[str, str], settings: Settings) -> dict[str, str] | None:
    """The bridge's environment: of the keys only those of its own providers. None where the policy needs no bridge."""
    providers = [reach(name, spec) for name, spec in bridged(document)]
    if not providers:
        return None
    names = {*_PASSED, *(to.api_key.env for to in providers if to.api_key is not None and to.api_key.env)}
    if settings.trust_env:
        names |= {spelling for name in _PROXIES for spelling in (name, name.lower())}
    families = tuple(family for to in providers for family in _CLOUDS.get(to.litellm_provider or "", ()))
    passed = {name: value for name, value in environ.items() if name in names or name.startswith(families)}
    return {
        **passed,
        **({"AIOHTTP_TRUST_ENV": "True"} if settings.trust_env else {}),
        "ROUTER_POLICY": str(Path(settings.policy).absolute()),
        "ROUTER_LOG_LEVEL": settings.log_level,
        "ROUTER_BRIDGE_TOKEN": settings.bridge_secret,
    }


def _without_secrets(document: PolicyDocument, policy: str, *_: object) -> Snapshot:
    """Only what the policy says is of interest here; the keys of its providers are not for this process to read."""
    return Snapshot(policy, {}, {}, ())


class Supervisor:
    """Keeps one bridge running for all workers, for as long as the policy has a provider for it."""

    def __init__(self, settings: Settings, python: str, port: int) -> None:
        """Raises `PolicyInvalid`."""
        self._settings = settings
        self._policy = PolicySource(settings.policy, {}, tls_trouble, _without_secrets)
        self._command = [python, "-P", "-m", "stratmaster_router", "litellm-bridge"]
        self._command += ["--host", "127.0.0.1", "--port", str(port), "--parent", str(os.getpid())]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bridge-supervisor", daemon=True)
        self._child: subprocess.Popen[bytes] | None = None
        self._environ: dict[str, str] | None = None
        self._replaced: list[subprocess.Popen[bytes]] = []
        self._failures = 0
        self._began = 0.0
        self._not_before = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the bridge, and supervising it."""
        self._stopping.set()
        self._thread.join()
        children = [*self._replaced, *([self._child] if self._child else [])]
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(_GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._tick()
            except OSError as error:
                self._not_before = time.monotonic() + _BACKOFF[1]
                log.error("the LiteLLM bridge cannot be started", reason=error.strerror)
            self._stopping.wait(_TICK)
            self._policy.refresh()

    def _tick(self) -> None:
        self._replaced = [child for child in self._replaced if child.poll() is None]
        if self._child is not None and self._child.poll() is not None:
            self._note_end(self._child.returncode)
            self._child = None
        wanted = bridge_environ(self._policy.document, os.environ, self._settings)
        if self._child is not None and wanted != self._environ:
            # Its environment is fixed when it starts. What it has under way it brings to its end.
            self._child.terminate()
            self._replaced.append(self._child)
            self._child, self._failures, self._not_before = None, 0, 0.0
        if self._child is None and wanted is not None and time.monotonic() >= self._not_before:
            self._environ, self._began = wanted, time.monotonic()
            self._child = subprocess.Popen(  # noqa: S603  # our own command, by an interpreter that a setting names
                self._command,
                env=wanted,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # standard output is the access log's
                start_new_session=True,  # a terminal's Ctrl-C is the router's, which ends its bridge last
            )
            log.info("LiteLLM bridge started", pid=self._child.pid)

    def _note_end(self, code: int) -> None:
        now = time.monotonic()
        self._failures = 1 if now - self._began > _STEADY else self._failures + 1
        wait = min(_BACKOFF[1], _BACKOFF[0] * 2 ** (self._failures - 1))
        self._not_before = now + wait
        log.warning("the LiteLLM bridge ended and is started again", exit_code=code, seconds=wait)
