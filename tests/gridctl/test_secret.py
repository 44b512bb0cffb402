import io
import json
import sys
from pathlib import Path

import pytest

from gridctl.cli import run
from gridctl.secret import lack, users
from gridnode.errors import ProjectInvalid
from gridnode.ledger import MAX_SECRET
from gridnode.model import TaskSpec
from tests.gridctl.conftest import RunningGrid

TASKS = (TaskSpec("a", "tasks/a.py", secrets=("X", "Y")), TaskSpec("b", "tasks/b.py", secrets=("Y",)))
CANARY = "canary-a7f9"


class Stdin(io.TextIOWrapper):
    """What is piped in."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(content))


def test_who_uses_a_secret() -> None:
    assert users("Y", TASKS) == ["a", "b"]
    assert users("Z", TASKS) == []


def test_what_is_lacking_is_named_with_what_to_do() -> None:
    lack(TASKS, {"X": 1, "Y": 1})
    with pytest.raises(ProjectInvalid) as caught:
        lack(TASKS, {"X": 1})
    assert "Y (for a, b)" in caught.value.message
    assert "X" not in caught.value.message
    assert caught.value.hint == "gridctl secret set Y < FILE"


@pytest.mark.parametrize("name", ["a/b", "..", "", "a" * 65, ".x"])
def test_what_cannot_be_a_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["secret", "set", name]) == 2
    assert "cannot be a secret's name" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"x" * (MAX_SECRET + 1)])
def test_a_value_must_be_there_and_fit(
    content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, content)
    assert run(["secret", "set", "A"]) == 2
    assert "value" in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["secret", "set", "A", "--file", "/nowhere/at/all"]) == 2
    assert "/nowhere/at/all" in capsys.readouterr().err


def test_a_value_is_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["secret", "set", "A", CANARY]) == 2


def test_set_list_and_remove(
    hello_grid: RunningGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRIDCTL_GRIDFILE", str(hello_grid.gridfile))
    (tmp_path / "value").write_text(CANARY)
    assert run(["secret", "set", "A", "--file", str(tmp_path / "value")]) == 0
    pipe(monkeypatch, CANARY.encode())
    assert run(["secret", "set", "B", "--json"]) == 0
    capsys.readouterr()
    assert run(["secret", "ls", "--json"]) == 0
    shown = capsys.readouterr().out
    assert [row["name"] for row in json.loads(shown)["secrets"]] == ["A", "B"]
    assert CANARY not in shown
    pipe(monkeypatch, b"other")
    assert run(["secret", "set", "A"]) == 0
    assert run(["secret", "rm", "A"]) == run(["secret", "rm", "B"]) == 0
    assert run(["secret", "rm", "A"]) == 2
    capsys.readouterr()
    assert run(["secret", "ls"]) == 0
    assert capsys.readouterr().out.split() == ["NAME", "SET", "TASKS"]
