"""Fetching from peers that help, lie, stall and lack; serving what they ask for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from gridnode import messages
from gridnode.errors import (
    BodyInvalid,
    ChunkInvalid,
    ChunkMissing,
    Forbidden,
    GridError,
    LinkClosed,
    SyncError,
    error_from,
)
from gridnode.link.protocol import Link
from gridnode.messages import MAX_GET, MAX_HASHES, MAX_PARTS_SIZE, ChunkPart
from gridnode.model import ChunkHash, NodeId, Root
from gridnode.sync import download, pack_files, transfer
from gridnode.sync.chunk import ChunkRef, chunk_hash, encode
from gridnode.sync.download import Sources
from gridnode.sync.exchange import Exchange
from gridnode.sync.manifest import EntryKind
from gridnode.sync.parts import give_parts
from gridnode.sync.piece_wire import PieceParts, decode_get, encode_parts
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.transfer import ChunkOps, Fetch
from gridnode.sync.tree import Source, build
from gridnode.wire import MAX_CALL_BODY, Frame, Kind, Op
from tests.fakes.packs import rot
from tests.fakes.peers import until

Answer = Callable[[bytes], Awaitable[bytes]]
ME = NodeId("f" * 40)


class End:
    """Our end of the main link to a peer: events arrive in its exchange at once, as from `sender`."""

    def __init__(self, sender: NodeId, exchange: Exchange) -> None:
        self._sender = sender
        self._exchange = exchange

    def event(self, op: Op, body: bytes) -> None:
        self._exchange.heard(self._sender, Frame(Kind.EVENT, 0, op, body=body))


class Peer:
    """A peer that has a store, and answers from it, or as told."""

    def __init__(self, name: str, store: DiskChunkStore, place: "Place") -> None:
        self.node = NodeId(name * 40)
        self.store = store
        self.ops = ChunkOps(store)
        self.exchange = Exchange(store, lambda op, body: None, lambda node: cast(Link, End(self.node, place.exchange)))
        self.answer: Answer = self.ops.give
        self.answer_piece: Answer = self.give_piece
        self.asked = 0

    async def request(self, op: Op, body: bytes, *, timeout: float) -> bytes:
        self.asked += 1
        if op is Op.PIECE_GET:
            assert len(decode_get(body).chunks) > 0
            return await self.answer_piece(body)
        assert op is Op.CHUNKS_GET
        assert len(messages.decode_hashes(body, MAX_GET)) > 0
        return await self.answer(body)

    async def give_piece(self, body: bytes) -> bytes:
        get = decode_get(body)
        given = self.exchange.given(ME, get)
        return encode_parts(PieceParts((), True, given)) if given else await self.exchange.give(get)

    def answers(self, answer: Answer) -> None:
        """Whatever it is asked."""
        self.answer = self.answer_piece = answer


class Place:
    """A release, a node that lacks it, and peers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stores: list[DiskChunkStore] = []
        self.store = self.make("mine")
        self.peers: dict[NodeId, Peer] = {}
        self.progress: list[tuple[int, int]] = []
        self.exchange = Exchange(self.store, self.tell, self.link)
        contents = [bytes([n]) * (1000 + n) for n in range(150)]
        chunks = [(chunk_hash(content), content) for content in contents]
        files = [
            Source((f"d{n % 3}", f"f{n}"), EntryKind.FILE, (ChunkRef(name, len(content)),))
            for n, (name, content) in enumerate(chunks)
        ]
        self.manifest = build(files)
        self.chunks = dict(self.manifest.nodes) | dict(chunks)
        self.size = sum(len(content) for content in contents)

    def make(self, name: str) -> DiskChunkStore:
        (self.directory / name).mkdir()
        self.stores.append(DiskChunkStore(self.directory / name))
        return self.stores[-1]

    def link(self, node: NodeId) -> Link | None:
        peer = self.peers.get(node)
        return cast(Link, End(ME, peer.exchange)) if peer else None

    def tell(self, op: Op, body: bytes) -> None:
        for node in list(self.peers):
            cast(Link, self.link(node)).event(op, body)

    def peer(self, name: str, holds: float = 1.0) -> Peer:
        store = self.make(name)
        wanted = list(self.chunks.items())
        store.put_batch((key, encode(content)) for key, content in wanted[: int(len(wanted) * holds)])
        peer = Peer(name, store, self)
        self.peers[peer.node] = peer
        self.exchange.linked(cast(Link, self.link(peer.node)))
        return peer

    def fetch(self, patience: float = 0.3, at_once: int = 4) -> Fetch:
        async def bulk(node: NodeId) -> Link:
            if node not in self.peers:
                raise LinkClosed("gone")
            return cast(Link, self.peers[node])

        sources = Sources(lambda: list(self.peers), bulk)
        return Fetch(
            self.store,
            sources,
            self.exchange,
            at_once,
            patience,
            lambda have, total: self.progress.append((have, total)),
        )

    async def bring(self, patience: float = 0.3) -> None:
        await self.fetch(patience).run(self.manifest.root)
        assert self.store.missing(self.chunks) == []
        assert self.progress[-1] == (self.size, self.size)
        assert self.progress == sorted(self.progress)


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(transfer, "_RETRY", 0.01)
    monkeypatch.setattr(download, "_TICK", 0.01)
    monkeypatch.setattr(download, "_STUCK", 0.05)
    monkeypatch.setattr(pack_files.os, "fsync", lambda descriptor: None)
    place = Place(tmp_path)
    yield place
    for store in place.stores:
        store.close()


