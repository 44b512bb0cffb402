"""How much slower calls of another task get while a task misbehaves: p99 against that of just before."""

import json
import statistics
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks._grid import PATIENCE, deploy, open_grid
from benchmarks._table import Measure, Report, parser, say
from integration import project
from integration.faults import ENDS, FAULT
from integration.grid import until
from integration.node import Node

RATE = 100
FLOOD: dict[str, tuple[str, object]] = {"output flood": ("fault.flood", 1024)}


def calls() -> dict[str, tuple[str, object]]:
    """By fault: the task that shows it, and its event."""
    return {name: (task, event) for name, (task, event, _, _) in ENDS.items()} | FLOOD


def misbehave(node: Node, task: str, event: object, over: threading.Event) -> None:
    """Call it again and again: each call ends in an error, or kills its instance, which comes back."""
    while not over.is_set():
        with suppress(RuntimeError):
            node.http("POST", f"/v1/invoke/{task}?node={node.name}&timeout=3", json.dumps(event).encode())


def measure(node: Node, seconds: float, work: Callable[[threading.Event], None]) -> tuple[float, float, int]:
    """p99 of the bystander in ms before and during the work, and how many of its calls failed."""
    with node.load(f"echo?node={node.name}", b"1", jobs=4, rate=RATE) as load:
        until(lambda: load.times, PATIENCE, "the bystander is called")
        time.sleep(seconds)
        before = len(load.times)
        over = threading.Event()
        thread = threading.Thread(target=work, args=(over,))
        thread.start()
        time.sleep(seconds)
        over.set()
        thread.join()
    calm = sorted(load.times[:before])
    failed = load.statuses.total() - load.statuses[200]
    return 1000 * calm[len(calm) * 99 // 100], 1000 * load.p99(before), failed


def rows(node: Node, options: Namespace) -> Iterator[dict[str, Any]]:
    for name, (task, event) in calls().items():
        found = []
        for turn in range(options.rounds):
            say(f"{name}: round {turn + 1} of {options.rounds}")
            work = lambda over, task=task, event=event: misbehave(node, task, event, over)  # noqa: E731
            found.append(measure(node, options.seconds, work))
        before, during = (statistics.median(column) for column in list(zip(*found, strict=True))[:2])
        ratio = statistics.median(one[1] / one[0] for one in found)
        failed = sum(one[2] for one in found)
        yield {"fault": name, "p99 before, ms": before, "meanwhile, ms": during, "ratio": ratio, "failed": failed}


def main(options: Namespace) -> None:
    report = Report("faults")
    with open_grid(1) as grid, tempfile.TemporaryDirectory() as name:
        deploy(grid, project.write(Path(name), {"tasks/fault.py": FAULT}))
        report.details = list(rows(grid.nodes["node-1"], options))
    for row in report.details:
        report.measures.append(Measure(f"{row['fault']}: p99 meanwhile / before", row["ratio"], "x", at_most=3))
    report.measures.append(
        Measure("calls of the bystander that failed", sum(r["failed"] for r in report.details), at_most=0)
    )
    report.notes = [f"{RATE} calls a second of another task on the same node; medians of {options.rounds} rounds."]
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--seconds", type=float, default=5, help="length of each of the two phases (5)")
    main(arguments.parse_args())
