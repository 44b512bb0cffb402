"""Tasks that misbehave: a clear outcome for their callers, other tasks served on, and nothing left behind."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gridctl.client import Grid as Client
from gridnode.errors import GridError
from integration import project
from integration.conftest import PATIENCE
from integration.engine import inspect
from integration.grid import Grid, until
from integration.node import Node

FAULT = """
import os, socket, time

def bomb():
    while True:
        try:
            os.fork()
        except OSError:
            pass

def hoard():
    held = []
    while True:
        held.append(os.urandom(1 << 20))

def fill():
    with open("/tmp/big", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))

def flood(event):
    line = b"x" * 65535 + b"\\n"
    for _ in range(event * 16):
        os.write(1, line)
    return "flooded"

def spin():
    while True:
        pass

def _connections():
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}"):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                yield int(name)

def close():
    for fd in _connections():
        os.close(fd)
    time.sleep(0.2)

def garbage():
    for fd in _connections():
        os.write(fd, b"\\xff" * 4096)
    time.sleep(0.2)

def segfault():
    os.kill(os.getpid(), 11)

def leave():
    os._exit(3)

def quick(event):
    return event
"""
FILES = {"tasks/fault.py": FAULT}


@pytest.fixture(scope="module")
def served(opened: Any, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    opened.settle(base)
    grid: Grid = opened.grid
    grid.deploy(project.write(tmp_path_factory.mktemp("projects") / "base", FILES))
    return grid


@pytest.fixture
def node(served: Grid) -> Node:
    return served.nodes["node-1"]


@pytest.fixture(autouse=True)
def all_is_as_before(served: Grid, node: Node) -> Any:
    """Another task answers during and after, and every task has its one instance and socket again."""
    yield
    assert _call(node, "echo", 1)["body"] == 1
    until(lambda: _call(node, "fault.quick", 2).get("body") == 2, PATIENCE, "the task answers again")
    expected = project.TASK_FILES + 1
    until(lambda: len(served.sandboxes(node)) == expected, PATIENCE, f"{expected} sandboxes")
    until(lambda: len(list((node.directory / "run").glob("*/*"))) == expected, PATIENCE, f"{expected} sockets")


ENDS = {
    "fork bomb": ("fault.bomb", None, "timeout", "no result before the deadline"),
    "never returns": ("fault.spin", None, "timeout", "no result before the deadline"),
    "memory": ("fault.hoard", None, "task_crashed", "was killed: out of memory (limit 256 MB)"),
    "tmp": ("fault.fill", None, "task_raised", "No space left"),
    "signal": ("fault.segfault", None, "task_crashed", "was killed by SIGSEGV"),
    "exit": ("fault.leave", None, "task_crashed", "exited with code 3"),
    "closed socket": ("fault.close", None, "task_crashed", "with the call inside it"),
    "garbage frames": ("fault.garbage", None, "task_crashed", "with the call inside it"),
}


@pytest.mark.parametrize(("task", "event", "code", "words"), ENDS.values(), ids=ENDS)
def test_a_fault_has_a_clear_outcome(node: Node, task: str, event: object, code: str, words: str) -> None:
    patience = 3 if code == "timeout" else 20
    error = _call(node, task, event, patience)["error"]
    print(error["message"])
    assert error["code"] == code
    assert words in error["message"]


def test_a_flood_of_output_fills_no_disk(served: Grid, node: Node) -> None:
    answer = _call(node, "fault.flood", 300, 60)
    assert answer.get("body") == "flooded" or answer["error"]["code"] == "timeout"
    (row,) = [row for row in served.sandboxes(node) if row["Config"]["Labels"]["gridcontrol.task"] == "fault"]
    logs = Path(inspect(row["Id"])[0]["LogPath"])
    assert sum(path.stat().st_size for path in logs.parent.glob(f"{logs.name}*")) < 4 << 20


def test_two_thousand_calls_at_once_on_one_instance(served: Grid, node: Node, tmp_path: Path) -> None:
    path = served.gridfile_for(node, tmp_path / "Gridfile")
    outcomes = asyncio.run(_many(path, 2000, node.name))
    print(outcomes)
    assert set(outcomes) <= {"ok", "no_capacity"}
    assert outcomes["ok"] >= 200


async def _many(gridfile: str, count: int, node: str) -> Counter[str]:
    async with Client.connect(gridfile) as client:

        async def one(number: int) -> str:
            try:
                return "ok" if await client.invoke("fault.quick", number, node=node) == number else "wrong"
            except GridError as exc:
                return exc.code

        return Counter(await asyncio.gather(*(one(number) for number in range(count))))


def _call(node: Node, task: str, event: object, timeout: float = 20) -> dict[str, Any]:
    """{"body": …} or {"error": …}."""
    path = f"/v1/invoke/{task}?node={node.name}&timeout={timeout}"
    response = node.http("POST", path, json.dumps(event).encode())
    found: dict[str, Any] = {"body": response.json} if response.status == 200 else response.json
    return found
