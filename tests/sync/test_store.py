import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridnode.errors import ChunkInvalid, ChunkMissing, SyncError
from gridnode.model import ChunkHash
from gridnode.sync import ChunkStore, pack_files
from gridnode.sync.chunk import Codec, EncodedChunk, chunk_hash, encode
from gridnode.sync.pack import HEAD
from gridnode.sync.store import DiskChunkStore
from tests.fakes.packs import places, rot

NAME = chunk_hash(b"abc")
OTHER = ChunkHash(bytes(32))
MANY = [b"%d" % n * 50 for n in range(200)]
SMALL = 2000
"""Bytes of a pack in tests that need several."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskChunkStore]:
    opened = DiskChunkStore(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[DiskChunkStore]:
    """A store of many packs, with MANY in it."""
    opened = DiskChunkStore(tmp_path, pack_size=SMALL)
    for at in range(0, len(MANY), 10):
        opened.put_batch([(chunk_hash(content), encode(content)) for content in MANY[at : at + 10]])
    yield opened
    opened.close()


def packs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "packs").glob("*.pack"))


def holds(store: DiskChunkStore, contents: list[bytes]) -> bool:
    return all(store.get(chunk_hash(content)) == content for content in contents)


def reopened(store: DiskChunkStore, tmp_path: Path) -> DiskChunkStore:
    store.close()
    store.__init__(tmp_path, pack_size=SMALL)  # type: ignore[misc]
    return store


def drop_index(tmp_path: Path) -> None:
    for path in (tmp_path / "packs").glob("index*"):
        path.unlink()


def test_it_is_a_chunk_store(store: DiskChunkStore) -> None:
    port: ChunkStore = store
    port.put(NAME, b"abc")
    assert port.has(NAME)
    assert port.get(NAME) == b"abc"
    assert port.get_encoded(NAME) == EncodedChunk(Codec.RAW, 3, b"abc")
    assert port.missing([OTHER, NAME, OTHER]) == [OTHER]
    port.put(NAME, b"abc")
    assert list(port.hashes()) == [NAME]
    assert port.sweep({NAME}) == 0
    assert port.sweep(set()) == 1
    assert not port.has(NAME)


def test_what_is_not_held_is_missing(store: DiskChunkStore) -> None:
    assert not store.has(NAME)
    with pytest.raises(ChunkMissing):
        store.get(NAME)
    store.delete([OTHER])
    assert store.quarantined() == {}


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


def test_a_chunk_whose_compression_only_costs_room_is_kept_raw(store: DiskChunkStore) -> None:
    content = os.urandom(100)
    larger = EncodedChunk(Codec.ZSTD, 100, zstandard.ZstdCompressor(write_checksum=True).compress(content))
    assert len(larger.payload) > 100
    store.put_encoded(chunk_hash(content), larger)
    assert store.get_encoded(chunk_hash(content)) == EncodedChunk(Codec.RAW, 100, content)


def test_chunks_outlive_the_process(small: DiskChunkStore, tmp_path: Path) -> None:
    before = list(small.hashes())
    assert len(packs(tmp_path)) > 5
    store = reopened(small, tmp_path)
    assert list(store.hashes()) == before
    assert holds(store, MANY)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"SQLite format 3\0" + bytes(4080)])
def test_a_lost_or_damaged_index_is_made_anew(small: DiskChunkStore, tmp_path: Path, content: bytes | None) -> None:
    small.close()
    drop_index(tmp_path)
    if content is not None:
        (tmp_path / "packs" / "index.sqlite").write_bytes(content)
    small.__init__(tmp_path)  # type: ignore[misc]
    assert holds(small, MANY)
    small.put(NAME, b"abc")
    assert holds(reopened(small, tmp_path), [*MANY, b"abc"])


def test_an_index_of_another_version_is_made_anew(small: DiskChunkStore, tmp_path: Path) -> None:
    small.close()
    base = sqlite3.connect(tmp_path / "packs" / "index.sqlite")
    base.execute("PRAGMA user_version = 99")
    base.close()
    small.__init__(tmp_path)  # type: ignore[misc]
    assert holds(small, MANY)


def test_the_torn_end_of_a_pack_is_cut(small: DiskChunkStore, tmp_path: Path) -> None:
    small.close()
    for number, path in enumerate(packs(tmp_path)):
        with path.open("ab") as file:
            file.write(b"\xa7GCr torn"[: number + 1] + bytes(number))
    sizes = [path.stat().st_size - 2 * number - 1 for number, path in enumerate(packs(tmp_path)) if number < 8]
    small.__init__(tmp_path, pack_size=SMALL)  # type: ignore[misc]
    assert [path.stat().st_size for path in packs(tmp_path)][:8] == sizes
    assert holds(small, MANY)
    small.put(NAME, b"abc")
    assert holds(reopened(small, tmp_path), [*MANY, b"abc"])


@pytest.mark.parametrize("content", [b"", HEAD[:3], HEAD, bytes(100)])
def test_a_pack_without_a_record_is_removed(small: DiskChunkStore, tmp_path: Path, content: bytes) -> None:
    small.close()
    before = packs(tmp_path)
    (tmp_path / "packs" / "00000099.pack").write_bytes(content)
    small.__init__(tmp_path)  # type: ignore[misc]
    assert packs(tmp_path) == before
    small.put(NAME, b"abc")
    assert holds(reopened(small, tmp_path), [*MANY, b"abc"])


def test_a_pack_that_was_cut_short_loses_only_its_end(small: DiskChunkStore, tmp_path: Path) -> None:
    first = [one for one in small.hashes() if places(tmp_path, one)[0][0] == packs(tmp_path)[0]]
    small.close()
    with packs(tmp_path)[0].open("r+b") as file:
        file.truncate(places(tmp_path, first[3])[0][1].offset + 5)
    small.__init__(tmp_path, pack_size=SMALL)  # type: ignore[misc]
    assert small.missing(first) == first[3:]
    assert len(small.missing(map(chunk_hash, MANY))) == len(first) - 3


def test_a_pack_that_is_gone_takes_its_chunks_along(small: DiskChunkStore, tmp_path: Path) -> None:
    first = [one for one in small.hashes() if places(tmp_path, one)[0][0] == packs(tmp_path)[0]]
    packs(tmp_path)[0].unlink()
    with pytest.raises(ChunkInvalid, match="gone"):
        small.get(first[0])
    assert small.missing(first) == first[:1]
    store = reopened(small, tmp_path)
    assert store.missing(map(chunk_hash, MANY)) == first


def test_files_of_other_names_and_links_are_passed_over(store: DiskChunkStore, tmp_path: Path) -> None:
    store.put(NAME, b"abc")
    (tmp_path / "packs" / "README").write_text("")
    (tmp_path / "packs" / "00000007.pack").symlink_to(packs(tmp_path)[0])
    assert list(reopened(store, tmp_path).hashes()) == [NAME]
    assert places(tmp_path, NAME)[0][0].name == "00000001.pack"


def test_a_link_in_the_place_of_a_pack_is_not_followed(store: DiskChunkStore, tmp_path: Path) -> None:
    store.put(NAME, b"abc")
    (place,) = packs(tmp_path)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SyncError):
        store.get(NAME)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000))
def test_a_chunk_that_rotted_is_named_dropped_and_can_be_put_again(
    tmp_path: Path, store: DiskChunkStore, at: int
) -> None:
    told: list[ChunkHash] = []
    store.on_invalid = told.append
    store.put(NAME, b"abc")
    rot(tmp_path, NAME, at)
    with pytest.raises(ChunkInvalid):
        store.get(NAME)
    assert store.missing([NAME]) == told == list(store.quarantined()) == [NAME]
    with pytest.raises(ChunkMissing):
        store.get(NAME)
    store.put(NAME, b"abc")
    assert store.get(NAME) == b"abc"
    assert store.quarantined() == {}


def test_a_disk_that_cannot_read_a_chunk_is_as_bad(store: DiskChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store.put(NAME, b"abc")
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(ChunkInvalid, match="Input/output error"):
        store.get(NAME)
    assert not store.has(NAME)


def test_rot_between_sound_chunks_costs_only_its_own_when_the_index_is_lost(
    small: DiskChunkStore, tmp_path: Path
) -> None:
    bad = chunk_hash(MANY[3])
    rot(tmp_path, bad, 5)
    small.close()
    drop_index(tmp_path)
    small.__init__(tmp_path)  # type: ignore[misc]
    assert small.missing(map(chunk_hash, MANY)) == [bad]


def test_nobody_asks_for_a_bad_chunk_that_was_deleted(store: DiskChunkStore, tmp_path: Path) -> None:
    store.put(NAME, b"abc")
    rot(tmp_path, NAME)
    with pytest.raises(ChunkInvalid):
        store.get(NAME)
    store.delete([NAME])
    assert store.quarantined() == {}


def test_packs_of_which_nothing_is_used_are_dropped(small: DiskChunkStore, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in packs(tmp_path))
    small.delete(map(chunk_hash, MANY))
    assert small.compact() == size
    assert packs(tmp_path) == []
    small.put(NAME, b"abc")
    assert holds(small, [b"abc"])


def test_a_pack_with_much_in_no_use_is_written_anew(small: DiskChunkStore, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in packs(tmp_path))
    assert small.compact() == 0
    small.delete(map(chunk_hash, MANY[::2]))
    freed = small.compact()
    assert size * 0.4 < freed
    assert (
        0 <= freed - (size - sum(path.stat().st_size for path in packs(tmp_path))) <= len(packs(tmp_path)) * len(HEAD)
    )
    assert small.compact() == 0
    assert holds(small, MANY[1::2])
    drop_index(tmp_path)
    store = reopened(small, tmp_path)
    assert holds(store, MANY[1::2])
    assert len(list(store.hashes())) == 100


def test_a_pack_with_little_in_no_use_stays(small: DiskChunkStore, tmp_path: Path) -> None:
    before = packs(tmp_path)
    small.delete(map(chunk_hash, MANY[::5]))
    assert small.compact() == 0
    assert packs(tmp_path) == before


def test_rot_is_seen_when_a_pack_is_written_anew(small: DiskChunkStore, tmp_path: Path) -> None:
    small.delete(map(chunk_hash, MANY[::2]))
    rot(tmp_path, chunk_hash(MANY[1]))
    small.compact()
    assert list(small.quarantined()) == [chunk_hash(MANY[1])]
    assert holds(small, MANY[3::2])


def test_reading_and_writing_go_on_while_packs_are_written_anew(small: DiskChunkStore) -> None:
    small.delete(map(chunk_hash, MANY[::2]))
    failed: list[BaseException] = []
    ended = threading.Event()

    def read() -> None:
        try:
            while not ended.is_set():
                assert holds(small, MANY[1::2])
        except BaseException as exc:
            failed.append(exc)

    def write() -> None:
        for number in range(200):
            content = b"new %d" % number
            small.put(chunk_hash(content), content)

    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        small.compact()
        small.delete(map(chunk_hash, MANY[::2]))
    threads[1].join()
    ended.set()
    threads[0].join()
    assert failed == []
    assert holds(small, [*MANY[1::2], *(b"new %d" % number for number in range(200))])


def test_one_process_at_a_time(tmp_path: Path, store: DiskChunkStore) -> None:
    with pytest.raises(SyncError, match="in use"):
        DiskChunkStore(tmp_path)
    code = "import sys, pathlib, gridnode.sync.store as s; s.DiskChunkStore(pathlib.Path(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert "in use by another" in run.stderr


@pytest.mark.parametrize("call", ["fsync", "pwritev"])
def test_a_full_disk_says_so_and_leaves_nothing(
    tmp_path: Path, store: DiskChunkStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for before in (0, 1):
        with monkeypatch.context() as patched:
            patched.setattr(pack_files.os, call, full)
            for _ in range(3):
                with pytest.raises(SyncError, match="No space left") as caught:
                    store.put(NAME, b"abc")
        assert caught.value.hint
        assert sum(path.stat().st_size > len(HEAD) for path in packs(tmp_path)) == before
        assert len(packs(tmp_path)) == before
        store.put(chunk_hash(b"x"), b"x")
    assert not store.has(NAME)
    store.put(NAME, b"abc")
    assert holds(reopened(store, tmp_path), [b"abc", b"x"])


def test_where_the_index_refuses_nothing_is_held(
    tmp_path: Path, store: DiskChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(chunk_hash(b"x"), b"x")
    size = packs(tmp_path)[0].stat().st_size

    def full(*arguments: object) -> None:
        raise SyncError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(store._index, "add", full)
        with pytest.raises(SyncError, match="full"):
            store.put(NAME, b"abc")
    assert packs(tmp_path)[0].stat().st_size == size
    assert not store.has(NAME)
    store.put(NAME, b"abc")
    assert holds(reopened(store, tmp_path), [b"x", b"abc"])


def test_a_batch_is_kept_whole(store: DiskChunkStore) -> None:
    contents = [b"%d" % n for n in range(3000)]
    store.put_batch((chunk_hash(content), encode(content)) for content in [*contents, *contents])
    assert {store.get(chunk_hash(content)) for content in contents} == set(contents)
    assert set(store.hashes()) == {chunk_hash(content) for content in contents}
    store.delete([chunk_hash(contents[0]), OTHER])
    assert store.missing(map(chunk_hash, contents)) == [chunk_hash(contents[0])]


def test_what_came_before_a_bad_one_in_a_batch_may_be_kept(store: DiskChunkStore) -> None:
    with pytest.raises(ChunkInvalid):
        store.put_batch([(NAME, encode(b"abc")), (OTHER, encode(b"abc"))])
    assert not store.has(OTHER)


def test_threads_may_put_the_same_chunks(store: DiskChunkStore, tmp_path: Path) -> None:
    batch = [(chunk_hash(b"%d" % n), encode(b"%d" % n)) for n in range(100)]
    threads = [threading.Thread(target=store.put_batch, args=(batch,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.missing(name for name, _ in batch) == []
    assert all(len(places(tmp_path, name)) == 1 for name, _ in batch)


def test_chunks_of_one_file_each_from_before_there_were_packs_are_dropped(tmp_path: Path) -> None:
    old = tmp_path / "chunks" / "ba"
    old.mkdir(parents=True)
    (old / NAME.hex()).write_bytes(b"GC1\0\0\0\0\3abc")
    store = DiskChunkStore(tmp_path)
    assert not store.has(NAME)
    assert not old.exists()
    store.close()
