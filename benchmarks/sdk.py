"""Calls a second of the SDK over a link, remote: one by one, side by side, mapped over 100,000 items; Ray beside it."""

import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import _proc
from benchmarks._driven import Driven, driven, rivals
from benchmarks._grid import deploy, node_pid, open_grid, sandbox_pid
from benchmarks._table import Measure, Report, parser, say
from gridctl import Grid as Client
from gridctl import GridExecutor
from integration.grid import Grid

BODY = json.dumps("x" * 98).encode()
ITEM = "x" * 98
"""100 bytes of JSON."""
CALLS, MAP = 15_000, 12_000
GROWTH = 16.0
"""MiB that the client may grow by over a whole map."""
_FORK = multiprocessing.get_context("fork")

Row = dict[str, Any]


def apart(run: Callable[[], Any]) -> Any:
    """What `run` returns in a process of its own: its memory is not that of what ran before."""
    here, there = _FORK.Pipe()
    process = _FORK.Process(target=lambda: there.send(run()))
    process.start()
    if not here.poll(300):
        process.kill()
        raise RuntimeError("the client did not end")
    found = here.recv()
    process.join()
    return found


def rss() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def windowed(grid: Client, node: str, count: int, concurrency: int) -> tuple[float, list[float]]:
    """Calls a second of bodies that are JSON already, and how long each took, sorted."""
    window = grid.window("echo", concurrency, False, node=node)
    times: list[float] = []
    put, started = 0, time.perf_counter()
    while len(times) < count:
        for _ in range(min(window.room, count - put)):
            window.put(BODY)
            put += 1
        await window.wait()
        for outcome in window.take():
            if outcome.error:
                raise outcome.error
            times.append(outcome.duration)
    return count / (time.perf_counter() - started), sorted(times)


async def invoked(grid: Client, node: str, count: int, concurrency: int) -> float:
    """Calls a second of `await grid.invoke`, by so many jobs."""
    turns = iter(range(count))

    async def some() -> None:
        for _ in turns:
            await grid.invoke("echo", ITEM, node=node)

    started = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(concurrency)))
    return count / (time.perf_counter() - started)


async def mapped(grid: Client, count: int) -> tuple[float, float]:
    """Results a second of `grid.map`, and MiB by which the client grew after the first tenth."""
    started, got, before = time.perf_counter(), 0, 0.0
    async for _ in grid.map("echo", (ITEM for _ in range(count))):
        got += 1
        if got == count // 10:
            before = rss()
    return count / (time.perf_counter() - started), rss() - before


