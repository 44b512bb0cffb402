"""One project to eight real nodes, each uplink held to some MB/s, against the time of one copy; needs root and tc."""

import random
import tempfile
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import _proc
from benchmarks._grid import PATIENCE, node_pid, open_grid
from benchmarks._table import Measure, Report, parser, say
from integration import project
from integration.grid import Grid, until
from integration.shaping import fetches, limit, sent

MB = 1_000_000


def write(directory: Path, size: int, seed: int) -> Path:
    """A project with so many random bytes, which no compression makes fewer."""
    chance = random.Random(seed)
    project.write(directory)
    for n in range(8):
        (directory / f"part-{n}").write_bytes(chance.randbytes(size // 8))
    return directory


def cpu_of(grid: Grid) -> float:
    """Seconds of all nodes so far."""
    return sum(_proc.cpu(node_pid(node)) for node in grid.nodes.values())


def peak(grid: Grid, since_now: bool = False) -> dict[str, int]:
    """The most memory each node had resident, in bytes."""
    most = {}
    for name, node in grid.nodes.items():
        process = Path(f"/proc/{node_pid(node)}")
        if since_now:
            (process / "clear_refs").write_text("5")
        (line,) = (one for one in (process / "status").read_text().splitlines() if one.startswith("VmHWM"))
        most[name] = int(line.split()[1]) * 1024
    return most


def one_round(grid: Grid, size: int, seed: int) -> tuple[float, float, dict[str, int], list[dict[str, Any]]]:
    """Seconds of the deploy, CPU seconds of all nodes, bytes that left each, and what they say of their fetches."""
    with tempfile.TemporaryDirectory() as directory:
        files = write(Path(directory) / "base", size, seed)
        before = {name: sent(node) for name, node in grid.nodes.items()}
        used = cpu_of(grid)
        started = time.perf_counter()
        report = grid.deploy(files, "--timeout", "300")
        took = time.perf_counter() - started
        used = cpu_of(grid) - used
    left = {name: sent(node) - before[name] for name, node in grid.nodes.items()}
    return took, used, left, [row for node in grid.nodes.values() for row in fetches(node, report["root"])]


def main(options: Namespace) -> None:
    report = Report("spread")
    size, rate = options.size * MB, options.rate * MB
    ratios, copies, growth = [], [], []
    with open_grid(options.nodes, "spread") as grid:
        until(grid.is_full_mesh, PATIENCE, "every node sees every other")
        for node in grid.nodes.values():
            limit(node, rate)
        for turn in range(options.rounds):
            say(f"round {turn + 1} of {options.rounds}")
            before = peak(grid, since_now=True)
            took, used, left, rows = one_round(grid, size, turn)
            last = max(row["seconds"] for row in rows)
            given = Counter[str]()
            for row in rows:
                given.update(row["bytes_from"])
            came = sum(sum(row["bytes_from"].values()) for row in rows)
            growth.append(max(most - before[name] for name, most in peak(grid).items()) / MB)
            ratios.append(last / (size / rate))
            copies.append(max(left.values()) / size)
            report.details.append(
                {
                    "round": turn + 1,
                    "nodes that fetched": len(rows),
                    "one copy s": size / rate,
                    "last node s": last,
                    "whole deploy s": took,
                    "CPU s of the nodes": used,
                    "memory growth MB": growth[-1],
                    "most sent by one, copies": max(left.values()) / size,
                    "most given by one, copies": max(given.values()) / size,
                    "came, of the least": came / (size * len(rows)),
                }
            )
    report.measures = [
        Measure("last node / one copy", sorted(ratios)[len(ratios) // 2], "x", at_most=1.3),
        Measure("most sent by one node, in copies", sorted(copies)[len(copies) // 2], "", at_most=1.3),
        Measure("memory growth of a node", max(growth), "MB", at_most=100),
    ]
    about = f"{options.size} MB of random bytes, {options.nodes} nodes, {options.rate} MB/s out of each (tc tbf)"
    report.notes = [f"{about}; sent counts everything that left a node, TLS, TCP and other traffic too."]
    report.print(options.json)


if __name__ == "__main__":
    made = parser(__doc__, rounds=3)
    made.add_argument("--nodes", type=int, default=8)
    made.add_argument("--size", type=int, default=64, help="MB (64)")
    made.add_argument("--rate", type=int, default=10, help="MB/s out of each node (10)")
    main(made.parse_args())
