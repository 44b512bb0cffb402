"""What `gridctl deploy` does to a grid, and what it refuses."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from integration import project
from integration.conftest import PATIENCE, SIZE, Opened, is_active
from integration.grid import Grid, until


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A project of our own to change, called as the grid's."""
    return project.write(tmp_path / "base")


def test_the_sample_reaches_every_node(grid: Grid, tmp_path: Path) -> None:
    made = grid.gridctl("sample", "hello", str(tmp_path / "hello"))
    assert made.returncode == 0, made.stderr
    start = time.monotonic()
    report = grid.deploy(tmp_path / "hello")
    took = time.monotonic() - start
    print(f"the sample was on {len(report['nodes'])} nodes in {took:.1f} s")
    assert took < 30
    assert {(row["name"], row["state"]) for row in report["nodes"]} == {(name, "active") for name in grid.nodes}
    assert all(is_active(row, report["root"]) for row in grid.members())
    assert grid.gridctl("invoke", "echo", "-d", "1").stdout.strip() == "1"


def test_deploying_the_same_again_changes_nothing(grid: Grid, base: Path, opened: Opened) -> None:
    before = {row["Id"] for row in grid.sandboxes()}
    ended = grid.gridctl("deploy", str(base))
    assert ended.returncode == 0
    assert "nothing changed" in ended.stdout + ended.stderr
    assert grid.deploy(base)["root"] == opened.root
    assert {row["Id"] for row in grid.sandboxes()} == before


def test_one_changed_line_moves_little(grid: Grid, copy: Path) -> None:
    book = copy / "book.txt"
    lines = book.read_text().splitlines()
    lines[len(lines) // 2] = "a line that was not there before"
    book.write_text("\n".join(lines))
    report = grid.deploy(copy)
    size = book.stat().st_size
    print(f"sent {report['sent']} of {report['size']} bytes")
    assert size > 500_000
    assert 0 < report["sent"] < 0.3 * size
    assert report["deduplicated"] > 0.6 * size


def test_going_back_to_what_the_nodes_had_sends_nothing(grid: Grid, copy: Path, base: Path, opened: Opened) -> None:
    first = grid.deploy(project.write(copy, project.versioned(3)))
    again = grid.deploy(base)
    assert (again["root"], again["sequence"]) == (opened.root, first["sequence"] + 1)
    assert (again["changed"], again["sent"]) == (True, 0)
    assert again["deduplicated"] >= again["size"]
    assert grid.gridctl("invoke", "probe.version").stdout.strip() == "1"


def test_calls_go_on_while_a_release_replaces_another(grid: Grid, copy: Path) -> None:
    project.write(copy, project.versioned(2))
    with grid.nodes["node-1"].load("probe.version") as load:
        report = grid.deploy(copy)
    assert all(row["state"] == "active" for row in report["nodes"])
    assert set(load.statuses) == {200}, load.errors
    assert grid.gridctl("invoke", "probe.version").stdout.strip() == "2"


def test_a_task_that_cannot_be_imported_is_shown_and_the_old_release_serves_on(
    grid: Grid, copy: Path, opened: Opened
) -> None:
    project.write(copy, {"tasks/broken.py": "def handler(event):\n    return 1\n\nimport not_there\n"})
    with grid.nodes["node-1"].load("echo", b'"still here"') as load:
        ended = grid.gridctl("deploy", str(copy))
    assert ended.returncode == 1
    assert "ModuleNotFoundError: No module named 'not_there'" in ended.stderr
    assert "tasks/broken.py" in ended.stderr
    assert "line 4" in ended.stderr
    assert set(load.statuses) == {200}, load.errors
    called = grid.gridctl("invoke", "probe.version")
    assert (called.returncode, called.stdout.strip()) == (0, "1")
    assert grid.gridctl("invoke", "broken").returncode == 5
    assert {row["Config"]["Labels"]["gridcontrol.release"] for row in grid.sandboxes()} == {opened.root}


def test_of_deploys_at_one_time_by_way_of_several_nodes_one_wins_everywhere(grid: Grid, tmp_path: Path) -> None:
    deploys = []
    for number, node in enumerate(grid.nodes.values(), start=4):
        directory = project.write(tmp_path / str(number) / "base", project.versioned(number))
        deploys.append((str(directory), grid.gridfile_for(node, tmp_path / node.name)))
    with ThreadPoolExecutor(SIZE) as pool:
        jobs = [pool.submit(grid.gridctl, "deploy", where, "--json", "--gridfile", file) for where, file in deploys]
        ended = [job.result() for job in jobs]
    assert {one.returncode for one in ended} <= {0, 1}
    assert all("in the meantime" in one.stderr for one in ended if one.returncode)
    done = [json.loads(one.stdout) for one in ended if not one.returncode]
    assert len({report["sequence"] for report in done}) == len(done)
    until(lambda: len({row["release"]["root"] for row in grid.members()}) == 1, PATIENCE, "all on one release")
    until(lambda: {row["release"]["state"] for row in grid.members()} == {"active"}, PATIENCE, "all active")
    said = {grid.gridctl("invoke", "probe.version", "--node", name).stdout for name in grid.nodes}
    assert len(said) == 1


def test_a_symlink_out_of_the_tree_is_refused(grid: Grid, copy: Path) -> None:
    (copy / "secrets").symlink_to("/etc/passwd")
    _refused(grid, copy, "secrets", "link")


def test_a_directory_without_tasks_is_refused(grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _refused(grid, tmp_path / "empty", "no tasks/ directory")


def test_a_directory_that_is_not_there_is_refused(grid: Grid, tmp_path: Path) -> None:
    _refused(grid, tmp_path / "absent", "absent")


def test_two_files_that_make_one_task_are_refused(grid: Grid, copy: Path) -> None:
    project.write(copy, {"tasks/probe/fail.py": project.ECHO})
    _refused(grid, copy, "tasks/probe/fail.py", "tasks/probe.py", "probe.fail")


def test_a_task_that_does_not_parse_is_refused(grid: Grid, copy: Path) -> None:
    project.write(copy, {"tasks/typo.py": "def handler(event:\n"})
    _refused(grid, copy, "tasks/typo.py", "line 1")


def _refused(grid: Grid, directory: Path, *words: str) -> None:
    """Usage error with these words, one line of it, no traceback; the grid does not notice."""
    before = json.dumps([row["release"] for row in grid.members()])
    ended = grid.gridctl("deploy", str(directory), "-y")
    assert ended.returncode == 2, ended.stderr
    assert [word for word in words if word not in ended.stderr] == []
    assert "Traceback" not in ended.stderr
    assert json.dumps([row["release"] for row in grid.members()]) == before
