"""Tenants' keys in a mounted Secret that is swapped while two workers serve."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.conftest import POLICY
from support.calls import eventually
from support.load import calling
from support.mounted import MountedSecret
from support.processes import Line, Served, serving

IN_FORCE_WITHIN = 2.0  # seconds; issue 5
TENANTS = (
    POLICY.format(mock="http://127.0.0.1:9")
    + """
  globex:
    providers:
      first: {models: {reasoning: {default: gpt-4.1}}}
"""
)


@pytest.fixture
def secret(tmp_path: Path) -> MountedSecret:
    """The Secret with the keys, with one for each tenant."""
    secret = MountedSecret(tmp_path / "secret")
    secret.write({"acme": "sk-acme-0\n", "globex": "sk-globex\n"})
    return secret


@pytest.fixture
def served(secret: MountedSecret, tmp_path: Path) -> Iterator[Served]:
    """A router with two workers and the Secret mounted."""
    with serving(tmp_path, TENANTS, workers=2, environ={"ROUTER_KEYS_DIR": str(secret.folder)}) as served:
        yield served


def status(line: Line, key: str, tenant: str = "acme") -> int:
    """The status of a request with `key`."""
    return line.get("/v1/models", {"Authorization": f"Bearer {key}", "X-Tenant-ID": tenant}).status


def repeated(line: Line, key: Callable[[], str]) -> Callable[[], int]:
    """A caller of acme's that always has the same connection, and the key of the day."""
    return lambda: status(line, key())


def test_rotation_under_load_refuses_no_request_and_kills_the_old_key(secret: MountedSecret, served: Served) -> None:
    """Old and new key together, then the clients change, then the old key goes: all within 2 s in both workers."""
    with served.lines(2, each=3) as found:
        lines = [line for lines in found.values() for line in lines[:2]]
        probes = [lines[2] for lines in found.values()]
        key = "sk-acme-0"
        with calling(*[repeated(line, lambda: key) for line in lines]) as load:
            for number in (1, 2):
                old, new = key, f"sk-acme-{number}"
                assert [status(probe, new) for probe in probes] == [401, 401]
                secret.write({"acme": f"{old}\n{new}\n", "globex": "sk-globex\n"})
                time.sleep(IN_FORCE_WITHIN)
                assert [status(probe, new) for probe in probes] == [200, 200]
                key = new

                secret.write({"acme": f"{new}\n", "globex": "sk-globex\n"})
                dead = eventually(
                    lambda old=old: [status(probe, old) for probe in probes],  # type: ignore[misc]  # mypy knows no default of a lambda
                    lambda seen: seen == [401, 401],
                    IN_FORCE_WITHIN,
                )
                assert dead == [401, 401]
                assert [status(probe, new) for probe in probes] == [200, 200]
        assert set(load.outcomes) == {200}
        assert load.outcomes[200] > 100
        for written in ("sk-acme", "sk-globex"):
            assert written not in served.stderr()


def test_tenant_that_is_taken_out_is_locked_out_and_no_other(secret: MountedSecret, served: Served) -> None:
    """A file that is gone from the Secret takes its tenant's keys along within 2 s, in both workers."""
    with served.lines(2, each=3) as found:
        lines = [line for lines in found.values() for line in lines[:2]]
        probes = [lines[2] for lines in found.values()]
        with calling(*[repeated(line, lambda: "sk-acme-0") for line in lines]) as load:
            assert [status(probe, "sk-globex", "globex") for probe in probes] == [200, 200]
            secret.write({"acme": "sk-acme-0\n"})
            dead = eventually(
                lambda: [status(probe, "sk-globex", "globex") for probe in probes],
                lambda seen: seen == [401, 401],
                IN_FORCE_WITHIN,
            )
            assert dead == [401, 401]
        assert set(load.outcomes) == {200}


def test_moment_without_files_refuses_no_request(secret: MountedSecret, served: Served) -> None:
    """Links that lead nowhere for 0.3 s, as often as one likes, are no keys taken away."""
    with served.lines(2, each=2) as found:
        lines = [line for lines in found.values() for line in lines]
        with calling(*[repeated(line, lambda: "sk-acme-0") for line in lines]) as load:
            for _ in range(6):
                with secret.missing():
                    time.sleep(0.3)
                time.sleep(0.6)
        assert set(load.outcomes) == {200}