def answers(error: BaseException) -> Answer:
    async def answer(body: bytes) -> bytes:
        raise error

    return answer


# -- fetching -------------------------------------------------------------------------------------------------------


async def test_from_one_peer(place: Place) -> None:
    place.peer("a")
    await place.bring()


async def test_nothing_is_asked_for_what_is_here(place: Place) -> None:
    peer = place.peer("a")
    place.store.put_batch((key, encode(content)) for key, content in place.chunks.items())
    await place.bring()
    assert peer.asked == 0


async def test_what_is_here_already_is_not_fetched_again(place: Place) -> None:
    place.peer("a")
    held = list(place.chunks.items())[-100:]
    place.store.put_batch((key, encode(content)) for key, content in held)
    await place.bring()
    assert place.progress[0][0] == sum(len(content) for _, content in held)


async def test_from_several_that_hold_different_parts(place: Place) -> None:
    for name in "abc":
        peer = place.peer(name, holds=0.0)
        for n, (key, content) in enumerate(place.chunks.items()):
            if "abc"[n % 3] == name:
                peer.store.put(key, content)
    await place.bring()
    assert all(peer.asked for peer in place.peers.values())


async def test_one_that_lacks_chunks_holds_nobody_up(place: Place) -> None:
    place.peer("a", holds=0.0)
    place.peer("b", holds=0.5)
    place.peer("c")
    await place.bring()


def liar(place: Place, make: Callable[[ChunkHash], ChunkPart]) -> Answer:
    async def answer(body: bytes) -> bytes:
        return messages.encode([make(item) for item in messages.decode_hashes(body, MAX_GET)])

    return answer


