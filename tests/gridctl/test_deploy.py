"""Deploys to a grid of real nodes, one after the other as an operator would."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridctl.cli import run
from gridctl.sample import copy_sample
from tests.gridctl.conftest import RunningGrid

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def grid(make_grid: Callable[[int], RunningGrid]) -> RunningGrid:
    return make_grid(2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("deploy") / "shop"
    copy_sample("hello", directory)
    return directory


def deploy(grid: RunningGrid, directory: Path, *flags: str) -> int:
    return run(["deploy", str(directory), "--gridfile", str(grid.gridfile), *flags])


def result(grid: RunningGrid, task: str, capsys: Capture, body: str = "null") -> Any:
    capsys.readouterr()
    assert run(["invoke", task, "-d", body, "--gridfile", str(grid.gridfile)]) == 0
    return json.loads(capsys.readouterr().out)


def test_invoking_before_any_deploy(grid: RunningGrid, capsys: Capture) -> None:
    assert run(["invoke", "echo", "--gridfile", str(grid.gridfile)]) == 4
    assert "hint: `gridctl deploy`" in capsys.readouterr().err


def test_the_first_deploy(grid: RunningGrid, project: Path, capsys: Capture) -> None:
    assert deploy(grid, project) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "scanned 6 files" in err
    assert "tasks: echo, primes, uptime, whoami, words" in err
    assert "sent " in err
    for name in ("node-1", "node-2"):
        assert f"{name}: active" in err
    assert err.splitlines()[-1].endswith("release 1, is active on node-1, node-2")
    assert result(grid, "echo", capsys, "[1]") == [1]


def test_nothing_changed(grid: RunningGrid, project: Path, capsys: Capture) -> None:
    assert deploy(grid, project, "--json") == 0
    out, err = capsys.readouterr()
    fields = json.loads(out)
    assert (fields["schema"], fields["changed"], fields["sequence"], fields["sent"]) == (1, False, 1, 0)
    assert [(node["name"], node["state"]) for node in fields["nodes"]] == [("node-1", "active"), ("node-2", "active")]
    assert "nothing changed" in err


def test_only_what_changed_travels(grid: RunningGrid, project: Path, capsys: Capture) -> None:
    noise = os.urandom(2_000_000)
    (project / "model.bin").write_bytes(noise)
    assert deploy(grid, project, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["sent"] > 2_000_000
    (project / "model.bin").write_bytes(noise[:1_000_000] + b"changed" + noise[1_000_000:])
    (project / "tasks" / "echo.py").write_text("def handler(event):\n    return ['new', event]\n")
    assert deploy(grid, project, "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert second["sequence"] == first["sequence"] + 1
    assert second["sent"] < 1_000_000
    assert second["deduplicated"] > 1_000_000
    assert second["files"] == 7
    assert second["size"] > 2_000_000
    assert result(grid, "echo", capsys, "[1]") == ["new", [1]]


def test_a_task_that_does_not_start(grid: RunningGrid, project: Path, capsys: Capture) -> None:
    bad = project / "tasks" / "bad.py"
    bad.write_text("import no_such_module\n\ndef handler(event):\n    return 1\n")
    assert deploy(grid, project, "--json") == 1
    out, err = capsys.readouterr()
    assert "tasks/bad.py failed on node-1: ModuleNotFoundError" in err
    assert "import no_such_module" in err
    assert "active on no node" in err
    nodes = json.loads(out)["nodes"]
    assert [(node["state"], node["failures"][0]["file"]) for node in nodes] == [("failed", "tasks/bad.py")] * 2
    assert result(grid, "echo", capsys, "[1]") == ["new", [1]]
    bad.unlink()
    assert deploy(grid, project) == 0


def test_another_project_is_asked_about(grid: RunningGrid, tmp_path: Path, capsys: Capture) -> None:
    copy_sample("hello", tmp_path / "other")
    assert deploy(grid, tmp_path / "other") == 2
    err = capsys.readouterr().err
    assert "runs the project 'shop'" in err
    assert "-y goes ahead" in err
    assert deploy(grid, tmp_path / "other", "-y") == 0
    assert result(grid, "echo", capsys, "[1]") == [1]


def test_a_large_project_is_asked_about(
    grid: RunningGrid, project: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridctl.deploy.LARGE", 1000)
    assert deploy(grid, project) == 2
    assert "MB." in capsys.readouterr().err


def test_time_running_out(grid: RunningGrid, project: Path, capsys: Capture) -> None:
    gate = project.parent / "gate"
    waiting = f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.05)\n"
    (project / "tasks" / "late.py").write_text(waiting + "\ndef handler(event):\n    return 1\n")
    assert deploy(grid, project, "-y", "--timeout", "6", "--json") == 124
    gate.touch()
    out, err = capsys.readouterr()
    assert "node-1 is not ready: starting" in err
    assert {node["state"] for node in json.loads(out)["nodes"]} == {"starting"}
    assert deploy(grid, project, "-y") == 0
    assert "nothing changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("README", "", "no tasks/ directory"),
        ("tasks/a.py", "def f(:", "tasks/a.py, line 1"),
        ("tasks/notes.md", "", "no task in tasks/"),
    ],
)
def test_what_cannot_be_deployed(
    grid: RunningGrid, tmp_path: Path, path: str, content: str, message: str, capsys: Capture
) -> None:
    place = tmp_path / "p" / path
    place.parent.mkdir(parents=True)
    place.write_text(content)
    assert deploy(grid, tmp_path / "p") == 2
    assert message in capsys.readouterr().err
