import json
from pathlib import Path

import pytest

from gridctl.cli import run
from gridctl.config import choose
from gridctl.gridtoml import configure
from gridctl.gridtoml_rules import RULES, TABLES
from gridnode.errors import TaskNotFound
from gridnode.model import TaskSpec

TASKS = configure([TaskSpec("req", "tasks/req.py"), TaskSpec("a.b", "tasks/a/b.py")])


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project here."""
    (tmp_path / "tasks").mkdir()
    for name in ("req", "echo"):
        (tmp_path / "tasks" / f"{name}.py").write_text("def handler(event): ...\n")
    (tmp_path / "grid.toml").write_text('[defaults]\nmemory = "1GB"\n[tasks.req]\ninstances = "max"\nenv.A = 1\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_every_task_and_setting_is_shown_with_its_line(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config"]) == 0
    lines = told(capsys)
    assert lines[0] == ["TASK", "SETTING", "VALUE", "FROM"]
    assert ["req", "instances", "max", "[tasks.req]", "line", "4"] in lines
    assert ["req", "memory", "1GB", "[defaults]", "line", "2"] in lines
    assert ["req", "env.A", "1", "[tasks.req]", "line", "5"] in lines
    assert ["echo", "instances", "1", "default"] in lines
    assert len(lines) == 1 + 2 * len({*RULES, *TABLES})


@pytest.mark.parametrize("arguments", [["req"], [".", "req"], ["req.handler"]])
def test_one_task_alone(shop: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(["config", *arguments]) == 0
    assert {line[0] for line in told(capsys)[1:]} == {"req"}


def test_for_programs(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", str(shop), "req", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (task,) = said["tasks"]
    assert (said["schema"], task["name"], task["file"]) == (1, "req", "tasks/req.py")
    assert task["settings"]["instances"] == {"value": "max", "from": "[tasks.req]", "line": 4}
    assert task["settings"]["memory"] == {"value": 1 << 30, "from": "[defaults]", "line": 2}
    assert task["settings"]["network"] == {"value": "none", "from": "default", "line": None}
    assert task["settings"]["env.A"]["value"] == "1"


def test_a_name_that_no_task_has(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "ech"]) == 5
    assert "no task ech; did you mean echo?" in capsys.readouterr().err
    assert run(["config", "./ech"]) == 5
    assert run(["config", "elsewhere/ech"]) == 2


def test_faults_are_a_usage_error(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "grid.toml").write_text("[tasks.req]\nmemroy = 1\n")
    assert run(["config"]) == 2
    said = capsys.readouterr()
    assert "grid.toml, line 2: unknown key memroy in [tasks.req]; did you mean memory?" in said.err
    assert said.out == ""


def test_the_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "--help"]) == 0
    said = capsys.readouterr().out
    assert [key for key in (*RULES, *TABLES) if f"  {key} " not in said] == []


def test_choosing() -> None:
    assert choose(TASKS, None) == list(TASKS)
    assert choose(TASKS, "a.b") == choose(TASKS, "a.b.f") == [TASKS[1]]
    for name in ("a", "", "req.x.y", "x" * 1000):
        with pytest.raises(TaskNotFound):
            choose(TASKS, name)
