"""A project on its way to several nodes at once: they give it to each other, and go on where they were."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import project
from integration.conftest import PATIENCE
from integration.grid import GRIDCTL, Grid, until
from integration.shaping import fetches, limit

MB = 1_000_000


@pytest.fixture(scope="module")
def grid() -> Iterator[Grid]:
    """Four nodes whose uplinks carry 8 MB/s each."""
    grid = Grid(4, "swarm")
    until(grid.is_full_mesh, PATIENCE, "a full mesh")
    for node in grid.nodes.values():
        limit(node, 8 * MB)
    yield grid
    grid.close()


def write(directory: Path, seed: int, size: int) -> Path:
    """A project with `size` random bytes in files of several sizes."""
    chance = random.Random(seed)
    project.write(directory)
    for n, share in enumerate((0.5, 0.3, 0.1, 0.05, 0.05)):
        (directory / f"big-{n}").write_bytes(chance.randbytes(int(size * share)))
    return directory


def state(grid: Grid, name: str, root: str = "") -> dict[str, Any]:
    """The release of that node as node-1 knows it; nothing when it is another one, or the node not alive."""
    rows = grid.nodes["node-1"].http("GET", "/v1/nodes").json["nodes"]
    (row,) = (row for row in rows if row["record"]["name"] == name)
    release: dict[str, Any] = row["record"]["release"] or {}
    return release if row["state"] == "alive" and root in ("", release.get("root")) else {}


def far_enough(release: dict[str, Any], before: int, size: int) -> dict[str, Any]:
    """The release, once a quarter of a newer one is there."""
    return release if release.get("sequence", 0) > before and release["have"] > size / 4 else {}


def test_nodes_give_it_to_each_other(grid: Grid, tmp_path: Path) -> None:
    report = grid.deploy(write(tmp_path / "base", 1, 24 * MB))
    origin_id = next(node.id for node in grid.nodes.values() if not fetches(node, report["root"]))
    rows = [row for node in grid.nodes.values() for row in fetches(node, report["root"])]
    assert len(rows) == 3
    came = [row["bytes_from"] for row in rows]
    of_origin = sum(one.get(origin_id, 0) for one in came) / report["size"]
    of_others = sum(sum(one.values()) for one in came) / report["size"] - of_origin
    seconds = max(row["seconds"] for row in rows)
    print(f"origin gave {of_origin:.2f} copies, the others {of_others:.2f}, in {seconds} s")
    assert of_origin < 2.5, "it would be three, did they not help each other"
    assert of_origin + of_others <= 3.2, "little comes twice"


def test_a_node_killed_on_the_way_goes_on_where_it_was(grid: Grid, tmp_path: Path) -> None:
    directory = write(tmp_path / "base", 2, 40 * MB)
    victim = grid.nodes["node-4"]
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    gridfile = grid.gridfile_for(grid.nodes["node-1"], tmp_path / "Gridfile")
    before = state(grid, "node-4")["sequence"]
    deploying = subprocess.Popen(
        [str(GRIDCTL), "deploy", str(directory), "-y", "--gridfile", gridfile],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = until(lambda: far_enough(state(grid, "node-4"), before, size), 60, "a quarter is there")
        grid.kill(victim)
        grid.start(victim)
        limit(victim, 8 * MB)
        until(lambda: state(grid, "node-4", found["root"]).get("state") == "active", 60, "it is active")
        (row,) = fetches(victim, found["root"])
        came = sum(row["bytes_from"].values())
        print(f"had {found['have']} of {size} bytes when killed; {came} came afterwards")
        assert came <= size - found["have"] + MB, "no more than what was in flight comes twice"
    finally:
        deploying.wait(60)
