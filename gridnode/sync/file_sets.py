"""The grid's directories of files on this node: fetched as chunks, laid out once, removed when nothing needs them."""

import asyncio
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from gridnode import messages
from gridnode.errors import GridError, LedgerError, SyncError
from gridnode.files_document import open_files
from gridnode.ledger import Document
from gridnode.model import FileSet, ImageState, ImageStatus, Root
from gridnode.sync.transfer import Fetch, Progress
from gridnode.wire import Frame

__all__ = ["FileLimits", "FileSets", "TreeDisk"]

log = structlog.get_logger()

_RETRY = 5.0
_LOOK_EVERY = 60.0
"""Seconds after which it is looked again whether what no task reads any more can go."""
_MAX_ERROR = 2000


class TreeDisk(Protocol):
    """Where the directories lie, each by the root of its tree. Every method may raise SyncError."""

    def has(self, root: Root) -> bool:
        """Whether it is there, whole."""

    def path(self, root: Root) -> Path:
        """Where it is, or would be."""

    def lay_out(self, root: Root) -> Path:
        """Build it from chunks, if need be."""

    def keep(self, roots: Set[Root]) -> None:
        """Remove all others."""


class FileLimits(NamedTuple):
    """reserve: bytes that stay free on the disk; patience: seconds a release waits."""

    reserve: int = 1024**3
    patience: float = 600.0


