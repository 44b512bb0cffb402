"""Chunks over links: fetch what this node misses from any peer that has it; serve what it has."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from gridnode import messages
from gridnode.errors import ChunkMissing
from gridnode.messages import MAX_GET, MAX_HASHES, MAX_PARTS_SIZE, ChunkPart
from gridnode.model import ChunkHash, Root
from gridnode.sync import ChunkStore
from gridnode.sync.download import Download, Source, Sources
from gridnode.sync.exchange import Exchange
from gridnode.sync.parts import give_parts, store_parts
from gridnode.sync.pieces import batches, cut
from gridnode.sync.tree import Walk

__all__ = ["ChunkOps", "Fetch", "Progress", "Sources"]

Progress = Callable[[int, int], None]
"""Bytes of chunks that are here, bytes in all."""
_RETRY = 0.2


class Fetch:
    """One tree on its way here. A peer that sends a bad chunk is not asked again.

    at_once: requests for tree nodes. patience: seconds without a chunk after which it ends.
    holding: keeps chunks from being removed while it runs.
    """

    def __init__(
        self,
        store: ChunkStore,
        sources: Sources,
        exchange: Exchange,
        at_once: int,
        patience: float,
        progress: Progress,
        holding: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self._holding = holding
        self._store = store
        self._source = Source(store, sources)
        self._exchange = exchange
        self._at_once = at_once
        self._patience = patience
        self._progress = progress

    async def run(self, root: Root) -> None:
        """Bring the tree, breadth first, then the pieces it names; SyncError when no peer has them."""
        async with self._holding():
            walk = Walk(root)
            while walk.wanted:
                await self._obtain(await asyncio.to_thread(self._store.missing, list(walk.wanted)))
                await asyncio.to_thread(_feed, walk, self._store)
            layout = await asyncio.to_thread(cut, root, walk.chunks)
            missing = await asyncio.to_thread(self._store.missing, list(walk.chunks))
            total = layout.size
            have = total - sum(walk.chunks[item] for item in missing)
            self._progress(have, total)
            if not missing:
                self._exchange.hold(layout, layout.everything)
                return

            def arrived(chunks: set[ChunkHash]) -> None:
                nonlocal have
                have += sum(walk.chunks[item] for item in chunks)
                self._progress(have, total)

            await Download(self._source, self._exchange, layout, missing, self._patience, arrived).run()

    async def _obtain(self, nodes: Sequence[ChunkHash]) -> None:
        """Tree nodes, from whoever has them."""
        waiting = deque(batches(nodes, {}, MAX_GET, MAX_PARTS_SIZE))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._at_once, len(waiting))):
                    group.create_task(self._drain(waiting))
        except ExceptionGroup as error:
            raise error.exceptions[0] from error

    async def _drain(self, waiting: deque[list[ChunkHash]]) -> None:
        while waiting:
            await self._obtain_batch(set(waiting.popleft()))

    async def _obtain_batch(self, wanted: set[ChunkHash]) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + self._patience
        while wanted:
            before = len(wanted)
            for peer in self._source.askable():
                wanted -= await self._source.chunks(peer, wanted)
                if not wanted:
                    return
            if len(wanted) < before:
                deadline = now() + self._patience
            elif now() > deadline:
                raise ChunkMissing(f"no linked peer has {len(wanted)} of the chunks ({next(iter(wanted)).hex()[:12]}…)")
            else:
                await asyncio.sleep(_RETRY)


def _feed(walk: Walk, store: ChunkStore) -> None:
    """One level of the tree, which is in the store."""
    for item in list(walk.wanted):
        walk.feed(item, store.get(item))


class ChunkOps:
    """The store as peers and operators reach it. on_upload: what is there must stay, for an operator counts on it."""

    def __init__(self, store: ChunkStore, on_upload: Callable[[], Awaitable[None]] | None = None) -> None:
        self._store = store
        self._on_upload = on_upload

    async def missing(self, body: bytes) -> bytes:
        await self._uploading()
        hashes = messages.decode_hashes(body, MAX_HASHES)
        return messages.encode(await asyncio.to_thread(self._store.missing, hashes))

    async def give(self, body: bytes) -> bytes:
        hashes = messages.decode_hashes(body, MAX_GET)
        return messages.encode(await asyncio.to_thread(give_parts, self._store, hashes))

    async def take(self, body: bytes) -> bytes:
        await self._uploading()
        await asyncio.to_thread(store_parts, self._store, messages.decode(body, list[ChunkPart]))
        return b""

    async def _uploading(self) -> None:
        if self._on_upload:
            await self._on_upload()
