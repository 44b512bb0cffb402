"""Deploy of the sample to three empty nodes, from command to exit, against `docker run` of as many containers."""

import statistics
import time
from argparse import Namespace
from collections.abc import Iterator

from benchmarks._grid import SAMPLE, open_grid
from benchmarks._grid import deploy as deploy_to
from benchmarks._table import Measure, Report, parser, say
from integration import engine
from integration.engine import docker

NODES = 3


def one_round() -> tuple[float, float, int]:
    """Seconds of a deploy to a new grid, of the reference, and how many sandboxes the deploy started."""
    with open_grid(NODES) as grid:
        started = time.perf_counter()
        deploy_to(grid)
        deployed = time.perf_counter() - started
        sandboxes = len(grid.sandboxes())
        return deployed, run_containers(sandboxes), sandboxes


def run_containers(count: int) -> float:
    """Seconds for `count` trivial containers, one after the other."""
    options = ["--label", f"{engine.TEST}={engine.RUN}", "--network", "none", "--entrypoint", "/usr/bin/python3"]
    started = time.perf_counter()
    for _ in range(count):
        docker("run", "-d", *options, engine.image(), "-I", "-c", "import time; time.sleep(60)")
    return time.perf_counter() - started


def measures(deploys: list[float], references: list[float]) -> Iterator[Measure]:
    yield Measure(f"deploy to {NODES} empty nodes", statistics.median(deploys), "s", at_most=10)
    yield Measure("slowest of them", max(deploys), "s")
    yield Measure("docker run of as many containers", statistics.median(references), "s")
    ratios = [one / other for one, other in zip(deploys, references, strict=True)]
    yield Measure("deploy / docker run", statistics.median(ratios), "x")


def main(options: Namespace) -> None:
    report = Report("deploy")
    deploys, references, sandboxes = [], [], 0
    for turn in range(options.rounds):
        say(f"round {turn + 1} of {options.rounds}")
        deployed, plain, sandboxes = one_round()
        deploys.append(deployed)
        references.append(plain)
    report.measures = list(measures(deploys, references))
    report.notes = [f"{SAMPLE.name}: {sandboxes} sandboxes on {NODES} nodes; medians of {options.rounds} new grids."]
    report.print(options.json)


if __name__ == "__main__":
    main(parser(__doc__, rounds=3).parse_args())
