"""What a release shares with those before it on this disk."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridnode.model import Root
from gridnode.sync import earlier
from gridnode.sync.chunk import ChunkRef, chunk_hash
from gridnode.sync.manifest import EntryKind
from gridnode.sync.materialise import materialise, remove
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.tree import Source, build
from tests.fakes.packs import rot

F, X = EntryKind.FILE, EntryKind.EXECUTABLE
FILES = {"tasks/a.py": (F, b"same"), "tasks/run.sh": (X, b"#!/bin/sh\n"), "empty": (F, b""), "twin": (F, b"same")}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskChunkStore]:
    opened = DiskChunkStore(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    made = tmp_path / "releases"
    made.mkdir()
    return made


def release(store: DiskChunkStore, files: dict[str, tuple[EntryKind, bytes]]) -> Root:
    sources = []
    for path, (kind, content) in files.items():
        refs = (ChunkRef(chunk_hash(content), len(content)),) if content else ()
        if content:
            store.put(chunk_hash(content), content)
        sources.append(Source(tuple(path.split("/")), kind, refs))
    manifest = build(sources)
    for name, node in manifest.nodes.items():
        store.put(name, node)
    return manifest.root


def inodes(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): path.stat().st_ino for path in top.rglob("*") if path.is_file()}


def contents(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_a_file_that_did_not_change_is_not_written_again(store: DiskChunkStore, releases: Path) -> None:
    first = materialise(release(store, FILES), store, releases)
    changed = {**FILES, "twin": (F, b"other"), "moved/run.sh": FILES["tasks/run.sh"]}
    second = materialise(release(store, changed), store, releases)
    assert contents(second) == {path: content for path, (_, content) in changed.items()}
    before, after = inodes(first), inodes(second)
    assert {path for path in after if after[path] in before.values()} == set(changed) - {"twin"}
    assert stat.S_IMODE((second / "moved/run.sh").stat().st_mode) == 0o555
    assert stat.S_IMODE((second / "tasks/a.py").stat().st_mode) == 0o444
    assert stat.S_IMODE((second / "tasks").stat().st_mode) == 0o555


def test_it_outlives_the_release_it_came_from(store: DiskChunkStore, releases: Path) -> None:
    first = materialise(release(store, FILES), store, releases)
    second = materialise(release(store, {**FILES, "more": (F, b"more")}), store, releases)
    remove(first)
    assert (second / "tasks/a.py").read_bytes() == b"same"


def test_a_file_that_became_executable_is_another(store: DiskChunkStore, releases: Path) -> None:
    first = materialise(release(store, FILES), store, releases)
    second = materialise(release(store, {**FILES, "tasks/a.py": (X, b"same")}), store, releases)
    assert inodes(first)["tasks/a.py"] != inodes(second)["tasks/a.py"]
    assert os.access(second / "tasks/a.py", os.X_OK)
    assert stat.S_IMODE((first / "tasks/a.py").stat().st_mode) == 0o444


@pytest.mark.parametrize("harm", ["cut", "mode", "gone", "link", "fifo"])
def test_a_file_that_is_not_as_it_was_left_is_written_again(store: DiskChunkStore, releases: Path, harm: str) -> None:
    first = materialise(release(store, FILES), store, releases)
    bad = first / "tasks" / "run.sh"
    bad.parent.chmod(0o755)
    if harm in ("cut", "mode"):
        bad.chmod(0o755)
    if harm == "cut":
        bad.write_bytes(b"")
        bad.chmod(0o555)
    elif harm != "mode":
        bad.unlink()
    if harm == "link":
        bad.symlink_to("/etc/passwd")
    elif harm == "fifo":
        os.mkfifo(bad, 0o555)
    second = materialise(release(store, {**FILES, "more": (F, b"more")}), store, releases)
    assert (second / "tasks/run.sh").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((second / "tasks/run.sh").lstat().st_mode) == 0o555


def test_a_release_whose_tree_is_gone_has_nothing_to_share(store: DiskChunkStore, releases: Path) -> None:
    root = release(store, FILES)
    first = materialise(root, store, releases)
    (releases / ".new-left").mkdir()
    (releases / "stray").write_text("")
    second_root = release(store, {**FILES, "more": (F, b"more")})
    store.delete([chunk_hash(store.get(bytes.fromhex(root)))])  # type: ignore[arg-type]
    second = materialise(second_root, store, releases)
    assert set(inodes(first).values()).isdisjoint(inodes(second).values())
    assert contents(second)["tasks/a.py"] == b"same"


@pytest.mark.parametrize("code", [errno.EMLINK, errno.EXDEV, errno.EPERM])
def test_where_links_do_not_go_it_is_written(
    store: DiskChunkStore, releases: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    first = materialise(release(store, FILES), store, releases)

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    second = materialise(release(store, {**FILES, "more": (F, b"more")}), store, releases)
    assert set(inodes(first).values()).isdisjoint(inodes(second).values())
    assert contents(second) == {**contents(first), "more": b"more"}


def test_where_the_file_system_can_share_blocks_each_release_has_its_own_files(
    store: DiskChunkStore, releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's part is played by a copy: few file systems of test machines have it."""
    first = materialise(release(store, FILES), store, releases)
    asked = []

    def clone(copy: int, request: int, origin: int) -> int:
        asked.append(request)
        os.write(copy, os.pread(origin, 1000, 0))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)
    second = materialise(release(store, {**FILES, "more": (F, b"more")}), store, releases)
    assert asked == [earlier._FICLONE] * len(FILES)
    assert contents(second) == {**contents(first), "more": b"more"}
    assert set(inodes(first).values()).isdisjoint(inodes(second).values())
    assert stat.S_IMODE((second / "tasks/run.sh").stat().st_mode) == 0o555


def test_rot_of_the_chunk_does_not_matter_to_a_file_that_is_there(store: DiskChunkStore, releases: Path) -> None:
    materialise(release(store, FILES), store, releases)
    second = release(store, {**FILES, "more": (F, b"more")})
    rot(releases.parent, chunk_hash(b"same"))
    assert contents(materialise(second, store, releases))["tasks/a.py"] == b"same"
