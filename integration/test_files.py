"""Directories that every node keeps: tasks read them, newer versions arrive under load, and they go."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from integration import project
from integration.conftest import PATIENCE
from integration.grid import Grid, until

READER = """
import os

def read():
    with open("/files/geo/deep/version") as file:
        return {"version": file.read(), "size": os.path.getsize("/files/geo/table")}

def write():
    try:
        open("/files/geo/table", "w")
    except OSError as exc:
        return exc.errno

def run():
    return os.popen("/files/geo/tool").read()
"""


def said(grid: Grid, *argv: str, code: int = 0) -> dict[str, Any]:
    """The command's answer in JSON."""
    ended = grid.gridctl(*argv, "--json")
    assert ended.returncode == code, ended.stdout + ended.stderr
    fields: dict[str, Any] = json.loads(ended.stdout)
    return fields


def laid_out(grid: Grid) -> set[int]:
    """How many directories of files each running node has."""
    return {len(list((node.directory / "data" / "files").iterdir())) for node in grid.nodes.values()}


@pytest.fixture
def geo(tmp_path: Path) -> Path:
    directory = tmp_path / "geo"
    (directory / "deep").mkdir(parents=True)
    (directory / "table").write_bytes(os.urandom(2_000_000))
    (directory / "deep" / "version").write_text("1")
    (directory / "tool").write_text("#!/bin/sh\necho works\n")
    (directory / "tool").chmod(0o755)
    return directory


def test_tasks_read_what_every_node_keeps(grid: Grid, geo: Path, tmp_path: Path, base: Path) -> None:
    with_reader = {"tasks/reader.py": READER, "grid.toml": '[tasks.reader]\nfiles = ["geo"]\n'}
    directory = str(project.write(tmp_path / "base", with_reader))
    grid.disturbed = True
    ended = grid.gridctl("deploy", directory, "--timeout", "4")
    assert ended.returncode != 0
    assert "the grid has no files geo" in ended.stderr

    pushed = said(grid, "files", "push", str(geo), "geo")
    assert {one["state"] for one in pushed["nodes"]} == {"present"}
    assert grid.gridctl("deploy", directory).returncode == 0
    answers = [json.loads(grid.gridctl("invoke", "reader.read", "--node", name).stdout) for name in grid.nodes]
    assert answers == [{"version": "1", "size": 2_000_000}] * 3
    assert grid.gridctl("invoke", "reader.write").stdout.strip() == "30", "EROFS"
    assert grid.gridctl("invoke", "reader.run").stdout.strip() == '"works\\n"'

    (geo / "deep" / "version").write_text("2")
    with grid.nodes["node-1"].load("reader.read", jobs=4, rate=100) as load:
        until(lambda: load.statuses[200] > 50, PATIENCE, "calls")
        again = said(grid, "files", "push", str(geo), "geo")
        assert 0 < again["sent"] < 20_000
        until(lambda: versions(grid) == {"2"}, PATIENCE, "every node reads the new ones")
        until(lambda: laid_out(grid) == {1}, PATIENCE, "the old ones are removed")
    assert set(load.statuses) == {200}, load.errors
    print(grid.gridctl("files", "ls").stdout)

    late = grid.add("late")
    until(lambda: "late" in reads(grid), PATIENCE, "a node that comes later has them")
    grid.drop(late)

    assert grid.gridctl("files", "rm", "geo").returncode == 2, "a task reads them"
    grid.deploy(base)
    assert grid.gridctl("files", "rm", "geo").returncode == 0
    until(lambda: laid_out(grid) == {0}, PATIENCE, "they are gone")


def versions(grid: Grid) -> set[str]:
    answers = [grid.gridctl("invoke", "reader.read", "--node", name).stdout for name in grid.nodes]
    return {json.loads(answer)["version"] for answer in answers if answer}


def reads(grid: Grid) -> set[str]:
    """Nodes that serve the reader."""
    return {one["name"] for one in grid.members() if "reader.read" in one["tasks"] and one["state"] == "alive"}
