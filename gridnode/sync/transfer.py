"""Chunks over links: fetch what this node misses from any peer that has it; serve what it has."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from gridnode import messages
from gridnode.errors import BodyInvalid, ChunkInvalid, ChunkMissing, GridError, SyncError
from gridnode.link.protocol import Link
from gridnode.messages import MAX_GET, MAX_HASHES, MAX_PARTS_SIZE, ChunkPart
from gridnode.model import ChunkHash, NodeId, Root
from gridnode.sync import ChunkStore
from gridnode.sync.chunk import EncodedChunk
from gridnode.sync.tree import Walk
from gridnode.wire import Op

log = structlog.get_logger()

Progress = Callable[[int, int], None]
"""Bytes of chunks that are here, bytes in all."""
_RETRY = 0.2
_REQUEST_TIMEOUT = 10.0


class Sources:
    """Where chunks come from: the peers linked now, each by its bulk link."""

    def __init__(self, peers: Callable[[], Iterable[NodeId]], bulk: Callable[[NodeId], Awaitable[Link]]) -> None:
        self.peers = peers
        self.bulk = bulk


class Fetch:
    """One release on its way here. A peer that sends a bad chunk is not asked again."""

    def __init__(self, store: ChunkStore, sources: Sources, at_once: int, patience: float, progress: Progress) -> None:
        self._store = store
        self._sources = sources
        self._at_once = at_once
        self._patience = patience
        self._progress = progress
        self._liars: set[NodeId] = set()
        self._slow: set[NodeId] = set()
        self._sizes: dict[ChunkHash, int] = {}
        self._have = 0
        self._total = 0

    async def run(self, root: Root) -> None:
        """Bring the tree, breadth first, then the chunks it names; SyncError when no peer has them."""
        walk = Walk(root)
        while walk.wanted:
            level = list(walk.wanted)
            await self._obtain(await asyncio.to_thread(self._store.missing, level))
            for item in level:
                walk.feed(item, await asyncio.to_thread(self._store.get, item))
        self._sizes = walk.chunks
        missing = await asyncio.to_thread(self._store.missing, list(self._sizes))
        self._total = sum(self._sizes.values())
        self._have = self._total - sum(self._sizes[item] for item in missing)
        self._progress(self._have, self._total)
        await self._obtain(missing)

    async def _obtain(self, missing: Sequence[ChunkHash]) -> None:
        batches = deque(self._batches(list(missing)))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._at_once, len(batches))):
                    group.create_task(self._drain(batches))
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error

    def _batches(self, missing: list[ChunkHash]) -> list[list[ChunkHash]]:
        """Up to MAX_GET hashes and about MAX_PARTS_SIZE bytes each, in random order so that peers differ."""
        random.shuffle(missing)
        batches: list[list[ChunkHash]] = []
        room = 0
        for item in missing:
            size = self._sizes.get(item, MAX_PARTS_SIZE // MAX_GET)
            if not batches or room < size or len(batches[-1]) >= MAX_GET:
                batches.append([])
                room = MAX_PARTS_SIZE
            batches[-1].append(item)
            room -= size
        return batches

    async def _drain(self, batches: deque[list[ChunkHash]]) -> None:
        while batches:
            await self._obtain_batch(batches.popleft())

    async def _obtain_batch(self, batch: list[ChunkHash]) -> None:
        wanted = set(batch)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while wanted:
            before = len(wanted)
            for peer in self._askable():
                wanted -= await self._ask(peer, wanted)
                if not wanted:
                    return
            if len(wanted) < before:
                deadline = loop.time() + self._patience
            elif loop.time() > deadline:
                raise ChunkMissing(f"no linked peer has {len(wanted)} of the chunks ({next(iter(wanted)).hex()[:12]}…)")
            else:
                await asyncio.sleep(_RETRY)

    def _askable(self) -> list[NodeId]:
        peers = [peer for peer in self._sources.peers() if peer not in self._liars]
        random.shuffle(peers)
        return sorted(peers, key=self._slow.__contains__)

    async def _ask(self, peer: NodeId, wanted: set[ChunkHash]) -> set[ChunkHash]:
        """The chunks that `peer` gave and that proved right."""
        try:
            link = await self._sources.bulk(peer)
            reply = await link.request(Op.CHUNKS_GET, messages.encode(list(wanted)), timeout=_REQUEST_TIMEOUT)
        except TimeoutError:
            log.info("a peer is slow to give chunks; it is asked last from now on", peer=peer)
            self._slow.add(peer)
            return set()
        except GridError as exc:
            log.debug("peer did not give chunks", peer=peer, error=str(exc))
            return set()
        try:
            parts = {part.hash: part for part in messages.decode(reply, list[ChunkPart]) if part.hash in wanted}
            await asyncio.to_thread(store_parts, self._store, parts.values())
        except (ChunkInvalid, BodyInvalid) as exc:
            log.warning("a peer sent a bad chunk; not asking it again", peer=peer, error=exc.message)
            self._liars.add(peer)
            return set()
        got = set(parts)
        self._have += sum(self._sizes.get(item, 0) for item in got)
        if self._total:
            self._progress(self._have, self._total)
        return got


def store_parts(store: ChunkStore, parts: Iterable[ChunkPart]) -> None:
    """Verify and keep what arrived; ChunkInvalid when one is bad."""
    store.put_batch((part.hash, EncodedChunk(part.codec, part.length, part.payload)) for part in parts)


def give_parts(store: ChunkStore, wanted: Iterable[ChunkHash]) -> list[ChunkPart]:
    """What we have of `wanted`, until MAX_PARTS_SIZE is reached."""
    parts: list[ChunkPart] = []
    room = MAX_PARTS_SIZE
    for item in wanted:
        try:
            encoded = store.get_encoded(item)
        except SyncError:
            continue
        parts.append(ChunkPart(item, encoded.codec, encoded.length, encoded.payload))
        room -= len(encoded.payload)
        if room <= 0:
            break
    return parts


class ChunkOps:
    """The store as peers and operators reach it."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store

    async def missing(self, body: bytes) -> bytes:
        hashes = messages.decode_hashes(body, MAX_HASHES)
        return messages.encode(await asyncio.to_thread(self._store.missing, hashes))

    async def give(self, body: bytes) -> bytes:
        hashes = messages.decode_hashes(body, MAX_GET)
        return messages.encode(await asyncio.to_thread(give_parts, self._store, hashes))

    async def take(self, body: bytes) -> bytes:
        await asyncio.to_thread(store_parts, self._store, messages.decode(body, list[ChunkPart]))
        return b""
