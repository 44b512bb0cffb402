"""One grid of three nodes for all tests, set right again before each; everything of it is gone at the end."""

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import engine, project
from integration.grid import Grid, open_grids, until
from integration.node import Node

SIZE = 3
PATIENCE = 30.0
_LOG_TAIL = 12_000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """The end of every node's log beside a failure."""
    report = yield
    if report.failed:
        nodes = [node for grid in open_grids for node in grid.nodes.values() if node.container]
        for grid in open_grids:
            grid.disturbed = True
        report.sections += [(f"log of {node.name}", node.logs()[-_LOG_TAIL:]) for node in nodes]
    return report


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Clean before, and prove that we clean up after ourselves."""
    engine.remove_leftovers()
    yield
    if engine.REUSED:
        return
    left = engine.left()
    engine.remove(engine.RUN)
    assert left == []
    assert engine.left() == []


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that the grid serves when a test begins."""
    return project.write(tmp_path_factory.mktemp("projects") / "base")


class Opened:
    """The grid, and how long its nodes took to find each other: seconds after the last one had started."""

    def __init__(self) -> None:
        self.grid = Grid(SIZE)
        started = time.monotonic()
        until(self.grid.is_full_mesh, PATIENCE, "a full mesh")
        self.found_in = time.monotonic() - started
        self.root = ""

    def settle(self, base: Path) -> None:
        """Three nodes up, linked and serving the base project."""
        if not self.grid.disturbed:
            return
        for name in [name for name in self.grid.nodes if not name.startswith("node-")]:
            self.grid.drop(self.grid.nodes[name])
        for node in self.grid.nodes.values():
            if not node.running:
                self.grid.start(node)
        if not self._serves():
            until(self.grid.is_full_mesh, PATIENCE, "a full mesh")
            self.root = self.grid.deploy(base)["root"]
        expected = SIZE * project.TASK_FILES
        until(lambda: len(self.grid.sandboxes()) == expected, PATIENCE, f"{expected} sandboxes")
        self.grid.disturbed = False

    def _serves(self) -> bool:
        rows = self.grid.members() if self.root else []
        serving = {row["name"] for row in rows if row["state"] == "alive" and is_active(row, self.root)}
        return set(self.grid.nodes) <= serving


def is_active(member: dict[str, Any], root: str) -> bool:
    """Whether a row of `gridctl ls` serves this release."""
    release = member["release"]
    return bool(release) and (release["root"], release["state"]) == (root, "active")


@pytest.fixture(scope="session")
def opened(nothing_left: None) -> Iterator[Opened]:
    opened = Opened()
    yield opened
    opened.grid.close()


@pytest.fixture
def grid(opened: Opened, base: Path) -> Grid:
    """Three nodes that serve the base project."""
    opened.settle(base)
    return opened.grid


@pytest.fixture
def node(grid: Grid) -> Node:
    """Any one of them."""
    return grid.nodes["node-1"]
