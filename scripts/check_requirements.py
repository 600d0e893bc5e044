"""Looks through the locks and the environment for what must not be there; needs no network, so it runs in `make check`.

- Every requirement of every lock is pinned to one version and hashed, and a lock holds nothing else.
- No lock has a version that is known to be bad (`KNOWN_BAD`, kept by hand).
- What the projects declare is locked, in a version that they allow; what is tested is what is shipped.
- What is installed is what is locked, and nothing in the environment runs when Python starts.

A scanner with a database of advisories knows more and should run where there is a network. This one holds what must
never come back, such as a downgrade that reopens an old hole, or a lock that was edited by hand.
"""

import re
import site
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

KNOWN_BAD = [
    ("litellm", "==1.82.7", "malicious: stole credentials (PYSEC-2026-2)"),
    ("litellm", "==1.82.8", "malicious: stole credentials whenever Python started (PYSEC-2026-2)"),
    ("aiohttp", "<3.13.4", "trailers without bound fill the memory (CVE-2026-22815)"),
    ("h11", "<0.16", "takes malformed chunks, so that requests can be smuggled (CVE-2025-43859)"),
    ("starlette", "<1.3", "request.url can be made to lie about path and host (CVE-2026-48710, CVE-2026-54282)"),
    ("jinja2", "<3.1.6", "templates leave their sandbox (CVE-2025-27516)"),
    ("urllib3", "<2.6", "compressed answers without bound (CVE-2025-66418, CVE-2025-66471)"),
    ("h2", "<4.3", "takes malformed headers, so that requests can be smuggled (CVE-2025-57804)"),
    ("requests", "<2.32.4", "gives .netrc credentials to other hosts (CVE-2024-47081)"),
    ("idna", "<3.7", "quadratic time for long host names (CVE-2024-3651)"),
    ("pyarrow", "<14.0.1", "reading a file runs its code (CVE-2023-47248)"),
    ("mako", "<1.2.2", "exponential time for templates (CVE-2022-40023)"),
]

# What `venv` itself brings, and the router where it is installed for development.
_UNLOCKED = {"pip", "setuptools", "stratmaster-router"}
_STARTERS = {"distutils-precedence.pth"}  # of setuptools

_pinned = re.compile(r"==[^,*=<>!~]+").fullmatch
_hash = re.compile(r"--hash=sha256:[0-9a-f]{64}").fullmatch


class Entry(NamedTuple):
    """One requirement of a lock."""

    requirement: Requirement
    version: str
    hashes: int

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)


class Unreadable(Exception):
    """A lock has something that is no requirement."""


def entries(lock: str) -> list[Entry]:
    """The requirements of a lock. Raises `Unreadable`."""
    found = []
    for line in lock.replace("\\\n", " ").splitlines():
        words, hashes = line.split(), 0
        while words and _hash(words[-1]):
            words.pop()
            hashes += 1
        try:
            requirement = Requirement(" ".join(words))
        except InvalidRequirement:
            raise Unreadable(f"'{line.strip()[:60]}' is no requirement") from None
        if requirement.url is not None or not _pinned(str(requirement.specifier)):
            raise Unreadable(f"'{requirement}' is not pinned to one version")
        found.append(Entry(requirement, str(requirement.specifier)[2:], hashes))
    return found


def troubles_of(lock: Iterable[Entry]) -> Iterator[str]:
    """What is wrong with a lock in itself."""
    for entry in lock:
        if not entry.hashes:
            yield f"{entry.requirement} has no hash"
        for name, versions, why in KNOWN_BAD:
            if entry.name == name and SpecifierSet(versions, prereleases=True).contains(entry.version):
                yield f"{entry.name} {entry.version} is known to be bad: {why}"


def not_locked(declared: Iterable[str], lock: Iterable[Entry]) -> Iterator[str]:
    """Which declared requirements a lock does not have, or not in a version that they allow."""
    locked: dict[str, set[str]] = {}
    for entry in lock:
        locked.setdefault(entry.name, set()).add(entry.version)
    for text in declared:
        wanted = Requirement(text)
        versions = locked.get(canonicalize_name(wanted.name), set())
        if not versions or not all(wanted.specifier.contains(version, prereleases=True) for version in versions):
            yield f"{wanted} is declared, and {', '.join(sorted(versions)) or 'nothing'} is locked"


def not_as_locked(installed: Mapping[str, str], lock: Iterable[Entry]) -> Iterator[str]:
    """Which installed distributions are not those of the lock."""
    locked: dict[str, set[str]] = {}
    for entry in lock:
        locked.setdefault(entry.name, set()).add(entry.version)
    for name, version in sorted(installed.items()):
        if name not in _UNLOCKED and version not in locked.get(name, set()):
            yield f"{name} {version} is installed, and {', '.join(sorted(locked.get(name, ()))) or 'nothing'} is locked"


def starters(folder: Path) -> Iterator[str]:
    """The files of a site-packages folder that run code whenever Python starts, as the litellm of March 2026 did."""
    for path in sorted(folder.glob("*.pth")):
        runs = any(line.startswith(("import ", "import\t")) for line in path.read_text().splitlines())
        if runs and path.name not in _STARTERS:
            yield f"{path.name} runs code whenever Python starts"
    for name in ("sitecustomize.py", "usercustomize.py"):
        if (folder / name).exists():
            yield f"{name} runs whenever Python starts"


def _troubles() -> Iterator[str]:
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())
    router = tomllib.loads((ROOT / "packages" / "router" / "pyproject.toml").read_text())["project"]
    groups: dict[str, list[Any]] = workspace["dependency-groups"]
    declared = {
        "bootstrap": groups["bootstrap"],
        "runtime": router["dependencies"],
        "dev": [*router["dependencies"], *(each for each in groups["dev"] if isinstance(each, str))],
        "litellm": [*router["dependencies"], *router["optional-dependencies"]["litellm"]],
    }
    locks: dict[str, list[Entry]] = {}
    for name in declared:
        try:
            locks[name] = entries((ROOT / "requirements" / f"{name}.txt").read_text())
        except Unreadable as unreadable:
            yield f"requirements/{name}.txt: {unreadable}"
            return
    for name, lock in locks.items():
        for trouble in (*troubles_of(lock), *not_locked(declared[name], lock)):
            yield f"requirements/{name}.txt: {trouble}"
    for name in ("dev", "litellm"):
        for trouble in not_as_locked({entry.name: entry.version for entry in locks["runtime"]}, locks[name]):
            yield f"requirements/{name}.txt: {trouble.replace('installed', 'in runtime.txt')}"
    installed = {str(canonicalize_name(each.name)): each.version for each in distributions()}
    yield from not_as_locked(installed, [*locks["dev"], *locks["bootstrap"]])
    for folder in site.getsitepackages():
        yield from starters(Path(folder))


def main() -> None:
    troubles = list(_troubles())
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    sys.exit(bool(troubles))


if __name__ == "__main__":
    main()
