"""Looks for chunks that rotted on this node's disk, all of them when an operator asks, and gets bad ones again.

Whatever reads a chunk and finds it bad puts it into the quarantine; this brings the trees that lack it up to date.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice

import structlog

from gridnode import messages
from gridnode.errors import BodyInvalid, ChunkInvalid, ChunkMissing, GridError
from gridnode.messages import MAX_BAD, SCRUB_START, BadChunk, ScrubReport
from gridnode.model import ChunkHash, Root
from gridnode.sync import ChunkStore

log = structlog.get_logger()

_STEP = 64
"""Chunks read between two rests."""
_RETRY_FIRST = 1.0
_RETRY_LAST = 300.0


class Scrub:
    """fetch: brings a tree here; roots: of every tree that is to stay."""

    def __init__(
        self, store: ChunkStore, fetch: Callable[[Root], Awaitable[None]], roots: Callable[[], Iterable[Root]]
    ) -> None:
        self._store = store
        self._fetch = fetch
        self._roots = roots
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._report = ScrubReport()
        self._bad: dict[ChunkHash, str] = {}

    def found_bad(self, chunk: ChunkHash) -> None:
        """A read found this chunk bad; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: the next life looks into the quarantine
            self._loop.call_soon_threadsafe(self._news.set)

    async def answer(self, body: bytes) -> bytes:
        """SCRUB: the report; SCRUB_START begins one unless one is under way."""
        if body not in (b"", SCRUB_START):
            raise BodyInvalid("expected nothing or a start")
        if body and not self._report.running:
            self._report = ScrubReport(running=True)
            self._bad.clear()
            self._report = ScrubReport(running=True, total=await asyncio.to_thread(self._store.count))
            self._wanted.set()
        self._bad.update(await asyncio.to_thread(self._store.quarantined))
        known = self._bad.copy()
        missing = set(await asyncio.to_thread(self._store.missing, list(known)))
        bad = tuple(BadChunk(name, why[:200], name not in missing) for name, why in islice(known.items(), MAX_BAD))
        report = self._report
        return messages.encode(
            ScrubReport(report.running, report.checked, report.total, report.size, len(known), len(missing), bad)
        )

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look(), name="scrub")
            group.create_task(self._mend(), name="mend-chunks")

    # -- looking ----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            checked = size = 0
            hashes = self._store.hashes()
            try:
                while True:
                    started = time.monotonic()
                    count, read = await asyncio.to_thread(self._check, hashes)
                    if not count:
                        break
                    checked, size = checked + count, size + read
                    self._report = ScrubReport(True, checked, max(self._report.total, checked), size)
                    await asyncio.sleep(time.monotonic() - started)  # half of a core at most: calls go first
            except GridError as exc:
                log.error("cannot check the chunks on disk", error=exc.message)
            self._report = ScrubReport(False, checked, max(self._report.total, checked), size)
            log.info("checked the chunks on disk", count=checked, size=size, bad=len(self._bad))

    def _check(self, hashes: Iterator[ChunkHash]) -> tuple[int, int]:
        """How many of the next few were read, and their bytes."""
        count = size = 0
        for chunk in islice(hashes, _STEP):
            count += 1
            try:
                size += len(self._store.get(chunk))
            except ChunkMissing:
                continue
            except ChunkInvalid as exc:
                self._bad[chunk] = exc.message
        return count, size

    # -- mending ----------------------------------------------------------------------------------------------------

    async def _mend(self) -> None:
        """An earlier life may have left some to mend."""
        delay = 0.0
        while True:
            self._news.clear()
            bad = await asyncio.to_thread(self._store.quarantined)
            if bad:
                await self._bring()
                left = await asyncio.to_thread(self._store.quarantined)
                log.info("fetched bad chunks again", count=len(bad.keys() - left.keys()), left=len(left))
                delay = min(delay * 2 or _RETRY_FIRST, _RETRY_LAST) if left else 0.0
            with suppress(TimeoutError):
                async with asyncio.timeout(delay or None):
                    await self._news.wait()

    async def _bring(self) -> None:
        for root in dict.fromkeys(self._roots()):
            try:
                await self._fetch(root)
            except GridError as exc:
                log.warning("cannot make a tree whole again yet", root=root, error=exc.message)
