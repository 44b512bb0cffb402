"""The instances of tasks on a running grid: scaled, stopped, started and restarted while they are called."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import project
from integration.conftest import PATIENCE, SIZE
from integration.grid import Grid, until


@pytest.fixture
def grid(grid: Grid) -> Iterator[Grid]:
    """The base grid; orders are taken back afterwards."""
    yield grid
    grid.disturbed = True
    for argv in (("start", "echo", "probe"), ("scale", "echo=-", "probe=-")):
        ended = grid.gridctl(*argv)
        assert ended.returncode == 0, ended.stderr


def order(grid: Grid, *argv: str) -> dict[str, Any]:
    """An order that every node has to show."""
    ended = grid.gridctl(*argv, "--json", "--timeout", "90")
    assert ended.returncode == 0, ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout)
    assert {row["name"] for row in said["nodes"] if row["state"] == "done"} == set(grid.nodes)
    return said


def ready(grid: Grid, task: str) -> dict[str, set[str]]:
    """Instances that serve, by node."""
    ended = grid.gridctl("ps", task, "--json")
    assert ended.returncode == 0, ended.stderr
    nodes = json.loads(ended.stdout)["nodes"]
    return {row["name"]: {one["instance"] for one in row["processes"] if one["state"] == "ready"} for row in nodes}


def none_of(grid: Grid) -> dict[str, set[str]]:
    """What `ready` says of a task that runs nowhere."""
    return {name: set() for name in grid.nodes}


def test_scaling_up_and_down_fails_no_call(grid: Grid) -> None:
    with grid.nodes["node-1"].load("echo", b'"x"') as load:
        order(grid, "scale", "echo=3")
        assert [len(ids) for ids in ready(grid, "echo").values()] == [3] * SIZE
        order(grid, "scale", "echo=1")
        assert [len(ids) for ids in ready(grid, "echo").values()] == [1] * SIZE
    assert set(load.statuses) == {200}, load.errors
    until(lambda: len(grid.sandboxes()) == SIZE * project.TASK_FILES, PATIENCE, "the sandboxes are gone")


def test_a_stopped_task_stays_so_through_a_deploy_and_a_restart_of_a_node(grid: Grid, tmp_path: Path) -> None:
    order(grid, "stop", "echo")
    assert ready(grid, "echo") == none_of(grid)
    assert grid.gridctl("invoke", "echo", "-d", "1").returncode != 0
    grid.deploy(project.write(tmp_path / "base", project.versioned(7)))
    assert ready(grid, "echo") == none_of(grid)
    grid.restart(grid.nodes["node-2"])
    until(grid.is_full_mesh, PATIENCE, "a full mesh")
    until(lambda: len(ready(grid, "probe")["node-2"]) == 1, PATIENCE, "node-2 serves again")
    assert ready(grid, "echo") == none_of(grid)
    assert "stopped: echo" in grid.gridctl("ps").stderr
    order(grid, "start", "echo")
    assert grid.gridctl("invoke", "echo", "-d", "1").stdout.strip() == "1"


def test_a_rolling_restart_fails_no_call_and_leaves_no_old_instance(grid: Grid) -> None:
    order(grid, "scale", "echo=2")
    before = ready(grid, "echo")
    with grid.nodes["node-1"].load("echo", b'"x"') as load:
        order(grid, "restart", "echo")
    after = ready(grid, "echo")
    assert set(load.statuses) == {200}, load.errors
    assert [len(ids) for ids in after.values()] == [2] * SIZE
    assert [before[name] & after[name] for name in grid.nodes] == [set()] * SIZE


def test_a_node_that_is_down_follows_when_it_is_back(grid: Grid) -> None:
    node = grid.nodes["node-3"]
    grid.stop(node)
    ended = grid.gridctl("scale", "echo=2", "--json")
    assert ended.returncode == 0, ended.stderr
    assert "node-3" not in {row["name"] for row in json.loads(ended.stdout)["nodes"] if row["state"] == "done"}
    grid.start(node)
    until(lambda: len(ready(grid, "echo").get("node-3", ())) == 2, PATIENCE, "node-3 has two instances")


def test_tasks_that_are_not_there(grid: Grid) -> None:
    for argv in (("scale", "ecco=2"), ("stop", "ecco"), ("restart", "ecco"), ("ps", "ecco"), ("describe", "ecco")):
        ended = grid.gridctl(*argv)
        assert (ended.returncode, "did you mean echo?" in ended.stderr) == (5, True), argv
