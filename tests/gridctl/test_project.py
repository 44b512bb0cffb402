import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gridctl import project as project_module
from gridctl.project import Project, configured_tasks, scan
from gridnode.errors import ProjectInvalid
from gridnode.model import TaskSpec
from gridnode.sync.chunk import chunk_hash
from gridnode.sync.manifest import ChunkList
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.tree import Bounds, iter_chunks, iter_files


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The least that can be deployed."""
    (tmp_path / "shop" / "tasks").mkdir(parents=True)
    (tmp_path / "shop" / "tasks" / "req.py").write_text("def get_ip(event): ...\n")
    return tmp_path / "shop"


def contents(project: Project) -> dict[str, bytes]:
    """Every file as a node would rebuild it."""
    found: dict[str, bytes] = {}
    for path, entry in iter_files(project.manifest.root, project.read_chunk):
        if isinstance(entry.ref, ChunkList):
            refs = iter_chunks(entry.ref, project.read_chunk)
            found[path] = b"".join(project.read_chunk(ref.hash) for ref in refs)
    return found


def refused(top: Path) -> ProjectInvalid:
    with pytest.raises(ProjectInvalid) as caught:
        scan(top)
    assert caught.value.hint
    return caught.value


def test_a_project_is_read_whole(top: Path) -> None:
    large = random.Random(1).randbytes(3_000_000)
    (top / "model.bin").write_bytes(large)
    (top / "empty").write_bytes(b"")
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    project = scan(top)
    assert project.name == "shop"
    assert [task.name for task in project.tasks] == ["req"]
    assert (project.size, project.files) == (3_000_024, 4)
    assert contents(project) == {
        "caf\udce9": b"x",
        "empty": b"",
        "model.bin": large,
        "tasks/req.py": b"def get_ip(event): ...\n",
    }
    assert all(chunk_hash(project.read_chunk(name)) == name for name in project.chunks)
    assert all(len(project.read_chunk(name)) == length for name, length in project.chunks.items())


def test_every_chunk_a_node_needs_is_listed(top: Path, tmp_path: Path) -> None:
    project = scan(top)
    store = DiskChunkStore(tmp_path / "node")
    for name in store.missing(project.chunks):
        store.put(name, project.read_chunk(name))
    assert [path for path, _ in iter_files(project.manifest.root, store.get)] == ["tasks", "tasks/req.py"]
    store.close()


def test_the_root_tells_nothing_of_time_owner_or_place(top: Path, tmp_path: Path) -> None:
    before = scan(top).manifest.root
    os.utime(top / "tasks" / "req.py", (1, 1))
    moved = top.rename(tmp_path / "other")
    assert scan(moved).manifest.root == before
    (moved / "tasks" / "req.py").chmod(0o755)
    assert scan(moved).manifest.root != before


def test_secrets_and_ignored_entries_stay(top: Path) -> None:
    secret = ["Gridfile", "tasks/Gridfile", "lib/Gridfile", "lib/a.log", ".git/config", "out/x", "lib/x.pyc"]
    for path in (*secret, "lib/keep/a.log"):
        (top / path).parent.mkdir(exist_ok=True)
        (top / path).write_text("secret")
    (top / ".gridignore").write_text("*.log\nout/\n!Gridfile\n")
    (top / "lib/keep/.gridignore").write_text("!a.log\n")
    os.mkfifo(top / "out" / "fifo")
    assert contents(scan(top)).keys() == {"tasks/req.py", ".gridignore", "lib/keep/.gridignore", "lib/keep/a.log"}


def test_progress_is_told_in_bytes(top: Path) -> None:
    (top / "large").write_bytes(bytes(1_000_000))
    told: list[tuple[int, int]] = []
    project = scan(top, on_progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (project.size, project.size)


def settings(project: Project) -> list[TaskSpec]:
    """What is said of its tasks, whatever they may read."""
    return [replace(task, code="") for task in project.tasks]


def test_grid_toml_says_how_tasks_run(top: Path) -> None:
    before = scan(top)
    (top / "grid.toml").write_text("[tasks.req]\ninstances = 2\n")
    project = scan(top)
    assert [(task.name, task.instances) for task in project.tasks] == [("req", 2)]
    assert "grid.toml" in contents(project)
    assert [one.spec for one in configured_tasks(top)] == settings(project)
    (top / ".gridignore").write_text("grid.toml\n")
    assert settings(scan(top)) == settings(project) != settings(before)
    assert "grid.toml" not in contents(scan(top))


def test_a_fault_in_grid_toml_refuses_the_project(top: Path) -> None:
    (top / "grid.toml").write_text("[tasks.rq]\n")
    assert refused(top).message == "grid.toml, line 1: no task file makes a task rq; did you mean req?"


def test_a_grid_toml_that_is_no_file(top: Path) -> None:
    (top / "grid.toml").mkdir()
    assert refused(top).message == "grid.toml is not a plain file"
    (top / "grid.toml").rmdir()
    (top / "grid.toml").symlink_to("tasks/req.py")
    assert refused(top).message == "grid.toml is not a plain file"


def test_no_tasks_directory(top: Path, tmp_path: Path) -> None:
    (top / "tasks").rename(tmp_path / "elsewhere")
    error = refused(top)
    assert "no tasks/ directory" in error.message
    assert "gridctl sample" in str(error.hint)
    (top / "tasks").symlink_to(tmp_path / "elsewhere")
    assert "no tasks/ directory" in refused(top).message
    assert "no tasks/ directory" in refused(tmp_path / "nowhere").message


def test_no_task(top: Path) -> None:
    (top / "tasks" / "req.py").unlink()
    assert "no task in" in refused(top).message


def test_links(top: Path) -> None:
    (top / "tasks" / "_same.py").symlink_to("req.py")
    (top / "lib").symlink_to("tasks")
    assert dict(iter_files(scan(top).manifest.root, scan(top).read_chunk))["lib"].ref == b"tasks"
    (top / "tasks" / "_out.py").symlink_to("../../secret")
    assert "tasks/_out.py: symbolic link out of the tree" in refused(top).message


def test_what_is_no_file_is_named(top: Path) -> None:
    os.mkfifo(top / "pipe")
    assert "pipe is a device, FIFO or socket" in refused(top).message
    (top / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(top)
        try:
            listening.bind("sock")
        finally:
            os.chdir(here)
    assert "sock is a device, FIFO or socket" in refused(top).message


@pytest.mark.parametrize("mode", [0o4755, 0o2755])
def test_a_setuid_file_is_named(top: Path, mode: int) -> None:
    (top / "run").write_text("")
    (top / "run").chmod(mode)
    assert "run is setuid" in refused(top).message


def test_an_unreadable_file_is_named(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "secret.txt").write_text("")
    really_open = os.open

    def deny(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("secret.txt"):
            raise PermissionError(13, "Permission denied")
        return really_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", deny)
    assert refused(top).message == "cannot read secret.txt: Permission denied"


def test_an_unreadable_directory_is_named(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "shut").mkdir()
    really_scan = os.scandir

    def deny(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return really_scan(path)

    monkeypatch.setattr(os, "scandir", deny)
    assert refused(top).message == "cannot read shut: Permission denied"


def test_too_many_files(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_module, "DEFAULT_BOUNDS", Bounds(entries=1))
    error = refused(top)
    assert "more than 1 files" in error.message
    assert ".gridignore" in str(error.hint)


def test_too_deep(top: Path) -> None:
    (top / "/".join("d" * 33)).mkdir(parents=True)
    scan(top)
    (top / "/".join("d" * 33) / "f").write_text("")
    assert "below more than 32 directories" in refused(top).message


@pytest.mark.parametrize("content", ["other", "def get_ip(event): ..!\n", ""])
def test_a_file_that_changed_since_is_named(top: Path, content: str) -> None:
    project = scan(top)
    (top / "tasks" / "req.py").write_text(content)
    name = next(name for name in project.chunks if name not in project.manifest.nodes)
    with pytest.raises(ProjectInvalid, match=r"tasks/req\.py changed while"):
        project.read_chunk(name)


def test_a_file_that_became_a_link_is_not_followed(top: Path, tmp_path: Path) -> None:
    project = scan(top)
    (top / "tasks" / "req.py").rename(tmp_path / "elsewhere")
    (top / "tasks" / "req.py").symlink_to(tmp_path / "elsewhere")
    name = next(name for name in project.chunks if name not in project.manifest.nodes)
    with pytest.raises(ProjectInvalid, match=r"cannot read tasks/req\.py"):
        project.read_chunk(name)


def test_a_file_that_grows_while_it_is_read_is_named(top: Path) -> None:
    (top / "a").write_bytes(b"abc")
    log = (top / "z.log").open("ab")
    log.write(b"x")
    log.flush()

    def write_on(done: int, total: int) -> None:
        log.write(b"more")
        log.flush()

    with log, pytest.raises(ProjectInvalid, match=r"z\.log changed while"):
        scan(top, on_progress=write_on)


@pytest.mark.parametrize(
    "text", ["grid_name = 'x'\ngrid_password = 'grid1-abc'\n", "issuer_key = '''\n-----BEGIN PRIVATE KEY-----\n'''\n"]
)
def test_a_gridfile_or_card_by_another_name_is_not_shipped(tmp_path: Path, text: str) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "echo.py").write_text("def handler(event):\n    return event\n")
    (tmp_path / "home.toml").write_text(text)
    with pytest.raises(ProjectInvalid, match=r"home\.toml holds a grid's secret"):
        scan(tmp_path)
    (tmp_path / ".gridignore").write_text("home.toml\n")
    assert scan(tmp_path).files == 2
