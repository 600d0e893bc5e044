"""Starting and ending server processes, so that none outlives the run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class NotStarted(Exception):
    """A server could not be installed or did not become healthy; the text says why."""


@dataclass(frozen=True)
class Server:
    """A running server: `pid` is the root of its process tree."""

    pid: int
    port: int
    cold_start_s: float  # from spawn to the first 200 on the health path


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def http_once(port: int, request: bytes, timeout: float) -> tuple[int, bytes]:
    """One HTTP/1.0-style exchange on loopback. Returns the status (0 if none came) and all that was received."""
    received = bytearray()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(request)
        while block := connection.recv(65536):
            received += block
    fields = bytes(received[:32]).split(b" ", 2)
    status = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
    return status, bytes(received)


def get(port: int, path: str, timeout: float = 1.0) -> tuple[int, bytes]:
    """GET on loopback, connection closed afterwards."""
    return http_once(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode(), timeout)


def _last_lines(log: Path, count: int = 4) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-count:])[-600:]


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process's group: politely first, then for certain. Only this group is ever signalled."""
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            process.poll()  # reaps the leader, which would otherwise keep its group alive as a zombie
            if not _group_alive(process.pid):
                return
            time.sleep(0.02)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    port: int,
    health: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    patience_s: float = 60.0,
) -> Iterator[Server]:
    """Run `command` in a session of its own until the block is left, whichever way it is left.

    Raises NotStarted with the last lines of the log if the server ends or `patience_s` passes first.
    """
    # A developer's habit that would have Python servers compile their modules at every start.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **(environment or {})},
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            while get(port, health)[0] != 200:
                if process.poll() is not None:
                    raise NotStarted(f"ended with {process.returncode}: {_last_lines(log)}")
                if time.perf_counter() - started > patience_s:
                    raise NotStarted(f"not healthy on {health} after {patience_s:.0f} s: {_last_lines(log)}")
                time.sleep(0.005)
            yield Server(process.pid, port, time.perf_counter() - started)
        finally:
            _end(process)
