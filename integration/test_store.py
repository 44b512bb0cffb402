"""Rot on a node's disk, found and mended; and what a second release writes."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridnode.sync.pack import OVERHEAD, Record, scan
from integration import project
from integration.grid import Grid, Node, until

NAMES = ("node-1", "node-2", "node-3")


@pytest.fixture(scope="module")
def store_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    grid = Grid(3, name="store")
    try:
        until(grid.is_full_mesh, 60, "a full mesh")
        base = tmp_path_factory.mktemp("base")
        (base / "ballast").mkdir()
        for number in range(20):
            (base / "ballast" / str(number)).write_bytes(os.urandom(100_000))
        grid.deploy(project.write(base, project.versioned(1)))
        yield grid
    finally:
        grid.close()


def packs(node: Node) -> list[Path]:
    return sorted((node.directory / "data" / "packs").glob("*.pack"))


def rot(node: Node, every: int) -> int:
    """Flip a bit of every so many-th chunk of more than 50 KB; how many they were."""
    count = 0
    for path in packs(node):
        content = path.read_bytes()
        found = scan(lambda at, size, whole=content: whole[at : at + size])  # type: ignore[misc]
        records = [one for one in found if isinstance(one, Record) and one.size > 50_000]
        with path.open("r+b") as file:
            for record in records[::every]:
                file.seek(record.offset + OVERHEAD + 1000)
                (byte,) = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 1]))
                count += 1
    return count


def doctor(grid: Grid, code: int = 0, *argv: str) -> dict[str, dict[str, Any]]:
    """What it says of each node."""
    ended = grid.gridctl("doctor", "--json", *argv)
    assert ended.returncode == code, ended.stderr
    return {one["name"]: one for one in json.loads(ended.stdout)["stores"]}


def test_rot_is_found_named_and_mended_from_the_others(store_grid: Grid) -> None:
    grid = store_grid
    bad = rot(grid.nodes["node-2"], 3)
    assert bad >= 5
    found = doctor(grid, 0, "--store")
    assert {name: found[name]["found"] for name in NAMES} == {"node-1": 0, "node-2": bad, "node-3": 0}
    assert all(one["back"] and "damaged" in one["why"] for one in found["node-2"]["bad"])
    assert doctor(grid, 0, "--store")["node-2"]["found"] == 0
    assert grid.gridctl("invoke", "probe.version", "--node", "node-2").stdout.strip() == "1"


def test_a_node_that_lost_its_index_serves_and_gives_on(store_grid: Grid) -> None:
    grid, node = store_grid, store_grid.nodes["node-1"]
    count = doctor(grid, 0, "--store")["node-1"]["total"]
    grid.kill(node)
    for path in (node.directory / "data" / "packs").glob("index*"):
        path.unlink()
    with packs(node)[-1].open("ab") as file:
        file.write(b"\xa7GCr a record that a crash cut short")
    grid.restart(node)
    until(grid.is_full_mesh, 60, "the node is back")
    found = doctor(grid, 0, "--store")["node-1"]
    assert (found["found"], found["missing"], found["total"]) == (0, 0, count)


def test_a_file_that_did_not_change_is_not_written_again(store_grid: Grid, tmp_path: Path) -> None:
    grid = store_grid
    releases = grid.nodes["node-3"].directory / "data" / "releases"
    (before,) = releases.iterdir()
    # The same files as the fixture's, by way of what the node has.
    for path in before.rglob("*"):
        if path.is_file():
            target = tmp_path / "base" / path.relative_to(before)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            target.chmod(path.stat().st_mode | 0o600)
    deployed = grid.deploy(project.write(tmp_path / "base", project.versioned(2)))
    after = releases / deployed["root"]
    assert {(after / "ballast" / str(n)).stat().st_ino for n in range(20)} == {
        (before / "ballast" / str(n)).stat().st_ino for n in range(20)
    }
    assert deployed["sent"] < 100_000
