"""Self-service keys in tests: a store in memory, and routers whose administrator makes keys by the admin API."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stratmaster_router.auth.credentials import Pepper, new_key
from stratmaster_router.auth.store import DAY, StoredKey, StoredKeys
from stratmaster_router.domain.errors import KeyStoreUnavailable

from support.calls import Answer, call
from support.servers import RunningRouter, running_router

PEPPER = "0123456789abcdef" * 2
OTHER_PEPPER = "fedcba9876543210" * 2
ADMIN_KEY = "adm-root-0123456789abcdef"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
POLICY = """
providers:
  only: {{base_url: "{mock}/v1", retries: {{max: 0}}}}
tenants:
  acme:
    providers:
      only:
        models:
          reasoning: {{default: gpt-4.1}}
  globex:
    providers:
      only:
        models:
          reasoning: {{default: gpt-4.1}}
"""


class Clock:
    """The time of the database, in microseconds."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        """What it shows."""
        return self.now


@contextlib.contextmanager
def running_with_keys(folder: Path, policy: str, **settings: Any) -> Iterator[RunningRouter]:
    """A router in `folder` with self-service keys and the administrator `root`, whose key is `ADMIN_KEY`."""
    (folder / "administrators").mkdir(parents=True)
    (folder / "administrators" / "root").write_text(f"{ADMIN_KEY}\n")
    given = {"key_pepper": PEPPER, "admin_keys_dir": folder / "administrators", **settings}
    with running_router(folder, policy, **given) as router:
        yield router


def administer(router: RunningRouter, method: str, path: str = "", body: Any = None, *, tenant: str = "acme") -> Answer:
    """One call of the admin API by its administrator; `path` is below the tenant's keys."""
    return call(router, method, f"/admin/v1/tenants/{tenant}/keys{path}", body, ADMIN)


def made(router: RunningRouter, tenant: str = "acme", **wish: Any) -> dict[str, Any]:
    """A new key, as the admin API answers it."""
    answer = administer(router, "POST", "", wish, tenant=tenant)
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.json()
    return found


class MemoryKeys:
    """What a router reads of its key store, without a database: `keys`, `check` and `down` are for the test to set."""

    def __init__(self, pepper: Pepper) -> None:
        self.pepper = pepper
        self.check: bytes | None = pepper.check
        self.version = 1
        self.keys: list[StoredKey] = []
        self.uses: list[dict[str, int]] = []
        self.down = False
        self.reads = 0
        self.read = asyncio.Event()
        self.written = asyncio.Event()

    def add(self, tenant: str, created_at: int, lifetime: int = 90 * DAY) -> tuple[str, bytes]:
        """A new key: its id and its text."""
        key_id, text = new_key()
        digest = self.pepper.digest(text.encode())
        self.keys.append(StoredKey(key_id, tenant, digest, created_at, created_at + lifetime))
        self.version += 1
        return key_id, text.encode()

    def remove(self, key_id: str) -> None:
        """Revoke a key."""
        self.keys = [key for key in self.keys if key.id != key_id]
        self.version += 1

    async def load(self, seen: int | None) -> StoredKeys | None:
        """The keys, where they have changed."""
        if self.down:
            raise KeyStoreUnavailable("No.", "it is down")
        if seen == self.version:
            return None
        self.reads += 1
        self.read.set()
        return StoredKeys(self.version, self.check, tuple(self.keys))

    async def note_uses(self, uses: Mapping[str, int]) -> None:
        """Keep what was used."""
        if self.down:
            raise KeyStoreUnavailable("No.", "it is down")
        self.uses.append(dict(uses))
        self.written.set()
