from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.tasks import check_programs, find_tasks
from gridnode.errors import ProjectInvalid
from gridnode.model import TaskSpec
from gridnode.sync.manifest import EntryKind

F, X = EntryKind.FILE, EntryKind.EXECUTABLE
GOOD = b"def handler(event): ...\n"


def tasks(*paths: str, kind: EntryKind = F, **sources: bytes) -> dict[str, str]:
    """Name → file of the tasks among `paths`; sources by the stem of their file."""
    found = find_tasks([(path, kind) for path in paths], lambda path: sources.get(PurePosixPath(path).stem, GOOD))
    return {task.name: task.file for task in found}


def test_every_python_file_below_tasks_is_one() -> None:
    found = tasks("tasks/req.py", "tasks/a/b_2.py", "tasks/a/c/Do.py", "lib/x.py", "x.py", "a/tasks/x.py")
    assert found == {"a.b_2": "tasks/a/b_2.py", "a.c.Do": "tasks/a/c/Do.py", "req": "tasks/req.py"}
    (spec,) = find_tasks([("tasks/req.py", F)], lambda path: GOOD)
    assert spec == TaskSpec(name="req", file="tasks/req.py", runtime="python")


def test_modules_and_texts_are_none() -> None:
    inert = ["_lib.py", "__init__.py", "a/__init__.py", "_x/y.py", ".h.py", ".h/x.js", "README"]
    inert += ["README.md", "t.txt", "d.json", "node_modules/x.js", "notes.rst", "_run.sh", "tmpl.html"]
    assert tasks("tasks/ok.py", *(f"tasks/{name}" for name in inert)) == {"ok": "tasks/ok.py"}


def test_texts_are_none_even_where_every_file_is_executable() -> None:
    assert tasks("tasks/ok.py", "tasks/README.md", "tasks/x.json", kind=X) == {"ok": "tasks/ok.py"}


def test_links_are_none() -> None:
    with pytest.raises(ProjectInvalid, match="no task"):
        tasks("tasks/ok.py", kind=EntryKind.LINK)


@pytest.mark.parametrize("path", ["tasks/a.sh", "tasks/a.ts", "tasks/a.rb", "tasks/a.PY"])
def test_a_program_that_cannot_run_is_named(path: str) -> None:
    with pytest.raises(ProjectInvalid) as caught:
        find_tasks([(path, F), ("tasks/ok.py", F)], lambda path: GOOD)
    assert path in caught.value.message
    assert "*.py" in caught.value.message
    assert "chmod +x" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("path", "kind", "source", "runtime"),
    [
        ("tasks/a.py", F, GOOD, "python"),
        ("tasks/a.py", X, b"#!/usr/bin/env python3\n" + GOOD, "python"),
        ("tasks/a.js", F, b"module.exports = () => 1", "node"),
        ("tasks/a.cjs", F, b"", "node"),
        ("tasks/a.mjs", X, b"\xff", "node"),
        ("tasks/a", X, b"#!/bin/sh\necho 1\n", "exec"),
        ("tasks/a.sh", X, b"#!/bin/sh", "exec"),
        ("tasks/a.bin", X, b"\x7fELF\x02", "exec"),
    ],
)
def test_the_runtime_of_a_file(path: str, kind: EntryKind, source: bytes, runtime: str) -> None:
    (spec,) = find_tasks([(path, kind)], lambda path: source)
    assert spec == TaskSpec("a", path, runtime)


@pytest.mark.parametrize(
    ("source", "said"), [(b"echo 1\n", "no #! line"), (b"", "no #! line"), (b"#!/bin/sh\r\necho\r\n", "line ends")]
)
def test_an_executable_that_no_kernel_runs_is_named(source: bytes, said: str) -> None:
    with pytest.raises(ProjectInvalid, match=said) as caught:
        find_tasks([("tasks/a.sh", X)], lambda path: source)
    assert "tasks/a.sh" in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        b"exports.b = 1",
        b"'use strict';\nmodule.exports.b= f",
        b"export function b() {}",
        b"export async function b() {}",
        b"export const b = 1",
    ],
)
def test_a_file_and_an_export_of_one_name(source: bytes) -> None:
    sources = {"tasks/a.js": source, "tasks/a/b.py": GOOD}
    with pytest.raises(ProjectInvalid, match=r"tasks/a/b\.py and the function b in tasks/a\.js both make"):
        find_tasks([(path, F) for path in sources], sources.__getitem__)