async def calls(grid: Grid, count: int) -> Row:
    """One link to node 1, every call run on node 2."""
    one, two = list(grid.nodes.values())[:2]
    async with Client.connect(grid.gridfile, [f"127.0.0.1:{one.port}"], links=1) as client:
        await windowed(client, two.name, 2000, 64)
        _, alone = await windowed(client, two.name, count // 20, 1)
        pids = {
            "client": os.getpid(),
            "node A": node_pid(one),
            "node B": node_pid(two),
            "instance": sandbox_pid(grid, two, "echo"),
        }
        before = {name: _proc.cpu(pid) for name, pid in pids.items()}
        rate, _ = await windowed(client, two.name, count, 64)
        used = {f"{name} us": (_proc.cpu(pid) - before[name]) / count * 1e6 for name, pid in pids.items()}
        plain = await invoked(client, two.name, count // 2, 64)
    return {"calls/s": rate, "invoke/s": plain, "p50 at 1 ms": alone[len(alone) // 2] * 1000, **used}


async def local(grid: Grid, count: int) -> Row:
    """As a program on a server of the grid: over its node's socket, run on that node."""
    node = next(iter(grid.nodes.values()))
    async with Client.connect(addresses=[f"{node.directory}/run/client.sock"]) as client:
        await windowed(client, node.name, 500, 1)
        rate, _ = await windowed(client, node.name, count, 64)
        _, alone = await windowed(client, node.name, count // 10, 1)
    return {"local/s": rate, "local p50 ms": alone[len(alone) // 2] * 1000}


async def maps(grid: Grid, count: int) -> Row:
    """As a program would: all nodes, links to three."""
    async with Client.connect(grid.gridfile) as client:
        await mapped(client, 2000)
        rate, grown = await mapped(client, count)
    return {"map/s": rate, "grown MiB": grown}


def sync_maps(grid: Grid, count: int) -> Row:
    """The same without async, and through an Executor."""
    with Client.open(grid.gridfile) as client, GridExecutor(client) as executor:
        list(client.map("echo", [ITEM] * 2000))
        started = time.perf_counter()
        for _ in client.map("echo", (ITEM for _ in range(count))):
            pass
        middle = time.perf_counter()
        for future in [executor.submit("echo", ITEM) for _ in range(count // 4)]:
            future.result()
        ended = time.perf_counter()
    return {"sync map/s": count / (middle - started), "executor/s": count / 4 / (ended - middle)}


@contextmanager
def ray() -> Iterator[Driven | None]:
    """An actor of Ray, where that is installed."""
    python = dict(rivals()).get("ray")
    if python is None:
        yield None
        return
    with driven("_rivals.py", "ray", python=python) as driver:
        yield driver


def measures(rounds: list[Row], with_ray: bool) -> Iterator[Measure]:
    middle = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
    yield Measure("calls at 64 in flight, remote, one link", middle["calls/s"], "/s", at_least=CALLS)
    yield Measure("the same by `await grid.invoke`", middle["invoke/s"], "/s")
    yield Measure("p50 at 1, remote", middle["p50 at 1 ms"], "ms")
    yield Measure("p50 at 1, local", middle["local p50 ms"], "ms")
    yield Measure("calls at 64 in flight, local, by the node's socket", middle["local/s"], "/s")
    for name in ("client", "node A", "node B", "instance"):
        yield Measure(f"CPU a call: {name}", middle[f"{name} us"], "us")
    yield Measure("grid.map", middle["map/s"], "/s", at_least=MAP)
    yield Measure("client grows by, over a map", middle["grown MiB"], "MiB", at_most=GROWTH)
    yield Measure("the same without async", middle["sync map/s"], "/s")
    yield Measure("GridExecutor.submit", middle["executor/s"], "/s")
    if with_ray:
        for where, name in (("local", "local p50 ms"), ("remote", "p50 at 1 ms")):
            ratio = statistics.median(row[name] / row["ray p50 ms"] for row in rounds)
            yield Measure(f"p50 at 1, {where} / an actor of Ray, local", ratio, "x", at_most=0.25)
        yield Measure("calls at 64 / Ray", statistics.median(row["calls/s"] / row["ray/s"] for row in rounds), "x")


def main(options: Namespace) -> None:
    report = Report("sdk")
    with open_grid(3) as grid, ray() as rival:
        deploy(grid)
        for turn in range(options.rounds):
            row: Row = {"round": turn + 1}
            row |= apart(lambda: uvloop.run(calls(grid, options.calls)))
            row |= apart(lambda: uvloop.run(local(grid, options.calls // 2)))
            row |= apart(lambda: uvloop.run(maps(grid, options.items)))
            row |= apart(lambda: sync_maps(grid, options.items // 4))
            if rival:
                row["ray p50 ms"] = rival.measure(1, 3).p50
                row["ray/s"] = rival.measure(64, 3).rate
            report.details.append(row)
            say(str(row))
    report.measures = list(measures(report.details, rival is not None))
    report.notes = [
        f"Medians of {options.rounds} rounds: {options.calls} calls of 100 bytes, a map over {options.items} items. "
        "The client is a process of this machine, the nodes are containers on it."
    ]
    if rival is None:
        report.notes.append("Ray is not installed here: no comparison.")
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--calls", type=int, default=40_000, help="calls a round (40000)")
    arguments.add_argument("--items", type=int, default=100_000, help="items of a map (100000)")
    main(arguments.parse_args())
