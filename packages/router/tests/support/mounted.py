"""A folder as Kubernetes mounts a Secret."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path


class MountedSecret:
    """A folder as a kubelet keeps it: files are links through `..data`, which is swapped in one step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0
        folder.mkdir()

    def write(self, contents: Mapping[str, str]) -> None:
        """Put a new version in the place of the last one, in the kubelet's order."""
        self._version += 1
        version = self.folder / f"..2026_11_24_04_31_0{self._version}.12345"
        version.mkdir()
        for name, text in contents.items():
            (version / name).write_text(text)
        (self.folder / "..data_tmp").symlink_to(version.name)
        (self.folder / "..data_tmp").replace(self.folder / "..data")
        for name in contents:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for entry in self.folder.iterdir():
            if not entry.name.startswith("..") and entry.name not in contents:
                entry.unlink()

    @contextlib.contextmanager
    def missing(self) -> Iterator[None]:
        """A moment in which the links lead nowhere, as while a volume is mounted anew."""
        version = (self.folder / "..data").readlink()
        (self.folder / "..data").unlink()
        try:
            yield
        finally:
            (self.folder / "..data").symlink_to(version)
