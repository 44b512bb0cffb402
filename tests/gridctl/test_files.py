"""`gridctl files` over a grid of real nodes in this process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridctl.cli import run
from gridctl.project import scan_files
from gridnode.errors import ProjectInvalid
from tests.gridctl.conftest import RunningGrid

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> Ask:
    def asked(*argv: str, code: int = 0) -> dict[str, Any]:
        assert run(["files", *argv, "--json", "--gridfile", str(hello_grid.gridfile)]) == code
        fields: dict[str, Any] = json.loads(capsys.readouterr().out)
        return fields

    return asked


@pytest.fixture
def geo(tmp_path: Path) -> Path:
    directory = tmp_path / "geo"
    (directory / "deep").mkdir(parents=True)
    (directory / "table").write_bytes(os.urandom(400_000))
    (directory / "deep" / "a.txt").write_text("hello")
    (directory / "link").symlink_to("deep/a.txt")
    return directory


def test_pushed_listed_changed_and_removed(ask: Ask, geo: Path) -> None:
    first = ask("push", str(geo), "geo")
    assert {one["name"]: one["state"] for one in first["nodes"]} == {"node-1": "present", "node-2": "present"}
    assert (first["changed"], first["count"], first["size"], first["sent"] > 400_000) == (True, 2, 400_005, True)
    again = ask("push", str(geo), "geo")
    assert (again["changed"], again["sent"], again["root"]) == (False, 0, first["root"])
    (geo / "deep" / "a.txt").write_text("hello again")
    other = ask("push", str(geo), "geo")
    assert other["changed"]
    assert 0 < other["sent"] < 5_000
    [listed] = ask("ls")["files"]
    assert (listed["name"], listed["root"], listed["count"]) == ("geo", other["root"], 2)
    assert {one["state"] for one in listed["nodes"]} == {"present"}
    assert ask("rm", "geo") == {"schema": 1, "name": "geo"}
    assert ask("ls")["files"] == []
    assert "has no files geo" in ask("rm", "geo", code=2)["error"]["message"]


@pytest.mark.parametrize("name", ["Geo", "a/b", "..", ""])
def test_a_name_that_cannot_be(ask: Ask, geo: Path, name: str) -> None:
    assert "cannot name files" in ask("push", str(geo), name, code=2)["error"]["message"]


def test_what_cannot_be_pushed(tmp_path: Path, geo: Path) -> None:
    with pytest.raises(ProjectInvalid, match="is no directory"):
        scan_files(tmp_path / "missing")
    (geo / "out").symlink_to("../../etc/passwd")
    with pytest.raises(ProjectInvalid):
        scan_files(geo)
    (geo / "out").unlink()
    os.mkfifo(geo / "fifo")
    with pytest.raises(ProjectInvalid, match="FIFO"):
        scan_files(geo)


def test_what_is_ignored_is_not_read(geo: Path) -> None:
    (geo / ".gridignore").write_text("deep/\nlink\n")
    found = scan_files(geo)
    assert (found.tasks, found.size) == ((), 400_011), "and .gridignore itself"
