"""How much slower calls of another task get while a task misbehaves: p99 against that of just before."""

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks._grid import PATIENCE, deploy, open_grid
from benchmarks._table import Measure, Report, parser, say
from integration import project
from integration.faults import ENDS, FAULT
from integration.grid import Grid, until
from integration.node import Load, Node

RATE = 100
FAULTY_RATE = 10
FLOOD: dict[str, tuple[str, object]] = {"output flood": ("fault.flood", 1024)}


def calls() -> dict[str, tuple[str, object]]:
    """By fault: the task that shows it, and its event."""
    return {name: (task, event) for name, (task, event, _, _) in ENDS.items()} | FLOOD


def misbehave(node: Node, task: str, event: object) -> AbstractContextManager[Load]:
    """Call it again and again: each call ends in an error, or kills its instance, which comes back."""
    path = f"{task}?node={node.name}&timeout=3"
    return node.load(path, json.dumps(event).encode(), jobs=1, rate=FAULTY_RATE)


def is_well(node: Node) -> bool:
    return node.http("POST", f"/v1/invoke/fault.quick?node={node.name}", b"1").status == 200


def measure(node: Node, seconds: float, work: AbstractContextManager[Load]) -> tuple[float, float, int, int, int]:
    """p99 of the bystander in ms before and during the work, its calls that failed; faulty calls, and those refused."""
    with node.load(f"echo?node={node.name}", b"1", jobs=4, rate=RATE) as load:
        until(lambda: load.times, PATIENCE, "the bystander is called")
        time.sleep(seconds)
        before = len(load.times)
        with work as faulty:
            time.sleep(seconds)
    calm = sorted(load.times[:before])
    failed = load.statuses.total() - load.statuses[200]
    return (
        1000 * calm[len(calm) * 99 // 100],
        1000 * load.p99(before),
        failed,
        faulty.statuses.total(),
        faulty.errors["not_ready"],
    )


def rows(grid: Grid, node: Node, options: Namespace) -> Iterator[dict[str, Any]]:
    chosen = {name: call for name, call in calls().items() if options.only in (None, name)}
    for name, (task, event) in chosen.items():
        found = []
        for turn in range(options.rounds):
            say(f"{name}: round {turn + 1} of {options.rounds}")
            grid.gridctl("restart", "fault")
            until(lambda: is_well(node), PATIENCE, "the faulty task is well again")
            found.append(measure(node, options.seconds, misbehave(node, task, event)))
        before, during = (statistics.median(column) for column in list(zip(*found, strict=True))[:2])
        ratio = statistics.median(one[1] / one[0] for one in found)
        failed, faulty, refused = (sum(column) for column in list(zip(*found, strict=True))[2:])
        row: dict[str, Any] = {"fault": name, "p99 before, ms": before, "meanwhile, ms": during, "ratio": ratio}
        yield row | {"failed": failed, "faulty calls": faulty, "refused": refused}


def main(options: Namespace) -> None:
    report = Report("faults")
    with open_grid(1) as grid, tempfile.TemporaryDirectory() as name:
        deploy(grid, project.write(Path(name), {"tasks/fault.py": FAULT}))
        report.details = list(rows(grid, grid.nodes["node-1"], options))
    for row in report.details:
        report.measures.append(Measure(f"{row['fault']}: p99 meanwhile / before", row["ratio"], "x", at_most=3))
    report.measures.append(
        Measure("calls of the bystander that failed", sum(r["failed"] for r in report.details), at_most=0)
    )
    report.notes = [
        f"{RATE} calls a second of another task on the same node; medians of {options.rounds} rounds.",
        f"The faulty task is called up to {FAULTY_RATE} times a second, one call at a time.",
    ]
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--only", choices=list(calls()), help="this fault alone")
    arguments.add_argument("--seconds", type=float, default=5, help="length of each of the two phases (5)")
    main(arguments.parse_args())
