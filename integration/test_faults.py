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
from integration.faults import ENDS, FAULT
from integration.grid import Grid, until
from integration.node import Node

FILES = {"tasks/fault.py": FAULT}
BYSTANDER_WITHIN = 5.0
"""Seconds any call of another task may take meanwhile, on a loaded machine; scripts/bench faults has the ratios."""


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
    """Another task answers all the while, and afterwards every task has its one instance and socket again."""
    with node.load(f"echo?node={node.name}", b"1", jobs=1, rate=20) as load:
        until(lambda: load.statuses[200] > 5, PATIENCE, "the bystander is called")
        yield
    assert set(load.statuses) == {200}, load.errors
    assert load.slowest < BYSTANDER_WITHIN
    until(lambda: _call(node, "fault.quick", 2).get("body") == 2, PATIENCE, "the task answers again")
    expected = project.TASK_FILES + 1
    until(lambda: len(served.sandboxes(node)) == expected, PATIENCE, f"{expected} sandboxes")
    until(lambda: len(list((node.directory / "run").glob("*/*"))) == expected, PATIENCE, f"{expected} sockets")


@pytest.mark.parametrize(("task", "event", "code", "words"), ENDS.values(), ids=ENDS)
def test_a_fault_has_a_clear_outcome(node: Node, task: str, event: object, code: str, words: str) -> None:
    patience = 3 if code == "timeout" else 20
    error = _call(node, task, event, patience)["error"]
    print(error["message"])
    assert error["code"] == code
    assert words in error["message"]


def test_a_flood_of_a_gigabyte_of_output_fills_no_disk(served: Grid, node: Node) -> None:
    answer = _call(node, "fault.flood", 1024, 60)
    assert answer.get("body") == "flooded" or answer["error"]["code"] == "timeout"
    (row,) = [row for row in served.sandboxes(node) if row["Config"]["Labels"]["gridcontrol.task"] == "fault"]
    logs = Path(inspect(row["Id"])[0]["LogPath"])
    assert sum(path.stat().st_size for path in logs.parent.glob(f"{logs.name}*")) < 4 << 20


def test_what_a_task_sees_of_its_release_cannot_be_swapped(served: Grid, node: Node) -> None:
    answer = _call(node, "fault.swap", ["/task", "/task/tasks", "/run/grid", "/usr/lib/gridnode/runtimes"])
    assert set(answer["body"].values()) == {"EROFS"}
    releases = [path for path in (node.directory / "data").rglob("book.txt") if path.is_file()]
    assert releases
    assert not any(path.is_symlink() for path in releases)


def test_ten_thousand_calls_at_once_on_one_instance(served: Grid, node: Node, tmp_path: Path) -> None:
    path = served.gridfile_for(node, tmp_path / "Gridfile")
    outcomes = asyncio.run(_many(path, 10_000, node.name))
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
