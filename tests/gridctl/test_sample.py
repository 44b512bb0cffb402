import json
from pathlib import Path

import pytest

from gridctl.cli import run
from gridctl.project import scan
from gridctl.sample import copy_sample, samples
from gridnode.errors import UsageError


def test_every_sample_can_be_deployed(tmp_path: Path) -> None:
    assert "hello" in samples()
    for name in samples():
        copied = copy_sample(name, tmp_path / name)
        assert "README.md" in copied
        assert scan(tmp_path / name).tasks


def test_hello_has_its_tasks_and_keeps_the_application_here(tmp_path: Path) -> None:
    copy_sample("hello", tmp_path / "hello")
    assert (tmp_path / "hello" / "app.py").is_file()
    project = scan(tmp_path / "hello")
    assert [task.name for task in project.tasks] == ["echo", "primes", "uptime", "whoami", "words"]
    assert project.files == 6


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    copy_sample("hello", tmp_path / "there")
    (tmp_path / "there" / "app.py").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        copy_sample("hello", tmp_path / "there")
    assert (tmp_path / "there" / "app.py").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is there already"):
        copy_sample("hello", tmp_path / "file")
    with pytest.raises(UsageError, match="cannot copy"):
        copy_sample("hello", tmp_path / "file" / "below")


@pytest.mark.parametrize("name", ["nope", "", "..", "hello/tasks", "/etc"])
def test_an_unknown_sample_names_those_there_are(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        copy_sample(name, tmp_path / "x")
    assert "hello" in (caught.value.hint or "")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sample", "hello"]) == 0
    assert "next: gridctl deploy hello" in capsys.readouterr().err
    assert run(["sample", "hello", "other", "--json"]) == 0
    assert "tasks/echo.py" in json.loads(capsys.readouterr().out)["files"]
    assert run(["sample", "hello"]) == 2
