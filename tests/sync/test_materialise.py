import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridnode.errors import ChunkMissing, ManifestInvalid, SyncError
from gridnode.model import Root
from gridnode.sync.chunk import Chunking, ChunkRef, chunk_hash
from gridnode.sync.cut import cut
from gridnode.sync.manifest import EntryKind
from gridnode.sync.materialise import materialise, remove
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.tree import Source, build

F, X, D, L = EntryKind.FILE, EntryKind.EXECUTABLE, EntryKind.DIRECTORY, EntryKind.LINK
SMALL = Chunking(min_size=64, avg_size=256, max_size=1024)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskChunkStore]:
    opened = DiskChunkStore(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    (tmp_path / "releases").mkdir()
    return tmp_path / "releases"


def keep(store: DiskChunkStore, content: bytes) -> tuple[ChunkRef, ...]:
    pieces = [content[at : at + length] for at, length in cut(content, SMALL)]
    for piece in pieces:
        store.put(chunk_hash(piece), piece)
    return tuple(ChunkRef(chunk_hash(piece), len(piece)) for piece in pieces)


def keep_tree(store: DiskChunkStore, sources: list[Source]) -> Root:
    tree = build(sources, SMALL)
    for name, node in tree.nodes.items():
        store.put(name, node)
    return tree.root


def sample(store: DiskChunkStore) -> Root:
    return keep_tree(
        store,
        [
            Source(("tasks", "req.py"), F, keep(store, b"def handler(event): ...\n")),
            Source(("bin", "run"), X, keep(store, b"#!/bin/sh\n")),
            Source(("bin", "req"), L, target="../tasks/req.py"),
            Source(("empty",), D),
            Source(("caf\udce9",), F, keep(store, b"x")),
        ],
    )


def modes(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): stat.S_IMODE(path.lstat().st_mode) for path in [top, *top.rglob("*")]}


def test_a_release_is_complete_and_read_only(store: DiskChunkStore, releases: Path) -> None:
    root = sample(store)
    top = materialise(root, store, releases)
    assert top == releases / root
    assert modes(top) == {
        ".": 0o555,
        "bin": 0o555,
        "bin/req": 0o777,
        "bin/run": 0o555,
        "caf\udce9": 0o444,
        "empty": 0o555,
        "tasks": 0o555,
        "tasks/req.py": 0o444,
    }
    assert (top / "bin/req").read_bytes() == b"def handler(event): ...\n"
    assert os.readlink(top / "bin/req") == "../tasks/req.py"
    assert [path.name for path in releases.iterdir()] == [root]


def test_it_is_built_once(store: DiskChunkStore, releases: Path) -> None:
    root = sample(store)
    first = materialise(root, store, releases).stat().st_ino
    store.sweep(set())
    assert materialise(root, store, releases).stat().st_ino == first


def test_it_can_be_removed(store: DiskChunkStore, releases: Path) -> None:
    top = materialise(sample(store), store, releases)
    (releases / ".new-crashed").mkdir(mode=0o555)
    (releases / "stray").write_text("")
    (releases / "link").symlink_to(top)
    for name in (".new-crashed", "stray", "link", "gone"):
        remove(releases / name)
    assert list(releases.iterdir()) == [top]
    remove(top)
    assert list(releases.iterdir()) == []


def missing_chunk(store: DiskChunkStore) -> Root:
    root = sample(store)
    store.delete([chunk_hash(b"#!/bin/sh\n")])
    return root


def false_length(store: DiskChunkStore) -> Root:
    (ref,) = keep(store, b"abc")
    return keep_tree(store, [Source(("a",), F, (ChunkRef(ref.hash, 4),))])


def false_total(store: DiskChunkStore) -> Root:
    top = msgspec.msgpack.encode(["r", 1, Chunking(), 1, 0, []])
    store.put(chunk_hash(top), top)
    return Root(chunk_hash(top).hex())


def deep_link(store: DiskChunkStore) -> Root:
    below = msgspec.msgpack.encode(["d", [[b"l", "l", 14, b"../../../etc/x"]]])
    top = msgspec.msgpack.encode(["r", 1, Chunking(), 0, 0, [[b"d", "d", 0, chunk_hash(below)]]])
    for node in (below, top):
        store.put(chunk_hash(node), node)
    return Root(chunk_hash(top).hex())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (missing_chunk, ChunkMissing),
        (false_length, ManifestInvalid),
        (false_total, ManifestInvalid),
        (deep_link, ManifestInvalid),
        (lambda store: Root("../../etc"), ManifestInvalid),
        (lambda store: Root("0" * 64), ChunkMissing),
    ],
)
def test_a_release_that_cannot_be_made_leaves_nothing(
    store: DiskChunkStore, releases: Path, make: Callable[[DiskChunkStore], Root], error: type[SyncError]
) -> None:
    with pytest.raises(error):
        materialise(make(store), store, releases)
    assert list(releases.iterdir()) == []


def test_a_full_disk_says_so_and_leaves_nothing(
    store: DiskChunkStore, releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = sample(store)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SyncError, match="No space left"):
        materialise(root, store, releases)
    assert list(releases.iterdir()) == []


def test_no_releases_directory(store: DiskChunkStore, tmp_path: Path) -> None:
    with pytest.raises(SyncError, match="cannot write"):
        materialise(sample(store), store, tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_works_without_being_root(store: DiskChunkStore, releases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sample(store)
    os.chown(releases, 65534, 65534)
    here = os.open(releases, os.O_RDONLY)
    os.fchdir(here)
    nodes = {name: store.get(name) for name in store.hashes()}
    monkeypatch.setattr(store, "get", nodes.__getitem__)
    os.seteuid(65534)
    try:
        top = materialise(root, store, Path())
        with pytest.raises(PermissionError):
            (top / "tasks" / "new").write_text("")
        remove(top)
        assert list(Path().iterdir()) == []
    finally:
        os.seteuid(0)
        os.chdir("/")
        os.close(here)


NAMES = st.sampled_from(["a", "b", "A", "\udcff", " ", "-", "n" * 255])
FILES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    st.tuples(st.sampled_from([F, X]), st.integers(0, 20_000)),
    max_size=6,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES)
def test_any_tree_comes_out_as_it_went_in(
    store: DiskChunkStore, releases: Path, files: dict[tuple[str, ...], tuple[EntryKind, int]]
) -> None:
    files = {path: what for path, what in files.items() if not any(path[:n] in files for n in range(len(path)))}
    contents = {path: random.Random(size).randbytes(size) for path, (_, size) in files.items()}
    root = keep_tree(store, [Source(path, kind, keep(store, contents[path])) for path, (kind, _) in files.items()])
    top = materialise(root, store, releases)
    try:
        found = {path.relative_to(top).parts: path for path in top.rglob("*") if path.is_file()}
        assert {parts: path.read_bytes() for parts, path in found.items()} == contents
        assert {parts: os.access(path, os.X_OK) for parts, path in found.items()} == {
            parts: kind is X for parts, (kind, _) in files.items()
        }
    finally:
        remove(top)
