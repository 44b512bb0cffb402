"""Secrets: in the files of the tasks that name them, at once when they change, and nowhere else on the way."""

import json
import subprocess
from pathlib import Path

from integration import engine, project
from integration.conftest import PATIENCE
from integration.engine import docker
from integration.grid import Grid, until
from integration.node import Node

CANARY = "canary-71c2f0aa9d-value"
ROTATED = "canary-71c2f0aa9d-rotated"
READER = """
import os
from pathlib import Path

def handler(event):
    secrets = Path("/run/secrets")
    return {path.name: path.read_text() for path in secrets.iterdir()} if secrets.exists() else None

def modes():
    directory, file = Path("/run/secrets"), Path("/run/secrets/DB_PASSWORD")
    found = {"mode": file.stat().st_mode & 0o777, "mine": file.stat().st_uid == os.getuid(), "written": []}
    for path in (directory / "x", file):
        try:
            path.write_text("x")
            found["written"].append(str(path))
        except OSError:
            pass
    return found
"""
GRID_TOML = '[tasks.reader]\nsecrets = ["DB_PASSWORD"]\n'
FILES = {"tasks/reader.py": READER, "tasks/other.py": READER, "grid.toml": GRID_TOML}


def ok(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def seen(grid: Grid, node: Node, task: str = "reader") -> object:
    return json.loads(ok(grid.gridctl("invoke", task, "--node", node.name)))


def test_the_life_of_a_secret(grid: Grid, tmp_path: Path) -> None:
    directory = project.write(tmp_path / "secretive", FILES)

    before = [row["release"] for row in grid.members()]
    refused = grid.gridctl("deploy", str(directory), "-y")
    assert refused.returncode == 2
    assert "DB_PASSWORD (for reader)" in refused.stderr
    assert "gridctl secret set DB_PASSWORD" in refused.stderr
    assert [row["release"] for row in grid.members()] == before

    ok(grid.gridctl("secret", "set", "DB_PASSWORD", stdin=CANARY))
    grid.deploy(directory)
    for node in grid.nodes.values():
        assert seen(grid, node) == {"DB_PASSWORD": CANARY}
        assert seen(grid, node, "other") is None
    modes = json.loads(ok(grid.gridctl("invoke", "reader.modes")))
    assert modes == {"mode": 0o400, "mine": True, "written": []}

    listing = grid.gridctl("secret", "ls", "--json")
    rows = json.loads(ok(listing))["secrets"]
    assert [(row["name"], row["tasks"]) for row in rows] == [("DB_PASSWORD", ["reader"])]
    assert CANARY not in listing.stdout + listing.stderr + ok(grid.gridctl("secret", "ls"))
    _is_nowhere(grid, CANARY)

    running = {row["Id"] for row in grid.sandboxes()}
    ok(grid.gridctl("secret", "set", "DB_PASSWORD", stdin=ROTATED))
    for node in grid.nodes.values():
        until(lambda node=node: seen(grid, node) == {"DB_PASSWORD": ROTATED}, PATIENCE, "the new value")
    assert {row["Id"] for row in grid.sandboxes()} == running

    assert grid.gridctl("secret", "rm", "DB_PASSWORD").returncode == 2
    ok(grid.gridctl("secret", "rm", "DB_PASSWORD", "-y"))
    until(lambda: seen(grid, grid.nodes["node-2"]) == {}, PATIENCE, "no value any more")
    assert json.loads(ok(grid.gridctl("secret", "ls", "--json")))["secrets"] == []
    assert grid.gridctl("secret", "rm", "DB_PASSWORD", "-y").returncode == 2
    _is_nowhere(grid, ROTATED)


def _is_nowhere(grid: Grid, value: str) -> None:
    """Not in inspect, environment, arguments, logs, images, nor on any node's disk outside the mounts."""
    rows = engine.inspect(*engine.containers(f"{engine.GRID}={grid.tag}"))
    texts = [json.dumps(rows), docker("image", "inspect", engine.image())]
    texts += [subprocess.run(["ps", "axeww"], check=True, capture_output=True, text=True, timeout=30).stdout]
    texts += [docker("logs", row["Id"]) for row in rows] + [node.logs() for node in grid.nodes.values()]
    assert not any(value in text for text in texts)
    for node in grid.nodes.values():
        for path in (node.directory / "data").rglob("*"):
            assert not path.is_file() or value.encode() not in path.read_bytes(), path
