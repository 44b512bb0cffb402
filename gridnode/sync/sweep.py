"""Removes the chunks that no release, no image and no transfer holds: mark, then sweep in small steps.

A transfer is a fetch of this node's, or an operator's upload: from the first question what the node lacks until the
ledger names what was sent. An upload has no end that a node could see, so it counts as going on for `quiet` seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import structlog

from gridnode.errors import GridError
from gridnode.model import ChunkHash, Root
from gridnode.sync import ChunkStore
from gridnode.sync.tree import reachable

log = structlog.get_logger()

_STEP = 256
"""Chunks removed while transfers wait."""


class Transfers:
    """Who relies on chunks right now. quiet: seconds without an upload after which none is under way."""

    def __init__(self, now: Callable[[], float], quiet: float) -> None:
        self._now = now
        self._quiet = quiet
        self._last_upload = now()  # one of an earlier life may go on
        self._fetches = 0
        self.begun = 0
        self.lock = asyncio.Lock()

    async def upload(self) -> None:
        """An operator asks what is lacking, or sends it: from now on, what there is must stay."""
        async with self.lock:
            self.begun += 1
            self._last_upload = self._now()

    @asynccontextmanager
    async def fetch(self) -> AsyncIterator[None]:
        """What there is must stay while the block runs."""
        async with self.lock:
            self.begun += 1
            self._fetches += 1
        try:
            yield
        finally:
            self._fetches -= 1

    def wait_time(self) -> float:
        """Seconds until chunks might be removed, 0 for now."""
        if self._fetches:
            return max(self._quiet, 1.0)
        return max(0.0, self._last_upload + self._quiet - self._now())


class ChunkSweep:
    """roots: of every tree that is to stay, releases and images."""

    def __init__(self, store: ChunkStore, transfers: Transfers, roots: Callable[[], Iterable[Root]]) -> None:
        self._store = store
        self._transfers = transfers
        self._roots = roots
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something may have been let go of."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled: sweep after every change, once no transfer is under way."""
        while True:
            await self._news.wait()
            wait = self._transfers.wait_time()
            if wait:
                await asyncio.sleep(wait)
                continue
            self._news.clear()
            try:
                if not await self.sweep():
                    self._news.set()
            except GridError as exc:
                log.warning("cannot remove chunks that nothing holds", error=exc.message)

    async def sweep(self) -> bool:
        """Whether all that is dead is gone; a transfer that begins meanwhile ends it."""
        begun = self._transfers.begun
        dead = await asyncio.to_thread(self._dead, set(self._roots()))
        count = 0
        for start in range(0, len(dead), _STEP):
            step = dead[start : start + _STEP]
            async with self._transfers.lock:
                if self._transfers.begun != begun:
                    break
                await asyncio.to_thread(self._store.delete, step)
                count += len(step)
        if count:
            freed = await asyncio.to_thread(self._store.compact)
            log.info("removed chunks that nothing holds", count=count, left=len(dead) - count, freed=freed)
        return count == len(dead)

    def _dead(self, roots: set[Root]) -> list[ChunkHash]:
        live = reachable(roots, self._store.get)
        held = (*self._store.hashes(), *self._store.quarantined())
        return [chunk for chunk in dict.fromkeys(held) if chunk not in live]
