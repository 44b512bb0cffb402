"""An echo through the grid, over HTTP and by the SDK, beside the raw limits, the original, Ray, Dask and Celery."""

import os
import re
import statistics
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks import _original, _picture
from benchmarks._driven import driven, rivals
from benchmarks._grid import deploy, need, open_grid, reference
from benchmarks._table import Measure, Report, number, parser, say
from benchmarks._wrk import Shot, shoot
from benchmarks.invoke import AIOHTTP, Subject, aiohttp_subject, grid_subject, original_subject
from integration.grid import Grid

LOADS = (1, 64)
HTTP, SDK, LOCAL = "HTTP, remote", "SDK, remote", "HTTP, local"
UNIX, TLS, AIO, ORIGINAL = "raw: unix socket", "raw: mTLS link", "bare aiohttp", "original, local"
DOCS = Path(__file__).parent.parent / "docs"
_TABLE = re.compile(r"(<!-- peers -->\n).*(<!-- /peers -->)", re.DOTALL)


class Loaded(Protocol):
    """What can be put under load."""

    def measure(self, window: int, seconds: float) -> Shot: ...


class OverHttp:
    """A subject of the invoke benchmark."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def measure(self, window: int, seconds: float) -> Shot:
        return shoot(self._subject.pid, self._subject.url, self._subject.body, window, seconds)


@dataclass
class Row:
    """One subject and its runs, by load."""

    name: str
    loaded: Loaded
    shots: dict[int, list[Shot]] = field(default_factory=lambda: {load: [] for load in LOADS})

    def middle(self, load: int, figure: str) -> float:
        return float(statistics.median(getattr(shot, figure) for shot in self.shots[load]))

    def quantiles(self, load: int) -> list[float]:
        """Each the median of the runs'."""
        return [statistics.median(one) for one in zip(*(shot.quantiles for shot in self.shots[load]), strict=True)]


def rows(stack: ExitStack) -> Iterator[Row]:
    grid = stack.enter_context(open_grid(2))
    deploy(grid)
    yield Row(HTTP, OverHttp(grid_subject(grid, "remote", "node-2")))
    yield Row(SDK, stack.enter_context(driven("_own.py", "sdk", str(grid.gridfile), _address(grid), "node-2")))
    yield Row(LOCAL, OverHttp(grid_subject(grid, "local", "node-1")))
    yield Row(UNIX, stack.enter_context(driven("_own.py", "unix")))
    yield Row(TLS, stack.enter_context(driven("_own.py", "tls")))
    yield Row(AIO, OverHttp(aiohttp_subject(stack.enter_context(reference(grid, AIOHTTP)))))
    package = _original.installed()
    if package:
        yield Row(ORIGINAL, OverHttp(original_subject(stack.enter_context(_original.running(package)))))
    else:
        say("left out: the original, which needs npm, node, unshare and ip")
    for name, python in rivals():
        yield Row(name.capitalize(), stack.enter_context(driven("_rivals.py", name, python=python)))


def _address(grid: Grid) -> str:
    return f"127.0.0.1:{grid.nodes['node-1'].port}"


def run(found: list[Row], rounds: int, seconds: float) -> None:
    """Interleaved: every subject once at each load, then the next round. The first round warms up and is not kept."""
    for turn in range(rounds + 1):
        say(f"round {turn} of {rounds}" if turn else "warming up")
        for load in LOADS:
            for row in found:
                shot = row.loaded.measure(load, seconds if turn else 1)
                if turn:
                    row.shots[load].append(shot)


def ratio(one: Row, other: Row, load: int, figure: str) -> float:
    """Median of the rounds' ratios, each of two runs of the same round."""
    pairs = zip(one.shots[load], other.shots[load], strict=True)
    return float(statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs))


def measures(found: list[Row]) -> Iterator[Measure]:
    by_name = {row.name: row for row in found}
    http, sdk = by_name[HTTP], by_name[SDK]
    yield Measure("p50 at 1: HTTP local / raw unix", ratio(by_name[LOCAL], by_name[UNIX], 1, "p50"), "x", at_most=4)
    yield Measure("p50 at 1: HTTP remote / raw mTLS", ratio(http, by_name[TLS], 1, "p50"), "x", at_most=3.5)
    yield Measure("req/s at 64: HTTP remote / bare aiohttp", ratio(http, by_name[AIO], 64, "rate"), "x", at_least=2)
    yield Measure("SDK, remote, calls/s at 64", sdk.middle(64, "rate"), "/s", at_least=15_000)
    yield Measure("failed calls", sum(shot.failed for row in found for runs in row.shots.values() for shot in runs))
    for row in found:
        if row.name in (HTTP, SDK, LOCAL, UNIX, TLS, AIO):
            continue
        if row.name == "Ray":
            yield Measure("p50 at 1: SDK / an actor of Ray", ratio(sdk, row, 1, "p50"), "x", at_most=0.25)
        for ours in (http, sdk):
            yield Measure(f"calls/s at 64: {ours.name} / {row.name}", ratio(ours, row, 64, "rate"), "x", at_least=1)
            yield Measure(f"p50 at 1: {ours.name} / {row.name}", ratio(ours, row, 1, "p50"), "x", at_most=1)


def table(found: list[Row]) -> str:
    """For the docs. The last columns say how many times as much the grid's SDK does."""
    sdk = next(row for row in found if row.name == SDK)
    lines = [
        "| | 1 under way: p50 ms | p99 ms | calls/s | 64: p50 ms | p99 ms | calls/s | SDK ÷ this, calls/s at 64 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        cells = [number(row.middle(load, figure)) for load in LOADS for figure in ("p50", "p99", "rate")]
        lines.append("| " + " | ".join([row.name, *cells, number(ratio(sdk, row, 64, "rate"))]) + " |")
    return "\n".join(lines) + "\n"


def write(found: list[Row], note: str) -> None:
    """The table between its marks in docs/performance.md, and docs/latency.svg."""
    page = DOCS / "performance.md"
    text = page.read_text()
    if not _TABLE.search(text):
        raise SystemExit(f"{page} has no <!-- peers --> and <!-- /peers --> to write the table between")
    page.write_text(_TABLE.sub(lambda match: f"{match[1]}{table(found)}\n{note}\n{match[2]}", text))
    panels = {f"{load} under way": {row.name: row.quantiles(load) for row in found} for load in LOADS}
    (DOCS / "latency.svg").write_text(_picture.draw(panels))


def main(options: Namespace) -> None:
    if os.geteuid():
        raise SystemExit("this benchmark enters the network namespaces of containers: run it as root")
    need("wrk", "wrk")
    report = Report("peers")
    with ExitStack() as stack:
        found = list(rows(stack))
        run(found, options.rounds, options.seconds)
    for load in LOADS:
        for row in found:
            figures = {name: row.middle(load, name) for name in ("rate", "p50", "p99")}
            report.details.append({"subject": row.name, "under way": load, **figures})
    report.measures = list(measures(found))
    note = f"Medians of {options.rounds} rounds of {options.seconds:g} s, in turn, on {report.cores} cores; "
    note += f"load average {report.load:g} before."
    report.notes = [note]
    if options.write:
        write(found, note)
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--seconds", type=float, default=2, help="length of one run of load (2)")
    arguments.add_argument("--write", action="store_true", help="into docs/performance.md and docs/latency.svg")
    main(arguments.parse_args())
