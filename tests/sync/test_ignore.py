import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridnode.sync.ignore import Ignore


def kept(rules: Ignore, entries: dict[str, bool]) -> set[str]:
    """Walks as a scan does: a pruned directory hides what is below it."""
    found: set[str] = set()
    for path, is_dir in sorted(entries.items()):
        above = path.rpartition("/")[0]
        if (not above or above in found) and not rules.ignores(path, is_dir=is_dir):
            found.add(path)
    return found


def with_parents(files: list[str]) -> dict[str, bool]:
    entries: dict[str, bool] = dict.fromkeys(files, False)
    for path in files:
        while path := path.rpartition("/")[0]:
            entries[path] = True
    return entries


TREE = [
    "a", "b.txt", "a.pyx", "keep.log", "x.log", "foo/a", "foo/bar/a", "foo/bar/baz/b.txt", "foo/barbaz/c", "bar/foo/a",
    "bar/x.log", "bar/keep.log", "d/e/f/g", "d/e/f/h.txt", "d/x", "sp ace", "trail ", "#hash", "!bang", "br[a]", "ab",
    "a-b", "a]b", "a\\b", "*star", "caf\u00e9", "build/out/x", "src/build/y", "logs/debug.log", "logs/keep/debug.log",
]  # fmt: skip


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    top = tmp_path_factory.mktemp("ignore")
    subprocess.run(["git", "init", "-q", top], check=True)
    for path in TREE:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text("")
    return top


def git_keeps(top: Path, rules: bytes, nested: dict[str, bytes] | None = None) -> set[str]:
    """What git would add, by its own walk."""
    files = {".gitignore": rules} | {f"{where}/.gitignore": text for where, text in (nested or {}).items()}
    for name, text in files.items():
        (top / name).write_bytes(text)
    try:
        run = subprocess.run(
            ["git", "-C", top, "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"],
            capture_output=True,
            check=True,
            env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"},
        )
    finally:
        for name in files:
            (top / name).unlink()
    return {os.fsdecode(path) for path in run.stdout.split(b"\0") if path and not path.endswith(b".gitignore")}


def ours(rules: bytes) -> set[str]:
    entries = with_parents(TREE)
    return {path for path in kept(Ignore().below("", rules), entries) if not entries[path]}


TABLE = [
    "foo", "foo/", "/foo", "foo/bar", "foo/bar/", "*.log\n!keep.log", "*\n!*/\n!*.txt", "foo/*\n!foo/bar", "**/a",
    "foo/**", "**/bar/**", "foo/**/a", "a**", "foo**/a", "**foo", "d/**/g", "/*\n!/foo", "foo\n!foo/a",
    "foo/\n!foo/bar/a", "build", "/build", "*/build", "logs/*.log", "logs/**/debug.log", "logs/\n!logs/keep/", "?",
    "a?", "a[-]b", "a[b-]", "[a-c]", "[!a]", "[^a]", "a[]]b", "a[]-]b", "br\\[a\\]", "br[[]a[]]", "\\#hash", "#hash",
    "\\!bang", "!bang", "trail", "trail ", "trail\\ ", "sp ace", "a\\\\b", "\\*star", "a\\", "[a", "[[:alpha:]]b",
    "[[:nope:]]", "[[:digit:][:alpha:]]", "caf\u00e9", "caf??", "caf?", "\r\nfoo\r\n", "\ufefffoo", "/", "//", "!",
    "**", "***", "*/", "/**", "/**/a", "foo/bar/**\n!foo/bar/baz/", "d/e/*\n!d/e/f", "d/*/f", "d/*/f/*", "d/**\\/g",
    "x.log\n!x.log\nx.log", "[z-a]", "a[!b]", "[!]]", "[]", "[]a", "a[/]b", "foo[/]a",
]  # fmt: skip


@pytest.mark.parametrize("rules", TABLE)
def test_agrees_with_git(checkout: Path, rules: str) -> None:
    assert ours(rules.encode()) == git_keeps(checkout, rules.encode())


PIECES = st.sampled_from([
    "foo", "bar", "a", "b", "*", "**", "/", "/", "?", ".", "[", "]", "!", "^", "-", "\\", " ", "#", "x", "log",
    "[ab]", "[!a]", "*/", "d", "e", "[[:alpha:]]", "txt", "baz", "f", "[:",
])  # fmt: skip
LINES = st.lists(st.lists(PIECES, min_size=1, max_size=6).map("".join), min_size=1, max_size=4).map("\n".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules=LINES)
def test_agrees_with_git_on_any_rules(checkout: Path, rules: str) -> None:
    assert ours(rules.encode()) == git_keeps(checkout, rules.encode())


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60), st.binary(min_size=1, max_size=20))
def test_no_rules_are_an_error(text: bytes, path: bytes) -> None:
    assert Ignore().below("", text).ignores(os.fsdecode(path), is_dir=False) in (True, False)


@pytest.mark.parametrize(
    ("rules", "nested"),
    [
        (b"*.log", {"bar": b"!keep.log"}),
        (b"", {"foo": b"/bar\n!a", "d/e": b"f/"}),
        (b"!a", {"foo": b"a", "foo/bar": b"!a"}),
        (b"", {"d": b"e/f/h.txt", "logs": b"/debug.log"}),
    ],
)
def test_nested_files_agree_with_git(checkout: Path, rules: bytes, nested: dict[str, bytes]) -> None:
    ignore = Ignore().below("", rules)
    for where, text in sorted(nested.items()):
        ignore = ignore.below(where, text)
    entries = with_parents(TREE)
    assert {path for path in kept(ignore, entries) if not entries[path]} == git_keeps(checkout, rules, nested)


@pytest.mark.parametrize(
    "path",
    [
        ".git",
        ".hg",
        ".svn",
        ".gridctl",
        ".demo",
        ".venv",
        ".DS_Store",
        "__pycache__",
        "m.pyc",
        "d/e/.git",
        "d/m.pyc",
        "Gridfile",
        "d/e/Gridfile",
        "Gridfile~",
        "Gridfile.bak",
        "Gridfile-old",
        "#Gridfile#",
        "Card",
        "attic.card",
        ".Gridfile.swp",
        "tasks/Gridfile.old",
    ],
)
def test_some_names_never_leave_whatever_the_rules_say(path: str) -> None:
    rules = Ignore().below("", b"!*\n!Gridfile\n!/Gridfile\n!**/.git/")
    assert rules.ignores(path, is_dir=False)
    assert rules.ignores(path, is_dir=True)


@pytest.mark.parametrize(
    "path", ["node_modules", "gridfile.py", "card.py", ".gitignore", "pycache", ".gridignore", "a.py"]
)
def test_other_names_stay(path: str) -> None:
    assert not Ignore().ignores(path, is_dir=False)


def test_names_are_bytes() -> None:
    rules = Ignore().below("", b"caf\xe9\n[\x80-\xff]x")
    assert rules.ignores("caf\udce9", is_dir=False)
    assert rules.ignores("\udce9x", is_dir=False)
    assert not rules.ignores("caf\u00e9", is_dir=False)
