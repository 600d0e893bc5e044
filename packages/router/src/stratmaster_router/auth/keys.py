"""Tenant keys in a folder, as a mounted Kubernetes Secret looks: one file for each tenant, one key a line.

The mission maps keys 1:1 with tenants. Two lines are two live keys, which is how a key is rotated. Only digests are
kept in memory, keyed with a secret of this process, so that neither a dump nor the time of a look-up gives a key away.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path

from stratmaster_router.domain.routing import Principal

_LONGEST_KEY = 4096


class KeyRing:
    """An immutable set of keys. `problems` tells the operator what was left out, without any key in it."""

    def __init__(self, keys: Mapping[str, list[bytes]]) -> None:
        """`keys` maps each tenant to its live keys."""
        self._pepper = secrets.token_bytes(32)
        self._owners: dict[bytes, tuple[bytes, Principal]] = {}
        shared = set()
        for tenant, tenant_keys in keys.items():
            principal = Principal(tenant)
            for key in tenant_keys:
                digest = self._digest(key)
                known = self._owners.get(digest)
                if known is not None and known[1] != principal:
                    shared.add(digest)
                    continue
                self._owners[digest] = (digest, principal)
        for digest in shared:
            # A key that two tenants have would let one act for the other: it opens nothing.
            del self._owners[digest]
        self.problems = (f"{len(shared)} keys stand in more than one tenant's file and are refused",) if shared else ()

    def __len__(self) -> int:
        """The number of keys that open something."""
        return len(self._owners)

    def owner(self, key: bytes) -> Principal | None:
        """Whose key this is; None for a key that opens nothing."""
        if len(key) > _LONGEST_KEY:
            return None
        digest = self._digest(key)
        found = self._owners.get(digest)
        if found is not None and hmac.compare_digest(found[0], digest):
            return found[1]
        return None

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._pepper, digest_size=32).digest()


class KeyFolder:
    """The folder, read anew when it changes. `ring` is the current set of keys."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` None means that there are no keys. Raises OSError where the folder cannot be read."""
        self._folder = folder
        self._seen: dict[str, bytes] = {} if folder is None else _read(folder)
        self.ring = KeyRing(_parse(self._seen))

    def refresh(self) -> bool:
        """Read the folder again; whether the keys have changed. Blocking. Raises OSError and then keeps the keys."""
        if self._folder is None:
            return False
        seen = _read(self._folder)
        if seen == self._seen:
            return False
        self._seen = seen
        self.ring = KeyRing(_parse(seen))
        return True


def _read(folder: Path) -> dict[str, bytes]:
    # Kubernetes keeps its own entries beside the files: ..data and a folder named by time.
    files = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_file()]
    return {file.name: file.read_bytes() for file in files}


def _parse(contents: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    lines = {tenant: [line.strip() for line in content.splitlines()] for tenant, content in contents.items()}
    return {tenant: [line for line in found if line] for tenant, found in lines.items()}
