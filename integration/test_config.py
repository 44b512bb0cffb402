"""What grid.toml says is what the nodes do."""

import json
from pathlib import Path
from typing import Any

import pytest

from integration import project
from integration.conftest import PATIENCE, SIZE
from integration.grid import Grid, until

SETTINGS = """
import os

def handler(event):
    return {name: os.environ.get(name) for name in event}
"""
GRID_TOML = """
[defaults]
memory = "128MB"
env = { GREETING = "hello", LANG = "C" }

[tasks.settings]
instances = 2
env = { GREETING = "a=b c", RETRIES = 3 }

[tasks.probe]
timeout = "1s"
memory = "64MB"
cpu = 0.5
"""
SETTINGS_FILES = {"tasks/settings.py": SETTINGS, "grid.toml": GRID_TOML}


@pytest.fixture
def deployed(grid: Grid, tmp_path: Path) -> Grid:
    """The grid, with a project that has a grid.toml."""
    grid.deploy(project.write(tmp_path / "base", SETTINGS_FILES))
    until(lambda: len(running(grid)) == SIZE * 4, PATIENCE, "the sandboxes of this release alone")
    return grid


def running(grid: Grid) -> list[dict[str, Any]]:
    """Sandboxes of running state, whatever their release; those that drain still count."""
    return [row for row in grid.sandboxes() if row["State"]["Running"]]


def of_task(grid: Grid, task: str) -> list[dict[str, Any]]:
    return [row for row in running(grid) if row["Config"]["Labels"]["gridcontrol.task"] == task]


def test_every_setting_holds_on_every_node(deployed: Grid, tmp_path: Path) -> None:
    per_node: dict[str, int] = {}
    for row in of_task(deployed, "settings"):
        node = row["Config"]["Labels"]["gridcontrol.node"]
        per_node[node] = per_node.get(node, 0) + 1
    assert sorted(per_node.values()) == [2] * SIZE
    limits = {
        task: {
            (row["HostConfig"]["Memory"], row["HostConfig"]["MemorySwap"], row["HostConfig"]["NanoCpus"])
            for row in of_task(deployed, task)
        }
        for task in ("settings", "probe", "echo")
    }
    assert limits == {
        "settings": {(128 << 20, 128 << 20, 1_000_000_000)},
        "probe": {(64 << 20, 64 << 20, 500_000_000)},
        "echo": {(128 << 20, 128 << 20, 1_000_000_000)},
    }

    names = ["GREETING", "RETRIES", "LANG", "HOME", "GRID_TASK"]
    for node in deployed.nodes:
        called = deployed.gridctl("invoke", "settings", "-d", json.dumps(names), "--node", node)
        assert called.returncode == 0, called.stderr
        found = json.loads(called.stdout)
        assert found == {"GREETING": "a=b c", "RETRIES": "3", "LANG": "C", "HOME": "/tmp", "GRID_TASK": "settings"}

    for node in deployed.nodes.values():
        late = node.http("POST", "/v1/invoke/probe.nap", b"20")
        assert (late.status, late.json["error"]["code"]) == (504, "timeout")
        assert node.http("POST", "/v1/invoke/probe.nap", b"0.1").status == 200

    # The same project with another grid.toml is another release; the nodes follow it.
    directory = project.write(
        tmp_path / "again" / "base", SETTINGS_FILES | {"grid.toml": GRID_TOML.replace("instances = 2", "instances = 1")}
    )
    assert deployed.deploy(directory)["changed"]
    until(lambda: len(of_task(deployed, "settings")) == SIZE, PATIENCE, "one instance on each node")


def test_a_grid_toml_with_faults_is_refused_before_anything_is_sent(grid: Grid, tmp_path: Path) -> None:
    directory = project.write(tmp_path / "base", {"grid.toml": "[tasks.prob]\n[defaults]\nmemroy = 1\n"})
    before = json.dumps([row["release"] for row in grid.members()])
    ended = grid.gridctl("deploy", str(directory))
    assert ended.returncode == 2
    assert "grid.toml, line 1: no task file makes a task prob; did you mean probe?" in ended.stderr
    assert "grid.toml, line 3: unknown key memroy in [defaults]; did you mean memory?" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert json.dumps([row["release"] for row in grid.members()]) == before


def test_config_shows_what_will_be(grid: Grid, tmp_path: Path) -> None:
    directory = project.write(tmp_path / "base", SETTINGS_FILES)
    ended = grid.gridctl("config", str(directory), "settings", "--json")
    assert ended.returncode == 0, ended.stderr
    (task,) = json.loads(ended.stdout)["tasks"]
    assert task["settings"]["instances"] == {"value": 2, "from": "[tasks.settings]", "line": 7}
    assert task["settings"]["memory"] == {"value": 128 << 20, "from": "[defaults]", "line": 3}