@pytest.mark.parametrize(
    "path", ["tasks/get-ip.py", "tasks/2.py", "tasks/my dir/x.py", "tasks/a.b.py", "tasks/\u00e9.py"]
)
def test_a_file_that_makes_no_name_is_named(path: str) -> None:
    with pytest.raises(ProjectInvalid, match="cannot be part of a task's name") as caught:
        tasks(path)
    assert path in caught.value.message


def test_two_files_of_one_name() -> None:
    with pytest.raises(ProjectInvalid, match=r"tasks/req\.js and tasks/req\.py both make the task req"):
        tasks("tasks/req.py", "tasks/req.js")


@pytest.mark.parametrize("source", [b"def b(event): ...", b"async def b(event): ...", b"@x\ndef b(): ..."])
def test_a_file_and_a_function_of_one_name(source: bytes) -> None:
    with pytest.raises(ProjectInvalid) as caught:
        tasks("tasks/a.py", "tasks/a/b.py", a=source)
    assert caught.value.message == "tasks/a/b.py and the function b in tasks/a.py both make the task a.b"


@pytest.mark.parametrize(
    "source", [b"def c(event): ...", b"class b: ...", b"def c():\n  def b(): ...", b"def _b(): ..."]
)
def test_a_file_beside_a_directory_of_its_name(source: bytes) -> None:
    assert len(tasks("tasks/a.py", "tasks/a/b.py", a=source)) == 2


def test_no_task() -> None:
    with pytest.raises(ProjectInvalid, match="no task in tasks/") as caught:
        tasks("tasks/README.md")
    assert caught.value.hint
    assert "gridctl sample" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"x = 1\ndef f(:\n", "tasks/bad.py, line 2"),
        (b"\0", "tasks/bad.py"),
        (b"x = '\xff'", "tasks/bad.py"),
        (b"# coding: nope\n", "tasks/bad.py"),
        (b"(" * 500, "tasks/bad.py"),
        (b"-" * 200_000 + b"1", "tasks/bad.py"),
    ],
)
def test_what_does_not_parse_is_named(source: bytes, said: str) -> None:
    with pytest.raises(ProjectInvalid) as caught:
        tasks("tasks/bad.py", bad=source)
    assert said in caught.value.message


def test_an_odd_escape_is_no_error() -> None:
    assert tasks("tasks/a.py", a=b"x = '\\d'") == {"a": "tasks/a.py"}


@given(st.binary(max_size=200))
def test_any_source_parses_or_is_refused(source: bytes) -> None:
    try:
        assert tasks("tasks/a.py", a=source) == {"a": "tasks/a.py"}
    except ProjectInvalid as exc:
        said = exc.message
    else:
        return
    assert "tasks/a.py" in said


@pytest.mark.parametrize("runtime", ["exec", "http"])
@pytest.mark.parametrize(
    ("kind", "source", "said"),
    [
        (EntryKind.FILE, b"#!/usr/bin/env python3\n", "not executable"),
        (EntryKind.EXECUTABLE, b"def handler(): pass\n", "no #! line"),
    ],
)
def test_a_file_that_is_to_run_as_a_program_can(runtime: str, kind: EntryKind, source: bytes, said: str) -> None:
    task = TaskSpec("a", "tasks/a.py", runtime)
    with pytest.raises(ProjectInvalid, match=said):
        check_programs([task], {"tasks/a.py": kind}, lambda path: source)
    check_programs([task], {"tasks/a.py": EntryKind.EXECUTABLE}, lambda path: b"#!/usr/bin/env python3\n")
    check_programs([TaskSpec("a", "tasks/a.py")], {"tasks/a.py": kind}, lambda path: source)
