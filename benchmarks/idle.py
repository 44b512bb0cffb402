"""Memory, CPU and threads of idle nodes that are all linked, against the bare imports of their dependencies."""

import statistics
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import _proc
from benchmarks._grid import deploy, node_pid, open_grid, reference
from benchmarks._table import Measure, Report, parser, say
from integration.grid import Grid

IMPORTS = """
import signal
import aiohttp, cryptography.x509, docker, zeroconf
signal.pause()
"""


_SMALL = 8
"""Up to so many nodes sandboxes are started too."""


class Idle(NamedTuple):
    """One process at rest. rss, pss: MiB; cpu: percent of a core."""

    subject: str
    rss: float
    pss: float
    cpu: float
    threads: int
    named: str


def watch(subjects: dict[str, int], seconds: float) -> list[Idle]:
    """What each process (name: id) used over `seconds`, all at the same time."""
    before = {name: _proc.cpu(pid) for name, pid in subjects.items()}
    started = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - started
    found = []
    for name, pid in subjects.items():
        used = (_proc.cpu(pid) - before[name]) / elapsed * 100
        memory, threads = _proc.memory(pid), Counter(_proc.thread_names(pid))
        named = ", ".join(f"{count} {thread}" for thread, count in threads.items())
        found.append(Idle(name, memory.rss, memory.pss, used, threads.total(), named))
    return found


def phases(grid: Grid, bare: int, options: Namespace) -> Iterator[tuple[str, list[Idle]]]:
    """First without a release, then, in a small grid, serving the sample."""
    pids = {name: node_pid(node) for name, node in grid.nodes.items()}
    for phase in ("empty", "serving") if len(pids) <= _SMALL else ("empty",):
        if phase == "serving":
            deploy(grid)
        say(f"{phase}: settling for {options.settle:g} s, then watching for {options.seconds:g} s")
        time.sleep(options.settle)
        yield phase, watch({**pids, "imports only": bare}, options.seconds)


def measures(phase: str, found: list[Idle]) -> Iterator[Measure]:
    *nodes, bare = found
    at_most = 1 if len(nodes) <= _SMALL else 2
    rss = statistics.median(one.rss for one in nodes)
    yield Measure(f"{phase}: resident memory", rss, "MiB", at_most=90)
    yield Measure(f"{phase}: proportional share (PSS)", statistics.median(one.pss for one in nodes), "MiB")
    yield Measure(f"{phase}: resident / imports only", rss / bare.rss, "x")
    yield Measure(f"{phase}: CPU", statistics.median(one.cpu for one in nodes), "% of a core", at_most=at_most)
    yield Measure(f"{phase}: threads", statistics.median(one.threads for one in nodes))


def main(options: Namespace) -> None:
    report = Report("idle")
    details: list[dict[str, Any]] = []
    with open_grid(options.nodes) as grid, reference(grid, IMPORTS) as bare:
        for phase, found in phases(grid, bare, options):
            details += [{"phase": phase, **one._asdict()} for one in found]
            report.measures += measures(phase, found)
    report.details = details
    report.notes = [
        f"Medians of {options.nodes} nodes, watched at the same time. Memory in MiB, CPU in percent of a core."
    ]
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--nodes", type=int, default=3, help="how many (3)")
    arguments.add_argument("--settle", type=float, default=30, help="seconds before watching (30)")
    arguments.add_argument("--seconds", type=float, default=30, help="seconds of watching (30)")
    main(arguments.parse_args())
