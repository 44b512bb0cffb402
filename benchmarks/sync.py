"""One tree synced again after small changes: bytes, CPU and time of gridctl and a node, rsync, casync, restic."""

import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import _proc
from benchmarks._grid import PATIENCE, need, node_pid, open_grid
from benchmarks._table import Measure, Report, parser, say
from benchmarks._tree import CASES, MB, make
from integration.grid import Grid, until
from integration.shaping import sent

SETTLED = 0.1
"""Seconds after a change before the next deploy: a file written a moment ago is always read again."""


class Cost(NamedTuple):
    """What one sync took. least: bytes that no tool of this kind could spare, where it is known."""

    moved: int
    cpu: float
    wall: float
    least: int = 0
    onward: int = 0


Sync = Callable[[], Cost]


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(*argv: str, **env: str) -> tuple[str, float, float]:
    """What it prints, its CPU seconds, its seconds."""
    before, started = children_cpu(), time.perf_counter()
    ended = subprocess.run(argv, check=True, capture_output=True, text=True, env=os.environ | env)
    return ended.stdout, children_cpu() - before, time.perf_counter() - started


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def rsync(source: Path, place: Path, *options: str) -> Sync:
    target = place / "rsync"

    def sync() -> Cost:
        out, cpu, wall = timed(
            "rsync", "-a", "--delete", "--no-whole-file", "--stats", *options, f"{source}/", str(target)
        )
        moved = sum(
            int(found.replace(",", "")) for found in re.findall(r"Total bytes (?:sent|received): ([\d,]+)", out)
        )
        return Cost(moved, cpu, wall)

    return sync


def casync(source: Path, place: Path) -> Sync:
    store = place / "casync.castr"

    def sync() -> Cost:
        before = size_of(store) if store.exists() else 0
        index = place / "tree.caidx"
        _, cpu, wall = timed("casync", "make", f"--store={store}", str(index), str(source))
        return Cost(size_of(store) - before + index.stat().st_size, cpu, wall)

    return sync


def restic(source: Path, place: Path) -> Sync:
    repository = place / "restic"
    env = {"RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(place / "cache")}
    timed("restic", "init", **env)

    def sync() -> Cost:
        before = size_of(repository)
        _, cpu, wall = timed("restic", "backup", "--quiet", str(source), **env)
        return Cost(size_of(repository) - before, cpu, wall)

    return sync


def ours(grid: Grid, source: Path) -> Sync:
    """To a node, and on to all others. moved: what gridctl sent; onward: what left the first node, for each other."""

    def sync() -> Cost:
        nodes = list(grid.nodes.values())
        cpu, before = children_cpu() + sum(_proc.cpu(node_pid(node)) for node in nodes), [sent(node) for node in nodes]
        started = time.perf_counter()
        report = grid.deploy(source, "--timeout", "600")
        wall = time.perf_counter() - started
        used = children_cpu() + sum(_proc.cpu(node_pid(node)) for node in nodes) - cpu
        left = sum(sent(node) - one for node, one in zip(nodes, before, strict=True))
        return Cost(report["sent"], used, wall, report["sent"], left // max(1, len(nodes) - 1))

    return sync


def tools(grid: Grid, source: Path, place: Path) -> Iterator[tuple[str, Sync]]:
    """Those that are installed or can be."""
    yield "gridctl", ours(grid, source)
    for name, made in (("rsync", rsync), ("casync", casync), ("restic", restic)):
        try:
            need(name, name)
        except SystemExit as missing:
            say(str(missing))
            continue
        yield name, made(source, place)
        if name == "rsync":
            yield "rsync -z", rsync_z(source, place)


def rsync_z(source: Path, place: Path) -> Sync:
    (place / "z").mkdir()
    return rsync(source, place / "z", "-z")


def measures(costs: dict[tuple[str, str], Cost]) -> Iterator[Measure]:
    for case in CASES:
        mine = costs[case, "gridctl"]
        at_most = {"1 byte changed": 160_000, "directory renamed": 10_000}.get(case)
        yield Measure(f"{case}: sent", float(mine.moved), "B", at_most=at_most)
        if case != "first copy":
            others = [cost.moved for (one, tool), cost in costs.items() if one == case and tool != "gridctl"]
            if others:
                yield Measure(f"{case}: sent / least of the others", mine.moved / min(others), "x", at_most=1)


def main(options: Namespace) -> None:
    report = Report("sync")
    costs: dict[tuple[str, str], Cost] = {}
    with tempfile.TemporaryDirectory() as directory, open_grid(options.nodes, "sync") as grid:
        place = Path(directory)
        source = place / "project"
        make(source, options.size * MB)
        until(grid.is_full_mesh, PATIENCE, "every node sees every other")
        syncs = dict(tools(grid, source, place))
        for case, change in CASES.items():
            change(source)
            time.sleep(SETTLED)
            for tool, sync in syncs.items():
                say(f"{case}: {tool}")
                costs[case, tool] = cost = sync()
                row = {"case": case, "tool": tool, "bytes": cost.moved, "CPU s": cost.cpu, "wall s": cost.wall}
                report.details.append(row | {"onward, bytes a node": cost.onward})
        files = sum(path.is_file() for path in source.rglob("*"))
        shutil.rmtree(source)
    report.measures = list(measures(costs))
    report.notes = [
        f"{options.size} MB in {files} files; gridctl: to {options.nodes} nodes, until all serve it with new instances,"
        " CPU of gridctl and of every node. onward: all that left any node meanwhile, TLS and gossip too, by"
        " nodes that fetched. rsync, casync and restic: to a directory on the same disk."
    ]
    report.print(options.json)


if __name__ == "__main__":
    made = parser(__doc__, rounds=1)
    made.add_argument("--size", type=int, default=60, help="MB of the tree (60)")
    made.add_argument("--nodes", type=int, default=3)
    main(made.parse_args())
