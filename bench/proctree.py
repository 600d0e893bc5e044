"""CPU time and memory of a server's whole process tree, read from /proc.

A server may fork workers, helpers and threads; comparing only its first process would flatter
those that do. The tree is everything that descends from the root process, and everything in its
session (each server is started in a session of its own), which catches double-forked daemons.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Stat:
    """The fields of /proc/PID/stat (proc_pid_stat(5)) that matter here."""

    pid: int
    parent: int
    session: int
    ticks: int  # utime + stime, and those of children that died and were waited for


@dataclass(frozen=True)
class Memory:
    """Resident memory of a tree, in MB of 10^6 bytes."""

    largest_rss_mb: float  # the largest single process: a worker
    total_pss_mb: float  # the tree, pages shared with others counted in proportion


def _read_stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:  # it ended between the listing and the read
        return None
    # The command name may contain spaces and parentheses; the fields after its last ')' do not.
    fields = text.rpartition(")")[2].split()
    return _Stat(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        ticks=sum(int(field) for field in fields[11:15]),
    )


def _tree(root: int) -> list[_Stat]:
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    stats = [stat for pid in pids if (stat := _read_stat(pid)) is not None]
    members = {s.pid: s for s in stats if root in {s.pid, s.session}}
    grew = True
    while grew:
        found = [s for s in stats if s.parent in members and s.pid not in members]
        members.update((s.pid, s) for s in found)
        grew = bool(found)
    return list(members.values())


def cpu_seconds(root: int) -> float:
    """User and system time that the tree has used so far, dead children included."""
    return sum(s.ticks for s in _tree(root)) / _TICKS_PER_SECOND


def cpu_seconds_exactly(root: int) -> float:
    """As `cpu_seconds`, to the nanosecond and of what lives alone: for windows that are short, in ticks of 10 ms."""
    total = 0
    for member in _tree(root):
        for task in (_PROC / str(member.pid) / "task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # ended meanwhile
                total += int(task.read_text().split()[0])
    return total / 1e9


def machine_cpu_seconds() -> float:
    """Time that all processors of the machine were busy so far, for anyone, the hypervisor's other guests included."""
    user, nice, system, _, _, irq, softirq, steal = map(int, (_PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_SECOND


def _kilobytes(pid: int, file: str, field: str) -> int:
    try:
        for line in (_PROC / str(pid) / file).read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def memory(root: int) -> Memory:
    """What the tree holds in memory now."""
    pids = [s.pid for s in _tree(root)]
    rss = [_kilobytes(pid, "status", "VmRSS:") for pid in pids]
    pss = [_kilobytes(pid, "smaps_rollup", "Pss:") for pid in pids]
    return Memory(largest_rss_mb=max(rss, default=0) * 1024 / 1e6, total_pss_mb=sum(pss) * 1024 / 1e6)
