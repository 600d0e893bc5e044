"""LiteLLM is brought by its extra only, at one version, with hashes."""

import importlib.util
import re
from importlib.metadata import requires

from support.servers import REPOSITORY

COMPROMISED = {"1.82.7", "1.82.8"}


def pinned() -> str:
    """The version that the extra names."""
    [requirement] = [line for line in requires("stratmaster-router") or [] if line.startswith("litellm")]
    found = re.fullmatch(r"litellm==([0-9.]+); extra == ['\"]litellm['\"]", requirement)
    assert found, requirement
    return found[1]


def test_litellm_is_an_extra_at_one_version_that_is_not_compromised() -> None:
    """Who installs the router gets no LiteLLM, and who asks for it gets the version that was looked at."""
    assert pinned() not in COMPROMISED
    assert importlib.util.find_spec("litellm") is None


def test_litellm_is_locked_with_hashes_and_brought_by_no_other_lock() -> None:
    """The lock of the extra has that version, every requirement of it has a hash, and the others do not have it."""
    lock = (REPOSITORY / "requirements" / "litellm.txt").read_text()
    entries = re.findall(r"^[a-z].*?(?=^[a-z]|\Z)", lock, re.MULTILINE | re.DOTALL)

    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert [entry.split()[0] for entry in entries if entry.startswith("litellm")] == [f"litellm=={pinned()}"]
    for other in ("bootstrap", "dev", "runtime"):
        assert "litellm" not in (REPOSITORY / "requirements" / f"{other}.txt").read_text()


def test_bridge_runs_the_routers_own_dependencies() -> None:
    """The extra moves no version that the router itself runs with."""

    def versions(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", (REPOSITORY / "requirements" / name).read_text(), re.MULTILINE))

    assert versions("runtime.txt") <= versions("litellm.txt")
