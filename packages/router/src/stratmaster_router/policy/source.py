"""The policy file as a running router sees it: loaded, watched, never half applied (policy.md, rule 10).

The file is polled, twice a second, and compared by its bytes. Notifications by inode are blind where policies live: a
ConfigMap swaps a symlink two levels up, a bind-mounted file keeps its old inode, NFS sends nothing. Reading a few
kilobytes sees all of it, rotated secret files included.
"""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stratmaster_router.domain.routing import Provider
from stratmaster_router.policy.certificates import ReadFile, TlsTrouble
from stratmaster_router.policy.compile import compile_policy, content_hash
from stratmaster_router.policy.parse import decode, parse
from stratmaster_router.policy.problems import PolicyInvalid, Problem
from stratmaster_router.policy.schema import PolicyDocument
from stratmaster_router.policy.snapshot import Snapshot

_LARGEST_FILE = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A new snapshot is in force. `changed` names the files that differ: the policy, secrets, certificates."""

    snapshot: Snapshot
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing to do: the files are as they were, or have changed only since the last poll."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The file cannot take effect; the last good snapshot stays. Reported once for each distinct content."""

    problems: tuple[Problem, ...]


_Content = bytes | str
"""What a file held, or (as text) why it could not be read."""


Compile = Callable[[PolicyDocument, str, Mapping[str, str], ReadFile, TlsTrouble, Mapping[str, Provider]], Snapshot]
"""What a process makes of the document, its content hash and the secrets: all of it, or the part that it needs."""


class PolicySource:
    """One policy file. `snapshot` is the policy in force: one reference, replaced whole.

    `document` is what the file says. `refresh` is called by one thread at a time; `snapshot` may be read by any.
    `judge_tls` says what is wrong with certificate files.
    Raises PolicyInvalid when the file cannot take effect at the start.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        environ: Mapping[str, str],
        judge_tls: TlsTrouble,
        compile_: Compile = compile_policy,
    ) -> None:
        self._path = Path(path)
        self._environ = environ
        self._judge_tls = judge_tls
        self._compile = compile_
        content = _read(self._path)
        self.document = _document(content)
        self._hash = content_hash(content if isinstance(content, bytes) else b"")
        self._tried = content
        self._files: dict[str, _Content] = {}
        self._pending: tuple[_Content, dict[str, _Content]] | None = None
        self.snapshot = self._compiled({}, {})

    def refresh(self) -> Reloaded | Unchanged | Failed:
        """Looks at the files again; blocks on them, so call it in a thread.

        A change counts once two calls in a row have read the same: a file that is being written in place is seen
        half-written, and a half-written policy can be a valid one that lacks its last tenants.
        """
        content = _read(self._path)
        files = {path: _read(Path(path)) for path in self._files}
        if content == self._tried and files == self._files:
            self._pending = None
            return Unchanged()
        if (content, files) != self._pending:
            self._pending = (content, files)
            return Unchanged()
        self._pending = None
        changed = [path for path, held in files.items() if held != self._files[path]]
        if content != self._tried:
            self._tried = content
            try:
                self.document = _document(content)
            except PolicyInvalid as invalid:
                return Failed(invalid.problems)
            self._hash = content_hash(content if isinstance(content, bytes) else b"")
            changed.insert(0, str(self._path))
        self.snapshot = self._compiled(files, self.snapshot.providers)
        return Reloaded(self.snapshot, tuple(changed))

    def _compiled(self, files: Mapping[str, _Content], former: Mapping[str, Provider]) -> Snapshot:
        """The document with its secrets, taken from `files` as far as they were read already."""
        used: dict[str, _Content] = {}

        def read_file(path: str) -> str:
            held = used[path] = files[path] if path in files else _read(Path(path))
            if isinstance(held, str):
                raise OSError(0, held)
            return held.decode()

        snapshot = self._compile(self.document, self._hash, self._environ, read_file, self._judge_tls, former)
        self._files = used
        return snapshot


def _document(content: _Content) -> PolicyDocument:
    if isinstance(content, str):
        raise PolicyInvalid([Problem("", 1, f"the policy file cannot be read: {content}")])
    return parse(decode(content))


def _read(path: Path) -> _Content:
    try:
        # A pipe or a device could block for ever, and a directory has no bytes.
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a regular file"
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or "not a path"
    return content if len(content) <= _LARGEST_FILE else f"larger than {_LARGEST_FILE} bytes"
