import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.code import with_code
from gridctl.project import Seen, scan
from gridnode.model import ChunkHash, TaskSpec
from gridnode.sync.chunk import ChunkRef, chunk_hash
from gridnode.sync.manifest import EntryKind
from gridnode.sync.tree import Source

BASE = {"tasks/a.py": "import lib", "tasks/b.py": "def handler(): ...", "lib/__init__.py": "", "book.txt": "a b c"}


def codes(files: dict[str, str], links: dict[str, str] | None = None) -> dict[str, str]:
    """Each task's code, by name."""
    sources = [
        Source(tuple(path.split("/")), EntryKind.FILE, (ChunkRef(ChunkHash(chunk_hash(text.encode())), len(text)),))
        for path, text in files.items()
    ]
    sources += [Source(tuple(path.split("/")), EntryKind.LINK, (), to) for path, to in (links or {}).items()]
    tasks = [TaskSpec(Path(path).stem, path) for path in files if path.startswith("tasks/") and "_" not in path]
    return {task.name: task.code for task in with_code(tasks, sources, lambda path: files[path].encode())}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    old, new = codes(before), codes(after)
    return {name for name in old.keys() & new.keys() if old[name] != new[name]}


def test_a_code_is_the_same_for_the_same_project() -> None:
    assert codes(BASE) == codes(dict(reversed(BASE.items())))
    assert len({*codes(BASE).values()}) == 2
    assert all(len(code) == 64 and code.isalnum() for code in codes(BASE).values())


@pytest.mark.parametrize(
    ("change", "tasks"),
    [
        ({"tasks/a.py": "import lib\n"}, {"a"}),
        ({"tasks/b.py": ""}, {"b"}),
        ({"tasks/c.py": "a new task"}, set()),
        ({"tasks/_own.py": ""}, {"a", "b"}),
        ({"lib/__init__.py": "X = 1"}, {"a", "b"}),
        ({"lib/new.bin": ""}, {"a", "b"}),
        ({"book.txt": "a b"}, {"a", "b"}),
        ({"grid.toml": "[defaults]"}, set()),
        ({".vendor/python/x.py": ""}, {"a", "b"}),
    ],
)
def test_what_a_task_may_read_changes_its_code(change: dict[str, str], tasks: set[str]) -> None:
    assert changed(BASE, BASE | change) == tasks


@pytest.mark.parametrize(
    "reader",
    [
        {"tasks/a.py": "from tasks import b"},
        {"tasks/a.py": "import b as other"},
        {"tasks/a.py": "exec(open('tasks/b.py').read())"},
        {"tasks/a.py": "import c", "tasks/c.py": "import b"},
        {"tasks/_own.py": "from tasks.b import handler"},
        {"lib/__init__.py": "importlib.import_module('tasks.b')"},
    ],
)
def test_a_task_file_that_is_named_counts_for_who_may_import_it(reader: dict[str, str]) -> None:
    before = BASE | reader
    assert "a" in changed(before, before | {"tasks/b.py": "changed"})
    assert "b" not in changed(before, before | {"tasks/a.py": before["tasks/a.py"] + " "})


def test_a_link_to_a_task_file_counts_for_all() -> None:
    links = {"lib/same.py": "../tasks/b.py"}
    assert codes(BASE, links)["a"] != codes(BASE | {"tasks/b.py": "changed"}, links)["a"]
    assert codes(BASE, links)["a"] != codes(BASE)["a"]


def test_packages_name_no_task() -> None:
    before = BASE | {"node_modules/x/index.js": "b", ".vendor/python/x/b.py": "b"}
    assert changed(before, before | {"tasks/b.py": "changed"}) == {"b"}


@given(st.dictionaries(st.sampled_from(["tasks/a.py", "tasks/b.py", "x.txt", "_l.py"]), st.text(max_size=20)))
def test_whatever_the_texts_a_task_is_its_own_code(texts: dict[str, str]) -> None:
    before = {"tasks/a.py": "1"} | texts
    after = before | {"tasks/a.py": before["tasks/a.py"] + "#"}
    assert codes(before)["a"] != codes(after)["a"]


def test_a_scan_reads_again_only_what_changed(tmp_path: Path) -> None:
    for path, text in BASE.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    seen: Seen = {}
    first = scan(tmp_path, seen=seen)
    again = scan(tmp_path, seen=seen)
    assert (again.manifest, again.tasks, again.chunks) == (first.manifest, first.tasks, first.chunks)
    assert set(seen) == set(BASE)
    give_up = time.monotonic() + 20
    while not all(stamp for stamp, _ in seen.values()):  # files so young are always read again
        assert time.monotonic() < give_up
        scan(tmp_path, seen=seen)
    for path in ("book.txt", "tasks/a.py"):
        seen[path] = seen[path][0], (ChunkRef(chunk_hash(path.encode()), len(path)),)
    (tmp_path / "tasks/a.py").write_text("changed")
    third = scan(tmp_path, seen=seen)
    assert chunk_hash(b"book.txt") in third.chunks
    assert chunk_hash(b"tasks/a.py") not in third.chunks
    assert third.read_chunk(chunk_hash(b"changed")) == b"changed"


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_file_rewritten_at_once_is_seen(before: bytes, after: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "tasks").mkdir()
        (directory / "tasks" / "a.py").write_text("def handler(): ...")
        (directory / "x.bin").write_bytes(before)
        seen: Seen = {}
        scan(directory, seen=seen)
        (directory / "x.bin").write_bytes(after)
        assert scan(directory, seen=seen).manifest.root == scan(directory).manifest.root
