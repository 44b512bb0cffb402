import sys
from pathlib import Path

import pytest

from gridctl.tool import MAX_TOLD, find_tool, redacted, run_tool
from gridnode.errors import DependencyError


def test_what_a_tool_says_is_passed_on_without_credentials(tmp_path: Path) -> None:
    program = "import os, sys; sys.stderr.write('\\x1b[31mat https://me:hush@host/x\\x1b[0m'); print(os.getcwd())"
    ran = run_tool([sys.executable, "-c", f"{program}; print(sys.stdin.read()); sys.exit(3)"], tmp_path, stdin="in")
    assert (ran.code, ran.told) == (3, "at https://***@host/x")
    assert ran.out.split() == [str(tmp_path), "in"]


def test_what_it_says_is_bounded_and_may_be_garbage(tmp_path: Path) -> None:
    program = "import sys; sys.stderr.buffer.write(b'\\xff' * 100_000); sys.stdout.buffer.write(b'\\xfe')"
    ran = run_tool([sys.executable, "-c", program], tmp_path)
    assert len(ran.told) == MAX_TOLD
    assert ran.out == "\ufffd"


def test_a_tool_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DependencyError) as caught:
        find_tool("no-such-tool", "get it there")
    assert "no-such-tool" in caught.value.message
    assert caught.value.hint == "get it there"
    with pytest.raises(DependencyError, match="cannot run"):
        run_tool([str(tmp_path / "gone")], tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/x", "https://host/x"),
        ("git+ssh://git@host/x and http://u:p@h", "git+ssh://***@host/x and http://***@h"),
        ("mail me@host", "mail me@host"),
        ("//u:p@h", "//u:p@h"),
    ],
)
def test_only_urls_are_touched(text: str, shown: str) -> None:
    assert redacted(text) == shown
