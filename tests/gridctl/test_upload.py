import hashlib
import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.upload import IN_FLIGHT, PART_OVERHEAD, Sent, batches, upload
from gridnode.errors import ChunkInvalid, LinkClosed
from gridnode.messages import MAX_HASHES, MAX_PARTS_SIZE, ChunkPart, encode
from gridnode.model import ChunkHash
from gridnode.sync.chunk import EncodedChunk, chunk_hash, verify
from gridnode.wire import MAX_CALL_BODY


def key(number: int) -> ChunkHash:
    return ChunkHash(hashlib.sha256(str(number).encode()).digest())


class Store:
    """A node's store, with the bounds that a node holds to."""

    def __init__(self, held: dict[ChunkHash, bytes] | None = None, fails_after: int | None = None) -> None:
        self.held = held or {}
        self.asked: list[int] = []
        self.puts: list[int] = []
        self.under_way = self.most_under_way = 0
        self._fails_after = fails_after

    async def missing_chunks(self, hashes: Sequence[ChunkHash]) -> list[ChunkHash]:
        assert len(hashes) <= MAX_HASHES
        self.asked.append(len(hashes))
        return [chunk for chunk in hashes if chunk not in self.held]

    async def put_chunks(self, parts: Sequence[ChunkPart]) -> None:
        assert len(encode(parts)) <= MAX_CALL_BODY
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.puts.append(len(parts))
        if self._fails_after is not None and len(self.puts) > self._fails_after:
            raise LinkClosed("gone")
        for part in parts:
            self.held[part.hash] = verify(part.hash, EncodedChunk(part.codec, part.length, part.payload))
        self.under_way -= 1


def project(count: int, size: int) -> dict[ChunkHash, bytes]:
    noise = random.Random(7)
    contents = [noise.randbytes(size) for _ in range(count)]
    return {chunk_hash(content): content for content in contents}


def lengths(chunks: dict[ChunkHash, bytes]) -> dict[ChunkHash, int]:
    return {chunk: len(content) for chunk, content in chunks.items()}


async def test_only_what_is_missing_is_sent() -> None:
    chunks = project(100, 60_000)
    held = dict(list(chunks.items())[:40])
    store, seen = Store(dict(held)), []
    sent = await upload(store, lengths(chunks), chunks.__getitem__, lambda now: seen.append(now.content))
    assert store.held == chunks
    assert (sent.chunks, sent.content, sent.total) == (60, 3_600_000, 3_600_000)
    assert seen == sorted(seen)
    assert seen[-1] == sent.total


async def test_what_compresses_travels_compressed() -> None:
    chunks = {chunk_hash(b"a" * 100_000): b"a" * 100_000}
    sent = await upload(Store(), lengths(chunks), chunks.__getitem__, lambda now: None)
    assert sent.content == 100_000
    assert sent.payload < 1000


async def test_nothing_to_send() -> None:
    chunks = project(3, 10)
    assert await upload(Store(dict(chunks)), lengths(chunks), chunks.__getitem__, lambda now: None) == Sent()
    assert await upload(Store(), {}, chunks.__getitem__, lambda now: None) == Sent()


async def test_it_asks_in_pieces() -> None:
    chunks = {key(number): 1 for number in range(MAX_HASHES + 5)}
    store = Store(dict.fromkeys(chunks, b"x"))
    await upload(store, chunks, lambda chunk: b"", lambda now: None)
    assert store.asked == [MAX_HASHES, 5]


async def test_several_batches_are_in_flight_and_bounded() -> None:
    chunks = project(60, 250_000)
    store = Store()
    await upload(store, lengths(chunks), chunks.__getitem__, lambda now: None)
    assert store.held == chunks
    assert store.most_under_way <= IN_FLIGHT
    assert max(store.puts) == 4


async def test_the_first_error_is_raised_as_itself() -> None:
    chunks = project(60, 250_000)
    with pytest.raises(LinkClosed):
        await upload(Store(fails_after=2), lengths(chunks), chunks.__getitem__, lambda now: None)

    def changed(chunk: ChunkHash) -> bytes:
        raise ChunkInvalid("changed")

    with pytest.raises(ChunkInvalid):
        await upload(Store(), lengths(chunks), changed, lambda now: None)


async def test_hashes_nobody_asked_about_are_passed_over() -> None:
    class Liar(Store):
        async def missing_chunks(self, hashes: Sequence[ChunkHash]) -> list[ChunkHash]:
            return [key(99), *hashes]

    chunks = project(2, 10)
    store = Liar()
    await upload(store, lengths(chunks), chunks.__getitem__, lambda now: None)
    assert store.held == chunks


@given(st.lists(st.integers(0, 300_000), max_size=200))
def test_batches_keep_order_and_bound(sizes: list[int]) -> None:
    chunks = {key(number): size for number, size in enumerate(sizes)}
    cut = list(batches(chunks, chunks))
    assert [chunk for batch in cut for chunk in batch] == list(chunks)
    assert all(sum(chunks[chunk] + PART_OVERHEAD for chunk in batch) <= MAX_PARTS_SIZE for batch in cut)
    assert all(
        sum(chunks[chunk] + PART_OVERHEAD for chunk in (*batch, after[0])) > MAX_PARTS_SIZE
        for batch, after in itertools.pairwise(cut)
    )


def test_many_tiny_chunks_fit_a_frame() -> None:
    chunks = {key(number): 0 for number in range(40_000)}
    for batch in batches(chunks, chunks):
        assert len(encode([ChunkPart(chunk, 0, 0, b"") for chunk in batch])) < MAX_CALL_BODY
