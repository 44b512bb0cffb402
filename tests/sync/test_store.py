import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridnode.errors import ChunkInvalid, ChunkMissing, SyncError
from gridnode.model import ChunkHash
from gridnode.sync import ChunkStore
from gridnode.sync.chunk import Codec, EncodedChunk, chunk_hash, encode
from gridnode.sync.store import DiskChunkStore

NAME = chunk_hash(b"abc")
OTHER = ChunkHash(bytes(32))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskChunkStore]:
    opened = DiskChunkStore(tmp_path)
    yield opened
    opened.close()


def file_of(tmp_path: Path, name: ChunkHash) -> Path:
    return tmp_path / "chunks" / name.hex()[:2] / name.hex()


def test_it_is_a_chunk_store(store: DiskChunkStore) -> None:
    port: ChunkStore = store
    port.put(NAME, b"abc")
    assert port.has(NAME)
    assert port.get(NAME) == b"abc"
    assert port.get_encoded(NAME) == EncodedChunk(Codec.RAW, 3, b"abc")
    assert port.missing([OTHER, NAME, OTHER]) == [OTHER]
    port.put(NAME, b"abc")
    assert port.sweep({NAME}) == 0
    assert port.sweep(set()) == 1
    assert not port.has(NAME)


def test_what_is_not_held_is_missing(store: DiskChunkStore) -> None:
    assert not store.has(NAME)
    with pytest.raises(ChunkMissing):
        store.get(NAME)


@pytest.mark.parametrize("encoded", [encode(b"abd"), EncodedChunk(9, 3, b"abc"), EncodedChunk(Codec.RAW, 2, b"abc")])
def test_a_chunk_that_is_not_its_name_is_not_kept(store: DiskChunkStore, encoded: EncodedChunk) -> None:
    with pytest.raises(ChunkInvalid):
        store.put_encoded(NAME, encoded)
    assert not store.has(NAME)
    assert list(store.hashes()) == []


def test_a_compressed_chunk_is_kept_as_it_came(store: DiskChunkStore) -> None:
    content = b"a" * 10_000
    store.put(chunk_hash(content), content)
    assert store.get_encoded(chunk_hash(content)) == encode(content)
    assert store.get(chunk_hash(content)) == content


def test_chunks_outlive_the_process(tmp_path: Path) -> None:
    store = DiskChunkStore(tmp_path)
    store.put(NAME, b"abc")
    store.close()
    store = DiskChunkStore(tmp_path)
    assert store.get(NAME) == b"abc"
    store.close()


@pytest.mark.parametrize(
    "content", [b"", b"GC1", b"GC1\0\0\0\0\3abd", b"GC1\0\0\0\0\4abc", b"GC1\1\0\0\0\3abc", b"x" * 99]
)
def test_a_torn_or_foreign_file_is_dropped_when_read(tmp_path: Path, store: DiskChunkStore, content: bytes) -> None:
    store.put(NAME, b"abc")
    file_of(tmp_path, NAME).write_bytes(content)
    with pytest.raises(ChunkInvalid):
        store.get(NAME)
    assert store.missing([NAME]) == [NAME]
    store.put(NAME, b"abc")
    assert store.get(NAME) == b"abc"


def test_files_of_other_names_are_passed_over(tmp_path: Path, store: DiskChunkStore) -> None:
    store.put(NAME, b"abc")
    place = file_of(tmp_path, NAME)
    for name in ("README", "ab" * 32, "zz", NAME.hex().upper()):
        (place.parent / name).write_text("")
    assert list(store.hashes()) == [NAME]


def test_a_link_in_the_place_of_a_chunk_is_not_followed(tmp_path: Path, store: DiskChunkStore) -> None:
    store.put(NAME, b"abc")
    place = file_of(tmp_path, NAME)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert not store.has(NAME)
    with pytest.raises(SyncError):
        store.get(NAME)


def test_leftovers_of_a_crash_go_at_open(tmp_path: Path) -> None:
    store = DiskChunkStore(tmp_path)
    store.put(NAME, b"abc")
    store.close()
    (file_of(tmp_path, NAME).parent / ".new-7").write_bytes(b"half")
    DiskChunkStore(tmp_path).close()
    assert [path.name for path in file_of(tmp_path, NAME).parent.iterdir()] == [NAME.hex()]


def test_one_process_at_a_time(tmp_path: Path, store: DiskChunkStore) -> None:
    with pytest.raises(SyncError, match="in use"):
        DiskChunkStore(tmp_path)
    code = "import sys, pathlib, gridnode.sync.store as s; s.DiskChunkStore(pathlib.Path(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert "in use by another" in run.stderr


def test_a_full_disk_says_so_and_leaves_nothing(
    tmp_path: Path, store: DiskChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SyncError, match="No space left") as caught:
            store.put(NAME, b"abc")
    assert caught.value.hint
    assert not list((tmp_path / "chunks").glob("*/*"))
    store.put(NAME, b"abc")


def test_a_batch_is_kept_whole(store: DiskChunkStore) -> None:
    contents = [b"%d" % n for n in range(600)]
    store.put_batch((chunk_hash(content), encode(content)) for content in [*contents, *contents])
    assert {store.get(chunk_hash(content)) for content in contents} == set(contents)
    assert set(store.hashes()) == {chunk_hash(content) for content in contents}
    store.delete([chunk_hash(contents[0]), OTHER])
    assert store.missing(map(chunk_hash, contents)) == [chunk_hash(contents[0])]


def test_threads_may_put_the_same_chunks(store: DiskChunkStore) -> None:
    batch = [(chunk_hash(b"%d" % n), encode(b"%d" % n)) for n in range(100)]
    threads = [threading.Thread(target=store.put_batch, args=(batch,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.missing(name for name, _ in batch) == []


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_file_in_the_place_of_a_chunk_is_dropped(tmp_path: Path, store: DiskChunkStore, content: bytes) -> None:
    store.put(NAME, b"abc")
    file_of(tmp_path, NAME).write_bytes(content)
    with pytest.raises(ChunkInvalid):
        store.get(NAME)
