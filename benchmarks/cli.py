"""Wall time of `gridctl --help` and of `gridctl invoke` of a warm echo, against an interpreter that does nothing."""

import os
import resource
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks._grid import deploy, open_grid
from benchmarks._table import Measure, Report, parser
from integration.grid import GRIDCTL

TARGETS = {"gridctl --help": 0.2, "gridctl invoke": 0.4}
BARE = "python -c pass"


def commands() -> dict[str, list[str]]:
    return {
        BARE: [sys.executable, "-c", "pass"],
        "gridctl --help": [str(GRIDCTL), "--help"],
        "gridctl invoke": [str(GRIDCTL), "invoke", "echo", "-d", '{"text": "hello"}'],
    }


class Run(NamedTuple):
    """Seconds of one process: by the clock on the wall, and of CPU, which is steadier."""

    wall: float
    cpu: float


def once(argv: list[str], env: dict[str, str]) -> Run:
    """One run, which must succeed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed: {ended.stderr}")
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def run(gridfile: Path, rounds: int) -> dict[str, list[Run]]:
    """Interleaved: every command once, then the next round; a first round to warm the caches is not counted."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCTL_")}
    env["GRIDCTL_GRIDFILE"] = str(gridfile)
    runs: dict[str, list[Run]] = {name: [] for name in commands()}
    for turn in range(rounds + 1):
        for name, argv in commands().items():
            one = once(argv, env)
            if turn:
                runs[name].append(one)
    return runs


def measures(runs: dict[str, list[Run]]) -> Iterator[Measure]:
    for name, found in runs.items():
        yield Measure(name, statistics.median(one.wall for one in found), "s", at_most=TARGETS.get(name))
        yield Measure(f"{name}: CPU", statistics.median(one.cpu for one in found), "s")
    for name in TARGETS:
        ratios = [one.wall / bare.wall for one, bare in zip(runs[name], runs[BARE], strict=True)]
        yield Measure(f"{name} / {BARE}", statistics.median(ratios), "x")


def main(options: Namespace) -> None:
    report = Report("cli")
    with open_grid(2) as grid:
        deploy(grid)
        runs = run(grid.directory / "Gridfile", options.rounds)
    report.measures = list(measures(runs))
    report.notes = [f"Medians of {options.rounds} interleaved runs, each a new process; the grid is on this machine."]
    report.print(options.json)


if __name__ == "__main__":
    main(parser(__doc__, rounds=15).parse_args())
