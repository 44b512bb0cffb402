"""HTTP invoke of a warm echo through a remote node, against a bare aiohttp server and the original gridcontrol."""

import json
import os
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks import _original, _proc
from benchmarks._grid import PATIENCE, deploy, need, node_pid, open_grid, reference, sandbox_pid
from benchmarks._table import Measure, Report, parser, say
from benchmarks._wrk import Shot, ask, shoot
from integration.grid import Grid, until

CONNECTIONS = (1, 64)
TEXT = "x" * 88
BODY = json.dumps({"text": TEXT}).encode()
AIOHTTP = """
import uvloop
from aiohttp import web

async def echo(request):
    return web.Response(body=await request.read(), content_type="application/json")

async def application():
    app = web.Application()
    app.router.add_post("/echo", echo)
    return app

web.run_app(application(), host="127.0.0.1", port=10000, access_log=None, print=None, loop=uvloop.new_event_loop())
"""


@dataclass
class Subject:
    """Something that echoes. pid: whose network namespace it listens in; parts: process trees whose CPU it costs."""

    name: str
    pid: int
    url: str
    parts: dict[str, int]
    body: bytes = BODY
    shots: dict[int, list[Shot]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    cpu: dict[int, list[dict[str, float]]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})

    def measure(self, connections: int, seconds: float) -> None:
        """One run of load, and the CPU microseconds per call of each part in it."""
        before = {name: _proc.cpu(pid) for name, pid in self.parts.items()}
        shot = shoot(self.pid, self.url, self.body, connections, seconds)
        used = {name: _proc.cpu(pid) - before[name] for name, pid in self.parts.items()}
        self.shots[connections].append(shot)
        self.cpu[connections].append({name: spent / max(1, shot.requests) * 1e6 for name, spent in used.items()})

    def median(self, connections: int, figure: str) -> float:
        return float(statistics.median(getattr(shot, figure) for shot in self.shots[connections]))

    def cpu_of(self, connections: int, part: str) -> float:
        return statistics.median(run[part] for run in self.cpu[connections])

    def cpu_total(self, connections: int) -> float:
        return statistics.median(sum(run.values()) for run in self.cpu[connections])

    @property
    def failed(self) -> int:
        return sum(shot.failed for shots in self.shots.values() for shot in shots)


def grid_subject(grid: Grid, name: str, at: str) -> Subject:
    """Calls that arrive at node-1 and run on the node `at`; checked to do so."""
    near, far = grid.nodes["node-1"], grid.nodes[at]
    subject = Subject(
        name,
        node_pid(near),
        f"http://127.0.0.1:10000/v1/invoke/echo?node={at}",
        {"node A": node_pid(near), "node B": node_pid(far), "runtime": sandbox_pid(grid, far, "echo")},
    )
    if near is far:
        del subject.parts["node B"]
    headers, answer = ask(subject.pid, subject.url, BODY)
    if headers.get("Grid-Node") != at or answer != {"text": TEXT}:
        raise RuntimeError(f"{at} should have echoed, but: {headers} {answer}")
    return subject


def aiohttp_subject(pid: int) -> Subject:
    """A server of nothing but aiohttp and uvloop, in a container like a node's."""
    subject = Subject("aiohttp", pid, "http://127.0.0.1:10000/echo", {"server": pid})

    def answers() -> bool:
        try:
            return bool(ask(pid, subject.url, BODY)[1] == {"text": TEXT})
        except RuntimeError:
            return False

    until(answers, PATIENCE, "the aiohttp server answers")
    return subject


def original_subject(pid: int) -> Subject:
    """The original's local path: no peer, no encryption."""
    subject = Subject(
        "original", pid, f"{_original.URL}/lb_trigger_single", {"original": pid}, body=_original.call(TEXT)
    )
    answer = ask(pid, subject.url, subject.body)[1]
    if answer["data"] != {"text": TEXT}:
        raise RuntimeError(f"the original should have echoed, but: {answer}")
    return subject


