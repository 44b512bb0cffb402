"""Container images through the grid: sent once, fetched by every node, loaded, run in, shared by layers, removed."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from integration import engine, project
from integration.conftest import PATIENCE
from integration.engine import docker
from integration.grid import Grid, until

NAMES = ("node-1", "node-2", "node-3")
FIRST, SECOND = f"gridtest-{engine.RUN}-first:1", f"gridtest-{engine.RUN}-second:1"
LAYER = 600_000
"""Bytes, of noise, that each image has of its own."""
MB = 1_000_000
MARKED = """
from pathlib import Path

def handler(event):
    return Path("/opt/marker").read_bytes()[:5].decode()
"""


@pytest.fixture(scope="module")
def images_grid(nothing_left: None, base: Path) -> Iterator[Grid]:
    """Three nodes of their own, which remove chunks soon after nothing holds them."""
    grid = Grid(0, "images")
    for name in NAMES:
        grid.add(name, env={"GRIDNODE_UPLOAD_QUIET": "1"})
    try:
        until(grid.is_full_mesh, PATIENCE, "a full mesh")
        grid.deploy(base)
        yield grid
    finally:
        grid.close()
        docker("rmi", "-f", FIRST, SECOND, check=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two images of one base as files; the engine has them no more."""
    return {name: _save(name, tmp_path_factory.mktemp("image")) for name in (FIRST, SECOND)}


def _save(name: str, directory: Path) -> Path:
    base = "gridcontrol-base:trixie"
    if not docker("images", "-q", base).strip():
        base = engine.image()
    (directory / "marker").write_bytes(name.split("-")[-1][:5].encode() + os.urandom(LAYER))
    (directory / "Dockerfile").write_text(f"FROM {base}\nCOPY marker /opt/marker\n")
    docker("build", "-q", "-t", name, str(directory))
    docker("save", name, "-o", str(directory / "image.tar"))
    docker("rmi", name)
    return directory / "image.tar"


def said(grid: Grid, *argv: str) -> dict[str, Any]:
    """The command's answer in JSON."""
    ended = grid.gridctl(*argv, "--json")
    assert ended.returncode == 0, ended.stderr
    fields: dict[str, Any] = json.loads(ended.stdout)
    return fields


def marked(directory: Path, image: str) -> Path:
    """The project with a task that runs in this image."""
    toml = f'[tasks.marked]\nimage = "{image}"\n'
    return project.write(directory, {"tasks/marked.py": MARKED, "grid.toml": toml})


def stored(grid: Grid, node: str) -> int:
    """Bytes of chunks on a node's disk."""
    total = 0
    for path in (grid.nodes[node].directory / "data" / "packs").glob("*.pack"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def states(grid: Grid, name: str) -> set[str]:
    """What the nodes say of an image."""
    rows = {row["name"]: row for row in said(grid, "image", "ls")["images"]}
    return {str(node["state"]) for node in rows[name]["nodes"]} if name in rows else set()


def test_the_life_of_an_image(images_grid: Grid, saved: dict[str, Path], base: Path, tmp_path: Path) -> None:
    grid = images_grid
    before = {name: stored(grid, name) for name in NAMES}
    directory = marked(tmp_path / "base", FIRST)
    refused = grid.gridctl("deploy", str(directory), "-y")
    assert refused.returncode == 1
    assert "gridctl image push" in refused.stderr

    pushed = said(grid, "image", "push", str(saved[FIRST]))
    assert {node["state"] for node in pushed["nodes"]} == {"present"}
    assert len(pushed["nodes"]) == len(NAMES)
    assert engine.inspect(FIRST)[0]["Id"] == f"sha256:{pushed['id']}"
    assert pushed["sent"] > 10 * MB
    again = said(grid, "image", "push", str(saved[FIRST]))
    assert (again["changed"], again["sent"], again["id"]) == (False, 0, pushed["id"])

    grid.deploy(project.write(directory, {"note": "deployed again"}))
    for name in NAMES:
        assert grid.gridctl("invoke", "marked", "--node", name).stdout.strip() == '"first"'

    second = said(grid, "image", "push", str(saved[SECOND]))
    assert {node["state"] for node in second["nodes"]} == {"present"}
    assert LAYER <= second["sent"] < 3 * LAYER
    assert second["deduplicated"] > pushed["size"] * 0.95
    assert grid.gridctl("image", "rm", FIRST).returncode == 2
    said(grid, "image", "rm", FIRST, "-y")
    until(lambda: states(grid, FIRST) == {"removing"}, PATIENCE, "it stays while a release names it")
    assert engine.inspect(FIRST)

    grid.deploy(base, "-y")
    until(lambda: states(grid, FIRST) == set(), PATIENCE, "it is gone on every node")
    assert engine.inspect(FIRST) == []
    assert engine.inspect(SECOND)
    said(grid, "image", "rm", SECOND)
    until(lambda: engine.inspect(SECOND) == [], PATIENCE, "the other is gone as well")
    until(lambda: all(stored(grid, name) < before[name] + MB for name in NAMES), PATIENCE, "chunks of neither go")
    assert grid.gridctl("invoke", "echo", "-d", "1").stdout.strip() == "1"


def test_an_image_with_another_name_is_left_to_its_owner(
    images_grid: Grid, saved: dict[str, Path], tmp_path: Path
) -> None:
    grid = images_grid
    docker("load", "-i", str(saved[SECOND]))
    own = f"{SECOND.partition(':')[0]}:own"
    docker("tag", SECOND, own)
    try:
        pushed = said(grid, "image", "push", SECOND, "--name", FIRST)
        assert {node["state"] for node in pushed["nodes"]} == {"present"}
        assert engine.inspect(FIRST)[0]["Id"] == engine.inspect(own)[0]["Id"]
        said(grid, "image", "rm", FIRST)
        until(lambda: states(grid, FIRST) == set(), PATIENCE, "it is no longer shipped")
        assert engine.inspect(own)
    finally:
        docker("rmi", own, SECOND, check=False)


def test_a_damaged_file_is_refused(images_grid: Grid, saved: dict[str, Path], tmp_path: Path) -> None:
    raw = bytearray(saved[FIRST].read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(raw)
    ended = images_grid.gridctl("image", "push", str(damaged))
    assert (ended.returncode, "damaged" in ended.stderr) == (2, True), ended.stderr
    missing = images_grid.gridctl("image", "push", "no-such-image:1")
    assert (missing.returncode, "docker images" in missing.stderr) == (2, True), missing.stderr
