import json
from collections.abc import Callable

import pytest

from gridctl.cli import run
from gridctl.logs import _nanoseconds
from gridnode.errors import UsageError
from tests.gridctl.conftest import RunningGrid

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("", 0),
        ("10m", 400 * SECOND),
        ("2s", 998 * SECOND),
        ("1d", 0),
        ("1970-01-01T00:00:01", SECOND),
        ("1970-01-01T01:00:00.5+01:00", SECOND // 2),
        ("1970-01-02", 86_400 * SECOND),
        ("1969-01-01", 0),
    ],
)
def test_times(since: str, expected: int) -> None:
    assert _nanoseconds(since, 1000.0) == expected


@pytest.mark.parametrize("since", ["yesterday", "10", "m", "-5m", "1x", "2026-13-01", "9999999999d"])
def test_what_is_no_time(since: str) -> None:
    with pytest.raises(UsageError):
        _nanoseconds(since, 1000.0)


TALK = """
import sys
def handler(event):
    print("out", event)
    print("err", event, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def talking_grid(make_grid: Callable[[int], RunningGrid], tmp_path_factory: pytest.TempPathFactory) -> RunningGrid:
    """Two nodes, each of which served one call of a task that prints its number."""
    grid = make_grid(2)
    project = tmp_path_factory.mktemp("talk")
    (project / "tasks").mkdir()
    (project / "tasks" / "talk.py").write_text(TALK)
    gridfile = ("--gridfile", str(grid.gridfile))
    assert run(["deploy", str(project), "-y", *gridfile]) == 0
    for number in ("1", "2"):
        assert run(["invoke", "talk", "-d", number, "--node", f"node-{number}", *gridfile]) == 0
    return grid


def logs(grid: RunningGrid, *argv: str) -> int:
    return run(["logs", *argv, "--gridfile", str(grid.gridfile)])


def test_options_that_make_no_sense(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs(hello_grid, "echo", "--system") == 2
    assert logs(hello_grid, "--grep", "(") == 2
    assert logs(hello_grid, "--since", "soon") == 2
    assert logs(hello_grid, "-n", "10001") == 2
    assert logs(hello_grid, "--node", "node-9") == 5
    assert logs(hello_grid, "wrods") == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "did you mean words" in captured.err
    assert "there are node-1, node-2" in captured.err


def test_a_quiet_task_has_no_lines(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs(hello_grid, "words.longest") == 0
    assert logs(hello_grid, "echo", "--json") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "-h"]) == 0
    assert capsys.readouterr().out.count("gridctl logs") >= 3


def test_what_tasks_print_on_all_nodes(talking_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs(talking_grid, "talk", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted((row["node"]["name"], row["stream"], row["text"]) for row in rows) == [
        (f"node-{number}", stream, f"{stream[3:]} {number}") for number in (1, 2) for stream in ("stderr", "stdout")
    ]
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert logs(talking_grid, "-n", "1", "--grep", "err", "--node", "node-2") == 0
    out = capsys.readouterr().out
    assert out.endswith("| err 2\n")
    assert " node-2 talk/" in out
    assert out.count("\n") == 1
    assert logs(talking_grid, "-n", "0") == 0
    assert capsys.readouterr().out == ""
