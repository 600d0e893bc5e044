"""Installing the tools, the router and the rivals, each in a folder of its own under the cache, at a pinned version."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .servers import NotStarted

# Exact versions, so that figures of different days compare.
# LiteLLM: the newest whose [proxy] extra resolves on Python 3.11 without overriding its own pins; 1.82.7
# and 1.82.8 were malicious: never those. OpenTelemetry is not in the extra, but without it LiteLLM tries and
# fails to import it anew for each request, which halves its rate; its own container image has it.
PYPI = {
    "smg": ["smg==1.13.0"],
    "litellm": ["litellm[proxy]==1.106.2", "opentelemetry-sdk==1.45.2", "opentelemetry-exporter-otlp==1.45.2"],
    "matplotlib": ["matplotlib==3.11.2"],
}
NPM = {"portkey": "@portkey-ai/gateway@1.15.2"}
# The one of its own lock file: streams fail with the newest that its range admits (its issue 1389).
NPM_OVERRIDES = {"@hono/node-server": "1.13.5"}
DEBIAN = {"wrk": "wrk", "nginx": "nginx-light"}
_PATIENCE_S = 600

_ROOT = Path(__file__).resolve().parent.parent
_SYSTEM_PYTHONS = ("/usr/local/bin/python3", "/usr/bin/python3")
_OLDEST_PYTHON = (3, 11)
# What a request is made of: calls, attributes, small objects, formatting. Prints the version and milliseconds.
_SPEED = """
import sys, time
class Value:
    __slots__ = ("count", "by_name")
    def __init__(self): self.count, self.by_name = 1, {}
    def add(self, more): self.by_name["more"] = more; return self.count + more
def once():
    value, began = Value(), time.perf_counter()
    for number in range(20_000): "%d-%s" % (number, [value.add(number)])
    return time.perf_counter() - began
print(*sys.version_info[:2], min(once() for _ in range(20)) * 1000)
"""


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotStarted(f"cannot be installed: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotStarted(f"cannot be installed: {' '.join(line.strip() for line in lines[-4:])}")


def tools() -> list[str]:
    """Make sure of wrk and nginx. Returns the Debian packages that are still missing."""

    def missing() -> list[str]:
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
        return [package for binary, package in DEBIAN.items() if shutil.which(binary, path=path) is None]

    if missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            _run(["apt-get", "update", "-q"])
            _run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing()])
        except NotStarted as error:
            print(error, file=sys.stderr)
    return missing()


@functools.cache
def fastest_python() -> str:
    """The quickest Python here that the router runs on, the harness's own or the system's.

    They differ by a third: images of Python and distributions build theirs with profile-guided optimization, pyenv
    does not unless it is told to. What is measured is to be what runs in production.
    """
    took = {}
    for python in (sys.executable, *filter(os.path.exists, _SYSTEM_PYTHONS)):
        done = subprocess.run([python, "-c", _SPEED], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            major, minor, milliseconds = done.stdout.split()
            if (int(major), int(minor)) >= _OLDEST_PYTHON:
                took[python] = float(milliseconds)
    return min(took, key=lambda python: took[python])


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def _folder(cache: Path, *parts: str) -> Path:
    """One folder per set of pins: a changed pin installs anew, unchanged ones are reused."""
    digest = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]
    name = "".join(c if c.isalnum() or c in ".-" else "_" for c in parts[0])
    return cache / f"{name}-{digest}"


def python_package(cache: Path, name: str) -> Path:
    """Install PYPI[name] in a virtual environment of its own. Returns the environment's bin folder."""
    folder = _folder(cache, *PYPI[name])
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = _uv()
        if uv is not None:
            _run([uv, "venv", "-q", "--python", fastest_python(), str(folder)])
            python = str(folder / "bin" / "python")
            # Compiled now, or the first cold start would be measured compiling.
            _run([uv, "pip", "install", "-q", "--compile-bytecode", "--python", python, *PYPI[name]])
        else:
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(folder / "bin" / "pip"), "install", "-q", "--compile", *PYPI[name]])
        (folder / "installed").touch()
    return folder / "bin"


def router(cache: Path, requirements: str) -> Path:
    """Install the router as it stands here, with `requirements` (a lock of requirements/). Returns the bin folder."""
    lock = _ROOT / "requirements" / requirements
    project = _ROOT / "packages" / "router"
    pins = lock.read_text() + (project / "pyproject.toml").read_text()
    folder = _folder(cache, f"router-{lock.stem}", fastest_python(), pins)
    if not (folder / "installed").exists():
        uv = _uv()
        if uv is None:
            raise NotStarted("uv is not installed beside the harness's Python: make .venv/.dev")
        shutil.rmtree(folder, ignore_errors=True)
        _run([uv, "venv", "-q", "--python", fastest_python(), str(folder)])
        install = [uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python")]
        _run([*install, "--compile-bytecode", "--require-hashes", "-r", str(lock)])
        _run([*install, "--require-hashes", "-r", str(_ROOT / "requirements" / "bootstrap.txt")])
        _run([*install, "--no-deps", "--no-build-isolation", "-e", str(project)])
        (folder / "installed").touch()
    return folder / "bin"


def node_package(cache: Path, name: str) -> Path:
    """Install NPM[name] in a folder of its own, its install scripts not run. Returns node_modules."""
    overrides = json.dumps({"private": True, "overrides": NPM_OVERRIDES})
    folder = _folder(cache, NPM[name], overrides)
    if not (folder / "installed").exists():
        if shutil.which("npm") is None:
            raise NotStarted("npm is not installed")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(overrides)
        options = ["--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts"]
        _run(["npm", "install", "--prefix", str(folder), *options, NPM[name]])
        (folder / "installed").touch()
    return folder / "node_modules"
