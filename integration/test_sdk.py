"""The SDK on three nodes of real containers: nodes that die under it, the socket of a node, its examples."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gridctl
from gridctl import Grid as Client
from gridctl import GridExecutor, RemoteTraceback
from gridnode.errors import GridError, NodeLost, TaskRaised
from integration import engine, project
from integration.conftest import PATIENCE
from integration.grid import Grid, until

EXAMPLES = engine.REPOSITORY / "examples"
MARK = """
import time
from pathlib import Path

def handler(event):
    print("ran", event, flush=True)
    time.sleep(0.05)
    return event
"""
SLOW = """
import time

def handler(event):
    time.sleep(0.5)
    return event
"""
# Run inside the node's container, where the interpreter has the library: what a program on the server would do.
LOCAL = """
import asyncio, gridctl, sys
async def main():
    async with gridctl.Grid.connect(addresses=[sys.argv[1]]) as grid:
        print(await grid.invoke("echo", "by the socket"))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def called(opened: Any, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Three nodes that serve the base project and a task that says what it ran."""
    opened.settle(base)
    opened.grid.deploy(project.write(tmp_path_factory.mktemp("sdk"), {"tasks/mark.py": MARK, "tasks/slow.py": SLOW}))
    yield opened.grid
    opened.grid.disturbed, opened.root = True, ""


async def test_calls_spread_over_nodes_and_links(called: Grid) -> None:
    async with Client.connect(called.gridfile) as grid:
        outcomes = await asyncio.gather(*(grid.call("echo", number) for number in range(60)))
        assert {outcome.name for outcome in outcomes} == set(called.nodes)
        async with asyncio.timeout(PATIENCE):
            while len(grid._links.lanes) < 3:
                await asyncio.gather(*(grid.invoke("echo", number) for number in range(20)))
        assert len({lane.end.record.id for lane in grid._links.lanes if lane.end.record}) == 3
        with pytest.raises(TaskRaised) as caught:
            await grid.invoke("probe.fail", 1)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "tasks/probe.py" in str(caught.value.__cause__)


async def test_a_map_over_many_items_holds_a_few(called: Grid) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(5000):
            read = number + 1
            yield number

    async with Client.connect(called.gridfile) as grid:
        got, most = 0, 0
        async for result in grid.map("echo", items(), concurrency=32):
            assert result == got
            got += 1
            most = max(most, read - got)
        assert (got, read) == (5000, 5000)
        assert most <= 4 * 32


async def test_a_map_of_calls_that_take_long_waits_for_its_turn(called: Grid) -> None:
    """More come at once than can be over in time: the others run later, and none is cut off."""
    async with Client.connect(called.gridfile) as grid:
        started = time.monotonic()
        results = [result async for result in grid.map("slow", range(30), timeout=3)]
        print(f"30 calls of half a second on three nodes: {time.monotonic() - started:.1f} s")
        assert results == list(range(30))


def test_without_async_and_as_an_executor(called: Grid) -> None:
    with Client.open(called.gridfile) as grid, GridExecutor(grid, concurrency=8) as executor:
        assert list(grid.map("echo", range(500))) == list(range(500))
        assert list(executor.map("echo", "abc")) == ["a", "b", "c"]
        futures = [executor.submit("echo", number) for number in range(100)]
        assert [future.result(PATIENCE) for future in futures] == list(range(100))


def test_a_socket_for_the_programs_of_the_server(called: Grid) -> None:
    node = called.nodes["node-1"]
    path = f"{node.directory}/run/client.sock"
    assert oct(os.stat(path).st_mode & 0o777) == "0o600"
    argv = ["docker", "exec", node.container, "/opt/gridnode/bin/python", "-c", LOCAL, path]
    ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("by the socket\n", 0), ended.stderr
    refused = subprocess.run(
        [*argv[:2], "-u", "1000", *argv[2:]], check=False, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode != 0
    assert "this user may not open it" in refused.stderr


def test_a_load_test_in_one_command(called: Grid) -> None:
    ended = called.gridctl("invoke", "echo", "-d", "1", "--repeat", "2000", "--concurrency", "32")
    assert ended.returncode == 0, ended.stderr
    assert "2000 calls in" in ended.stdout
    assert "p99" in ended.stdout
    assert all(name in ended.stdout for name in called.nodes)


async def test_a_node_that_dies_under_many_calls(called: Grid) -> None:
    """Every call has one end, what started runs once, and calls go on by the other nodes."""
    async with Client.connect(called.gridfile) as grid:
        await asyncio.gather(*(grid.invoke("echo", number) for number in range(50)))
        ended: Counter[str] = Counter()
        numbers = itertools.count()
        stop = False

        async def caller() -> None:
            while not stop:
                try:
                    await grid.invoke("mark", next(numbers), timeout=20)
                    ended["ok"] += 1
                except GridError as exc:
                    ended[exc.code] += 1

        callers = [asyncio.create_task(caller()) for _ in range(12)]
        await _grow(ended, 30)
        died = called.nodes["node-2"]
        await asyncio.to_thread(called.kill, died)
        before = ended["ok"]
        await _grow(ended, before + 100)
        stop = True
        await asyncio.gather(*callers)
        assert set(ended) <= {"ok", NodeLost.code}
        assert ended[NodeLost.code] <= 12
        await asyncio.to_thread(called.start, died)
        until(called.is_full_mesh, PATIENCE, "a full mesh")
        log = await asyncio.to_thread(called.gridctl, "logs", "mark", "-n", "10000")
    runs = Counter(line.rsplit("ran ", 1)[1] for line in log.stdout.splitlines() if "ran " in line)
    assert runs, log.stderr
    assert {number: count for number, count in runs.items() if count > 1} == {}


async def _grow(ended: "Counter[str]", count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while ended["ok"] < count:
        assert time.monotonic() < deadline, f"not enough calls succeed: {ended}"
        await asyncio.sleep(0.02)


def test_init_and_the_example(called: Grid, tmp_path: Path) -> None:
    """Last: the grid then serves another project."""
    until(called.is_full_mesh, PATIENCE, "a full mesh")
    with gridctl.init(EXAMPLES / "hello", instances_per_task=1, gridfile=called.gridfile, replace=True) as grid:
        release = grid.release()
        assert release is not None
        assert release.project == "hello"
        assert grid.invoke("words.longest", "to be or not") == "not"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GRIDCTL_GRIDFILE": str(called.gridfile)}
    env |= {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}
    argv = [sys.executable, str(EXAMPLES / "executor.py")]
    ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "words: 9" in ended.stdout
    assert "words raised: TypeError: send a text, not a int" in ended.stdout
    assert "sum 12497500" in ended.stdout
