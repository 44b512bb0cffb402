import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gridnode.errors import ChunkMissing, SyncError
from gridnode.model import Release, Root, TaskSpec
from gridnode.sync import disk as module
from gridnode.sync.chunk import ChunkRef, chunk_hash
from gridnode.sync.disk import ReleaseDisk
from gridnode.sync.manifest import EntryKind
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.tree import Source, build


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskChunkStore]:
    store = DiskChunkStore(tmp_path)
    yield store
    store.close()


@pytest.fixture
def disk(store: DiskChunkStore, tmp_path: Path) -> ReleaseDisk:
    return ReleaseDisk(store, tmp_path)


def release(store: DiskChunkStore, text: bytes, sequence: int = 1) -> Release:
    name = chunk_hash(text)
    manifest = build([Source(("tasks", "a.py"), EntryKind.FILE, (ChunkRef(name, len(text)),))])
    store.put(name, text)
    for node, content in manifest.nodes.items():
        store.put(node, content)
    return Release("demo", manifest.root, sequence, 0, len(text), 1, (TaskSpec("a", "tasks/a.py"),))


def test_a_release_is_built_once(disk: ReleaseDisk, store: DiskChunkStore, tmp_path: Path) -> None:
    one = release(store, b"one")
    path = disk.materialise(one)
    assert path == tmp_path / "releases" / one.root
    assert (path / "tasks" / "a.py").read_bytes() == b"one"
    before = path.stat().st_ino
    assert disk.materialise(one).stat().st_ino == before


def test_a_release_that_lacks_chunks_leaves_nothing(disk: ReleaseDisk, store: DiskChunkStore, tmp_path: Path) -> None:
    one = release(store, b"one")
    store.delete([chunk_hash(b"one")])
    with pytest.raises(ChunkMissing):
        disk.materialise(one)
    assert os.listdir(tmp_path / "releases") == []


def test_only_what_is_kept_stays(disk: ReleaseDisk, store: DiskChunkStore, tmp_path: Path) -> None:
    several = [release(store, text, n) for n, text in enumerate((b"one", b"two", b"three"))]
    for one in several:
        disk.materialise(one)
    (tmp_path / "releases" / ".new-left-by-a-crash" / "deep").mkdir(parents=True)
    (tmp_path / "releases" / "stray").write_text("")
    disk.keep({several[1].root, several[2].root})
    assert set(os.listdir(tmp_path / "releases")) == {several[1].root, several[2].root}
    disk.keep({several[2].root})
    assert set(os.listdir(tmp_path / "releases")) == {several[2].root}


def test_the_active_release_is_remembered(disk: ReleaseDisk, store: DiskChunkStore, tmp_path: Path) -> None:
    assert disk.load_active() is None
    one, two = release(store, b"one", 1), release(store, b"two", 2)
    disk.save_active(one)
    disk.save_active(two)
    assert ReleaseDisk(store, tmp_path).load_active() == two


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"garbage", b"\x91" * 100_000, msgspec.msgpack.encode({"project": 1})]
)
def test_a_damaged_note_is_none(disk: ReleaseDisk, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "active.release").write_bytes(content)
    assert disk.load_active() is None


def test_a_disk_that_refuses_is_a_sync_error(
    disk: ReleaseDisk, store: DiskChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_durably", full)
    with pytest.raises(SyncError, match="No space left"):
        disk.save_active(release(store, b"one"))


def test_a_root_that_is_no_hash_reaches_no_path(disk: ReleaseDisk, store: DiskChunkStore, tmp_path: Path) -> None:
    for root in ("../../etc", "", ".", "x" * 64, "A" * 64):
        with pytest.raises(SyncError):
            disk.materialise(msgspec.structs.replace(release(store, b"one"), root=Root(root)))
    assert os.listdir(tmp_path / "releases") == []
