"""Packages of npm, as a lock beside the tests pins them."""

import fcntl
import shutil
import subprocess
from pathlib import Path

from support.processes import part_missing
from support.servers import REPOSITORY


def installed(source: Path, name: str) -> Path:
    """The folder in which what the lock in `source` says is installed, once for all runs; `name` is the folder's.

    Skips the test (fails it in CI) where that is not possible.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        part_missing("node and npm are not installed")
    folder = REPOSITORY / ".cache" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run side by side
        wanted = (source / "package-lock.json").read_bytes()
        stamp = folder / "installed"
        if stamp.exists() and stamp.read_bytes() == wanted:
            return folder
        for file in ("package.json", "package-lock.json"):
            shutil.copy(source / file, folder / file)
        ended = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ended.returncode != 0:
            part_missing(f"npm could not install what {source.name} needs:\n{ended.stderr[-2000:]}")
        stamp.write_bytes(wanted)
    return folder
