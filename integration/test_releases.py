"""What the grid had before, the way back to it, and what a deploy would change."""

import json
from pathlib import Path
from typing import Any

from integration import project
from integration.conftest import PATIENCE, Opened, is_active
from integration.grid import Grid, until


def said(grid: Grid, *argv: str, code: int = 0) -> dict[str, Any]:
    """The command's answer in JSON."""
    ended = grid.gridctl(*argv, "--json")
    assert ended.returncode == code, ended.stderr
    fields: dict[str, Any] = json.loads(ended.stdout)
    return fields


def test_rolling_back_fails_no_call_and_sends_nothing(grid: Grid, tmp_path: Path, opened: Opened) -> None:
    deployed = grid.deploy(project.write(tmp_path / "base", project.versioned(2)))
    assert grid.gridctl("invoke", "probe.version").stdout.strip() == "2"
    grid.disturbed = True
    with grid.nodes["node-2"].load("probe.version") as load:
        back = said(grid, "rollback")
    assert set(load.statuses) == {200}, load.errors
    assert (back["root"], back["sequence"], back["sent"]) == (opened.root, deployed["sequence"] + 1, 0)
    assert {row["state"] for row in back["nodes"]} == {"active"}
    versions = {grid.gridctl("invoke", "probe.version", "--node", name).stdout.strip() for name in grid.nodes}
    assert versions == {"1"}
    listed = said(grid, "releases")["releases"]
    assert [row["sequence"] for row in listed][:3] == [back["sequence"], deployed["sequence"], deployed["sequence"] - 1]
    assert [row["current"] for row in listed][:2] == [True, False]


def test_reloads_under_two_hundred_calls_a_second_fail_and_lose_none(grid: Grid, tmp_path: Path) -> None:
    with grid.nodes["node-1"].load("probe.version", jobs=16, rate=200) as load:
        for number in (5, 6):
            grid.deploy(project.write(tmp_path / "base", project.versioned(number)))
        ended = grid.gridctl("restart", "probe", "--json")
        assert ended.returncode == 0, ended.stderr
        seen = load.statuses[200]
        until(lambda: load.statuses[200] > seen + 200, PATIENCE, "calls go on")
    print(f"{load.statuses[200]} calls, slowest {load.slowest:.2f} s")
    assert set(load.statuses) == {200}, load.errors


def test_a_node_that_never_had_an_old_release_fetches_it(grid: Grid, tmp_path: Path, opened: Opened) -> None:
    deployed = grid.deploy(project.write(tmp_path / "base", project.versioned(3)))
    late = grid.add("late")
    back = said(grid, "rollback", str(deployed["sequence"] - 1))
    assert back["root"] == opened.root
    until(lambda: _is_active_on(grid, "late", opened.root), PATIENCE, "the late node serves it")
    assert grid.gridctl("invoke", "probe.version").stdout.strip() == "1"
    grid.drop(late)


def _is_active_on(grid: Grid, name: str, root: str) -> bool:
    return any(row["name"] == name and is_active(row, root) for row in grid.members())


def test_a_plan_says_what_a_deploy_then_does(grid: Grid, tmp_path: Path) -> None:
    copy = project.write(tmp_path / "base")
    plan = ("deploy", str(copy), "--plan", "--detailed-exitcode")
    assert said(grid, *plan)["changes"] is False
    project.write(copy, project.versioned(4) | {"tasks/extra.py": project.ECHO, "lib/a.txt": "a"})
    told = said(grid, *plan, code=2)
    assert told["files"] == {"added": ["lib/a.txt", "tasks/extra.py"], "changed": ["tasks/probe.py"], "removed": []}
    assert told["tasks"]["added"] == ["extra"]
    assert grid.gridctl("deploy", str(copy), "--plan").returncode == 0
    assert said(grid, "releases")["releases"][0]["root"] == told["current"]["root"]
    done = grid.deploy(copy)
    assert done["root"] == told["root"]
    assert 0 < done["sent"] <= told["bytes_to_send"]
    assert said(grid, *plan)["changes"] is False


def test_a_release_that_is_not_remembered(grid: Grid) -> None:
    ended = grid.gridctl("rollback", "100000")
    assert (ended.returncode, "gridctl releases" in ended.stderr) == (5, True)
