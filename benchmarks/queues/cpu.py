"""CPU seconds of a tree of processes, from /proc (Linux).

On a machine that others use too, rates say little and CPU time says a lot: it is what a job costs.
Time of children that have ended is counted with the parent that waited for them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    cpu_s: float


def tree_cpu_s(root: int) -> float:
    """CPU seconds of `root` and of everything under it, since each began."""
    processes = _processes()
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    total, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        if pid in processes:
            total += processes[pid].cpu_s
        waiting += children.get(pid, [])
    return total


def parent_of(pid: int) -> int:
    """The process that started `pid`."""
    return _processes()[pid].parent


def _processes() -> dict[int, _Process]:
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                text = (path / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The name, in parentheses, may hold spaces; the third field follows the last of them.
            fields = text.rpartition(")")[2].split()
            ticks = sum(int(value) for value in fields[11:15])
            found[int(path.name)] = _Process(parent=int(fields[1]), cpu_s=ticks * _TICK_S)
    return found
