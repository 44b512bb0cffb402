"""Follows the grid's release: fetch its chunks, materialise, prove its instances healthy, switch."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Set
from pathlib import Path
from typing import Protocol

import structlog

from gridnode.errors import GridError, ReleaseFailed, SyncError, TaskFailure
from gridnode.model import NodeId, Release, ReleaseReport, ReleaseState, ReleaseStatus, Root
from gridnode.sandbox.pool import Pool
from gridnode.sync.pace import Pace
from gridnode.sync.transfer import Fetch, Progress

log = structlog.get_logger()

_RETRY_FIRST = 1.0
_RETRY_LAST = 30.0


class Disk(Protocol):
    """Where releases lie and which one this node serves."""

    def materialise(self, release: Release) -> Path:
        """The release's directory, built if need be; raises SyncError."""

    def keep(self, roots: Set[Root]) -> None:
        """Remove the directories of all others."""

    def save_active(self, release: Release) -> None:
        """Remember, durably, that this one serves."""


async def _no_images(references: Iterable[str]) -> None:
    return


class Releases:
    """Brings this node to the release it is told to follow; the newest told wins.

    images: waits for those of these names that are on their way here; SyncError when one fails. files: for all of them.
    """

    def __init__(
        self,
        node: NodeId,
        disk: Disk,
        pool: Pool,
        fetch: Callable[[Progress], Fetch],
        on_status: Callable[[ReleaseStatus], None],
        images: Callable[[Iterable[str]], Awaitable[None]] = _no_images,
        files: Callable[[Iterable[str]], Awaitable[None]] = _no_images,
    ) -> None:
        self._files = files
        self._images = images
        self._node = node
        self._disk = disk
        self._pool = pool
        self._fetch = fetch
        self._on_status = on_status
        self._wanted: Release | None = None
        self._news = asyncio.Event()
        self._status: ReleaseStatus | None = None
        self._failures: tuple[TaskFailure, ...] = ()

    def follow(self, release: Release) -> None:
        """Aim for this release, unless a newer one is known already; of two with one sequence the ledger chose."""
        if _replaces(release, self._wanted):
            self._wanted = release
            self._news.set()

    def report(self) -> ReleaseReport:
        return ReleaseReport(self._node, self._status, self._failures)

    async def run(self, resume: Release | None) -> None:
        """Until cancelled: first serve again what served before, then follow. A newer one stops work on an older."""
        job: asyncio.Task[None] | None = None
        if resume:
            await self._resume(resume)
        await self._pool.reap()
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if job:
                    job.cancel()
                    await asyncio.wait({job})
                if self._wanted and _replaces(self._wanted, self._pool.release):
                    job = asyncio.create_task(self._bring(self._wanted), name="release")
        finally:
            if job:
                job.cancel()
                await asyncio.wait({job})

    async def _resume(self, release: Release) -> None:
        try:
            await self._activate(release)
        except GridError as exc:
            log.error("could not serve the last release again", root=release.root, error=exc.message)

    async def _bring(self, release: Release) -> None:
        """Retry what may heal (peers away, disk full, engine down); a release that fails its tasks stays failed."""
        delay = _RETRY_FIRST
        while True:
            try:
                await self._activate(release)
                return
            except ReleaseFailed as exc:
                self._failures = exc.failures
                self._tell(release, ReleaseState.FAILED, error=exc.message)
                log.error("release failed on this node", root=release.root, error=exc.message)
                return
            except GridError as exc:
                self._tell(release, ReleaseState.FAILED, error=exc.message)
                log.warning("release not there yet", root=release.root, error=exc.message)
            except Exception as exc:
                self._tell(
                    release, ReleaseState.FAILED, error=f"internal error: {type(exc).__name__}: see the node's log"
                )
                log.exception("release not there yet", root=release.root)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_LAST)

    async def _activate(self, release: Release) -> None:
        self._failures = ()
        self._tell(release, ReleaseState.FETCHING)
        await self._fetch(self._progress(release)).run(release.root)
        await self._images({task.image for task in release.tasks if task.image})
        await self._files({name for task in release.tasks for name in task.files})
        directory = await asyncio.to_thread(self._disk.materialise, release)
        self._tell(release, ReleaseState.STARTING, release.size, release.size)
        prepared = await self._pool.prepare(release, directory)
        before = self._pool.release
        self._pool.activate(prepared)
        await self._note_active(release)
        self._tell(release, ReleaseState.ACTIVE, release.size, release.size)
        log.info("release active", project=release.project, root=release.root, sequence=release.sequence)
        await self._pool.drained()
        roots = {release.root, before.root if before else release.root} | self._pool.roots
        await asyncio.to_thread(self._disk.keep, roots)

    async def _note_active(self, release: Release) -> None:
        """It serves already: a disk that refuses the note only means that a restart begins with an older one."""
        try:
            await asyncio.to_thread(self._disk.save_active, release)
        except SyncError as exc:
            log.error("could not note the active release", root=release.root, error=exc.message)

    def _progress(self, release: Release) -> Progress:
        pace, now = Pace(), asyncio.get_running_loop().time

        def tell(have: int, total: int) -> None:
            self._tell(release, ReleaseState.FETCHING, have, total, rate=pace.note(have, now()))

        return tell

    def _tell(
        self, release: Release, state: ReleaseState, have: int = 0, total: int = 0, error: str = "", rate: int = 0
    ) -> None:
        self._status = ReleaseStatus(release.sequence, release.root, state, have, total, error[:2000], rate)
        self._on_status(self._status)


def _replaces(release: Release, before: Release | None) -> bool:
    return before is None or (release.sequence >= before.sequence and release != before)
