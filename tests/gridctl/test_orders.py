"""Orders, what runs, and the way back, on a grid of real nodes, as an operator would."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from gridctl.cli import run
from gridctl.orders import _scaling
from gridctl.releases import choose
from gridctl.sample import copy_sample
from gridnode.errors import ReleaseNotFound, UsageError
from gridnode.model import Order, Release, Root
from tests.gridctl.conftest import RunningGrid

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("orders") / "shop"
    copy_sample("hello", directory)
    return directory


@pytest.fixture(scope="module")
def grid(make_grid: Callable[[int], RunningGrid], project: Path) -> RunningGrid:
    """Two nodes that serve the sample."""
    grid = make_grid(2)
    assert run(["deploy", str(project), "--gridfile", str(grid.gridfile)]) == 0
    return grid


def ask(grid: RunningGrid, capsys: Capture, *argv: str, code: int = 0) -> dict[str, Any]:
    """What the command says in JSON."""
    capsys.readouterr()
    got = run([*argv, "--json", "--gridfile", str(grid.gridfile)])
    out, err = capsys.readouterr()
    assert got == code, err
    fields: dict[str, Any] = json.loads(out)
    return fields


def instances(grid: RunningGrid, capsys: Capture, task: str) -> dict[str, list[str]]:
    """Ready instances by node."""
    nodes = ask(grid, capsys, "ps", task)["nodes"]
    return {node["name"]: [one["instance"] for one in node["processes"] if one["state"] == "ready"] for node in nodes}


def test_what_runs(grid: RunningGrid, capsys: Capture) -> None:
    assert run(["ps", "--gridfile", str(grid.gridfile)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NODE", "TASK", "INSTANCE", "STATE", "AGE", "RESTARTS", "CALLS"]
    assert {tuple(line.split()[:6]) for line in lines} >= {
        (name, "echo", "1", "of", "1", "ready") for name in ("node-1", "node-2")
    }
    assert ask(grid, capsys, "ps", "ecco", code=5)["error"]["hint"] == "did you mean echo?"
    assert {name: len(ids) for name, ids in instances(grid, capsys, "echo").items()} == {"node-1": 1, "node-2": 1}


def test_scaling_up_and_back(grid: RunningGrid, capsys: Capture) -> None:
    said = ask(grid, capsys, "scale", "echo=2")
    assert said["tasks"] == [{"task": "echo", "instances": 2, "stopped": False, "restarts": 0}]
    assert {(node["name"], node["state"], node["ready"]) for node in said["nodes"]} == {
        ("node-1", "done", 2),
        ("node-2", "done", 2),
    }
    assert {len(ids) for ids in instances(grid, capsys, "echo").values()} == {2}
    assert ask(grid, capsys, "scale", "echo=-")["tasks"][0]["instances"] is None
    assert {len(ids) for ids in instances(grid, capsys, "echo").values()} == {1}
    assert ask(grid, capsys, "scale", "nope=2", code=5)["error"]["code"] == "task_not_found"
    assert ask(grid, capsys, "scale", "echo=0", code=2)["error"]["hint"] == "gridctl stop echo"


def test_stopping_holds_for_the_next_release(grid: RunningGrid, project: Path, capsys: Capture) -> None:
    assert {node["ready"] for node in ask(grid, capsys, "stop", "words")["nodes"]} == {0}
    (project / "note.txt").write_text("a new release")
    assert run(["deploy", str(project), "--gridfile", str(grid.gridfile)]) == 0
    assert {len(ids) for ids in instances(grid, capsys, "words").values()} == {0}
    assert run(["ps", "--gridfile", str(grid.gridfile)]) == 0
    assert "stopped: words" in capsys.readouterr().err
    described = ask(grid, capsys, "describe", "words")
    assert described["order"] == {"instances": None, "stopped": True, "restarts": 0}
    assert ask(grid, capsys, "start", "words")["tasks"][0]["stopped"] is False
    assert {len(ids) for ids in instances(grid, capsys, "words").values()} == {1}
    assert run(["invoke", "words", "-d", '"a b a"', "--gridfile", str(grid.gridfile)]) == 0


def test_restarting(grid: RunningGrid, capsys: Capture) -> None:
    before = instances(grid, capsys, "echo")
    assert ask(grid, capsys, "restart", "echo")["tasks"][0]["restarts"] == 1
    after = instances(grid, capsys, "echo")
    assert {name: len(ids) for name, ids in after.items()} == {"node-1": 1, "node-2": 1}
    assert not {*chain(*before.values())} & {*chain(*after.values())}
    ask(grid, capsys, "restart", code=2)
    ask(grid, capsys, "restart", "echo", "--all", code=2)


def test_a_node_that_does_not_show_it_in_time_is_named(grid: RunningGrid, capsys: Capture) -> None:
    assert run(["scale", "echo=2", "--timeout", "0.001", "--gridfile", str(grid.gridfile)]) in (0, 3)
    ask(grid, capsys, "scale", "echo=-")


def test_describing(grid: RunningGrid, capsys: Capture) -> None:
    described = ask(grid, capsys, "describe", "echo")
    assert described["handlers"] == ["echo"]
    assert (described["settings"]["file"], described["settings"]["runtime"]) == ("tasks/echo.py", "python")
    assert run(["describe", "echo", "--gridfile", str(grid.gridfile)]) == 0
    out = capsys.readouterr().out
    assert "\nhandlers      echo\n" in out
    assert "restarted 1 times" in out
    assert out.count(" ready ") == 2


def test_a_plan_changes_nothing(grid: RunningGrid, project: Path, capsys: Capture) -> None:
    plan = ("deploy", str(project), "--plan", "--detailed-exitcode")
    assert ask(grid, capsys, *plan)["changes"] is False
    (project / "note.txt").write_text("once more")
    (project / "lib").mkdir()
    (project / "lib" / "new.txt").write_text("new")
    said = ask(grid, capsys, *plan, code=2)
    assert said["files"] == {"added": ["lib/new.txt"], "changed": ["note.txt"], "removed": []}
    assert (said["changes"], said["tasks"]["changed"]) == (True, [])
    assert 0 < said["bytes_to_send"] < 100_000
    assert ask(grid, capsys, "deploy", str(project), "--plan")["changes"] is True
    assert ask(grid, capsys, "releases")["releases"][0]["root"] == said["current"]["root"]
    ask(grid, capsys, "deploy", str(project), "--detailed-exitcode", code=2)


def test_rolling_back_and_forth(grid: RunningGrid, project: Path, capsys: Capture) -> None:
    first = ask(grid, capsys, "releases")["releases"][0]
    (project / "tasks" / "echo.py").write_text("def handler(event):\n    return ['new', event]\n")
    second = ask(grid, capsys, "deploy", str(project))
    back = ask(grid, capsys, "rollback")
    assert (back["root"], back["sequence"]) == (first["root"], second["sequence"] + 1)
    assert (back["rolled_back_to"], back["changed"]) == (first["sequence"], True)
    again = ask(grid, capsys, "rollback", str(second["sequence"]))
    assert again["root"] == second["root"]
    listed = ask(grid, capsys, "releases")["releases"]
    assert [one["sequence"] for one in listed] == list(range(again["sequence"], 0, -1))
    assert [one["current"] for one in listed] == [True] + [False] * (len(listed) - 1)
    ask(grid, capsys, "rollback", "999", code=5)
    assert run(["releases", "--gridfile", str(grid.gridfile)]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("current")


@pytest.mark.parametrize(
    ("text", "instances"), [("a=1", 1), ("a.b=1024", 1024), ("a=max", 0), ("a=-", None), ("x=a=3", 3)]
)
def test_numbers_of_instances(text: str, instances: int | None) -> None:
    assert _scaling(text)[1](Order(5, True, 2)) == Order(instances, True, 2)


@pytest.mark.parametrize("text", ["a", "=3", "a=", "a=0", "a=-1", "a=1025", "a=x", "a=²", "a=99999999"])
def test_what_is_no_number_of_instances(text: str) -> None:
    with pytest.raises(UsageError):
        _scaling(text)


def release(sequence: int, root: str) -> Release:
    return Release("shop", Root(root * 64), sequence, 0, 0, 0, ())


def test_the_release_before_is_the_last_with_other_content() -> None:
    known = [release(5, "a"), release(4, "a"), release(3, "b"), release(2, "a")]
    assert choose(known, None).sequence == 3
    assert choose(known, 2).sequence == 2
    for releases in ([], known[:2]):
        with pytest.raises(UsageError):
            choose(releases, None)
    with pytest.raises(ReleaseNotFound):
        choose(known, 9)