LIES: dict[str, Callable[[ChunkHash], ChunkPart]] = {
    "other bytes": lambda item: ChunkPart(item, 0, 5, b"wrong"),
    "a wrong length": lambda item: ChunkPart(item, 0, 50, b"wrong"),
    "an unknown codec": lambda item: ChunkPart(item, 9, 5, b"wrong"),
    "a bad frame": lambda item: ChunkPart(item, 1, 5, b"wrong"),
    "a bomb": lambda item: ChunkPart(item, 1, 1 << 40, encode(bytes(100_000)).payload),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_a_peer_that_lies_is_not_asked_again(place: Place, lie: Callable[[ChunkHash], ChunkPart]) -> None:
    bad = place.peer("a")
    bad.answer = liar(place, lie)
    place.peer("b")
    await place.bring()
    assert bad.asked <= 4, "those under way at once"


@pytest.mark.parametrize("reply", [b"", b"\xff", b"\x91" * 100_000, messages.encode([[1, 2]]), messages.encode("x")])
async def test_nor_is_one_that_sends_garbage(place: Place, reply: bytes) -> None:
    async def answer(body: bytes) -> bytes:
        return reply

    bad = place.peer("a")
    bad.answer = answer
    place.peer("b")
    await place.bring()
    assert bad.asked <= 4


async def test_chunks_nobody_asked_for_are_not_kept(place: Place) -> None:
    extra = chunk_hash(b"extra")

    async def answer(body: bytes) -> bytes:
        return messages.encode([ChunkPart(extra, 0, 5, b"extra")])

    place.peer("a").answer = answer
    place.peer("b")
    await place.bring()
    assert not place.store.has(extra)


ERRORS = [
    LinkClosed("gone"),
    TimeoutError(),
    Forbidden("no"),
    error_from("of the future", "m"),
    SyncError("my disk is full"),
    ChunkMissing("I have none"),
    error_from("manifest_invalid", "m"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_an_error_of_a_peer_is_not_ours(place: Place, error: BaseException) -> None:
    place.peer("a").answer = answers(error)
    place.peer("b")
    await place.bring()


async def test_when_nobody_has_a_chunk_it_says_so_in_time(place: Place) -> None:
    for name in "ab":
        place.peer(name, holds=0.7)
    start = asyncio.get_running_loop().time()
    with pytest.raises(ChunkMissing, match="no linked peer has"):
        await place.bring(patience=0.1)
    assert asyncio.get_running_loop().time() - start < 3


async def test_when_only_a_liar_has_them_too(place: Place) -> None:
    place.peer("a").answer = liar(place, LIES["other bytes"])
    with pytest.raises(ChunkMissing):
        await place.bring(patience=0.1)


async def test_a_peer_that_comes_within_patience_is_asked(place: Place) -> None:
    bring = asyncio.ensure_future(place.bring(patience=5))
    await until(lambda: place.store.missing(place.chunks))
    place.peer("a")
    await bring


async def test_a_full_disk_here_ends_the_fetch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(chunks: Any) -> None:
        raise SyncError("cannot use chunks: No space left on device")

    peer = place.peer("a")
    monkeypatch.setattr(place.store, "put_batch", full)
    with pytest.raises(SyncError, match="No space left"):
        await place.bring()
    assert peer.asked <= 4


async def test_a_tree_that_breaks_a_rule_is_refused(place: Place) -> None:
    content = b"no manifest at all"
    place.peer("a").store.put(chunk_hash(content), content)
    with pytest.raises(SyncError, match="malformed"):
        await place.fetch().run(Root(chunk_hash(content).hex()))


async def test_a_fetch_can_be_stopped(place: Place) -> None:
    stalled = asyncio.Event()

    async def answer(body: bytes) -> bytes:
        stalled.set()
        await asyncio.Event().wait()
        return b""

    place.peer("a").answer = answer
    bring = asyncio.ensure_future(place.bring(patience=60))
    await stalled.wait()
    bring.cancel()
    await asyncio.wait({bring}, timeout=5)
    assert bring.cancelled()


# -- serving --------------------------------------------------------------------------------------------------------


async def test_a_reply_stays_within_its_bound(place: Place) -> None:
    store = place.make("big")
    contents = [bytes([n]) + bytes(i * i * n % 251 for i in range(200_000)) for n in range(1, 40)]
    names = [chunk_hash(content) for content in contents]
    store.put_batch(zip(names, (encode(content) for content in contents), strict=True))
    parts = give_parts(store, names)
    assert len(parts) > 0
    assert sum(len(part.payload) for part in parts[:-1]) < MAX_PARTS_SIZE
    assert len(messages.encode(parts)) < MAX_CALL_BODY


async def test_what_is_asked_for_is_bounded(place: Place) -> None:
    ops = ChunkOps(place.store)
    for ask, limit in ((ops.give, MAX_GET), (ops.missing, MAX_HASHES)):
        assert messages.decode(await ask(messages.encode([b"x" * 32] * limit)), list[Any]) in ([], [b"x" * 32])
        for body in (messages.encode([b"x" * 32] * (limit + 1)), messages.encode([b"x"]), b"garbage"):
            with pytest.raises(BodyInvalid):
                await ask(body)


async def test_an_operators_chunks_are_checked(place: Place) -> None:
    ops = ChunkOps(place.store)
    name, encoded = chunk_hash(b"content"), encode(b"content")
    good = ChunkPart(name, encoded.codec, encoded.length, encoded.payload)
    assert await ops.take(messages.encode([good])) == b""
    assert place.store.get(name) == b"content"
    with pytest.raises(ChunkInvalid):
        await ops.take(messages.encode([ChunkPart(chunk_hash(b"other"), 0, 5, b"wrong")]))
    for garbage in (b"", b"\xff", messages.encode([1]), b"\x91" * 100_000):
        with pytest.raises(BodyInvalid):
            await ops.take(garbage)


async def test_a_chunk_that_rotted_is_not_given(place: Place) -> None:
    name = chunk_hash(b"content")
    place.store.put(name, b"content")
    rot(place.directory / "mine", name)
    assert messages.decode(await ChunkOps(place.store).give(messages.encode([name])), list[Any]) == []
    assert not place.store.has(name)


def test_errors_are_grid_errors() -> None:
    assert all(isinstance(error, GridError | TimeoutError) for error in ERRORS)
