"""CPU time, memory and threads of process trees, from /proc."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Memory(NamedTuple):
    """MiB. rss counts a shared page whole, pss its share of it."""

    rss: float
    pss: float


def tree(pid: int) -> Iterator[int]:
    """`pid` and all that descends from it."""
    yield pid
    for thread in _threads(pid):
        with suppress(OSError):
            for child in (_PROC / str(pid) / "task" / thread / "children").read_text().split():
                yield from tree(int(child))


def children(pid: int) -> list[int]:
    return [other for other in tree(pid) if other != pid]


def cpu(pid: int) -> float:
    """Seconds of CPU the tree has used, user and system, all threads, children that have ended too."""
    return sum(_cpu_of(one) for one in tree(pid))


def memory(pid: int) -> Memory:
    """Of the tree."""
    kib = {"Rss": 0, "Pss": 0}
    for one in tree(pid):
        for line in (_PROC / str(one) / "smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in kib:
                kib[name] += int(rest.split()[0])
    return Memory(kib["Rss"] / 1024, kib["Pss"] / 1024)


def thread_names(pid: int) -> list[str]:
    """One name per thread of the tree."""
    threads = (_PROC / str(one) / "task" / thread for one in tree(pid) for thread in _threads(one))
    return [(thread / "comm").read_text().strip() for thread in threads]


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(_PROC / str(pid) / "task")
    except OSError:
        return []


def _cpu_of(pid: int) -> float:
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK
