"""Reloads of a task that is called 200 times a second: what fails, what is lost, and how much slower calls get."""

import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from benchmarks._grid import deploy, open_grid
from benchmarks._table import Measure, Report, parser, say
from integration import project
from integration.grid import Grid
from integration.node import Load

RATE = 200
JOBS = 16
NODES = 2


def reloads(grid: Grid, directory: Path, seconds: float) -> Iterator[tuple[str, float]]:
    """By turns a deploy of other code and a rolling restart, until the time is up: (which, seconds it took)."""
    over = time.monotonic() + seconds
    number = 1
    while time.monotonic() < over:
        number += 1
        started = time.monotonic()
        if number % 2:
            ended = grid.gridctl("restart", "probe", "--json")
            if ended.returncode:
                raise RuntimeError(ended.stderr)
        else:
            deploy(grid, project.write(directory, project.versioned(number)))
        yield "restart" if number % 2 else "deploy", time.monotonic() - started
        time.sleep(max(0.0, min(seconds / 6, over - time.monotonic())))


def measures(load: Load, before: int, due: float) -> Iterator[Measure]:
    answered = load.statuses.total()
    yield Measure("calls", float(answered))
    yield Measure("failed", float(answered - load.statuses[200] - load.statuses[0]), at_most=0)
    yield Measure("lost: sent, and never answered", float(load.statuses[0]), at_most=0)
    yield Measure("due and not yet sent at the end", max(0.0, due - answered))
    yield Measure("p99 before", 1000 * p99(load.times[:before]), "ms")
    yield Measure("p99 meanwhile", 1000 * load.p99(before), "ms")
    yield Measure("slowest", 1000 * load.slowest, "ms")


def p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


def main(options: Namespace) -> None:
    report = Report("reload")
    with open_grid(NODES) as grid, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        deploy(grid, project.write(directory))
        with grid.nodes["node-1"].load("probe.version", jobs=JOBS, rate=RATE) as load:
            started = time.monotonic()
            time.sleep(options.seconds / 5)
            before = len(load.times)
            for which, took in reloads(grid, directory, options.seconds):
                say(f"{which}: {took:.1f} s")
                report.details.append({"reload": which, "seconds": took})
            ended = time.monotonic()
        report.measures = list(measures(load, before, RATE * (ended - started)))
    report.notes = [
        f"{RATE} calls a second to {NODES} nodes, timed from when each was due. Errors: {dict(load.errors)}"
    ]
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--seconds", type=float, default=30, help="length of the load with reloads (30)")
    main(arguments.parse_args())
