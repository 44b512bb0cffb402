"""Odd names and odd files, from a project's directory to a node's: as they were, or refused by name."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridctl.project import Project, scan
from gridnode.errors import ProjectInvalid
from gridnode.model import Root
from gridnode.sync.materialise import materialise
from gridnode.sync.store import DiskChunkStore

NAMES = [
    b"two\nlines",
    b"tab\tand\rreturn",
    b"\x1b[31mred",
    b"not utf-8 \xff\xfe",
    b"x" * 255,
    b"\xc3\xa4" * 127,
    b" leading and trailing ",
    b"-rf",
    b"~",
    b"*?[a]",
    b"back\\slash",
    b'quo"te',
    b"...",
    b"\x01\x7f",
    "\u202egnp.exe".encode(),
    "e\u0301".encode(),
    "\u00e9".encode(),
    b"TWIN",
    b"twin",
    b"Twin",
]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "shop" / "tasks").mkdir(parents=True)
    (tmp_path / "shop" / "tasks" / "echo.py").write_text("def handler(event):\n    return event\n")
    return tmp_path / "shop"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskChunkStore]:
    opened = DiskChunkStore(tmp_path / "node")
    yield opened
    opened.close()


def on_a_node(project: Project, store: DiskChunkStore, tmp_path: Path) -> Path:
    """The project's directory as a node makes it."""
    for chunk in project.chunks:
        store.put(chunk, project.read_chunk(chunk))
    releases = tmp_path / "releases"
    releases.mkdir(exist_ok=True)
    return materialise(Root(project.manifest.root), store, releases)


def test_any_name_of_a_file_comes_through(top: Path, store: DiskChunkStore, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        (top / os.fsdecode(name)).write_bytes(b"%d" % number)
        (top / "in" / os.fsdecode(name)).mkdir(parents=True)
        (top / "in" / os.fsdecode(name) / os.fsdecode(name)).symlink_to(os.fsdecode(name))
    made = on_a_node(scan(top), store, tmp_path)
    for number, name in enumerate(NAMES):
        text = os.fsdecode(name)
        assert (made / text).read_bytes() == b"%d" % number
        assert os.readlink(made / "in" / text / text) == text
    assert set(os.listdir(os.fsencode(made))) == {*NAMES, b"in", b"tasks"}


def test_symbolic_links_in_a_circle_are_only_links(top: Path, store: DiskChunkStore, tmp_path: Path) -> None:
    (top / "a").symlink_to("b")
    (top / "b").symlink_to("a")
    (top / "self").symlink_to(".")
    (top / "tasks" / "up").symlink_to("..")
    made = on_a_node(scan(top), store, tmp_path)
    assert {path: os.readlink(made / path) for path in ("a", "b", "self", "tasks/up")} == {
        "a": "b",
        "b": "a",
        "self": ".",
        "tasks/up": "..",
    }


def test_hard_links_are_files_of_their_own(top: Path, store: DiskChunkStore, tmp_path: Path) -> None:
    (top / "a").write_bytes(b"shared" * 1000)
    os.link(top / "a", top / "b")
    project = scan(top)
    assert sum(project.chunks[name] for name in project.chunks if name not in project.manifest.nodes) < 7000
    made = on_a_node(project, store, tmp_path)
    assert (made / "a").read_bytes() == (made / "b").read_bytes() == b"shared" * 1000


def test_a_sparse_file_stays_one(top: Path, store: DiskChunkStore, tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    with (top / "sparse").open("wb") as file:
        file.seek(size // 2)
        file.write(b"in the middle")
        file.truncate(size)
    project = scan(top)
    assert len(project.chunks) < 20
    made = on_a_node(project, store, tmp_path) / "sparse"
    assert made.stat().st_size == size
    assert made.stat().st_blocks * 512 < 4 * 1024 * 1024
    with made.open("rb") as file:
        file.seek(size // 2 - 5)
        assert file.read(23) == bytes(5) + b"in the middle" + bytes(5)


def test_a_file_of_more_than_32_bits(top: Path) -> None:
    size = (1 << 32) + 12_345
    with (top / "huge").open("wb") as file:
        file.truncate(size)
    project = scan(top)
    assert project.size == size + (top / "tasks" / "echo.py").stat().st_size
    assert len(project.chunks) < 300


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_file_is_refused(top: Path, kind: int) -> None:
    try:
        os.mknod(top / "odd\nname", kind | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device")
    with pytest.raises(ProjectInvalid, match="is a device, FIFO or socket"):
        scan(top)


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_file_rewritten_while_it_is_read_is_named(top: Path, size: int) -> None:
    """To the same length, so that only its times tell."""
    (top / "log").write_bytes(bytes(size))
    wrote = []

    def write(done: int, total: int) -> None:
        with (top / "log").open("r+b") as file:
            file.write(b"other")
        wrote.append(done)
        os.utime(top / "log", ns=(1, len(wrote)))

    with pytest.raises(ProjectInvalid, match="log changed while"):
        scan(top, on_progress=write)
    assert wrote
