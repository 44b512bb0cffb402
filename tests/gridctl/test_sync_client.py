import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import gridctl
from gridctl import Grid, SyncGrid
from gridctl.new import new_gridfile
from gridnode.errors import LinkClosed, TaskRaised
from tests.gridctl.conftest import RunningGrid, free_port


def jobs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "grid"]


def test_the_same_without_async(hello_grid: RunningGrid) -> None:
    with Grid.open(hello_grid.gridfile) as grid:
        assert isinstance(grid, SyncGrid)
        assert grid.invoke("echo", {"a": 1}) == {"a": 1}
        assert grid.call("whoami", node="node-2").name == "node-2"
        assert {member.record.name for member in grid.nodes()} == {"node-1", "node-2"}
        release = grid.release()
        assert release is not None
        assert release.project == "hello"
        with pytest.raises(TaskRaised):
            grid.invoke("words", 1)
    assert jobs() == []


def test_threads_may_share_it(hello_grid: RunningGrid) -> None:
    with Grid.open(hello_grid.gridfile) as grid, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: grid.invoke("echo", number), range(50))) == list(range(50))


def test_closed_means_closed(hello_grid: RunningGrid) -> None:
    grid = Grid.open(hello_grid.gridfile)
    grid.close()
    grid.close()
    with pytest.raises(LinkClosed):
        grid.invoke("echo")


def test_a_failed_connection_leaves_no_thread(tmp_path: Path) -> None:
    made = new_gridfile(tmp_path, seeds=[f"127.0.0.1:{free_port()}"])
    with pytest.raises(LinkClosed, match="connection refused"):
        Grid.open(made.path)
    assert jobs() == []


def test_the_package_gives_both() -> None:
    assert gridctl.Grid is Grid
    with pytest.raises(AttributeError):
        _ = gridctl.nothing
