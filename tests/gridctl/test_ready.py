import asyncio
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gridctl
from gridctl.ready import calling_project
from gridnode.errors import ProjectInvalid, ReleaseFailed, UsageError
from tests.gridctl.conftest import RunningGrid

HELLO = Path(__file__).parent.parent.parent / "examples" / "hello"


@pytest.fixture(scope="module")
def grid(make_grid: Callable[[int], RunningGrid]) -> RunningGrid:
    """One node, empty at first."""
    return make_grid(1)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(HELLO, tmp_path / "hello")
    return tmp_path / "hello"


def test_it_deploys_what_changed_and_is_ready(grid: RunningGrid, project: Path) -> None:
    (project / "grid.toml").write_text("[tasks.words]\ninstances = 1\n")
    said = io.StringIO()
    with gridctl.init(project, instances_per_task=2, gridfile=grid.gridfile, progress=said) as ready:
        assert ready.invoke("echo", 1) == 1
        first = ready.release()
    assert first is not None
    assert {task.name: task.instances for task in first.tasks} == {
        "echo": 2,
        "primes": 2,
        "uptime": 2,
        "whoami": 2,
        "words": 1,
    }
    assert "active" in said.getvalue()
    with gridctl.init(str(project), instances_per_task=2, gridfile=grid.gridfile) as again:
        assert again.release() == first
    (project / "tasks" / "new.py").write_text("def handler(event):\n    return 'new'\n")
    with gridctl.init(project, instances_per_task=2, gridfile=grid.gridfile) as changed:
        assert changed.invoke("new") == "new"


def test_a_grid_of_another_project_is_left_alone(grid: RunningGrid, project: Path) -> None:
    gridctl.init(project, gridfile=grid.gridfile).close()
    other = project.rename(project.parent / "other")
    with pytest.raises(ProjectInvalid, match="runs the project 'hello'") as caught:
        gridctl.init(other, gridfile=grid.gridfile)
    assert "replace=True" in (caught.value.hint or "")
    with gridctl.init(other, gridfile=grid.gridfile, replace=True) as ready:
        assert ready.invoke("echo", 2) == 2


def test_a_release_that_does_not_come_up(grid: RunningGrid, project: Path) -> None:
    (project / "tasks" / "broken.py").write_text("import nothing_of_that_name\ndef handler(event): ...\n")
    with pytest.raises(ReleaseFailed, match="nothing_of_that_name") as caught:
        gridctl.init(project, gridfile=grid.gridfile, replace=True)
    assert [failure.file for failure in caught.value.failures] == ["tasks/broken.py"]


def test_the_calling_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(project / "deep" / "app.py"), raising=False)
    assert calling_project() == project
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None, raising=False)
    monkeypatch.chdir(project / "tasks")
    assert calling_project() == project
    monkeypatch.chdir(project.parent)
    with pytest.raises(ProjectInvalid, match="no tasks"):
        calling_project()


@pytest.mark.parametrize("instances", [-1, 1025])
def test_instances_are_bounded(grid: RunningGrid, project: Path, instances: int) -> None:
    with pytest.raises(UsageError):
        gridctl.init(project, instances_per_task=instances, gridfile=grid.gridfile)


async def test_not_inside_an_event_loop(grid: RunningGrid, project: Path) -> None:
    with pytest.raises(UsageError) as caught:
        gridctl.init(project, gridfile=grid.gridfile)
    assert "to_thread" in (caught.value.hint or "")
    await asyncio.sleep(0)
