import json

import click
import pytest

from gridctl.failure import exit_code, explain
from gridnode import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.GridfileInvalid("x"), 2),
        (errors.WeakSecret("x"), 2),
        (errors.ProjectInvalid("x"), 2),
        (click.UsageError("x"), 2),
        (errors.LinkClosed("x"), 4),
        (errors.NotAuthenticated("x"), 4),
        (errors.NoNode("x"), 4),
        (errors.TaskNotFound("x"), 5),
        (errors.NodeNotFound("x"), 5),
        (errors.ReleaseNotFound("x"), 5),
        (errors.TaskRaised("x"), 6),
        (errors.CallTimeout("x"), 124),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (errors.TaskCrashed("x"), 1),
        (errors.BodyTooLarge("x"), 1),
        (errors.LedgerError("x"), 1),
        (errors.ChunkInvalid("x"), 1),
        (ValueError("x"), 1),
        (click.ClickException("x"), 1),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_one_line_a_hint_and_the_remote_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    explain(errors.TaskRaised("ValueError: \x1b]0;x\x07", trace="Traceback\n  line\x1b\n", hint="look"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "gridctl: ValueError: \\x1b]0;x\\x07\nhint: look\nTraceback\n  line\\x1b\n"


def test_errors_of_nodes_get_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    explain(errors.NoNode("no node of the grid serves any task yet"))
    assert "hint: `gridctl deploy`" in capsys.readouterr().err


def test_unexpected_errors_say_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    explain(ZeroDivisionError("by 0"))
    assert capsys.readouterr().err.startswith("gridctl: unexpected ZeroDivisionError: by 0\nhint: --verbose")


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    explain(errors.LinkClosed("gone", hint="h"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "error": {"code": "link_closed", "message": "gone", "hint": "h", "trace": None},
    }