class FileSets:
    """free: bytes free on the disk; used: paths that instances read; on_arrival: another version of a name is there.

    on_change: what is held may be less now.
    """

    def __init__(
        self,
        disk: TreeDisk,
        fetch: Callable[[Progress], Fetch],
        free: Callable[[], int],
        used: Callable[[], Set[Path]],
        on_arrival: Callable[[str], None],
        on_change: Callable[[], None],
        limits: FileLimits = FileLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._disk = disk
        self._fetch = fetch
        self._free = free
        self._used = used
        self._on_arrival = on_arrival
        self._on_change = on_change
        self._limits = limits
        self._wanted: dict[str, FileSet] = {}
        self._present: dict[str, Root] = {}
        self._status: dict[str, ImageStatus] = {}
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._under_way: tuple[str, FileSet, asyncio.Task[None]] | None = None

    # -- asked ------------------------------------------------------------------------------------------------------

    @property
    def roots(self) -> list[Root]:
        """Of the trees that stay."""
        return [*(files.root for files in self._wanted.values()), *self._present.values()]

    def directory(self, name: str) -> Path:
        """Where the version is that is here; SyncError when none is."""
        root = self._present.get(name)
        if root is None:
            raise SyncError(f"the files {name} are not on this node yet", hint="`gridctl files ls` shows how far it is")
        return self._disk.path(root)

    async def here(self, frame: Frame) -> bytes:
        """Answers FILES: every directory of the grid on this node."""
        return messages.encode([self._status[name] for name in sorted(self._status)])

    def follow(self, documents: Iterable[Document]) -> None:
        """What the ledger holds now."""
        wanted = {}
        for document in documents:
            try:
                files = open_files(document)
            except LedgerError as exc:
                log.error("files cannot be read by this version", name=document.name, error=exc.message)
                continue
            if files:
                wanted[document.name] = files
        if wanted == self._wanted:
            return
        self._wanted = wanted
        for name, files in wanted.items():
            self._expect(name, files)
        for name in self._status.keys() - wanted.keys():
            del self._status[name]
        if self._under_way and wanted.get(self._under_way[0]) != self._under_way[1]:
            self._under_way[2].cancel()
        self._news.set()
        self._on_change()

    def _expect(self, name: str, files: FileSet) -> None:
        """What an earlier life laid out serves at once: instances that read it are adopted."""
        if name not in self._present and self._disk.has(files.root):
            self._present[name] = files.root
        if self._present.get(name) == files.root:
            self._tell(name, files, ImageState.PRESENT, files.size)
        elif name not in self._status or self._status[name].id != files.root:
            self._tell(name, files, ImageState.WAITING)

    async def ready(self, names: Iterable[str]) -> None:
        """Wait until these are here as the ledger has them; SyncError when one cannot be, or patience ends."""
        names = set(names)
        lacking: list[str] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.patience):
                while lacking := sorted(name for name in names if not self._is_present(name)):
                    self._raise_hopeless(lacking)
                    await self._told.wait()
                return
        raise SyncError(f"files {lacking[0]} are still on their way", hint="`gridctl files ls` shows how far they are")

    def _is_present(self, name: str) -> bool:
        return name in self._wanted and self._present.get(name) == self._wanted[name].root

    def _raise_hopeless(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._wanted:
                raise SyncError(f"the grid has no files {name}", hint=f"gridctl files push DIRECTORY {name}")
            status = self._status[name]
            if status.state is ImageState.FAILED:
                raise SyncError(f"files {name} did not arrive: {status.error}")

    # -- doing ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: bring what the ledger names, one after the other, and remove what nothing needs."""
        try:
            while True:
                self._news.clear()
                failed = [name for name, files in list(self._wanted.items()) if not await self._try(name, files)]
                waiting = await self._remove_others()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY if failed or waiting else _LOOK_EVERY):
                        await self._news.wait()
        finally:
            if self._under_way:
                self._under_way[2].cancel()

    async def _try(self, name: str, files: FileSet) -> bool:
        """Whether it is there, or nobody wants it any more."""
        if self._wanted.get(name) != files or self._is_present(name):
            return True
        job = asyncio.create_task(self._bring(name, files), name="files")
        self._under_way = (name, files, job)
        await asyncio.wait({job})
        self._under_way = None
        if job.cancelled():
            return True
        error = job.exception()
        if error is None:
            return True
        if isinstance(error, GridError):
            said = f"{error.message} ({error.hint})" if error.hint else error.message
            log.warning("files not there yet", files=name, error=said)
        else:
            said = f"internal error: {type(error).__name__}: see the node's log"
            log.error("files not there yet", files=name, exc_info=error)
        self._tell(name, files, ImageState.FAILED, error=said[:_MAX_ERROR])
        return False

    async def _bring(self, name: str, files: FileSet) -> None:
        if not self._disk.has(files.root):
            self._check_room(files)
            self._tell(name, files, ImageState.FETCHING)
            await self._fetch(lambda have, total: self._tell(name, files, ImageState.FETCHING, have, total)).run(
                files.root
            )
            self._tell(name, files, ImageState.LOADING, files.size)
            await asyncio.to_thread(self._disk.lay_out, files.root)
        self._present[name] = files.root
        log.info("files present", files=name, root=files.root, size=files.size)
        self._tell(name, files, ImageState.PRESENT, files.size)
        self._on_arrival(name)

    def _check_room(self, files: FileSet) -> None:
        """They are there twice: as chunks, and laid out."""
        free, needed = self._free(), 2 * files.size + self._limits.reserve
        if free < needed:
            raise SyncError(f"{free} bytes are free on the disk, {needed} are needed", hint="free some space there")

    async def _remove_others(self) -> bool:
        """Whether some have to stay for now: for as long as an instance reads them."""
        used = {Root(path.name) for path in self._used()}
        for name in self._present.keys() - self._wanted.keys():
            if self._present[name] not in used:
                del self._present[name]
        kept = used | set(self.roots)
        try:
            await asyncio.to_thread(self._disk.keep, kept)
        except GridError as exc:
            log.warning("cannot remove files", error=exc.message)
            return True
        return not used <= {files.root for files in self._wanted.values()}

    # -- telling ----------------------------------------------------------------------------------------------------

    def _tell(
        self, name: str, files: FileSet, state: ImageState, have: int = 0, total: int = 0, error: str = ""
    ) -> None:
        """Say how far it is, and wake those who wait."""
        self._status[name] = ImageStatus(name, files.root, state, have, total or files.size, error)
        told, self._told = self._told, asyncio.Event()
        told.set()