def subjects(stack: ExitStack, without_original: bool) -> Iterator[Subject]:
    grid = stack.enter_context(open_grid(2))
    deploy(grid)
    yield grid_subject(grid, "remote", "node-2")
    yield grid_subject(grid, "local", "node-1")
    yield aiohttp_subject(stack.enter_context(reference(grid, AIOHTTP)))
    package = None if without_original else _original.installed()
    if package:
        yield original_subject(stack.enter_context(_original.running(package)))
    elif not without_original:
        say("left out: the original, which needs npm, node, unshare and ip")


def run(found: list[Subject], rounds: int, seconds: float) -> None:
    """Interleaved: every subject once at each load, then the next round."""
    for subject in found:
        shoot(subject.pid, subject.url, subject.body, max(CONNECTIONS), 1)
    for turn in range(rounds):
        for connections in CONNECTIONS:
            say(f"round {turn + 1} of {rounds}: {connections} connections")
            for subject in found:
                subject.measure(connections, seconds)


def detail(subject: Subject, connections: int) -> dict[str, Any]:
    parts = ", ".join(f"{part} {subject.cpu_of(connections, part):.0f}" for part in subject.parts)
    return {
        "subject": subject.name,
        "connections": connections,
        "req/s": subject.median(connections, "rate"),
        "p50 ms": subject.median(connections, "p50"),
        "p99 ms": subject.median(connections, "p99"),
        "CPU us/call": subject.cpu_total(connections),
        "of which": parts,
    }


def ratio(ours: Subject, other: Subject, figure: Callable[[Subject, int], float]) -> float:
    """Median of the rounds' ratios, each of two runs made one after the other."""
    return statistics.median(figure(ours, turn) / figure(other, turn) for turn in range(len(ours.shots[64])))


def rate_at_64(subject: Subject, turn: int) -> float:
    return subject.shots[64][turn].rate


def cpu_at_64(subject: Subject, turn: int) -> float:
    return sum(subject.cpu[64][turn].values())


def measures(found: list[Subject]) -> Iterator[Measure]:
    by_name = {subject.name: subject for subject in found}
    remote = by_name["remote"]
    yield Measure("requests a second, 64 connections", remote.median(64, "rate"), "req/s", at_least=4000)
    yield Measure("p50, 1 connection", remote.median(1, "p50"), "ms", at_most=1)
    yield Measure("failed calls", sum(subject.failed for subject in found), at_most=0)
    yield Measure("requests at 64: remote / aiohttp", ratio(remote, by_name["aiohttp"], rate_at_64), "x")
    yield Measure("CPU a call at 64: remote / aiohttp", ratio(remote, by_name["aiohttp"], cpu_at_64), "x")
    if "original" in by_name:
        original = by_name["original"]
        yield Measure("requests at 64: remote / original's local", ratio(remote, original, rate_at_64), "x", at_least=8)
        yield Measure("CPU a call at 64: remote / original's local", ratio(remote, original, cpu_at_64), "x")


def main(options: Namespace) -> None:
    if os.geteuid():
        raise SystemExit("this benchmark enters the network namespaces of containers: run it as root")
    need("wrk", "wrk")
    report = Report("invoke")
    with ExitStack() as stack:
        found = list(subjects(stack, options.without_original))
        started = time.monotonic()
        run(found, options.rounds, options.seconds)
        say(f"measured in {time.monotonic() - started:.0f} s")
    report.details = [detail(subject, connections) for connections in CONNECTIONS for subject in found]
    report.measures = list(measures(found))
    report.notes = [f"Medians of {options.rounds} rounds of {options.seconds:g} s each; wrk shares the cores."]
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--seconds", type=float, default=3, help="length of one run of load (3)")
    arguments.add_argument("--without-original", action="store_true", help="leave the original gridcontrol out")
    main(arguments.parse_args())
