"""Nodes and instances that die: what goes on, and how they come back."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from integration import project
from integration.conftest import PATIENCE, Opened, is_active
from integration.engine import docker, inspect
from integration.grid import Grid, until
from integration.node import Load, Node

JOBS = 3


def test_a_killed_node_is_gone_while_calls_go_on_and_catches_up_when_it_is_back(grid: Grid, tmp_path: Path) -> None:
    lost = grid.nodes["node-3"]
    orphans = {row["Config"]["Labels"]["gridcontrol.task"]: row["Id"] for row in grid.sandboxes(lost)}
    with grid.nodes["node-1"].load("echo", jobs=JOBS) as load:
        until(lambda: load.nodes["node-3"] > 10, PATIENCE, "calls reach node-3")
        grid.kill(lost)
        start = time.monotonic()
        until(lambda: _state(grid, "node-3") != "alive", 5, "node-3 is gone from ls")
        print(f"not alive {time.monotonic() - start:.1f} s after it was killed")
        _go_on(load)
        until(lambda: _state(grid, "node-3") == "dead", 10, "node-3 is dead")
    _only_those_inside_failed(load)
    assert len(inspect(*orphans.values())) == len(orphans) == 2

    report = grid.deploy(project.write(tmp_path / "base", project.versioned(7)))
    states = {row["name"]: row["state"] for row in report["nodes"]}
    assert states == {"node-1": "active", "node-2": "active", "node-3": "dead"}
    grid.start(lost)
    until(lambda: _serves(grid, "node-3", report["root"]), PATIENCE, "node-3 serves the release it missed")
    called = grid.gridctl("invoke", "probe.version", "--node", "node-3")
    assert (called.returncode, called.stdout.strip()) == (0, "7")
    until(lambda: inspect(orphans["probe"]) == [], 10, "what no longer fits the release is removed")
    assert len(inspect(orphans["echo"])) == 1, "what is the same in both releases goes on"
    until(lambda: len(list((lost.directory / "run").glob("*/*"))) == 2, 10, "the orphan's socket is gone too")
    until(grid.is_full_mesh, PATIENCE, "a full mesh")


def test_a_stopped_node_says_goodbye_and_no_call_fails(grid: Grid) -> None:
    leaving = grid.nodes["node-2"]
    with grid.nodes["node-1"].load("echo", jobs=JOBS) as load:
        until(lambda: load.nodes["node-2"] > 10, PATIENCE, "calls reach node-2")
        start = time.monotonic()
        grid.stop(leaving)
        print(f"stopped in {time.monotonic() - start:.1f} s")
        assert _state(grid, "node-2") == "left"
        _go_on(load)
    assert leaving.exit_code == 0
    assert len(grid.sandboxes(leaving)) == project.TASK_FILES, "they wait for its next life"
    assert not load.errors


def test_an_instance_that_is_killed_is_restarted_and_answers_again(grid: Grid, node: Node) -> None:
    before = {row["Config"]["Labels"]["gridcontrol.task"]: row["Id"] for row in grid.sandboxes(node)}
    docker("kill", before["probe"])
    echo = grid.gridctl("invoke", "echo", "-d", "1", "--node", node.name)
    assert echo.returncode == 0, "the other task file's instance does not notice"
    version = ("invoke", "probe.version", "--node", node.name, "--timeout", "2")
    until(lambda: grid.gridctl(*version).stdout.strip() == "1", 20, "it answers again")
    after = {row["Config"]["Labels"]["gridcontrol.task"]: row["Id"] for row in grid.sandboxes(node)}
    assert after["echo"] == before["echo"]
    assert after["probe"] != before["probe"]


def test_only_the_calls_inside_a_killed_instance_fail_and_the_next_is_answered(grid: Grid, node: Node) -> None:
    (row,) = [row for row in grid.sandboxes(node) if row["Config"]["Labels"]["gridcontrol.task"] == "probe"]
    with ThreadPoolExecutor(1) as pool, node.load(f"echo?node={node.name}", jobs=JOBS) as bystander:
        nap = ("invoke", "probe.nap", "-d", "60", "--node", node.name, "--timeout", "90", "--json")
        inside = pool.submit(grid.gridctl, *nap)
        until(lambda: _calls_inside(grid, node, "probe"), PATIENCE, "the call is inside")
        os.kill(row["State"]["Pid"], signal.SIGKILL)
        start = time.monotonic()
        after = node.http("POST", f"/v1/invoke/probe.version?node={node.name}&timeout=20")
        print(f"the next call was answered {time.monotonic() - start:.2f} s after the kill")
        lost = inside.result(PATIENCE)
    assert (after.status, after.json) == (200, 1)
    assert "task_crashed" in lost.stdout + lost.stderr
    assert (set(bystander.statuses), bystander.errors) == ({200}, {})


def _calls_inside(grid: Grid, node: Node, task: str) -> bool:
    ended = grid.gridctl("ps", task, "--json")
    rows = json.loads(ended.stdout)["nodes"] if ended.returncode == 0 else []
    return any(one["calls"] for row in rows if row["name"] == node.name for one in row["processes"])


def test_a_node_that_hangs_is_gone_and_comes_back(grid: Grid) -> None:
    """A machine that freezes closes no connection: only silence tells."""
    frozen = grid.nodes["node-2"]
    with grid.frozen(frozen):
        start = time.monotonic()
        until(lambda: _state(grid, "node-2") != "alive", 8, "node-2 is gone from ls")
        print(f"not alive {time.monotonic() - start:.1f} s after it froze")
        with grid.nodes["node-1"].load("echo", jobs=JOBS) as load:
            _go_on(load)
        assert set(load.statuses) == {200}
    until(grid.is_full_mesh, PATIENCE, "a full mesh")


def test_a_node_killed_during_a_deploy_is_named_and_holds_nobody_up(grid: Grid, tmp_path: Path) -> None:
    lost = grid.nodes["node-3"]
    directory = str(project.write(tmp_path / "base", project.versioned(8)))
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(grid.gridctl, "deploy", directory, "--json")
        until(lambda: _is_bringing(lost), PATIENCE, "node-3 begins")
        grid.kill(lost)
        ended = deploying.result(PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert "node-3" in ended.stderr
    states = {row["name"]: row["state"] for row in json.loads(ended.stdout)["nodes"]}
    assert (states["node-1"], states["node-2"]) == ("active", "active")
    assert states["node-3"] in ("suspect", "dead")


def test_after_a_power_cut_the_grid_serves_again_by_itself(grid: Grid, opened: Opened) -> None:
    """The nodes come back in another order, so that addresses have moved from one to the other."""
    nodes = list(grid.nodes.values())
    before = [node.address for node in nodes]
    for node in nodes:
        grid.kill(node)
    for node in reversed(nodes):
        grid.start(node)
    assert [node.address for node in nodes] != before
    until(grid.is_full_mesh, PATIENCE, "a full mesh")
    until(lambda: all(_serves(grid, name, opened.root) for name in grid.nodes), PATIENCE, "all serve again")
    assert len(grid.sandboxes()) == 6
    assert {grid.gridctl("invoke", "echo", "--node", node.name).returncode for node in nodes} == {0}


def _is_bringing(node: Node) -> bool:
    """Whether it has begun to start the instances of a second release."""
    return len(list((node.directory / "run").glob("*/*"))) > 2


def _state(grid: Grid, name: str) -> str:
    return next(str(row["state"]) for row in grid.members() if row["name"] == name)


def _serves(grid: Grid, name: str, root: str) -> bool:
    return any(row["name"] == name and row["state"] == "alive" and is_active(row, root) for row in grid.members())


def _go_on(load: Load) -> None:
    """Some hundred calls succeed from here on."""
    wanted = load.statuses[200] + 200
    until(lambda: load.statuses[200] >= wanted, PATIENCE, "calls go on")


def _only_those_inside_failed(load: Load) -> None:
    assert set(load.errors) <= {"node_lost"}
    assert load.errors.total() <= JOBS
    assert load.slowest < 5
