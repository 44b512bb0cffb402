"""From what a project asks for to what is deployed: with uv and npm for real, up to tasks that import it."""

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridctl import vendor
from gridctl.cli import run
from gridctl.project import scan
from gridctl.target import Target
from gridctl.vendor import Vendor
from gridctl.vendored import Cache
from gridnode.errors import ProjectInvalid
from gridnode.model import TaskSpec
from gridnode.sync.manifest import ChunkList
from gridnode.sync.tree import iter_chunks, iter_files
from tests.gridctl.conftest import RunningGrid
from tests.gridctl.wheels import npm_package, wheel

Capture = pytest.CaptureFixture[str]
PYTHON, NODE, PROGRAM = (TaskSpec("a", "tasks/a", runtime) for runtime in ("python", "node", "exec"))
LOCAL = "--no-index\n--find-links ./wheels\n"
HERE = Target("{}.{}".format(*sys.version_info), platform.machine())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Asks for a package of each kind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    top = tmp_path / "shop"
    (top / "tasks").mkdir(parents=True)
    (top / "tasks" / "a.py").write_text("import hello\ndef handler(event):\n    return hello.VERSION\n")
    wheel(top / "wheels", "hello")
    (top / "requirements.txt").write_text(f"{LOCAL}hello\n")
    (top / "it.tgz").write_bytes(npm_package("it"))
    (top / "package.json").write_text('{"dependencies": {"it": "file:it.tgz"}}')
    return top


class Grid:
    """Kinds of nodes, and how often they were asked for."""

    def __init__(self, *targets: Target) -> None:
        self.asked = 0
        self._targets = targets

    def __call__(self) -> tuple[Target, ...]:
        self.asked += 1
        return self._targets


def vendored(project: Path, grid: Grid, *tasks: TaskSpec, top: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Where trees go, and what was said."""
    said: list[str] = []
    made = Vendor(project, grid, Cache(project.parent / "trees"), said.append)
    return [graft.prefix for graft in made.grafts(tasks, top)], said


def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tool was run")

    monkeypatch.setattr("subprocess.run", refuse)


def test_only_what_tasks_can_use(project: Path) -> None:
    grid = Grid(Target())
    assert vendored(project, grid, TaskSpec("a", "tasks/a", "image"))[0] == []
    assert grid.asked == 0
    assert vendored(project, grid, PYTHON)[0] == [".vendor/python/3.13-x86_64"]
    assert vendored(project, grid, PROGRAM)[0] == [".vendor/python/3.13-x86_64"]
    assert vendored(project, grid, NODE)[0] == ["node_modules"]
    assert vendored(project, grid, PYTHON, NODE)[0] == [".vendor/python/3.13-x86_64", "node_modules"]


def test_a_tree_for_each_kind_of_node(project: Path) -> None:
    grid = Grid(Target(machine="aarch64"), Target("3.12"), Target())
    trees, said = vendored(project, grid, PYTHON, NODE)
    python = [f".vendor/python/{tag}" for tag in ("3.13-aarch64", "3.12-x86_64", "3.13-x86_64")]
    assert trees == [*python, "node_modules", "node_modules"]
    assert "vendoring 1 package for Python 3.12 on x86_64 ..." in said


def test_the_second_time_no_tool_is_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vendored(project, Grid(Target()), PYTHON, NODE)[0]
    no_tools(monkeypatch)
    trees, said = vendored(project, Grid(Target()), PYTHON, NODE)
    assert trees == first
    assert said == [
        "1 package for Python 3.13 on x86_64, vendored before",
        "1 package for Node on x86_64, vendored before",
    ]


def test_node_modules_of_ones_own(project: Path) -> None:
    trees, said = vendored(project, Grid(Target()), NODE, top=("node_modules",))
    assert trees == []
    assert "goes along as it is" in said[0]


def test_a_vendor_directory_of_ones_own(project: Path) -> None:
    with pytest.raises(ProjectInvalid, match=r"has a \.vendor"):
        vendored(project, Grid(Target()), PYTHON, top=(".vendor",))


def test_packages_are_part_of_the_release(project: Path) -> None:
    (project / "tasks" / "b.js").write_text("exports.handler = () => 1;\n")
    made = Vendor(project, Grid(HERE), Cache(project.parent / "trees"), lambda line: None)
    plain, scanned = scan(project), scan(project, packages=made.grafts)
    files: dict[str, bytes] = {}
    for path, entry in iter_files(scanned.manifest.root, scanned.read_chunk):
        if isinstance(entry.ref, ChunkList):
            refs = iter_chunks(entry.ref, scanned.read_chunk)
            files[path] = b"".join(scanned.read_chunk(ref.hash) for ref in refs)
    assert files[f".vendor/python/{HERE.tag}/hello/__init__.py"] == b"VERSION = '1.0'\n"
    assert files["node_modules/it/index.js"] == b"exports.version = '1.0.0';\n"
    assert scanned.files > plain.files
    assert scan(project, packages=made.grafts).manifest.root == scanned.manifest.root


@pytest.fixture(scope="module")
def grid(make_grid: Callable[[int], RunningGrid]) -> RunningGrid:
    return make_grid(1)


def deploy(grid: RunningGrid, directory: Path, *flags: str) -> int:
    return run(["deploy", str(directory), "-y", "--gridfile", str(grid.gridfile), *flags])


def invoke(grid: RunningGrid, task: str, capsys: Capture) -> Any:
    capsys.readouterr()
    assert run(["invoke", task, "--gridfile", str(grid.gridfile)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_task_imports_what_its_project_asks_for(
    grid: RunningGrid, project: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "package.json").unlink()
    assert deploy(grid, project) == 0
    assert f"vendoring 1 package for {HERE} ..." in capsys.readouterr().err
    assert invoke(grid, "a", capsys) == "1.0"
    with monkeypatch.context() as patch:
        no_tools(patch)
        assert deploy(grid, project) == 0
        assert "nothing changed" in capsys.readouterr().err
    wheel(project / "wheels", "hello", "2.0")
    assert deploy(grid, project, "--plan") == 0
    assert f"~ package hello ({HERE.tag}): 2.0" in capsys.readouterr().out
    assert deploy(grid, project) == 0
    assert invoke(grid, "a", capsys) == "2.0"


def test_what_does_not_fit_is_said_before_anything_is_sent(
    grid: RunningGrid, project: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "package.json").unlink()
    assert deploy(grid, project) == 0
    wheel(project / "wheels", "alien", tag="cp38-cp38-win32")
    (project / "requirements.txt").write_text(f"{LOCAL}hello\nalien\n")
    monkeypatch.setattr("gridctl.deploy.upload", lambda *_: pytest.fail("something was sent"))
    assert deploy(grid, project, "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "project_invalid"
    assert f"alien==1.0 has no wheel for {HERE}" in err
    assert invoke(grid, "a", capsys) == "1.0"


def test_a_grid_is_asked_outside_of_any_loop(grid: RunningGrid, project: Path) -> None:
    from gridctl.new import load_gridfile

    made = vendor.vendor_of(load_gridfile(grid.gridfile), project, lambda line: None)
    assert [graft.prefix for graft in made.grafts([PYTHON], ())] == [f".vendor/python/{HERE.tag}"]
