"""What goes and what stays when chunks are swept, and what a transfer that begins meanwhile changes."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from gridnode.errors import SyncError
from gridnode.model import ChunkHash, Root
from gridnode.sync.chunk import ChunkRef, chunk_hash
from gridnode.sync.manifest import EntryKind
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.sweep import ChunkSweep, Transfers
from gridnode.sync.transfer import ChunkOps
from gridnode.sync.tree import Manifest, Source, build, reachable
from tests.fakes.peers import until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskChunkStore]:
    opened = DiskChunkStore(tmp_path)
    yield opened
    opened.close()


def tree(store: DiskChunkStore, number: int, count: int = 300) -> Manifest:
    """A tree with a long file, kept in the store: its chunks are no other tree's."""
    contents = [f"{number}-{at}".encode() for at in range(count)]
    refs = tuple(ChunkRef(chunk_hash(content), len(content)) for content in contents)
    manifest = build([Source(("a", "long"), EntryKind.FILE, refs), Source(("b",), EntryKind.FILE, refs[:1])])
    for content in (*contents, *manifest.nodes.values()):
        store.put(chunk_hash(content), content)
    return manifest


def held(store: DiskChunkStore) -> set[ChunkHash]:
    return set(store.hashes())


def test_reachable_is_the_whole_tree_and_no_more(store: DiskChunkStore) -> None:
    first = tree(store, 1)
    before = held(store)
    second = tree(store, 2)
    assert reachable([first.root], store.get) == before
    assert reachable([first.root, second.root], store.get) == held(store)
    assert reachable([Root("0" * 64)], store.get) == {ChunkHash(bytes(32))}
    assert reachable([], store.get) == set()


def test_reachable_goes_on_past_what_is_lacking(store: DiskChunkStore) -> None:
    first = tree(store, 1)
    store.delete([chunk_hash(b"1-0")])
    inner = [name for name in first.nodes if name.hex() != first.root]
    store.delete(inner[:1])
    assert held(store) - reachable([first.root], store.get) < {chunk_hash(f"1-{at}".encode()) for at in range(300)}


async def test_what_nothing_holds_goes(store: DiskChunkStore) -> None:
    kept = tree(store, 1)
    before = held(store)
    tree(store, 2, 1000)
    assert await ChunkSweep(store, Transfers(Clock(), 0), lambda: [kept.root]).sweep()
    assert held(store) == before


async def test_a_sweep_waits_for_uploads_and_fetches_to_be_over(store: DiskChunkStore) -> None:
    clock = Clock()
    transfers = Transfers(clock, 300.0)
    assert transfers.wait_time() == 300
    clock.now += 299
    assert transfers.wait_time() == 1
    await transfers.upload()
    assert transfers.wait_time() == 300
    clock.now += 301
    assert transfers.wait_time() == 0
    async with transfers.fetch():
        assert transfers.wait_time() > 0
    assert transfers.wait_time() == 0


class Interrupted(DiskChunkStore):
    """A store in which something else happens after the first chunks went."""

    transfers: Transfers
    deleted = 0

    def delete(self, chunks: Iterable[ChunkHash]) -> None:
        chunks = list(chunks)
        self.deleted += len(chunks)
        self.transfers.begun += 1
        super().delete(chunks)


@pytest.mark.parametrize("via", ["upload", "fetch", "ops"])
async def test_a_transfer_that_begins_ends_a_sweep(tmp_path: Path, via: str) -> None:
    store = Interrupted(tmp_path)
    store.transfers = transfers = Transfers(Clock(), 0)
    tree(store, 1, 1000)
    assert not await ChunkSweep(store, transfers, list).sweep()
    assert store.deleted == 256
    begun = transfers.begun
    if via == "upload":
        await transfers.upload()
    elif via == "fetch":
        async with transfers.fetch():
            pass
    else:
        await ChunkOps(store, transfers.upload).missing(b"\x90")
    assert transfers.begun == begun + 1
    store.close()


async def test_an_operator_waits_while_chunks_go(store: DiskChunkStore) -> None:
    transfers = Transfers(Clock(), 0)
    async with transfers.lock:
        asked = asyncio.create_task(ChunkOps(store, transfers.upload).missing(b"\x90"))
        await asyncio.sleep(0)
        assert not asked.done()
    await asked


async def test_the_job_sweeps_after_news_and_survives_an_error(store: DiskChunkStore) -> None:
    asked = []

    def roots() -> list[Root]:
        asked.append(1)
        if len(asked) == 1:
            raise SyncError("the disk is away")
        return []

    tree(store, 1)
    sweep = ChunkSweep(store, Transfers(Clock(), 0), roots)
    job = asyncio.create_task(sweep.run())
    sweep.wake()
    await until(lambda: asked)
    assert held(store)
    sweep.wake()
    await until(lambda: not held(store))
    job.cancel()
    await asyncio.wait({job})
