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
        """`folder` None means that there are no keys. Raises OSError where the folder or a file cannot be read."""
        self._folder = folder
        self._held: dict[str, bytes] = {}
        if folder is not None:
            self._held, unreadable = _read(folder)
            for error in unreadable.values():
                raise error
        self._last = self._held
        self.ring = KeyRing(_parse(self._held))

    def refresh(self) -> bool:
        """Read the folder again; whether the keys have changed. Blocking.

        What a file holds, or that it is gone, counts once two calls in a row have found it so: while a Secret is
        swapped, or a file written anew, there is a moment in which keys are missing that nobody has taken away.
        Raises OSError: where the folder cannot be read all keys stay, where a file cannot be read its own do.
        """
        if self._folder is None:
            return False
        seen, unreadable = _read(self._folder)
        seen.update({name: self._held[name] for name in unreadable if name in self._held})
        last, self._last = self._last, seen
        held = {}
        for name in {*self._held, *last, *seen}:
            content = seen.get(name) if seen.get(name) == last.get(name) else self._held.get(name)
            if content is not None:
                held[name] = content
        changed = held != self._held
        if changed:
            self._held = held
            self.ring = KeyRing(_parse(held))
        for error in unreadable.values():
            raise error
        return changed


def _read(folder: Path) -> tuple[dict[str, bytes], dict[str, OSError]]:
    """What the files hold, and why some of them cannot be read."""
    found: dict[str, bytes] = {}
    unreadable: dict[str, OSError] = {}
    for entry in folder.iterdir():
        # Kubernetes keeps its own entries beside the files: ..data and a folder named by time.
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_file():
                found[entry.name] = entry.read_bytes()
        except FileNotFoundError:
            pass  # taken away since it was listed
        except OSError as error:
            unreadable[entry.name] = error
    return found, unreadable


def _parse(contents: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    lines = {tenant: [line.strip() for line in content.splitlines()] for tenant, content in contents.items()}
    return {tenant: [line for line in found if line] for tenant, found in lines.items()}
