"""The grid's directories of files on this node: fetched as chunks, laid out once, removed when nothing needs them."""

import asyncio
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from gridnode import messages
from gridnode.errors import GridError, SyncError
from gridnode.files_document import open_files
from gridnode.ledger import Document
from gridnode.model import FileSet, ImageState, ImageStatus, Root
from gridnode.sync.transfer import Fetch, Progress
from gridnode.sync.wanted import Wanted
from gridnode.wire import Frame

__all__ = ["FileLimits", "FileSets", "TreeDisk"]

log = structlog.get_logger()


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
        self._present: dict[str, Root] = {}
        self._wanted = Wanted("files", open_files, self._begin, self._bring, self._remove_others)
        self.run = self._wanted.run

    # -- asked ------------------------------------------------------------------------------------------------------

    @property
    def roots(self) -> list[Root]:
        """Of the trees that stay."""
        return [*(files.root for files in self._wanted.by_name.values()), *self._present.values()]

    def directory(self, name: str) -> Path:
        """Where the version is that is here; SyncError when none is."""
        root = self._present.get(name)
        if root is None:
            raise SyncError(f"the files {name} are not on this node yet", hint="`gridctl files ls` shows how far it is")
        return self._disk.path(root)

    async def here(self, frame: Frame) -> bytes:
        """Answers FILES: every directory of the grid on this node."""
        return messages.encode([status for _, status in sorted(self._wanted.status.items())])

    def follow(self, documents: Iterable[Document]) -> None:
        """What the ledger holds now."""
        if self._wanted.follow(documents):
            for name in self._wanted.status.keys() - self._wanted.by_name.keys():
                self._wanted.drop(name)
            self._on_change()

    def _begin(self, name: str, files: FileSet) -> ImageStatus:
        """What an earlier life laid out serves at once: instances that read it are adopted."""
        if name not in self._present and self._disk.has(files.root):
            self._present[name] = files.root
        is_here = self._present.get(name) == files.root
        state, have = (ImageState.PRESENT, files.size) if is_here else (ImageState.WAITING, 0)
        return ImageStatus(name, files.root, state, have, files.size)

    async def ready(self, names: Iterable[str]) -> None:
        """Wait until these are here as the ledger has them; SyncError when one cannot be, or patience ends."""
        names = sorted(set(names))
        lacking = await self._wanted.until(lambda: self._lacking(names), self._limits.patience)
        if lacking:
            hint = "`gridctl files ls` shows how far they are"
            raise SyncError(f"files {lacking[0]} are still on their way", hint=hint)

    def _lacking(self, names: list[str]) -> list[str]:
        for name in names:
            if name not in self._wanted.by_name:
                raise SyncError(f"the grid has no files {name}", hint=f"gridctl files push DIRECTORY {name}")
        return [name for name in names if not self._is_present(name)]

    def _is_present(self, name: str) -> bool:
        wanted = self._wanted.by_name
        return name in wanted and self._present.get(name) == wanted[name].root

    # -- doing ------------------------------------------------------------------------------------------------------

    async def _bring(self, name: str, files: FileSet) -> None:
        if self._is_present(name):
            return
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
        for name in self._present.keys() - self._wanted.by_name.keys():
            if self._present[name] not in used:
                del self._present[name]
        kept = used | set(self.roots)
        try:
            await asyncio.to_thread(self._disk.keep, kept)
        except GridError as exc:
            log.warning("cannot remove files", error=exc.message)
            return True
        return not used <= {files.root for files in self._wanted.by_name.values()}

    def _tell(self, name: str, files: FileSet, state: ImageState, have: int = 0, total: int = 0) -> None:
        self._wanted.tell(ImageStatus(name, files.root, state, have, total or files.size))
