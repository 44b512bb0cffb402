"""After kill -9 of an instance, and of gridnode itself: how long until the next call is answered, and what failed."""

import os
import signal
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator

from benchmarks._grid import PATIENCE, deploy, open_grid, sandbox_pid
from benchmarks._table import Measure, Report, parser, say
from benchmarks.cold import container
from integration.grid import Grid, until
from integration.node import Node

JOBS = 4


def answers(node: Node) -> bool:
    try:
        return node.http("POST", f"/v1/invoke/echo?node={node.name}", b"1").status == 200
    except RuntimeError:
        return False


def kill_instance(grid: Grid, node: Node) -> tuple[float, float, dict[str, int]]:
    """Seconds until a call made just after the kill was answered; the slowest of those under way; what failed."""
    with node.load(f"echo?node={node.name}", b"1", jobs=JOBS) as load:
        until(lambda: load.statuses[200] > 100, PATIENCE, "calls go on")
        os.kill(sandbox_pid(grid, node, "echo"), signal.SIGKILL)
        started = time.perf_counter()
        until(lambda: answers(node), PATIENCE, "the next call is answered")
        took = time.perf_counter() - started
    return took, load.slowest, dict(load.errors)


def kill_node(grid: Grid, node: Node) -> float:
    """Seconds from the kill to the first answer of an adopted sandbox, the start of the container included."""
    started = time.perf_counter()
    grid.kill(node)
    grid.start(node)
    until(lambda: answers(node), PATIENCE, "it serves again")
    return time.perf_counter() - started


def measures(options: Namespace, report: Report) -> Iterator[Measure]:
    with open_grid(1) as grid:
        deploy(grid)
        node = grid.nodes["node-1"]
        instances, nodes, plain = [], [], []
        for turn in range(options.rounds):
            say(f"round {turn + 1} of {options.rounds}")
            instances.append(kill_instance(grid, node))
            nodes.append(kill_node(grid, node))
            plain.append(container())
            took, slowest, errors = instances[-1]
            row = {
                "instance killed, s": took,
                "slowest of its calls, s": slowest,
                "node killed, s": nodes[-1],
                "docker run, s": plain[-1],
            }
            report.details.append(row | {"errors": errors or "none"})
    others = sum(count for _, _, errors in instances for code, count in errors.items() if code != "task_crashed")
    most = max(sum(errors.values()) for _, _, errors in instances)
    yield Measure("kill -9 of an instance: next call answered", statistics.median(one[0] for one in instances), "s", 1)
    yield Measure("calls that failed, at most", float(most), at_most=JOBS)
    yield Measure("of them not as crashed", float(others), at_most=0)
    yield Measure("kill -9 of gridnode to serving", statistics.median(nodes), "s", at_most=3)
    pairs = list(zip(instances, nodes, plain, strict=True))
    yield Measure("instance killed / docker run", statistics.median(one[0] / bare for one, _, bare in pairs), "x")
    yield Measure("gridnode killed / docker run", statistics.median(one / bare for _, one, bare in pairs), "x")


def main(options: Namespace) -> None:
    report = Report("recovery")
    report.measures = list(measures(options, report))
    report.notes = [
        f"Medians of {options.rounds} rounds; {JOBS} calls at once are under way when an instance is killed."
    ]
    report.print(options.json)


if __name__ == "__main__":
    main(parser(__doc__, rounds=5).parse_args())
